//! Features of SQLite that change more than pages: VACUUM, auto_vacuum, mode switches, page size,
//! EXCLUSIVE locking, ATTACH, the lock page. All must work and reach the replica. Needs root, /dev/fuse.

use std::time::Duration;

use litefs_tests::image::{assert_same, checked_export, page_size};
use litefs_tests::node::{Node, pair};
use litefs_tests::sample::{BOTH_KINDS, JOURNALS};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, Sqlite, codes, once};
use litefs_tests::watch::{Deadline, eventually};

const FILL: &str = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<2000) \
                    INSERT INTO t(x) SELECT hex(zeroblob(i%300)) FROM c";

fn create(node: &Node, db: &str, setup: &str) -> Session {
    let mut s = Session::open(node.path(db));
    s.exec(setup);
    s.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    s.exec(FILL);
    s
}

#[test]
fn vacuum_shrinks_and_the_replica_with_it() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("vacuum");
    let (primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        for page in [512, 4096, 65536] {
            let db = format!("{journal}{page}.db");
            let mut s =
                create(&primary, &db, &format!("PRAGMA page_size={page}; PRAGMA journal_mode={journal}"));
            let before = checked_export(&primary, &db).1.len();
            s.exec("DELETE FROM t WHERE id>50");
            s.exec("VACUUM");
            let after = checked_export(&primary, &db).1.len();
            assert!(after < before, "{db}: {before} → {after}");
            assert_same(&primary, &replica, &db, &scratch);
            s.exec(FILL);
            assert_same(&primary, &replica, &db, &scratch);
            s.close();
            assert_same(&primary, &replica, &db, &scratch);
        }
    }
}

#[test]
fn auto_vacuum_full_and_incremental() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("autovac");
    let (primary, replica) = pair(&scratch);
    for journal in BOTH_KINDS {
        for kind in [1, 2] {
            let db = format!("{journal}{kind}.db");
            let mut s =
                create(&primary, &db, &format!("PRAGMA auto_vacuum={kind}; PRAGMA journal_mode={journal}"));
            for i in 0..6 {
                s.exec(&format!("DELETE FROM t WHERE id%6={i} AND id>100"));
                s.exec("PRAGMA incremental_vacuum(20)");
                assert_same(&primary, &replica, &db, &scratch);
            }
            s.close();
        }
    }
}

#[test]
fn journal_mode_switches_in_all_directions_with_a_replica() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("switch");
    let (primary, replica) = pair(&scratch);
    let mut s = create(&primary, "db", "PRAGMA journal_mode=delete");
    // A reader that stays on the replica: it must neither break nor block.
    let mut reader = Session::open(replica.wait_file("db"));
    for round in 0..2 {
        for journal in ["wal", "delete", "wal", "truncate", "persist", "wal", "persist", "truncate", "delete"]
        {
            assert_eq!(s.one(&format!("PRAGMA journal_mode={journal}")), journal);
            s.exec(&format!(
                "INSERT INTO t(x) VALUES('{journal}{round}'); UPDATE t SET x=x||'.' WHERE id<10"
            ));
            assert_same(&primary, &replica, "db", &scratch);
            reader.exec("PRAGMA busy_timeout=5000");
            assert_eq!(reader.one("SELECT x FROM t ORDER BY id DESC LIMIT 1"), format!("{journal}{round}"));
        }
    }
    reader.close();
    s.close();
    assert_same(&primary, &replica, "db", &scratch);
}

#[test]
fn leaving_wal_with_a_reader_on_the_replica_that_never_ends() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("blockx");
    let (primary, replica) = pair(&scratch);
    let mut s = create(&primary, "db", "PRAGMA journal_mode=wal");
    replica.sync_with(&primary, "db");
    let mut reader = Session::open(replica.path("db"));
    reader.exec("BEGIN");
    let count = reader.one("SELECT count(*) FROM t");
    assert_eq!(s.one("PRAGMA journal_mode=delete"), "delete");
    s.exec("INSERT INTO t(x) VALUES('after')");
    // Design B.5: the replica keeps applying in WAL as long as it cannot have the file for itself.
    replica.sync_with(&primary, "db");
    assert_eq!(reader.one("SELECT count(*) FROM t"), count, "the snapshot stands");
    reader.exec("COMMIT");
    assert_eq!(reader.one("SELECT x FROM t ORDER BY id DESC LIMIT 1"), "after");
    reader.close();
    s.exec("INSERT INTO t(x) VALUES('later')");
    assert_same(&primary, &replica, "db", &scratch);
    s.close();
}

#[test]
fn page_size_changes_reach_the_replica() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("resize");
    let (primary, replica) = pair(&scratch);
    let mut s = create(&primary, "db", "PRAGMA journal_mode=delete; PRAGMA page_size=4096");
    for page in [1024, 65536, 512, 8192, 4096] {
        s.exec(&format!("PRAGMA page_size={page}; VACUUM"));
        let (_, image) = checked_export(&primary, "db");
        assert_eq!(page_size(&image), page);
        assert_same(&primary, &replica, "db", &scratch);
        s.exec("INSERT INTO t(x) VALUES('more')");
        assert_same(&primary, &replica, "db", &scratch);
    }
    s.close();
    assert_same(&primary, &replica, "db", &scratch);
}

#[test]
fn exclusive_locking_early_and_late_in_every_mode() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("excl");
    let (primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        for early in [true, false] {
            let db = format!("{journal}-{early}.db");
            create(&primary, &db, &format!("PRAGMA journal_mode={journal}")).close();
            let mut s = Session::open(primary.path(&db));
            if !early {
                s.exec("SELECT count(*) FROM t");
            }
            s.exec("PRAGMA locking_mode=EXCLUSIVE");
            for i in 0..20 {
                s.exec(&format!("INSERT INTO t(x) VALUES('e{i}')"));
            }
            // With the connection still open: its transactions may not wait for its end.
            eventually(Duration::from_secs(5), &format!("{db}: all transactions captured"), || {
                (primary.txid(&db) >= 22).then_some(())
            });
            replica.sync_with(&primary, &db);
            assert_eq!(once(replica.path(&db), "SELECT count(*) FROM t WHERE x LIKE 'e%'"), ["20"]);
            let mut other = Session::open(primary.path(&db));
            assert_eq!(other.err("INSERT INTO t(x) VALUES('no')").primary(), codes::BUSY);
            other.close();
            s.exec("PRAGMA locking_mode=NORMAL; SELECT count(*) FROM t");
            s.exec("INSERT INTO t(x) VALUES('normal')");
            s.close();
            assert_same(&primary, &replica, &db, &scratch);
        }
    }
}

#[test]
fn attach_commits_several_files() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("attach");
    let (primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        let dbs = ["a", "b", "c"].map(|n| format!("{journal}-{n}.db"));
        let mut s = create(&primary, &dbs[0], &format!("PRAGMA journal_mode={journal}"));
        for (i, db) in dbs.iter().enumerate().skip(1) {
            create(&primary, db, &format!("PRAGMA journal_mode={journal}")).close();
            s.exec(&format!("ATTACH '{}' AS d{i}", primary.path(db).display()));
        }
        for i in 0..10 {
            s.exec(&format!(
                "BEGIN; UPDATE main.t SET x='m{i}' WHERE id={i}; UPDATE d1.t SET x='m{i}' WHERE id={i}; \
                 INSERT INTO d2.t(x) VALUES('m{i}'); COMMIT"
            ));
            s.exec("BEGIN; DELETE FROM main.t; DELETE FROM d1.t; DELETE FROM d2.t; ROLLBACK");
        }
        for db in &dbs {
            assert_same(&primary, &replica, db, &scratch);
        }
        s.close();
        let left: Vec<_> = std::fs::read_dir(&primary.mount)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.contains("-mj"))
            .collect();
        assert!(left.is_empty(), "{journal}: super-journals are left: {left:?}");
    }
}

#[test]
fn a_writer_waits_for_a_reader_and_goes_on() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("wait");
    let (primary, replica) = pair(&scratch);
    let mut writer = create(&primary, "db", "PRAGMA journal_mode=delete");
    let mut reader = Session::open_with(Sqlite::Debian, primary.path("db"));
    reader.exec("BEGIN; SELECT count(*) FROM t");
    writer.exec("PRAGMA busy_timeout=20000");
    writer.start("INSERT INTO t(x) VALUES('waits')");
    assert_eq!(writer.finish(Duration::from_millis(300)), None, "a reader holds it back");
    reader.exec("COMMIT");
    assert!(writer.finish(Duration::from_secs(20)).unwrap().is_ok());
    reader.close();
    assert_same(&primary, &replica, "db", &scratch);
    writer.close();
}

#[test]
fn a_savepoint_commits_what_it_released_and_nothing_else() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("savep");
    let (primary, replica) = pair(&scratch);
    for which in Sqlite::ALL {
        for journal in BOTH_KINDS {
            let db = format!("{journal}{which:?}.db");
            create(&primary, &db, &format!("PRAGMA journal_mode={journal}")).close();
            let mut s = Session::open_with(which, primary.path(&db));
            s.exec("PRAGMA cache_size=5; PRAGMA cache_spill=5");
            // SAVEPOINT outside a transaction starts one.
            s.exec(&format!(
                "SAVEPOINT a; {FILL}; SAVEPOINT b; UPDATE t SET x='gone'; {FILL}; ROLLBACK TO b; \
                 UPDATE t SET x='kept' WHERE id%2=0; RELEASE a"
            ));
            assert_same(&primary, &replica, &db, &scratch);
            assert_eq!(s.one("SELECT count(*) FROM t WHERE x='gone'"), "0");
            s.close();
        }
    }
}
