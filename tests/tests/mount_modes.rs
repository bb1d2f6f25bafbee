//! Real SQLite on a real mount: every journal mode × page size, and what a transaction does to the
//! position. Needs root and /dev/fuse.

use litefs_tests::image::{assert_same, assert_same_bytes, check_integrity, checked_export};
use litefs_tests::node::{Node, pair, single};
use litefs_tests::sample::{BOTH_KINDS, JOURNALS, drop_everywhere, wait_gone};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, Sqlite, once};
use litefs_tests::watch::Deadline;

const PAGE_SIZES: [u32; 4] = [512, 1024, 4096, 65536];

/// Runs one statement and checks that it was exactly `n` transactions, visible in `-pos` at once.
fn step(node: &Node, db: &str, session: &mut Session, n: u64, sql: &str) {
    let before = node.txid(db);
    session.exec(sql);
    assert_eq!(node.txid(db), before + n, "transactions of {sql}\n{}", node.log_tail(10));
}

fn life_of_a_database(node: &Node, db: &str, journal: &str, page_size: u32, which: Sqlite) {
    let mut s = Session::open_with(which, node.path(db));
    s.exec(&format!("PRAGMA page_size={page_size}"));
    assert_eq!(s.one(&format!("PRAGMA journal_mode={journal}")), journal);
    step(node, db, &mut s, 1, "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b TEXT)");
    step(
        node,
        db,
        &mut s,
        3,
        "INSERT INTO t VALUES(1,1,'a'); INSERT INTO t VALUES(2,2,'b'); INSERT INTO t VALUES(3,3,'c')",
    );
    step(node, db, &mut s, 1, "UPDATE t SET b='changed' WHERE id=2");
    step(node, db, &mut s, 0, "SELECT * FROM t; BEGIN; SELECT 1; COMMIT");
    step(node, db, &mut s, 0, "BEGIN IMMEDIATE; COMMIT");
    step(node, db, &mut s, 0, "BEGIN; INSERT INTO t VALUES(9,9,'no'); ROLLBACK");
    step(
        node,
        db,
        &mut s,
        1,
        "WITH RECURSIVE c(i) AS (SELECT 10 UNION ALL SELECT i+1 FROM c WHERE i<500) \
         INSERT INTO t SELECT i, i, hex(zeroblob(i%200)) FROM c",
    );
    step(node, db, &mut s, 1, "INSERT INTO t VALUES(1000, 0, hex(zeroblob(100000)))");
    step(node, db, &mut s, 1, "CREATE INDEX i ON t(a)");
    step(node, db, &mut s, 1, "DELETE FROM t WHERE id%3=0");
    // The same value again: SQLite writes the page, with the same bytes but for the change counter.
    s.exec("UPDATE t SET a=a WHERE id=1");
    s.exec("VACUUM");
    step(
        node,
        db,
        &mut s,
        1,
        "BEGIN IMMEDIATE; INSERT INTO t VALUES(2000,1,'x'); UPDATE t SET a=7 WHERE id=2000; COMMIT",
    );
    assert_eq!(s.one("PRAGMA integrity_check"), "ok");
    assert_eq!(s.one("PRAGMA page_size"), page_size.to_string());
    s.close();
}

fn in_mode(journal: &str) {
    let _deadline = Deadline::secs(150);
    let scratch = Scratch::new("mode");
    let (mut primary, mut replica) = pair(&scratch);
    let mut positions = Vec::new();
    for page_size in PAGE_SIZES {
        for which in Sqlite::ALL {
            let db = format!("{journal}-{page_size}-{which:?}.db");
            life_of_a_database(&primary, &db, journal, page_size, which);
            positions.push((db.clone(), assert_same(&primary, &replica, &db, &scratch)));
        }
    }
    // Nothing of it depends on the process that captured it.
    replica.stop();
    primary.stop().start();
    replica.start();
    for (db, pos) in positions {
        assert_eq!(primary.pos(&db), Some(pos), "{db} after a restart");
        assert_eq!(assert_same(&primary, &replica, &db, &scratch), pos);
        once(primary.path(&db), "INSERT INTO t(a) VALUES(1)");
        assert_eq!(assert_same(&primary, &replica, &db, &scratch).txid_raw(), pos.txid_raw() + 1);
    }
}

#[test]
fn delete_mode_at_all_page_sizes() {
    in_mode("delete");
}

#[test]
fn truncate_mode_at_all_page_sizes() {
    in_mode("truncate");
}

#[test]
fn persist_mode_at_all_page_sizes() {
    in_mode("persist");
}

#[test]
fn wal_mode_at_all_page_sizes() {
    in_mode("wal");
}

#[test]
fn every_synchronous_level_and_sector_size() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("sync");
    let (primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        for sync in ["off", "normal", "full", "extra"] {
            for psow in [0, 1] {
                let db = format!("{journal}-{sync}-{psow}.db");
                let mut s = Session::with(
                    Sqlite::Newest,
                    &format!("file:{}?psow={psow}", primary.path(&db).display()),
                );
                s.exec(&format!(
                    "PRAGMA page_size=1024; PRAGMA journal_mode={journal}; PRAGMA synchronous={sync}"
                ));
                s.exec("CREATE TABLE t(x)");
                for i in 0..10 {
                    s.exec(&format!("INSERT INTO t VALUES(hex(zeroblob({})))", i * 300));
                }
                s.exec(
                    "BEGIN; DELETE FROM t WHERE length(x)>1000; ROLLBACK; DELETE FROM t WHERE length(x)>4000",
                );
                // While the connection is open: nothing may wait for its close.
                assert_same(&primary, &replica, &db, &scratch);
                s.close();
            }
        }
    }
}

#[test]
fn a_spilled_transaction_has_several_journal_headers_and_is_one_transaction() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("spill");
    let (primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        let db = format!("{journal}.db");
        let mut s = Session::open(primary.path(&db));
        s.exec(&format!("PRAGMA journal_mode={journal}; PRAGMA cache_size=5; PRAGMA cache_spill=5"));
        step(&primary, &db, &mut s, 1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
        let many = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<3000) \
                    INSERT INTO t(x) SELECT hex(zeroblob(200)) FROM c";
        step(&primary, &db, &mut s, 1, many);
        step(&primary, &db, &mut s, 0, &format!("BEGIN; {many}; UPDATE t SET x='gone'; ROLLBACK"));
        step(&primary, &db, &mut s, 1, "UPDATE t SET x=x||'!' WHERE id%7=0");
        step(
            &primary,
            &db,
            &mut s,
            1,
            "BEGIN; DELETE FROM t WHERE id>100; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; COMMIT",
        );
        assert_eq!(s.one("SELECT count(*) FROM t"), "100");
        assert_same(&primary, &replica, &db, &scratch);
        s.close();
    }
}

#[test]
fn every_checkpoint_mode_keeps_the_data_and_makes_no_transaction() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("ckpt");
    let (primary, replica) = pair(&scratch);
    let mut s = Session::open(primary.path("db"));
    s.exec("PRAGMA journal_mode=wal; CREATE TABLE t(x)");
    for (i, mode) in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"].into_iter().enumerate() {
        for _ in 0..20 {
            s.exec(&format!("INSERT INTO t VALUES({i})"));
        }
        let before = primary.pos("db");
        assert!(s.one(&format!("PRAGMA wal_checkpoint({mode})")).starts_with("0|"), "{mode} is not busy");
        assert_eq!(primary.pos("db"), before, "{mode}");
        let (_, image) = checked_export(&primary, "db");
        check_integrity(&image, &scratch);
    }
    assert_eq!(std::fs::metadata(primary.path("db-wal")).unwrap().len(), 0);
    let (_, image) = checked_export(&primary, "db");
    assert_same_bytes(
        &std::fs::read(primary.path("db")).unwrap(),
        &image,
        "after TRUNCATE the file is the export",
    );
    s.exec("INSERT INTO t VALUES(99)");
    assert_same(&primary, &replica, "db", &scratch);
    s.close();
}

#[test]
fn the_position_file_in_both_ways_of_reading() {
    use std::io::{Read as _, Seek as _};
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("pos");
    let node = single(&scratch);
    once(node.path("db"), "CREATE TABLE t(x)");
    let mut kept = std::fs::File::open(node.path("db-pos")).unwrap();
    for i in 1..5_u64 {
        let mut text = String::new();
        kept.rewind().unwrap();
        kept.read_to_string(&mut text).unwrap();
        assert_eq!(text, std::fs::read_to_string(node.path("db-pos")).unwrap());
        assert_eq!((text.len(), text.as_bytes()[16], text.as_bytes()[33]), (34, b'/', b'\n'), "{text:?}");
        assert!(text.starts_with(&format!("{i:016x}/")), "{text:?}");
        once(node.path("db"), "INSERT INTO t VALUES(1)");
    }
    assert_eq!(std::fs::read_to_string(node.path(".lag")).unwrap(), "+000000000\n");
    assert!(!node.path(".primary").exists(), ".primary is for replicas");
}

#[test]
fn the_directory_lists_what_is_there() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("list");
    let node = single(&scratch);
    let list = || {
        let mut names: Vec<String> = std::fs::read_dir(&node.mount)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| !n.starts_with('.'))
            .collect();
        names.sort();
        names
    };
    assert!(list().is_empty());
    for (journal, extra) in [
        ("delete", vec![]),
        ("persist", vec!["db-journal"]),
        ("truncate", vec!["db-journal"]),
        ("wal", vec!["db-shm", "db-wal"]),
    ] {
        let mut s = Session::open(node.path("db"));
        s.exec(&format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x); INSERT INTO t VALUES(1)"));
        let mut want = vec!["db", "db-pos"];
        want.extend(extra);
        want.sort_unstable();
        assert_eq!(list(), want, "{journal}");
        s.close();
        std::fs::remove_file(node.path("db")).unwrap();
        assert!(list().is_empty(), "{journal}: {:?}", list());
    }
    let fs = nix::sys::statvfs::statvfs(&node.mount).unwrap();
    assert!(fs.blocks() > 0 && fs.blocks_available() > 0, "statfs is the data directory's");
}

#[test]
fn a_dropped_database_can_be_made_again_and_its_numbers_go_on() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("drop");
    let (primary, replica) = pair(&scratch);
    for journal in BOTH_KINDS {
        let db = format!("{journal}.db");
        once(
            primary.path(&db),
            &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x); INSERT INTO t VALUES(1)"),
        );
        let first = assert_same(&primary, &replica, &db, &scratch);
        drop_everywhere(&primary, &replica, &db);
        for end in ["", "-journal", "-wal", "-shm"] {
            let name = format!("{db}{end}");
            assert!(!primary.path(&name).exists(), "{name}");
            wait_gone(&replica, &name);
        }
        once(
            primary.path(&db),
            &format!("PRAGMA journal_mode={journal}; CREATE TABLE u(y); INSERT INTO u VALUES(2)"),
        );
        let second = assert_same(&primary, &replica, &db, &scratch);
        assert!(second.txid_raw() > first.txid_raw() + 1, "{first} then {second}");
        assert_eq!(once(replica.path(&db), "SELECT y FROM u"), ["2"]);
    }
}
