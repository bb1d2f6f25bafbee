//! DELETE, TRUNCATE, PERSIST: transactions of every shape, at every level of `synchronous`.

use super::run::{Failed, Rules, Run, matrix};
use super::world::Options;

/// `n` rows of about a third of a page of 512 bytes, with ids behind `from`.
pub fn rows(from: u32, n: u32, text: &str) -> String {
    format!(
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n}) \
         SELECT {from} + i, printf('%.*c{text}%d', 150, '-', i) FROM n;"
    )
}

fn start(r: &mut Run, journal: &str, sync: &str) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(
        1,
        &format!(
            "PRAGMA page_size=512; PRAGMA journal_mode={journal}; PRAGMA synchronous={sync};
             PRAGMA cache_size=8; PRAGMA cache_spill=8"
        ),
    )?;
    // With DELETE only EXTRA syncs the removal of the journal; until a commit is announced, a power loss
    // may bring the journal back. That is what SQLite itself promises.
    r.durable = matches!((journal, sync), ("DELETE", "EXTRA") | ("TRUNCATE" | "PERSIST", "FULL" | "EXTRA"));
    Ok(())
}

/// The first transaction, small ones, one that spills, rollbacks with and without a spill.
pub fn small(r: &mut Run, journal: &str, sync: &str) -> Result<(), Failed> {
    start(r, journal, sync)?;
    r.sql(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.sql(1, "INSERT INTO t VALUES(1, 'small')")?;
    r.sql(1, &format!("BEGIN; {} COMMIT", rows(10, 40, "spilled")))?;
    r.sql(1, "BEGIN; UPDATE t SET x = 'taken back' WHERE id = 1; ROLLBACK")?;
    r.sql(
        1,
        &format!("BEGIN; {} UPDATE t SET x = x || '.'; ROLLBACK", rows(100, 30, "spilled, taken back")),
    )?;
    r.sql(1, "UPDATE t SET x = 'last' WHERE id = 1")?;
    r.close(1);
    Ok(())
}

/// Pages that are never written, free pages overwritten, VACUUM.
pub fn sizes(r: &mut Run, journal: &str, sync: &str) -> Result<(), Failed> {
    start(r, journal, sync)?;
    r.sql(1, "PRAGMA cache_size=200; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    // Grown and freed in the same transaction: its pages are in the file's size, but are never written.
    r.sql(1, &format!("BEGIN; {} DELETE FROM t WHERE id > 20; COMMIT", rows(10, 40, "hole")))?;
    r.sql(1, &rows(100, 15, "into free pages"))?;
    r.sql(1, "DELETE FROM t WHERE id > 105")?;
    r.sql(1, &format!("PRAGMA cache_size=4; BEGIN; {} ROLLBACK", rows(200, 20, "free pages, taken back")))?;
    r.sql(1, "VACUUM")?;
    r.sql(1, "INSERT INTO t VALUES(900, 'last')")?;
    r.close(1);
    Ok(())
}

fn run(script: fn(&mut Run, &str, &str) -> Result<(), Failed>, journal: &'static str, sync: &'static str) {
    for eager in [true, false] {
        let options = Options { eager, ..Options::default() };
        let rules = Rules { power_loss_may_break: sync == "OFF", ..Rules::default() };
        matrix(options, rules, &move |r| script(r, journal, sync));
    }
}

macro_rules! cases {
    ($($name:ident: $script:ident $journal:literal $sync:literal;)*) => {
        $(#[test]
        fn $name() {
            run($script, $journal, $sync);
        })*
    };
}

cases! {
    delete_full: small "DELETE" "FULL";
    delete_extra: small "DELETE" "EXTRA";
    delete_normal: small "DELETE" "NORMAL";
    delete_off: small "DELETE" "OFF";
    truncate_full: small "TRUNCATE" "FULL";
    truncate_normal: small "TRUNCATE" "NORMAL";
    persist_full: small "PERSIST" "FULL";
    persist_normal: small "PERSIST" "NORMAL";
    persist_off: small "PERSIST" "OFF";
    delete_full_sizes: sizes "DELETE" "FULL";
    truncate_full_sizes: sizes "TRUNCATE" "FULL";
    persist_full_sizes: sizes "PERSIST" "FULL";
    delete_off_sizes: sizes "DELETE" "OFF";
}
