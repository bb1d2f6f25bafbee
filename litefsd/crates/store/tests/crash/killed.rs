//! Applications that do not come to their end: killed, or refused because the role went away; and then
//! the daemon dies or the power goes, too.

use std::sync::atomic::Ordering;

use super::rollback::rows;
use super::run::{Failed, Run, Script, eager_and_not};
use super::world::{Hang, Options};

fn run(script: &Script) {
    eager_and_not(Options::default(), script);
}

fn wal(r: &mut Run) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(
        1,
        "PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0",
    )?;
    r.sql(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.sql(1, "INSERT INTO t VALUES(1, 'one')")
}

/// In FSYNC, with another connection alive: nobody ever sees it, the next writer overwrites it.
fn overwritten(r: &mut Run) -> Result<(), Failed> {
    wal(r)?;
    r.open(2, "db")?;
    r.sql(2, "PRAGMA synchronous=FULL; SELECT * FROM t")?;
    r.hangs_at(1, Hang::Sync, &rows(10, 9, "never seen"));
    r.kill(1);
    r.sql(2, "INSERT INTO t VALUES(2, 'instead')")?;
    r.settled();
    r.sql(2, "INSERT INTO t VALUES(3, 'and on')")?;
    r.sql(2, "PRAGMA wal_checkpoint(TRUNCATE)")?;
    r.close(2);
    Ok(())
}

#[test]
fn in_fsync_while_another_lives() {
    run(&overwritten);
}

/// The first connection is killed; another one comes, begins with `first`, and goes on.
fn next_after_kill(r: &mut Run, first: &str) -> Result<(), Failed> {
    r.kill(1);
    r.open(2, "db")?;
    r.sql(2, first)?;
    r.settled();
    r.sql(2, "INSERT INTO t VALUES(3, 'and on')")?;
    r.close(2);
    Ok(())
}

/// In FSYNC, alone: the next opener recovers the wal and sees it.
fn recovered(r: &mut Run) -> Result<(), Failed> {
    wal(r)?;
    r.hangs_at(1, Hang::Sync, &rows(10, 9, "seen by the next"));
    next_after_kill(r, "PRAGMA synchronous=FULL; SELECT * FROM t")
}

#[test]
fn in_fsync_alone() {
    run(&recovered);
}

/// With a hot journal: the next reader plays it back.
fn hot(r: &mut Run, journal: &str) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(1, &format!("PRAGMA page_size=512; PRAGMA journal_mode={journal}; PRAGMA synchronous=EXTRA"))?;
    r.durable = true;
    r.sql(1, "PRAGMA cache_size=8; PRAGMA cache_spill=8; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.sql(1, &rows(10, 20, "there"))?;
    r.sql(1, "DELETE FROM t WHERE id > 20")?;
    r.sql(1, &format!("BEGIN; {} UPDATE t SET x = 'gone'", rows(100, 30, "spilled")))?;
    let first = format!("PRAGMA journal_mode={journal}; PRAGMA synchronous=EXTRA; SELECT count(*) FROM t");
    next_after_kill(r, &first)
}

#[test]
fn with_a_hot_journal() {
    run(&|r: &mut Run| hot(r, "DELETE"));
    run(&|r: &mut Run| hot(r, "PERSIST"));
}

/// Between the FSYNC of the database and the end of the journal: the record is in the log already.
fn at_the_commit_point(r: &mut Run) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(1, "PRAGMA page_size=512; PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA")?;
    r.durable = true;
    r.sql(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.sql(1, &rows(10, 9, "there"))?;
    r.hangs_at(1, Hang::Delete, "UPDATE t SET x = 'not committed'");
    next_after_kill(r, "PRAGMA synchronous=EXTRA; SELECT count(*) FROM t")
}

#[test]
fn before_the_journal_is_removed() {
    run(&at_the_commit_point);
}

/// The role goes away before the commit point: refused, rolled back by SQLite, never to be seen.
fn demoted(r: &mut Run, journal: &str) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(1, &format!("PRAGMA page_size=512; PRAGMA journal_mode={journal}; PRAGMA synchronous=EXTRA"))?;
    r.durable = true;
    r.sql(1, "PRAGMA cache_size=8; PRAGMA cache_spill=8; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.sql(1, &rows(10, 12, "there"))?;
    r.sql(1, &format!("BEGIN; {} UPDATE t SET x = 'refused' WHERE id < 15", rows(100, 12, "spilled")))?;
    r.world.gate.0.store(false, Ordering::SeqCst);
    r.fails(1, "COMMIT");
    r.world.gate.0.store(true, Ordering::SeqCst);
    r.sql(1, "INSERT INTO t VALUES(3, 'primary again')")?;
    r.close(1);
    Ok(())
}

#[test]
fn refused_at_the_commit_point() {
    run(&|r: &mut Run| demoted(r, "DELETE"));
    run(&|r: &mut Run| demoted(r, "TRUNCATE"));
    run(&|r: &mut Run| demoted(r, "PERSIST"));
    run(&|r: &mut Run| demoted(r, "WAL"));
}
