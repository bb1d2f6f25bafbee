//! The WAL tracker against real WAL files and against a model of SQLite's writer, with every write cut
//! into arbitrary pieces.

#![allow(clippy::unwrap_used, clippy::panic)] // the lints know `#[test]` functions, not their helpers

mod common;

use std::fs;

use common::follower::Follower;
use common::writer::{Image, Request, Writer, page_bytes};
use litefs_core::capture::FrameTx;
use litefs_sqlite::wal::WalReader;
use litefs_types::PageSize;
use proptest::prelude::*;
use rusqlite::Connection;

/// A WAL that real SQLite wrote: many transactions, some rolled back, without in-place rewrites.
fn real_wal(page_size: u32) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
         PRAGMA cache_size=10; CREATE TABLE t(a INTEGER PRIMARY KEY, b)"
    ))
    .unwrap();
    for i in 0..20 {
        db.execute_batch(&format!(
            "BEGIN;
             WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < {i} * 3 + 1)
             INSERT INTO t(b) SELECT hex(zeroblob(x * 7 % 500)) FROM n;
             UPDATE t SET b = b || 'x' WHERE a % 7 = {i} % 7;
             {}",
            if i % 5 == 4 { "ROLLBACK" } else { "COMMIT" }
        ))
        .unwrap();
    }
    fs::read(dir.path().join("db-wal")).unwrap()
}

fn transactions(wal: &[u8]) -> Vec<FrameTx> {
    let mut reader = WalReader::open(wal, wal.len() as u64).unwrap().unwrap();
    std::iter::from_fn(|| reader.next_transaction().unwrap()).collect()
}

/// What the tracker finds in `wal` when it arrives in pieces of these lengths.
fn followed(wal: &[u8], cuts: &mut dyn FnMut() -> usize) -> (Vec<FrameTx>, usize) {
    let mut follower = Follower::default();
    let mut found = Vec::new();
    let mut at = 0;
    while at < wal.len() {
        let end = (at + cuts().max(1)).min(wal.len());
        follower.file.bytes.extend_from_slice(&wal[at..end]);
        for event in follower.tracker.wrote(at as u64, &wal[at..end], &mut follower.file).unwrap() {
            if let litefs_core::capture::WalEvent::Commit(tx) = event {
                found.push(tx);
            }
        }
        at = end;
    }
    (found, follower.file.reads)
}

#[test]
fn real_wals_in_sqlite_sized_pieces_need_no_reading_back() {
    for page_size in [512, 1024, 4096, 65536] {
        let wal = real_wal(page_size);
        let want = transactions(&wal);
        assert!(want.len() >= 15);
        // The WAL header, then a frame header and a page in turn; then other fixed sizes.
        let mut turn = 0;
        let mut sqlite = || {
            turn += 1;
            if turn == 1 {
                32
            } else if turn % 2 == 0 {
                24
            } else {
                page_size as usize
            }
        };
        assert_eq!(followed(&wal, &mut sqlite), (want.clone(), 0), "page size {page_size}");
        for len in [7, 24, 511, 4096, 100_000, usize::MAX] {
            assert_eq!(followed(&wal, &mut || len), (want.clone(), 0), "{page_size} in pieces of {len}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_partition_of_a_real_wal_gives_the_same_transactions(
        cuts in proptest::collection::vec(1usize..3000, 1..60),
    ) {
        thread_local!(static WAL: Vec<u8> = real_wal(512));
        WAL.with(|wal| {
            let mut cut = cuts.iter().copied().cycle();
            let got = followed(wal, &mut || cut.next().unwrap_or(1));
            assert_eq!(got, (transactions(wal), 0));
        });
    }
}

/// What an application and its pager do.
#[derive(Clone, Debug)]
enum Step {
    Set(u32, u8),
    Spill(u32),
    Savepoint,
    RollbackTo,
    Commit {
        pages: u32,
        copies: u32,
        limit: bool,
    },
    /// The writer is killed between its last WAL write and the index.
    Killed {
        pages: u32,
    },
    Rollback,
    Restart,
    Truncate,
    Unlink,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // Few pages and few contents: leftovers that equal new frames are common.
        10 => (1u32..7, 0u8..3).prop_map(|(p, c)| Step::Set(p, c)),
        6 => (0u32..64).prop_map(Step::Spill),
        2 => Just(Step::Savepoint),
        2 => Just(Step::RollbackTo),
        5 => (1u32..7, prop_oneof![4 => Just(0u32), 1 => 1u32..4], any::<bool>())
            .prop_map(|(pages, copies, limit)| Step::Commit { pages, copies, limit }),
        2 => (1u32..7).prop_map(|pages| Step::Killed { pages }),
        2 => Just(Step::Rollback),
        1 => Just(Step::Restart),
        1 => Just(Step::Truncate),
        1 => Just(Step::Unlink),
    ]
}

/// Plays `steps`, follows them, and compares what was published with what everybody sees.
fn play(steps: &[Step], cuts: &[usize], old_sqlite: bool) -> usize {
    let ps = PageSize::new(512).unwrap();
    let mut writer = Writer::new(ps);
    writer.keeps_rewrite_mark = old_sqlite;
    let mut follower = Follower::default();
    let mut cut = cuts.iter().copied().cycle();
    let mut image: std::collections::BTreeMap<u32, Vec<u8>> = std::collections::BTreeMap::new();
    let mut broken_chains = 0;
    for step in steps {
        let before = writer.committed.clone();
        match step {
            Step::Set(page, content) => writer.set(*page, *content),
            Step::Spill(mask) => writer.spill(|p| mask >> (p % 6) & 1 == 1),
            Step::Savepoint => writer.savepoint(),
            Step::RollbackTo => writer.rollback_to(),
            Step::Commit { pages, copies, limit } => writer.commit(*pages, *copies, *limit, false),
            Step::Killed { pages } => writer.commit(*pages, 0, false, true),
            Step::Rollback => writer.rollback(),
            Step::Restart => writer.restart(),
            Step::Truncate => writer.remove(false),
            Step::Unlink => writer.remove(true),
        }
        for request in std::mem::take(&mut writer.requests) {
            follower.request(&request, &mut || cut.next().unwrap_or(1));
        }
        assert_eq!(follower.file.bytes, writer.file, "the test feeds what was written");
        if matches!(step, Step::Commit { .. }) {
            let broke = follower.index(writer.live_mx, writer.pages, writer.live_chain);
            assert!(old_sqlite || !broke, "the chain vouches for every commit of a new SQLite");
            broken_chains += usize::from(broke);
            assert!(follower.prepared.is_empty(), "nothing is prepared behind what is visible");
            for logged in follower.published.drain(..) {
                image.extend(logged.content);
                image.retain(|p, _| *p <= logged.tx.commit);
            }
            let got: Image = image.iter().map(|(p, b)| (*p, b[4])).collect();
            assert_eq!(got, writer.committed, "captured is what everybody sees");
            for (page, bytes) in &image {
                assert!(*bytes == page_bytes(ps, *page, bytes[4]), "page {page} is whole");
            }
        } else {
            assert_eq!(writer.committed, before);
        }
    }
    broken_chains
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn capture_equals_what_sqlite_publishes(
        steps in proptest::collection::vec(step(), 1..80),
        cuts in proptest::collection::vec(1usize..700, 1..8),
    ) {
        play(&steps, &cuts, false);
    }

    #[test]
    fn capture_survives_broken_chains_of_old_sqlite(
        steps in proptest::collection::vec(step(), 1..80),
        cuts in proptest::collection::vec(1usize..700, 1..8),
    ) {
        play(&steps, &cuts, true);
    }
}

/// Rule W7, as found with SQLite 3.40.1: spill, rewrite in place, `ROLLBACK TO`, shorter commit.
#[test]
fn a_commit_with_a_broken_chain_is_taken_from_the_index() {
    let steps = [
        Step::Set(1, 1),
        Step::Set(2, 1),
        Step::Commit { pages: 4, copies: 0, limit: false },
        Step::Savepoint,
        Step::Set(1, 2),
        Step::Set(2, 2),
        Step::Set(3, 2),
        Step::Spill(63),
        Step::Set(2, 0),
        Step::Spill(63),
        Step::RollbackTo,
        Step::Set(4, 2),
        Step::Commit { pages: 4, copies: 0, limit: false },
        // The chain goes on from the index' frame checksum.
        Step::Set(4, 1),
        Step::Commit { pages: 4, copies: 0, limit: false },
    ];
    assert_eq!(play(&steps, &[24, 512], true), 1);
    assert_eq!(play(&steps, &[24, 512], false), 0);
}

/// The sequence behind H5, so that the model is known to produce it: pages first, headers later.
#[test]
fn the_model_rewrites_in_place() {
    let mut writer = Writer::new(PageSize::new(512).unwrap());
    for page in 1..4 {
        writer.set(page, 1);
    }
    writer.spill(|_| true);
    writer.set(1, 2);
    writer.set(3, 2);
    writer.commit(3, 0, false, false);
    let sizes: Vec<usize> = writer
        .requests
        .iter()
        .map(|r| match r {
            Request::Write { data, .. } => data.len(),
            _ => 0,
        })
        .collect();
    assert_eq!(sizes, [32, 24, 512, 24, 512, 24, 512, 512, 24, 512, 24, 24, 24, 24]);
}
