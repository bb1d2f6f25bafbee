//! Page sums and apply plans against recomputing everything.

#![allow(clippy::unwrap_used)] // the lint knows `#[test]` functions, not their helpers

use litefs_core::apply::{Incoming, NotApplicable, plan};
use litefs_core::page_sums::{BLOCK_PAGES, PageSums};
use litefs_types::{Checksum, PageNo, PageSize};
use proptest::prelude::*;

fn page(n: u32) -> PageNo {
    PageNo::new(n).unwrap()
}

fn changes(list: &[(u32, u64)]) -> Vec<(PageNo, Checksum)> {
    list.iter().map(|(p, c)| (page(*p), Checksum::new(*c))).collect()
}

/// The definition: the flag and the XOR of all pages but the lock page.
fn whole(pages: &[Option<u64>]) -> Checksum {
    pages.iter().flatten().fold(Checksum::EMPTY, |sum, c| sum.replace(Checksum::NONE, Checksum::new(*c)))
}

fn stored(sums: &PageSums) -> Vec<u64> {
    (0..sums.block_count()).flat_map(|b| sums.block(b).to_vec()).collect()
}

/// What a store would have on disk: it writes the dirty blocks and cuts the file.
fn persist(disk: &mut Vec<u64>, sums: &mut PageSums) {
    disk.resize(sums.page_count() as usize, 0xdead);
    for block in sums.take_dirty_blocks() {
        let values = sums.block(block);
        disk[block * BLOCK_PAGES..][..values.len()].copy_from_slice(values);
    }
}

proptest! {
    #[test]
    fn running_sums_equal_recomputed_ones(
        steps in proptest::collection::vec(
            (proptest::collection::vec((1u32..1400, any::<u64>()), 0..20), 0u32..1400, 0u8..4), 1..25),
    ) {
        let ps = PageSize::new(65536).unwrap();
        let mut sums = PageSums::new(ps);
        let mut model: Vec<Option<u64>> = Vec::new();
        let mut disk = Vec::new();
        for (mut list, pages, action) in steps {
            list.sort_unstable();
            list.dedup_by_key(|c| c.0);
            let list = changes(&list);
            let (before, before_sum) = (stored(&sums), sums.checksum());
            let predicted = sums.checksum_after(&list, pages);
            let undo = sums.set_all(&list, pages);
            prop_assert_eq!(sums.checksum(), predicted);
            if action == 0 {
                sums.undo(undo);
                prop_assert_eq!(stored(&sums), before);
                prop_assert_eq!(sums.checksum(), before_sum);
            } else {
                model.resize(pages as usize, None);
                for (p, c) in &list {
                    if p.get() <= pages {
                        model[p.index()] = Some(c.get());
                    }
                }
            }
            prop_assert_eq!(sums.page_count() as usize, model.len());
            prop_assert_eq!(sums.checksum(), whole(&model));
            for (i, c) in model.iter().enumerate() {
                prop_assert_eq!(sums.get(page(i as u32 + 1)), c.map_or(Checksum::NONE, Checksum::new));
            }
            if action != 1 {
                persist(&mut disk, &mut sums);
                prop_assert_eq!(&disk, &stored(&sums), "dirty blocks are enough");
                let loaded = PageSums::from_stored(ps, disk.clone()).unwrap();
                prop_assert_eq!(loaded.checksum(), sums.checksum());
                prop_assert!(sums.take_dirty_blocks().is_empty());
            }
        }
    }

    #[test]
    fn a_plan_accepts_exactly_what_set_all_makes_true(
        old in 0u32..8, commit in 0u32..10,
        list in proptest::collection::btree_map(1u32..11, any::<u64>(), 0..10),
        snapshot in any::<bool>(), wrong_pre in 0u8..4, wrong_post in 0u8..4,
    ) {
        let ps = PageSize::DEFAULT;
        let mut sums = PageSums::new(ps);
        let first: Vec<_> = (1..=old).map(|p| (p, u64::from(p) * 77)).collect();
        let _ = sums.set_all(&changes(&first), old);
        let list: Vec<_> = list.into_iter().collect();
        let list = changes(&list);
        let base = if snapshot { 0 } else { old };
        let complete = (base + 1..=commit).all(|p| list.iter().any(|(q, _)| q.get() == p));
        let bounded = list.iter().all(|(p, _)| p.get() <= commit);
        let mut after = if snapshot { PageSums::new(ps) } else { sums.clone() };
        let _ = after.set_all(&list, commit);
        let off = |c: Checksum, wrong: u8| if wrong == 0 { Checksum::new(c.get() ^ 1) } else { c };
        let incoming = Incoming {
            page_size: ps, snapshot, commit,
            pre: off(sums.checksum(), wrong_pre),
            post: off(after.checksum(), wrong_post),
        };
        let ok = complete && bounded && wrong_post != 0 && (snapshot || wrong_pre != 0);
        prop_assert_eq!(plan(&sums, &incoming, &list).is_ok(), ok);
    }
}

#[test]
fn the_lock_page_has_no_sum_and_is_not_missed() {
    let ps = PageSize::MAX;
    let lock = ps.lock_page().get();
    let all: Vec<_> = (1..=lock + 2).map(|p| (p, u64::from(p))).collect();
    let mut sums = PageSums::new(ps);
    let _ = sums.set_all(&changes(&all), lock + 2);
    assert_eq!(sums.get(page(lock)), Checksum::NONE);
    let others: Vec<_> = all.iter().copied().filter(|(p, _)| *p != lock).collect();
    let mut same = PageSums::new(ps);
    let _ = same.set_all(&changes(&others), lock + 2);
    assert_eq!(same.checksum(), sums.checksum());
    let mut raw = stored(&sums);
    raw[lock as usize - 1] = u64::MAX;
    assert_eq!(PageSums::from_stored(ps, raw.clone()).unwrap().checksum(), sums.checksum());
    raw[0] = 5;
    assert!(PageSums::from_stored(ps, raw).is_none(), "5 is no checksum");

    let mut incoming = Incoming {
        page_size: ps,
        snapshot: true,
        commit: lock + 2,
        pre: Checksum::NONE,
        post: sums.checksum(),
    };
    assert_eq!(plan(&same, &incoming, &changes(&others)), Ok(()));
    assert_eq!(plan(&same, &incoming, &changes(&all)), Err(NotApplicable::Page(page(lock))));
    let gap: Vec<_> = others.iter().copied().filter(|(p, _)| *p != lock + 1).collect();
    assert_eq!(plan(&same, &incoming, &changes(&gap)), Err(NotApplicable::Missing(page(lock + 1))));
    // A database that ends with the lock page.
    incoming.commit = lock;
    let upto: Vec<_> = others.iter().copied().filter(|(p, _)| *p < lock).collect();
    incoming.post = PageSums::new(ps).checksum_after(&changes(&upto), lock);
    assert_eq!(plan(&same, &incoming, &changes(&upto)), Ok(()));
}

#[test]
fn plans_name_what_is_wrong() {
    let mut sums = PageSums::new(PageSize::DEFAULT);
    let _ = sums.set_all(&changes(&[(1, 1), (2, 2)]), 2);
    let good = Incoming {
        page_size: PageSize::DEFAULT,
        snapshot: false,
        commit: 2,
        pre: sums.checksum(),
        post: sums.checksum_after(&changes(&[(1, 9)]), 2),
    };
    let list = changes(&[(1, 9)]);
    assert_eq!(plan(&sums, &good, &list), Ok(()));
    let other = PageSize::new(512).unwrap();
    assert_eq!(
        plan(&sums, &Incoming { page_size: other, ..good }, &list),
        Err(NotApplicable::PageSize { incoming: other, found: PageSize::DEFAULT })
    );
    let doubled = changes(&[(1, 9), (1, 9)]);
    assert_eq!(plan(&sums, &good, &doubled), Err(NotApplicable::Page(page(1))));
    let dropped = Incoming { commit: 0, post: Checksum::EMPTY, ..good };
    assert_eq!(plan(&sums, &dropped, &[]), Ok(()), "a database is dropped by a commit of 0 pages");
}

#[test]
fn everything_can_be_marked_for_storing() {
    let mut sums = PageSums::new(PageSize::DEFAULT);
    let list: Vec<_> = (1..=BLOCK_PAGES as u32 * 70 + 1).map(|p| (p, 3)).collect();
    let _ = sums.set_all(&changes(&list), BLOCK_PAGES as u32 * 70 + 1);
    assert_eq!(sums.take_dirty_blocks().len(), 71);
    let _ = sums.set_all(&changes(&[(600, 4)]), BLOCK_PAGES as u32 * 70 + 1);
    assert_eq!(sums.take_dirty_blocks(), [1]);
    sums.mark_all_dirty();
    assert_eq!(sums.take_dirty_blocks(), (0..71).collect::<Vec<_>>());
}
