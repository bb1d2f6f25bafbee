//! WAL mode: commits, checkpoints, restarts, the last close; with and without a shared wal-index.

use super::rollback::rows;
use super::run::{Failed, Run, eager_and_not};
use super::world::Options;

fn start(r: &mut Run, before: &str, sync: &str) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(1, &format!("{before} PRAGMA page_size=512; PRAGMA synchronous=EXTRA; PRAGMA journal_mode=WAL"))?;
    r.sql(1, &format!("PRAGMA synchronous={sync}; PRAGMA wal_autocheckpoint=0"))?;
    r.sql(1, "PRAGMA cache_size=8; PRAGMA cache_spill=8")?;
    r.sql(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.durable = sync == "FULL";
    Ok(())
}

/// Commits, small and spilled, rolled back, checkpoints of each kind, restart, last close.
pub fn commits(r: &mut Run, sync: &str) -> Result<(), Failed> {
    start(r, "", sync)?;
    r.sql(1, "INSERT INTO t VALUES(1, 'one')")?;
    r.sql(1, "INSERT INTO t VALUES(2, 'two')")?;
    r.sql(1, &format!("BEGIN; {} COMMIT", rows(10, 25, "spilled")))?;
    r.sql(1, &format!("BEGIN; {} ROLLBACK", rows(100, 25, "spilled, taken back")))?;
    r.sql(1, "UPDATE t SET x = 'over the leftovers' WHERE id < 3")?;
    r.sql(1, "PRAGMA wal_checkpoint(PASSIVE)")?;
    r.sql(1, "INSERT INTO t VALUES(3, 'restarted')")?;
    r.sql(1, "INSERT INTO t VALUES(4, 'and on')")?;
    r.sql(1, "PRAGMA wal_checkpoint(TRUNCATE)")?;
    r.sql(1, "INSERT INTO t VALUES(5, 'after the truncation')")?;
    r.close(1);
    r.open(1, "db")?;
    r.sql(1, &format!("PRAGMA synchronous={sync}; INSERT INTO t VALUES(6, 'after the last close')"))?;
    r.close(1);
    Ok(())
}

/// A reader keeps a checkpoint from finishing; savepoints rewrite frames in place; VACUUM shrinks.
pub fn readers(r: &mut Run, sync: &str) -> Result<(), Failed> {
    start(r, "", sync)?;
    r.sql(1, &rows(10, 30, "before"))?;
    r.open(2, "db")?;
    r.sql(2, "BEGIN; SELECT count(*) FROM t")?;
    r.sql(1, "UPDATE t SET x = 'short' WHERE id % 2")?;
    r.sql(1, "PRAGMA wal_checkpoint(PASSIVE)")?;
    r.sql(2, "COMMIT")?;
    r.sql(
        1,
        &format!(
            "BEGIN; {} SAVEPOINT s; {} UPDATE t SET x = 'again'; ROLLBACK TO s; \
             UPDATE t SET x = 'kept' WHERE id < 15; COMMIT",
            rows(100, 10, "s"),
            rows(200, 10, "gone"),
        ),
    )?;
    r.sql(1, "DELETE FROM t WHERE id > 12")?;
    r.sql(1, "VACUUM")?;
    r.sql(1, "PRAGMA wal_checkpoint(RESTART)")?;
    r.sql(2, "INSERT INTO t VALUES(1, 'by the other')")?;
    r.close(1);
    r.close(2);
    Ok(())
}

/// The only connection keeps the wal-index to itself.
pub fn exclusive(r: &mut Run, sync: &str) -> Result<(), Failed> {
    start(r, "PRAGMA locking_mode=EXCLUSIVE;", sync)?;
    r.sql(1, "INSERT INTO t VALUES(1, 'one')")?;
    r.sql(1, &rows(10, 12, "rows"))?;
    r.sql(1, "PRAGMA wal_checkpoint(PASSIVE)")?;
    r.sql(1, "INSERT INTO t VALUES(2, 'restarted')")?;
    r.close(1);
    Ok(())
}

/// Holds EXCLUSIVE, with the shared index.
pub fn exclusive_late(r: &mut Run, sync: &str) -> Result<(), Failed> {
    start(r, "", sync)?;
    r.sql(1, "PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES(1, 'one')")?;
    r.sql(1, &rows(10, 12, "rows"))?;
    r.sql(1, "PRAGMA wal_checkpoint(PASSIVE)")?;
    r.sql(1, "INSERT INTO t VALUES(2, 'restarted')")?;
    r.sql(1, "PRAGMA locking_mode=NORMAL; SELECT count(*) FROM t")?;
    r.sql(1, "INSERT INTO t VALUES(3, 'shared again')")?;
    r.close(1);
    Ok(())
}

macro_rules! cases {
    ($($name:ident: $script:ident $sync:literal $psow:literal;)*) => {
        $(#[test]
        fn $name() {
            let options = Options { psow: $psow, ..Options::default() };
            eager_and_not(options, &|r: &mut Run| $script(r, $sync));
        })*
    };
}

cases! {
    full: commits "FULL" true;
    normal: commits "NORMAL" true;
    off: commits "OFF" true;
    full_with_copies_of_the_last_frame: commits "FULL" false;
    readers_full: readers "FULL" true;
    readers_normal: readers "NORMAL" true;
    own_index_full: exclusive "FULL" true;
    own_index_normal: exclusive "NORMAL" true;
    exclusive_late_full: exclusive_late "FULL" true;
    exclusive_late_normal: exclusive_late "NORMAL" true;
}
