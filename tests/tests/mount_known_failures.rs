//! Known failures of the original that ours must not have, one test each; those that other files test
//! are named in `tests/CONFORMANCE.md`. Needs root and /dev/fuse.

use std::process::Command;
use std::time::{Duration, Instant};

use litefs_tests::faults::{files_below, overwrite};
use litefs_tests::http::{get, import, raw, request};
use litefs_tests::image::{assert_same, checked_export};
use litefs_tests::node::{Node, pair, single};
use litefs_tests::sample::{JOURNALS, insert_rows, pair_with, table, wait_gone};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, once};
use litefs_tests::watch::Deadline;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn vacuum_in_wal_mode_at_every_size_around_256_pages() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("v256");
    let (primary, replica) = pair(&scratch);
    for pages in [250, 255, 256, 257, 258, 511, 512, 513, 769] {
        let db = format!("v{pages}.db");
        let mut s = Session::open(primary.path(&db));
        s.exec("PRAGMA page_size=512; PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
        while s.one("PRAGMA page_count").parse::<u32>().unwrap() < pages + 40 {
            s.exec("INSERT INTO t(x) SELECT hex(zeroblob(200)) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4)");
        }
        while s.one("PRAGMA page_count").parse::<u32>().unwrap() > pages {
            s.exec("DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY id DESC LIMIT 1); VACUUM");
        }
        assert_same(&primary, &replica, &db, &scratch);
        s.exec("DELETE FROM t WHERE id%2; VACUUM");
        assert_same(&primary, &replica, &db, &scratch);
        s.close();
    }
}

#[test]
fn importing_a_bad_file_changes_nothing() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("badimport");
    let (primary, replica) = pair(&scratch);
    table(&primary, "db", "wal");
    let mut holder = Session::open(primary.path("db"));
    holder.exec("INSERT INTO t(x) VALUES('in the wal')");
    let before = checked_export(&primary, "db");
    let good = before.1.clone();
    let mut wrong_size = good.clone();
    wrong_size[16] = 0x12;
    let mut broken_page = good.clone();
    broken_page[4096..].fill(0xff);
    let cases: [(&str, Vec<u8>); 5] = [
        ("garbage", b"this is no database".repeat(500)),
        ("empty", Vec::new()),
        ("cut", good[..good.len() - 1000].to_vec()),
        ("page size", wrong_size),
        ("header only", good[..100].to_vec()),
    ];
    for (what, bytes) in cases {
        let answer = import(&primary, "db", &bytes);
        assert!(answer.status >= 400, "{what}: {}", answer.status);
        assert_eq!(checked_export(&primary, "db"), before, "{what}");
        assert_eq!(holder.one("SELECT count(*) FROM t"), "2", "{what}");
    }
    // What only integrity_check can find is litefsctl's to find.
    let file = scratch.join("broken.db");
    std::fs::write(&file, broken_page).unwrap();
    let (code, out, err) = primary.ctl(&["import", "--name", "db", "--replace", &file.display().to_string()]);
    assert_eq!(code, 1, "{out}{err}");
    assert_eq!(checked_export(&primary, "db"), before, "broken page");
    holder.exec("INSERT INTO t(x) VALUES('goes on')");
    holder.close();
    assert_same(&primary, &replica, "db", &scratch);
}

#[test]
fn pages_that_a_growing_transaction_never_wrote_are_there() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("holes");
    let (primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        let mut s = Session::open(primary.path(journal));
        s.exec(&format!(
            "PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE TABLE keep(x)"
        ));
        // Allocated, freed again before the commit, and behind them something that stays.
        s.exec("BEGIN; INSERT INTO t(x) VALUES(hex(zeroblob(200000))); INSERT INTO keep VALUES(hex(zeroblob(9000))); DELETE FROM t; COMMIT");
        assert_same(&primary, &replica, journal, &scratch);
        s.exec("INSERT INTO t(x) VALUES(hex(zeroblob(100000))); DELETE FROM t; INSERT INTO t(x) VALUES(hex(zeroblob(50000)))");
        assert_same(&primary, &replica, journal, &scratch);
        s.close();
    }
}

#[test]
fn a_crash_in_the_first_transaction_blocks_no_start() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("firsttx");
    let mut node = single(&scratch);
    for journal in JOURNALS {
        let mut s = Session::open(node.path(journal));
        s.exec(&format!("PRAGMA journal_mode={journal}; PRAGMA cache_size=3; PRAGMA cache_spill=3"));
        s.exec(&format!("BEGIN; CREATE TABLE t(x); {}", insert_rows(300, "hex(zeroblob(3000))")));
        node.kill9();
        s.kill9();
        node.start();
        assert_eq!(once(node.path(journal), "SELECT count(*) FROM sqlite_schema"), ["0"], "{journal}");
        once(node.path(journal), "CREATE TABLE t(x); INSERT INTO t VALUES('fine')");
        checked_export(&node, journal);
        node.stop().start();
        assert_eq!(once(node.path(journal), "SELECT x FROM t"), ["fine"], "{journal}");
    }
}

#[test]
fn a_bad_header_deletes_nothing() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("badheader");
    let (mut primary, mut replica) = pair(&scratch);
    table(&primary, "db", "delete");
    table(&primary, "other", "delete");
    for db in ["db", "other"] {
        replica.sync_with(&primary, db);
    }
    replica.stop();
    primary.stop();
    for node in [&primary, &replica] {
        overwrite(&node.backing("db", "database"), 0..100, 0x42);
    }
    let content = |node: &Node| files_below(&node.data).iter().map(|(_, n)| *n).sum::<u64>();
    let before = content(&primary);
    primary.start();
    assert_eq!(once(primary.path("other"), "SELECT x FROM t"), ["one"]);
    assert!(content(&primary) >= before / 2, "what was there is kept");
    let kept = files_below(&primary.data).iter().any(|(p, n)| {
        *n > 0 && p.components().any(|c| c.as_os_str() == "quarantine" || c.as_os_str() == "db")
    });
    assert!(kept, "the database's files are gone");
    replica.start();
    once(primary.path("other"), "INSERT INTO t(x) VALUES('two')");
    assert_same(&primary, &replica, "other", &scratch);
}

#[test]
fn a_client_of_a_dropped_database_kills_no_daemon() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("dropped");
    let modes = ["wal", "delete"];
    let (primary, mut replica) = pair_with(&scratch, &modes, table);
    for journal in modes {
        let mut reader = Session::open(replica.path(journal));
        reader.exec("BEGIN; SELECT * FROM t");
        std::fs::remove_file(primary.path(journal)).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let _ = reader.try_exec("SELECT * FROM t");
        let _ = reader.try_exec("COMMIT");
        let _ = reader.try_exec("INSERT INTO t(x) VALUES('no')");
        reader.close();
        wait_gone(&replica, journal);
        assert!(replica.is_running());
        table(&primary, journal, journal);
        assert_same(&primary, &replica, journal, &scratch);
    }
}

#[test]
fn hostile_names_and_ids_are_refused_and_leave_nothing() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("hostile");
    let mut node = single(&scratch);
    table(&node, "db", "delete");
    let image = checked_export(&node, "db").1;
    let long = "n".repeat(300);
    let names = [
        "",
        "..",
        ".",
        "../../x",
        "..%2F..%2Fx",
        "%2Fetc%2Fx",
        "a%00b",
        "x-wal",
        "x-pos",
        ".primary",
        "a%2Fb",
        &long,
    ];
    for name in names {
        let answer = import(&node, name, &image);
        assert!((400..500).contains(&answer.status), "import {name:?}: {}", answer.status);
        let answer = get(&node, &format!("/export?name={name}"), LIMIT).unwrap();
        assert!((400..500).contains(&answer.status), "export {name:?}: {}", answer.status);
    }
    let answer = request(&node, "POST", "/import", &image, LIMIT).unwrap();
    assert!((400..500).contains(&answer.status), "import without a name: {}", answer.status);
    let mut databases: Vec<_> =
        std::fs::read_dir(node.data.join("dbs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    databases.sort();
    assert_eq!(databases, ["db"], "no directory of a refused name");
    assert!(!scratch.join("x").exists() && !node.data.join("x").exists());
    let before = node.pos("db");
    for path in ["/tx?name=db&lockID=123", "/halt?name=db&id=0", "/tx?name=db"] {
        let answer = request(&node, "POST", path, &[0; 200], LIMIT).unwrap();
        assert!(answer.status >= 400, "{path}: {}", answer.status);
    }
    assert_eq!(node.pos("db"), before);
    node.stop().start();
    assert_eq!(once(node.path("db"), "SELECT x FROM t"), ["one"]);
}

#[test]
fn sigterm_before_ready_ends_it() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("sigterm");
    // Its primary has never been there.
    let primary = Node::primary(&scratch, "p");
    let mut replica = Node::replica(&scratch, "r", &primary);
    replica.spawn();
    std::thread::sleep(Duration::from_millis(1200));
    assert!(replica.is_running(), "a replica waits for its primary:\n{}", replica.log_tail(20));
    let start = Instant::now();
    replica.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_failed_export_keeps_its_target() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("export");
    let mut node = single(&scratch);
    table(&node, "db", "delete");
    let target = scratch.join("target.db");
    once(&target, "CREATE TABLE precious(x); INSERT INTO precious VALUES('kept')");
    let to = target.display().to_string();
    let (code, _, err) = node.ctl(&["export", "--name", "nothing.db", &to]);
    assert_eq!(code, 3, "{err}");
    assert_eq!(once(&target, "SELECT x FROM precious"), ["kept"]);
    // As the drop-in command too.
    let litefs = scratch.join("litefs");
    std::os::unix::fs::symlink(litefs_tests::bin("litefsctl"), &litefs).unwrap();
    let out = Command::new(&litefs)
        .args(["export", "-url", &node.url(), "-name", "nothing.db", &to])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&out.stderr).trim(), "ERROR: database not found");
    assert_eq!(once(&target, "SELECT x FROM precious"), ["kept"]);
    node.ctl_ok(&["export", "--name", "db", &to]);
    assert_eq!(once(&target, "SELECT x FROM t"), ["one"]);
    node.stop();
    let (code, _, _) = node.ctl(&["export", "--name", "db", &to]);
    assert_eq!(code, 5);
    assert_eq!(once(&target, "SELECT x FROM t"), ["one"]);
}

/// The daemon and its peers are sent what is no HTTP, no LTX, or stops in the middle.
#[test]
fn garbage_on_the_cluster_port_hurts_nobody() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("garbage");
    let (mut primary, replica) = pair(&scratch);
    table(&primary, "db", "wal");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut huge_frame = preface.to_vec();
    huge_frame.extend([0xff; 9]);
    let cases: [Vec<u8>; 7] = [
        vec![0; 4000],
        vec![0xff; 4000],
        b"GET / HTTP/1.1\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)).into_bytes(),
        huge_frame,
        preface[..10].to_vec(),
        b"POST /import?name=cut.db HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nSQLite format 3\0"
            .to_vec(),
    ];
    for bytes in cases {
        let _ = raw(&primary, &bytes, Duration::from_millis(300));
    }
    for map in [vec![0xff; 100], vec![0xff, 0xff, 0xff, 0xff], vec![0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]] {
        let _ = request(&primary, "POST", "/stream", &map, Duration::from_secs(1));
    }
    assert!(primary.is_running());
    assert_eq!(primary.txid("cut.db"), 0, "half an import");
    once(primary.path("db"), "INSERT INTO t(x) VALUES('two')");
    assert_same(&primary, &replica, "db", &scratch);
}
