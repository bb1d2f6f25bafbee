//! The dirty set of rollback-journal transactions: what differs between two images is always in it.

#![allow(clippy::unwrap_used)] // the lint knows `#[test]` functions, not their helpers

use std::fs;

use litefs_core::capture::RollbackCapture;
use litefs_types::PageSize;
use proptest::prelude::*;
use rusqlite::Connection;

fn ps() -> PageSize {
    PageSize::new(512).unwrap()
}

fn dirty(capture: &mut RollbackCapture, old: u32, new: u32) -> Vec<u32> {
    capture.dirty_pages(old, new, ps()).into_iter().map(litefs_types::PageNo::get).collect()
}

/// Pages of `new` that `old` does not have like that.
fn differing(old: &[u8], new: &[u8]) -> Vec<u32> {
    let old: Vec<_> = old.chunks(512).collect();
    new.chunks(512)
        .enumerate()
        .filter(|(i, page)| old.get(*i) != Some(page))
        .map(|(i, _)| i as u32 + 1)
        .collect()
}

#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, len: usize, byte: u8 },
    Truncate(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0usize..9000, 1usize..1500, any::<u8>()).prop_map(|(at, len, byte)| Op::Write { at, len, byte }),
        1 => (0usize..9000).prop_map(Op::Truncate),
    ]
}

proptest! {
    #[test]
    fn every_difference_of_two_images_is_captured(
        old_pages in 0usize..16, new_pages in 1usize..20, ops in proptest::collection::vec(op(), 0..30),
    ) {
        let before: Vec<u8> = (0..old_pages * 512).map(|i| (i / 512) as u8 | 1).collect();
        let mut file = before.clone();
        let mut capture = RollbackCapture::new();
        for op in &ops {
            match op {
                Op::Write { at, len, byte } => {
                    if file.len() < at + len {
                        file.resize(at + len, 0);
                    }
                    file[*at..at + len].fill(*byte);
                    capture.touch(*at as u64, *len as u64, ps());
                }
                Op::Truncate(size) => {
                    file.resize(*size, 0);
                    capture.truncate(*size as u64, ps());
                }
            }
        }
        // SQLite makes the file as long as the header says.
        file.resize(new_pages * 512, 0);
        let got = dirty(&mut capture, old_pages as u32, new_pages as u32);
        prop_assert!(got.windows(2).all(|w| w[0] < w[1]) && got.iter().all(|p| *p <= new_pages as u32));
        for page in differing(&before, &file) {
            prop_assert!(got.contains(&page), "page {page} of {got:?}");
        }
        prop_assert_eq!(capture.is_dirty(), !ops.is_empty());
        if !ops.iter().any(|op| matches!(op, Op::Truncate(_))) {
            // And nothing that was neither touched nor is new.
            for page in got.iter().filter(|p| **p <= old_pages as u32) {
                let (from, to) = ((*page as usize - 1) * 512, *page as usize * 512);
                let touched = ops.iter().any(|op| matches!(op, Op::Write { at, len, .. } if *at < to && at + len > from));
                prop_assert!(touched);
            }
        }
        capture.clear();
        prop_assert!(!capture.is_dirty());
    }
}

#[test]
fn growth_by_holes_is_captured() {
    // SQLite grows a file by writing its last page: those in between were never written by anybody.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA page_size=512; CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(100000))")
        .unwrap();
    drop(db);
    let image = fs::read(&path).unwrap();
    let pages = (image.len() / 512) as u32;
    let mut capture = RollbackCapture::new();
    capture.touch(0, 512, ps());
    capture.touch(u64::from(pages - 1) * 512, 512, ps());
    assert_eq!(dirty(&mut capture, 2, pages), (1..=pages).filter(|p| *p != 2).collect::<Vec<_>>());
}

#[test]
fn the_lock_page_is_never_dirty() {
    let lock = ps().lock_page().get();
    let mut capture = RollbackCapture::new();
    capture.touch(u64::from(lock - 2) * 512, 3 * 512, ps());
    assert_eq!(dirty(&mut capture, lock + 1, lock + 1), [lock - 1, lock + 1]);
    assert_eq!(dirty(&mut capture, lock - 1, lock + 1), [lock - 1, lock + 1]);
}

#[test]
fn memory_follows_the_pages_and_not_the_writes() {
    let mut capture = RollbackCapture::new();
    for _ in 0..100 {
        for page in 0..5000u64 {
            capture.touch(page * 512, 512, ps());
        }
    }
    assert_eq!(dirty(&mut capture, 5000, 5000).len(), 5000);
    capture.touch(u64::MAX - 5, 100, ps());
    capture.touch(9, 0, ps());
    assert_eq!(dirty(&mut capture, 5000, 5000).len(), 5000);
}
