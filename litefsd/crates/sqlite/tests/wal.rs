//! The WAL reader against files that real SQLite writes, and against what SQLite makes of damaged ones.

#![allow(clippy::unwrap_used)] // the lint knows `#[test]` functions, not their helpers

mod common;

use std::fs;
use std::path::Path;

use common::{PAGE_SIZES, Random, open, put_page};
use litefs_sqlite::wal::{
    FrameHeader, Transaction, WAL_HEADER_LEN, WalHeader, WalReader, frame_data_offset, frame_offset,
};
use litefs_sqlite::wal_checksum::ByteOrder;
use litefs_types::PageSize;
use proptest::prelude::*;
use rusqlite::Connection;

/// All committed transactions of a WAL file.
fn transactions(wal: &[u8]) -> Vec<Transaction> {
    let Some(mut reader) = WalReader::open(wal, wal.len() as u64).unwrap() else { return Vec::new() };
    std::iter::from_fn(|| reader.next_transaction().unwrap()).collect()
}

/// What a checkpoint of the whole WAL makes of the database file.
fn checkpointed(db: &[u8], wal: &[u8]) -> Vec<u8> {
    let mut image = db.to_vec();
    let Some(header) = WalReader::open(wal, wal.len() as u64).unwrap().map(|r| *r.header()) else {
        return image;
    };
    let ps = header.page_size;
    for tx in transactions(wal) {
        for (page, frame) in &tx.pages {
            let at = frame_data_offset(*frame, ps) as usize;
            put_page(&mut image, ps, *page, &wal[at..at + ps.bytes()]);
        }
        image.resize(ps.file_size(tx.commit) as usize, 0);
    }
    image
}

/// A database file and its WAL, with several transactions in it; how many is the third value.
fn sample(dir: &Path, page_size: u32) -> (Vec<u8>, Vec<u8>, usize) {
    let path = dir.join("db");
    let db = open(&path, page_size, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;");
    let mut random = Random(u64::from(page_size));
    let mut commits = 0;
    db.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b)").unwrap();
    commits += 1;
    for i in 0..12 {
        db.execute_batch("BEGIN").unwrap();
        for _ in 0..=i {
            db.execute("INSERT INTO t(b) VALUES(?)", [random.text(300)]).unwrap();
        }
        db.execute_batch(if i % 4 == 3 { "ROLLBACK" } else { "COMMIT" }).unwrap();
        commits += usize::from(i % 4 != 3);
    }
    db.execute_batch("DELETE FROM t WHERE a % 3 = 0; VACUUM").unwrap();
    commits += 2;
    let files = (fs::read(&path).unwrap(), fs::read(dir.join("db-wal")).unwrap());
    drop(db);
    (files.0, files.1, commits)
}

/// What real SQLite makes of the two files: it recovers, checkpoints and closes.
fn sqlite_recovers(db: &[u8], wal: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    fs::write(&path, db).unwrap();
    fs::write(dir.path().join("db-wal"), wal).unwrap();
    let conn = Connection::open(&path).unwrap();
    let _ = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    let _ = conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    drop(conn);
    fs::read(&path).unwrap()
}

#[test]
fn every_transaction_of_real_wals_is_read() {
    for page_size in PAGE_SIZES {
        let dir = tempfile::tempdir().unwrap();
        let (db, wal, commits) = sample(dir.path(), page_size);
        let found = transactions(&wal);
        assert_eq!(found.len(), commits, "page size {page_size}");
        for pair in found.windows(2) {
            assert_eq!(pair[0].last + 1, pair[1].first);
            assert_eq!(pair[0].wal_offset + pair[0].wal_size, pair[1].wal_offset);
        }
        for tx in &found {
            assert!(tx.pages.windows(2).all(|p| p[0].0 < p[1].0));
            assert!(tx.pages.iter().all(|(p, f)| p.get() <= tx.commit && (tx.first..=tx.last).contains(f)));
        }
        assert_eq!(checkpointed(&db, &wal), sqlite_recovers(&db, &wal), "page size {page_size}");
        assert_eq!(checkpointed(&db, &wal), fs::read(dir.path().join("db")).unwrap());
    }
}

/// The same WAL with every checksum in the other byte order, as a big-endian machine writes it.
fn big_endian(wal: &[u8]) -> Vec<u8> {
    let old = WalHeader::parse(wal.first_chunk().unwrap()).unwrap();
    let new = WalHeader::new(old.page_size, ByteOrder::Big, old.sequence, old.salt);
    let mut out = new.encode().to_vec();
    let mut chain = new.header_checksum;
    for frame in wal[WAL_HEADER_LEN..].chunks_exact(24 + old.page_size.bytes()) {
        let header = FrameHeader::parse(frame.first_chunk().unwrap());
        let header = FrameHeader::chained(&new, chain, header.page, header.commit, &frame[24..]);
        chain = header.checksum;
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&frame[24..]);
    }
    out
}

#[test]
fn sqlite_and_we_agree_on_big_endian_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let (db, wal, commits) = sample(dir.path(), 1024);
    let big = big_endian(&wal);
    assert_eq!(transactions(&big).len(), commits);
    assert_ne!(big, wal);
    assert_eq!(sqlite_recovers(&db, &big), checkpointed(&db, &wal));
}

#[test]
fn damaged_wals_give_what_sqlite_recovers() {
    for page_size in [512, 4096] {
        let dir = tempfile::tempdir().unwrap();
        let (db, wal, _) = sample(dir.path(), page_size);
        let mut random = Random(7);
        let ps = PageSize::new(page_size).unwrap();
        let mut cases: Vec<Vec<u8>> = Vec::new();
        for _ in 0..25 {
            let mut w = wal.clone();
            let bit = random.below(w.len() as u64 * 8) as usize;
            w[bit / 8] ^= 1 << (bit % 8);
            cases.push(w);
            cases.push(wal[..random.below(wal.len() as u64) as usize].to_vec());
        }
        // Every field of the header, and of a frame header in the middle.
        for at in (0..WAL_HEADER_LEN).step_by(4) {
            let mut w = wal.clone();
            w[at + 3] ^= 1;
            cases.push(w);
        }
        for at in (0..24).step_by(4) {
            let mut w = wal.clone();
            w[frame_offset(9, ps) as usize + at + 3] ^= 1;
            cases.push(w);
        }
        for (i, case) in cases.iter().enumerate() {
            assert_eq!(checkpointed(&db, case), sqlite_recovers(&db, case), "case {i} of {page_size}");
        }
    }
}

#[test]
fn a_read_error_is_an_error_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (_, wal, _) = sample(dir.path(), 512);
    // The source is shorter than the size that was promised.
    let mut reader = WalReader::open(&wal[..2000], wal.len() as u64).unwrap().unwrap();
    let end = loop {
        match reader.next_transaction() {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(end.is_err());
}

proptest! {
    #[test]
    fn garbage_never_panics(
        body in proptest::collection::vec(any::<u8>(), 0..3000),
        salt in any::<[u32; 2]>(),
        valid_header in any::<bool>(),
        size in any::<u64>(),
    ) {
        let header = WalHeader::new(PageSize::new(512).unwrap(), ByteOrder::Little, 0, salt);
        let mut wal = if valid_header { header.encode().to_vec() } else { Vec::new() };
        wal.extend_from_slice(&body);
        let _ = transactions(&wal);
        // A size that lies.
        if let Ok(Some(mut reader)) = WalReader::open(&wal[..], size) {
            while let Ok(Some(_)) = reader.next_transaction() {}
        }
    }
}
