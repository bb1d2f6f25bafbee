//! The WAL index as real SQLite writes it, read and rebuilt by `shm` and `wal_index`.

#![allow(clippy::unwrap_used)] // the lint knows `#[test]` functions, not their helpers

use litefs_sqlite::shm::{CheckpointInfo, IndexHeader, PREFIX_LEN, READ_MARK_UNUSED};
use litefs_sqlite::wal_index::{
    BLOCK_LEN, Changed, block_of, clean, entries_in, frames_before, insert, lookup, page_of,
};
use rusqlite::Connection;

struct Files {
    wal: Vec<u8>,
    shm: Vec<u8>,
    page_size: usize,
}

impl Files {
    /// A WAL written by `fill`, copied while the connection is open (closing it removes the files).
    fn new(page_size: usize, fill: impl FnOnce(&Connection)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let c = Connection::open(&path).unwrap();
        c.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0;
             PRAGMA synchronous=off; CREATE TABLE t(a INTEGER PRIMARY KEY, b);"
        ))
        .unwrap();
        fill(&c);
        let read = |suffix: &str| std::fs::read(dir.path().join(format!("db{suffix}"))).unwrap();
        Self { wal: read("-wal"), shm: read("-shm"), page_size }
    }

    fn header(&self) -> IndexHeader {
        IndexHeader::decode_pair(&self.shm).unwrap()
    }

    fn be(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.wal[at..at + 4].try_into().unwrap())
    }

    fn frame_at(&self, frame: u32) -> usize {
        32 + (frame as usize - 1) * (24 + self.page_size)
    }

    fn pages(&self) -> Vec<u32> {
        (1..=self.header().mx_frame).map(|f| self.be(self.frame_at(f))).collect()
    }

    fn block(&self, block: u32) -> &[u8] {
        &self.shm[block as usize * BLOCK_LEN..][..BLOCK_LEN]
    }
}

fn many_rows(c: &Connection) {
    for i in 0..90 {
        c.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100)
             INSERT OR REPLACE INTO t SELECT (i*7919+{i}*104729)%20011, zeroblob(300) FROM n;"
        ))
        .unwrap();
    }
}

#[test]
fn sqlites_index_is_what_we_would_have_written() {
    let f = Files::new(512, many_rows);
    let h = f.header();
    assert!(h.mx_frame > 4062 + 4096, "{} frames", h.mx_frame);
    assert_eq!((h.salt, h.page_size.unwrap().bytes()), ([f.be(16), f.be(20)], 512));
    let last = f.frame_at(h.mx_frame);
    assert_eq!((h.n_pages, h.frame_checksum), (f.be(last + 4), [f.be(last + 16), f.be(last + 20)]));
    assert_eq!(h.encode(), f.shm[..48]);
    assert_eq!(h.encode(), f.shm[48..96]);

    let pages = f.pages();
    for block in 0..=block_of(h.mx_frame) {
        let n = entries_in(block, h.mx_frame);
        let mut ours = vec![0; BLOCK_LEN];
        for e in 0..n {
            let page = pages[(frames_before(block) + e) as usize];
            assert_eq!(page_of(f.block(block), block, e), page);
            insert(&mut ours, block, e, page, &mut Changed::default()).unwrap();
        }
        let skip = if block == 0 { PREFIX_LEN } else { 0 };
        assert!(ours[skip..] == f.block(block)[skip..], "block {block}");
    }
    for mx in [1, 100, 4061, 4062, 4063, 8158, 8159, h.mx_frame] {
        for page in (1..=h.n_pages).step_by(17) {
            let want = pages[..mx as usize].iter().rposition(|p| *p == page).map(|i| i as u32 + 1);
            let got = (0..=block_of(mx)).rev().find_map(|b| lookup(f.block(b), b, page, mx));
            assert_eq!(got, want, "page {page} at {mx}");
        }
    }
}

#[test]
fn sqlites_checkpoint_information() {
    let f = Files::new(4096, |c| {
        many_rows(c);
        c.query_row("PRAGMA wal_checkpoint", [], |_| Ok(())).unwrap();
    });
    let (h, i) = (f.header(), CheckpointInfo::decode(&f.shm).unwrap());
    assert_eq!((i.backfill, i.backfill_attempted), (h.mx_frame, h.mx_frame));
    assert_eq!((i.read_marks[0], i.read_marks[4]), (0, READ_MARK_UNUSED));
}

#[test]
fn leftovers_of_a_rolled_back_spill_are_cleaned() {
    // A tiny cache makes SQLite write frames of a transaction that is then rolled back.
    let f = Files::new(512, |c| {
        c.execute_batch("INSERT INTO t SELECT 1, zeroblob(1000); PRAGMA cache_size=2; BEGIN;").unwrap();
        c.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i+1 FROM n WHERE i<500)
             INSERT INTO t SELECT i, zeroblob(300) FROM n;",
        )
        .unwrap();
    });
    let mx = f.header().mx_frame;
    let mut b = f.block(0).to_vec();
    assert_ne!(page_of(&b, 0, mx), 0, "the test needs leftovers");
    let changed = clean(&mut b, 0, mx);
    assert!(!changed.entries.is_empty() && !changed.slots.is_empty());
    let mut want = vec![0; BLOCK_LEN];
    for (e, page) in f.pages().into_iter().enumerate() {
        insert(&mut want, 0, e as u32, page, &mut Changed::default()).unwrap();
    }
    assert!(b[PREFIX_LEN..] == want[PREFIX_LEN..]);
}
