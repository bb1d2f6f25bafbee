//! Journal playback against hot journals of real SQLite, and against what SQLite makes of damaged ones.

#![allow(clippy::unwrap_used)] // the lint knows `#[test]` functions, not their helpers

mod common;

use std::fs;

use common::{PAGE_SIZES, Random, open, put_page};
use litefs_sqlite::journal::{JournalReader, RecordCount, super_journal::super_journal_name};
use litefs_types::PageSize;
use proptest::prelude::*;
use rusqlite::Connection;

/// A database in the midst of a transaction that was spilled to it.
struct Hot {
    /// Before the transaction.
    before: Vec<u8>,
    db: Vec<u8>,
    journal: Vec<u8>,
    page_size: PageSize,
}

/// Makes SQLite write a large transaction through a tiny cache, and copies the files before its end.
fn hot(page_size: u32, pragmas: &str) -> Hot {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = open(&path, page_size, pragmas);
    let mut random = Random(u64::from(page_size) + pragmas.len() as u64);
    db.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b); BEGIN").unwrap();
    for _ in 0..400 {
        db.execute("INSERT INTO t(b) VALUES(?)", [random.text(page_size as usize / 3)]).unwrap();
    }
    db.execute_batch("COMMIT; PRAGMA cache_size=8; PRAGMA cache_spill=8").unwrap();
    let before = fs::read(&path).unwrap();
    db.execute_batch("BEGIN").unwrap();
    for i in 0..300 {
        let text = random.text(page_size as usize / 3);
        db.execute("UPDATE t SET b=? WHERE a=?", (text, random.below(400) as i64 + 1)).unwrap();
        if i % 3 == 0 {
            db.execute("INSERT INTO t(b) VALUES(?)", [random.text(page_size as usize)]).unwrap();
        }
    }
    let hot = Hot {
        before,
        db: fs::read(&path).unwrap(),
        journal: fs::read(dir.path().join("db-journal")).unwrap(),
        page_size: PageSize::new(page_size).unwrap(),
    };
    assert_ne!(hot.db, hot.before, "the transaction must have spilled");
    hot
}

/// Plays `journal` back over `db`.
fn played_back(db: &[u8], journal: &[u8], page_size: PageSize) -> Vec<u8> {
    let mut image = db.to_vec();
    let reader = JournalReader::open(journal, journal.len() as u64, Some(page_size)).unwrap();
    let Some(mut reader) = reader else { return image };
    let ps = reader.page_size();
    let want = ps.file_size(reader.original_pages()) as usize;
    // pager.c `pager_truncate`: a file that lacks less than a page is left as it is.
    if image.len() > want || image.len() + ps.bytes() <= want {
        image.resize(want, 0);
    }
    let mut page = Vec::new();
    while let Some(no) = reader.next_page(&mut page).unwrap() {
        put_page(&mut image, ps, no, &page);
    }
    image
}

/// What real SQLite makes of the two files when it opens them.
fn sqlite_recovers(db: &[u8], journal: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    fs::write(&path, db).unwrap();
    fs::write(dir.path().join("db-journal"), journal).unwrap();
    let conn = Connection::open(&path).unwrap();
    let _ = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    drop(conn);
    fs::read(&path).unwrap()
}

#[test]
fn hot_journals_restore_the_database() {
    let kinds = [
        "PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL;",
        "PRAGMA journal_mode=PERSIST; PRAGMA synchronous=NORMAL;",
        "PRAGMA journal_mode=TRUNCATE; PRAGMA synchronous=OFF;",
    ];
    for page_size in PAGE_SIZES {
        for kind in kinds {
            let hot = hot(page_size, kind);
            let restored = played_back(&hot.db, &hot.journal, hot.page_size);
            assert!(restored == hot.before, "page size {page_size}, {kind}");
            assert!(sqlite_recovers(&hot.db, &hot.journal) == hot.before);
            let mut reader =
                JournalReader::open(&hot.journal[..], hot.journal.len() as u64, None).unwrap().unwrap();
            assert_eq!(reader.page_size(), hot.page_size);
            assert_eq!(reader.super_journal().unwrap(), None);
            assert_eq!(reader.identity().unwrap().unwrap().nonce, reader.header().nonce);
            let to_end = reader.header().records == RecordCount::ToEnd;
            assert_eq!(to_end, kind.contains("OFF"), "no-sync journals count to the end");
        }
    }
}

#[test]
fn spilling_more_than_once_makes_several_segments() {
    let hot = hot(1024, "PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL;");
    let magic = hot.journal.chunks_exact(512).filter(|s| litefs_sqlite::journal::is_live(s)).count();
    assert!(magic > 2, "{magic} segments");
}

#[test]
fn damaged_journals_give_what_sqlite_restores() {
    for (page_size, kind) in [(512, "PRAGMA synchronous=FULL;"), (1024, "PRAGMA synchronous=OFF;")] {
        let hot = hot(page_size, kind);
        let mut random = Random(11);
        let mut cases: Vec<Vec<u8>> = Vec::new();
        for _ in 0..40 {
            let mut j = hot.journal.clone();
            let bit = random.below(j.len() as u64 * 8) as usize;
            j[bit / 8] ^= 1 << (bit % 8);
            cases.push(j);
            cases.push(hot.journal[..random.below(hot.journal.len() as u64) as usize].to_vec());
        }
        // The count, the nonce, the sector size, and a super-journal's page number in a record.
        for (at, value) in [(8, 0u32), (8, 1), (8, 3), (8, u32::MAX), (12, 1), (20, 1024), (20, 0), (20, 31)]
        {
            let mut j = hot.journal.clone();
            j[at..at + 4].copy_from_slice(&value.to_be_bytes());
            cases.push(j);
        }
        let record = hot.page_size.bytes() + 8;
        for value in [0, hot.page_size.lock_page().get(), u32::MAX] {
            let mut j = hot.journal.clone();
            j[512 + 2 * record..512 + 2 * record + 4].copy_from_slice(&value.to_be_bytes());
            cases.push(j);
        }
        for (i, case) in cases.iter().enumerate() {
            let ours = played_back(&hot.db, case, hot.page_size);
            assert!(ours == sqlite_recovers(&hot.db, case), "case {i} of {page_size}");
        }
    }
}

#[test]
fn a_missing_super_journal_means_committed() {
    let mut hot = hot(1024, "PRAGMA synchronous=FULL;");
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("db-mj0123459AB").to_str().unwrap().to_owned();
    let mut sum = 0u32;
    hot.journal.resize(hot.journal.len().next_multiple_of(512), 0);
    hot.journal.extend_from_slice(&hot.page_size.lock_page().get().to_be_bytes());
    for b in name.bytes() {
        sum += u32::from(b);
    }
    hot.journal.extend_from_slice(name.as_bytes());
    hot.journal.extend_from_slice(&(name.len() as u32).to_be_bytes());
    hot.journal.extend_from_slice(&sum.to_be_bytes());
    hot.journal.extend_from_slice(&litefs_sqlite::journal::JOURNAL_MAGIC);

    let size = hot.journal.len() as u64;
    let found = super_journal_name(&mut &hot.journal[..], size).unwrap();
    assert_eq!(found.as_deref(), Some(name.as_bytes()));
    // SQLite agrees: without that file nothing is rolled back, with it everything is.
    assert!(sqlite_recovers(&hot.db, &hot.journal) == hot.db);
    fs::write(&name, b"").unwrap();
    assert!(sqlite_recovers(&hot.db, &hot.journal) == hot.db, "an empty file counts as missing");
    fs::write(&name, b"/elsewhere/db-journal\0").unwrap();
    assert!(sqlite_recovers(&hot.db, &hot.journal) == hot.before);
    assert!(played_back(&hot.db, &hot.journal, hot.page_size) == hot.before);

    for (from_end, what) in [(1, "magic"), (9, "sum"), (13, "length"), (17, "name")] {
        let mut j = hot.journal.clone();
        let at = j.len() - from_end;
        j[at] ^= 1;
        assert_eq!(super_journal_name(&mut &j[..], size).unwrap(), None, "{what}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(
        mut body in proptest::collection::vec(any::<u8>(), 0..4000),
        fields in any::<[u32; 3]>(),
        sector_bits in 4u32..18,
        size in any::<u64>(),
        lie in any::<bool>(),
    ) {
        if body.len() >= 28 {
            body[..8].copy_from_slice(&litefs_sqlite::journal::JOURNAL_MAGIC);
            for (i, f) in fields.iter().enumerate() {
                body[8 + i * 4..12 + i * 4].copy_from_slice(&f.to_be_bytes());
            }
            body[20..24].copy_from_slice(&(1u32 << sector_bits).to_be_bytes());
            body[24..28].copy_from_slice(&512u32.to_be_bytes());
        }
        let size = if lie { size } else { body.len() as u64 };
        if let Ok(Some(mut reader)) = JournalReader::open(&body[..], size, None) {
            let _ = reader.super_journal();
            let _ = reader.identity();
            let mut page = Vec::new();
            while let Ok(Some(_)) = reader.next_page(&mut page) {}
        }
    }
}
