//! Retention against its rules, on random logs.

use core::time::Duration;

use litefs_core::retention::{Decision, Limits, Needs, Segment, decide};
use litefs_types::Txid;
use proptest::prelude::*;

fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap_or(Txid::FIRST)
}

proptest! {
    #[test]
    fn decisions_keep_every_rule(
        sizes in proptest::collection::vec((1u64..5, 0u64..100, 0u64..30), 0..12),
        floor in proptest::option::of(1u64..40), wanted in proptest::option::of(1u64..40),
        max_age in 0u64..200, max_bytes in 0u64..600,
    ) {
        let mut last = 0;
        let mut age: u64 = sizes.iter().map(|s| s.2).sum();
        let segments: Vec<Segment> = sizes
            .iter()
            .map(|(count, bytes, gap)| {
                last += count;
                age -= gap;
                Segment { last: txid(last), bytes: *bytes, age: Duration::from_secs(age) }
            })
            .collect();
        let needs = Needs { floor: floor.map(txid), wanted: wanted.map(txid) };
        let limits = Limits { max_age: Duration::from_secs(max_age), max_bytes };
        let Decision { remove, cuts_off_wanted } = decide(&segments, needs, limits);

        // The newest stays, whatever happens. What goes is a prefix by construction: no gap can open.
        prop_assert!(remove < segments.len().max(1));
        let bytes = |from: usize| segments[from..].iter().map(|s| s.bytes).sum::<u64>();
        let is_floor = |s: &Segment| needs.floor.is_some_and(|f| s.last >= f);
        let is_wanted = |s: &Segment| needs.wanted.is_some_and(|w| s.last >= w);
        for (i, s) in segments[..remove].iter().enumerate() {
            prop_assert!(!is_floor(s), "the floor holds");
            let too_much = bytes(i) > max_bytes;
            prop_assert!(too_much || s.age > limits.max_age, "nothing goes without a reason");
            prop_assert!(too_much || !is_wanted(s), "what is wanted goes for its size alone");
        }
        // And it went as far as it could.
        if remove + 1 < segments.len() {
            let s = &segments[remove];
            let too_much = bytes(remove) > max_bytes;
            prop_assert!(is_floor(s) || (!too_much && (is_wanted(s) || s.age <= limits.max_age)));
        }
        prop_assert_eq!(cuts_off_wanted, segments[..remove].iter().any(is_wanted));
    }
}

#[test]
fn a_connected_replica_holds_the_log_until_the_size_limit() {
    let day = Duration::from_secs(86_400);
    let segments: Vec<_> = (1..=4).map(|n| Segment { last: txid(n * 10), bytes: 100, age: day }).collect();
    let limits = |max_bytes| Limits { max_age: Duration::from_secs(600), max_bytes };
    let needs = Needs { floor: None, wanted: Some(txid(15)) };
    let cut = |remove, cuts_off_wanted| Decision { remove, cuts_off_wanted };
    assert_eq!(decide(&segments, Needs::default(), limits(1000)), cut(3, false));
    assert_eq!(decide(&segments, needs, limits(1000)), cut(1, false));
    assert_eq!(decide(&segments, needs, limits(250)), cut(2, true));
    assert_eq!(decide(&segments, Needs { floor: Some(txid(5)), ..needs }, limits(0)), cut(0, false));
}
