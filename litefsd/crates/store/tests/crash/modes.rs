//! Changes of the journal mode and of the page size.

use super::rollback::rows;
use super::run::{Failed, Run, Script, eager_and_not};
use super::world::Options;

fn run(script: &Script) {
    eager_and_not(Options::default(), script);
}

pub fn to_wal_and_back(r: &mut Run) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(1, "PRAGMA page_size=512; PRAGMA synchronous=FULL; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.sql(1, &rows(0, 12, "delete"))?;
    r.sql(1, "PRAGMA journal_mode=WAL")?;
    r.sql(1, &rows(100, 12, "wal"))?;
    r.sql(1, "INSERT INTO t VALUES(500, 'second')")?;
    r.sql(1, "PRAGMA journal_mode=DELETE")?;
    r.sql(1, "INSERT INTO t VALUES(501, 'delete')")?;
    r.sql(1, "PRAGMA journal_mode=WAL")?;
    r.sql(1, "INSERT INTO t VALUES(502, 'wal')")?;
    r.sql(1, "PRAGMA journal_mode=TRUNCATE")?;
    r.sql(1, "INSERT INTO t VALUES(503, 'truncate')")?;
    r.sql(1, "PRAGMA journal_mode=PERSIST")?;
    r.sql(1, "INSERT INTO t VALUES(504, 'persist')")?;
    r.sql(1, "PRAGMA journal_mode=WAL")?;
    r.sql(1, "INSERT INTO t VALUES(505, 'wal')")?;
    r.close(1);
    Ok(())
}

#[test]
fn between_rollback_and_wal() {
    run(&to_wal_and_back);
}

pub fn page_size(r: &mut Run) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(1, "PRAGMA page_size=512; PRAGMA synchronous=EXTRA; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.durable = true;
    r.sql(1, &rows(0, 20, "small pages"))?;
    r.sql(1, "PRAGMA page_size=4096; VACUUM")?;
    r.sql(1, "INSERT INTO t VALUES(100, 'large pages')")?;
    r.sql(1, "PRAGMA page_size=1024; VACUUM")?;
    r.durable = false;
    r.sql(1, "PRAGMA journal_mode=WAL; INSERT INTO t VALUES(101, 'wal')")?;
    r.close(1);
    Ok(())
}

#[test]
fn page_size_by_vacuum() {
    run(&page_size);
}
