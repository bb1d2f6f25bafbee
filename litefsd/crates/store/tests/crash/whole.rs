//! Whole databases: import, `cp`, drop; and what the store does beside commits: stamps, retention, stop.

use std::io::Write;
use std::time::Duration;

use litefs_store::StoreError;
use litefs_store::database::{CheckedImport, OpenMode};
use litefs_store::own_mount::FileKind;
use rusqlite::Connection;

use super::rollback::rows;
use super::run::{Failed, Run, eager_and_not};
use super::world::{Options, World};

/// A SQLite file of an ordinary directory.
pub fn file(setup: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let c = Connection::open(&path).unwrap();
    c.execute_batch(&format!(
        "{setup} CREATE TABLE t(id INTEGER PRIMARY KEY, x); {}",
        rows(0, 12, "imported")
    ))
    .unwrap();
    drop(c);
    std::fs::read(path).unwrap()
}

pub fn import(w: &World, bytes: &[u8], replace: bool) -> Result<(), StoreError> {
    let db = w.store.create_database(&"db".parse().unwrap())?;
    let mut f = w.store.import_file()?;
    f.write_all(bytes).map_err(|source| StoreError::Io { what: "spool", source })?;
    db.import(CheckedImport::check(f)?, replace).map(|_| ())
}

pub fn imports(r: &mut Run) -> Result<(), Failed> {
    r.durable = true;
    let small = file("PRAGMA page_size=512;");
    let wal = file("PRAGMA page_size=512; PRAGMA journal_mode=WAL;");
    let large = file("PRAGMA page_size=1024;");
    r.step(|w| import(w, &small, false))?;
    r.open(1, "db")?;
    r.sql(1, "PRAGMA synchronous=EXTRA; INSERT INTO t VALUES(100, 'on top')")?;
    r.step(|w| import(w, &wal, true))?;
    r.sql(1, "PRAGMA synchronous=FULL; INSERT INTO t VALUES(101, 'wal')")?;
    r.step(|w| import(w, &wal, true))?;
    r.sql(1, "INSERT INTO t VALUES(102, 'wal again')")?;
    r.close(1);
    r.step(|w| import(w, &large, true))?;
    r.open(1, "db")?;
    r.sql(1, "PRAGMA synchronous=EXTRA; INSERT INTO t VALUES(103, 'other page size')")?;
    r.close(1);
    Ok(())
}

#[test]
fn import_into_nothing_and_over_databases() {
    eager_and_not(Options::default(), &imports);
}

/// `cp FILE MOUNT/db`, in pieces.
fn copy(w: &World, bytes: &[u8]) -> Result<(), StoreError> {
    let caller = w.caller(w.handle());
    let db = w.store.create_for_application(&caller, &"db".parse().unwrap())?;
    let opened = db.create_file(&caller, FileKind::Database, false)?;
    for (i, piece) in bytes.chunks(3000).enumerate() {
        db.write(&caller, FileKind::Database, &opened, i as u64 * 3000, piece, false)?;
    }
    db.flush(&caller, FileKind::Database)?;
    db.release(&caller, FileKind::Database);
    Ok(())
}

pub fn drops(r: &mut Run) -> Result<(), Failed> {
    r.durable = true;
    let small = file("PRAGMA page_size=512;");
    r.step(|w| copy(w, &small))?;
    r.step(|w| w.find("db")?.drop_database().map(|_| ()))?;
    r.open(1, "db")?;
    r.durable = false;
    r.sql(1, "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.sql(1, "INSERT INTO t VALUES(1, 'a new one')")?;
    r.close(1);
    r.durable = true;
    r.step(|w| w.find("db")?.drop_database().map(|_| ()))?;
    r.step(|w| copy(w, &small))?;
    r.step(|w| {
        let db = w.find("db")?;
        db.unlink(&w.caller(w.handle()), FileKind::Database)?;
        let mode = OpenMode { read: true, write: true, truncate: false };
        match db.open_file(&w.caller(0), FileKind::Database, mode) {
            Err(StoreError::NotFound) => Ok(()),
            Err(e) => Err(e),
            Ok(_) => panic!("dropped, and still there"),
        }
    })
}

#[test]
fn copy_in_and_drop() {
    eager_and_not(Options::default(), &drops);
}

pub fn upkeep(r: &mut Run, journal: &str, sync: &str) -> Result<(), Failed> {
    let tick = |w: &World| {
        w.store.tick();
        w.store.maintain();
        Ok(())
    };
    r.open(1, "db")?;
    r.sql(1, &format!("PRAGMA page_size=4096; PRAGMA journal_mode={journal}; PRAGMA synchronous={sync}"))?;
    r.sql(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.step(tick)?;
    for i in 0..3u32 {
        // Each fills a good part of a log segment.
        r.sql(1, &format!("INSERT INTO t VALUES({i}, zeroblob(140000)); PRAGMA wal_checkpoint(PASSIVE)"))?;
        r.step(tick)?;
    }
    r.sql(1, "DELETE FROM t WHERE id < 2")?;
    r.close(1);
    r.step(tick)?;
    r.step(|w| {
        w.store.close(Duration::ZERO, true);
        Ok(())
    })
}

#[test]
fn stamps_retention_and_a_clean_stop() {
    let options = Options { max_log_size: Some(300_000), ..Options::default() };
    eager_and_not(options, &|r: &mut Run| upkeep(r, "TRUNCATE", "FULL"));
}

#[test]
fn stamps_retention_and_a_clean_stop_in_wal_mode() {
    let options = Options { max_log_size: Some(300_000), ..Options::default() };
    eager_and_not(options, &|r: &mut Run| upkeep(r, "WAL", "FULL"));
}
