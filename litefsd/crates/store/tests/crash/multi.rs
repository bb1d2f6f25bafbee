//! One transaction over two databases: with rollback journals all or nothing.

use super::rollback::rows;
use super::run::{Failed, Rules, Run, matrix};
use super::world::Options;

pub fn both(r: &mut Run, journal: &str) -> Result<(), Failed> {
    for (n, db) in [(1, "one"), (2, "two")] {
        r.open(n, db)?;
        r.sql(n, &format!("PRAGMA page_size=512; PRAGMA journal_mode={journal}; PRAGMA synchronous=EXTRA"))?;
        r.sql(n, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    }
    r.durable = true;
    let attach = format!(
        "ATTACH '{}' AS two; PRAGMA two.synchronous=EXTRA; PRAGMA two.journal_mode={journal}",
        r.path("two")
    );
    r.sql(1, &attach)?;
    r.sql(1, &format!("BEGIN; {} INSERT INTO two.t VALUES(1, 'with it'); COMMIT", rows(10, 8, "both")))?;
    r.sql(1, "INSERT INTO t VALUES(2, 'one alone')")?;
    r.sql(1, "BEGIN; DELETE FROM t WHERE id > 12; UPDATE two.t SET x = 'taken back'; ROLLBACK")?;
    r.sql(1, "BEGIN; INSERT INTO t VALUES(3, 'both'); UPDATE two.t SET x = 'again'; COMMIT")?;
    r.close(1);
    r.close(2);
    Ok(())
}

fn run(journal: &'static str) {
    let rules = Rules { together: true, ..Rules::default() };
    for eager in [true, false] {
        let options = Options { eager, ..Options::default() };
        let seen = matrix(options, rules, &move |r| both(r, journal));
        let supers = seen.operations.iter().filter(|(op, _)| op.name() == "super.unlink").count();
        assert_eq!(supers, 1, "there is a super-journal: {seen:?}");
    }
}

#[test]
fn delete() {
    run("DELETE");
}

#[test]
fn truncate() {
    run("TRUNCATE");
}

#[test]
fn persist() {
    run("PERSIST");
}
