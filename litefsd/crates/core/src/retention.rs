//! Which segments of the log may go.
//!
//! Owns: the decision. Does not own: removing files, reading clocks, or telling those who lose
//! something. Segments go from the oldest on and never the newest, so that no gap can open. Age alone
//! removes nothing that a connected replica or the backup still needs; the size limit does, and says
//! so. Tested in `tests/retention.rs` against a model.

use core::time::Duration;

use litefs_types::Txid;

/// A segment as retention sees it. Segments are given oldest first, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Last transaction in it. A segment without any has the last one before it.
    pub last: Txid,
    /// Bytes on disk.
    pub bytes: u64,
    /// Time since its last transaction was written.
    pub age: Duration,
}

/// How much of the log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Segments older than this go, unless somebody needs them.
    pub max_age: Duration,
    /// Above this many bytes segments go, even if somebody needs them.
    pub max_bytes: u64,
}

/// What must not, or should not, go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// First transaction that recovery or a reader at work needs. Never removed.
    pub floor: Option<Txid>,
    /// First transaction that a connected replica or the backup does not have yet. Kept until the size
    /// limit is reached.
    pub wanted: Option<Txid>,
}

/// The decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How many of the oldest segments to remove.
    pub remove: usize,
    /// Whether one of them is still wanted: who wants it gets a snapshot, and an event says so.
    pub cuts_off_wanted: bool,
}

/// Decides which of `segments` may go.
pub fn decide(segments: &[Segment], needs: Needs, limits: Limits) -> Decision {
    let mut decision = Decision::default();
    let mut total = segments.iter().fold(0u64, |sum, s| sum.saturating_add(s.bytes));
    let Some((_newest, older)) = segments.split_last() else { return decision };
    for segment in older {
        if needs.floor.is_some_and(|floor| segment.last >= floor) {
            break;
        }
        let wanted = needs.wanted.is_some_and(|wanted| segment.last >= wanted);
        let too_much = total > limits.max_bytes;
        let too_old = segment.age > limits.max_age;
        if !too_much && (wanted || !too_old) {
            break;
        }
        decision.remove += 1;
        decision.cuts_off_wanted |= wanted;
        total = total.saturating_sub(segment.bytes);
    }
    decision
}
