//! The database header against what real SQLite writes and reports.

#![allow(clippy::unwrap_used)] // the lint knows `#[test]` functions, not their helpers

mod common;

use std::fs;

use common::{PAGE_SIZES, open};
use litefs_sqlite::db_header::{DbHeader, JournalMode, TextEncoding};
use rusqlite::Connection;

#[test]
fn fields_agree_with_the_pragmas() {
    for page_size in PAGE_SIZES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let db = open(
            &path,
            page_size,
            "PRAGMA encoding='UTF-16be'; PRAGMA user_version=77; PRAGMA application_id=99;
             CREATE TABLE t(a); CREATE TABLE u(a); INSERT INTO t VALUES(zeroblob(200000));",
        );
        let pragma = |name: &str| db.pragma_query_value(None, name, |r| r.get::<_, u32>(0)).unwrap();
        let bytes = fs::read(&path).unwrap();
        let header = DbHeader::parse(&bytes).unwrap();
        assert_eq!(header.page_size().get(), page_size);
        assert_eq!(header.page_count_field(), Some(pragma("page_count")));
        assert_eq!(header.page_count(0) as usize * page_size as usize, bytes.len());
        assert_eq!(header.user_version(), 77);
        assert_eq!(header.application_id(), 99);
        assert_eq!(header.schema_cookie(), pragma("schema_version"));
        assert_eq!(header.text_encoding(), TextEncoding::Utf16Be);
        assert_eq!(header.journal_mode(), JournalMode::Rollback);
        assert_eq!(header.sqlite_version() as i32, rusqlite::version_number());
        db.execute_batch("PRAGMA journal_mode=WAL").unwrap();
        assert_eq!(DbHeader::parse(&fs::read(&path).unwrap()).unwrap().journal_mode(), JournalMode::Wal);
    }
}

#[test]
fn sqlite_accepts_what_the_setters_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    drop(open(&path, 4096, "CREATE TABLE t(a); INSERT INTO t VALUES(5);"));
    let mut bytes = fs::read(&path).unwrap();
    let mut header = DbHeader::parse(&bytes).unwrap();
    header.set_journal_mode(JournalMode::Wal);
    header.set_change_counter(header.change_counter() + 1000);
    header.set_page_count((bytes.len() / 4096) as u32);
    header.set_schema_cookie(4711);
    header.write_to(&mut bytes);
    fs::write(&path, &bytes).unwrap();
    let db = Connection::open(&path).unwrap();
    let text = |sql: &str| db.query_row(sql, [], |r| r.get::<_, String>(0)).unwrap();
    assert_eq!(text("PRAGMA journal_mode"), "wal");
    assert_eq!(text("PRAGMA integrity_check"), "ok");
    assert_eq!(text("SELECT cast(a AS text) FROM t"), "5");
    let cookie: u32 = db.pragma_query_value(None, "schema_version", |r| r.get(0)).unwrap();
    assert_eq!(cookie, 4711);
}
