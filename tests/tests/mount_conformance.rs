//! What the original's own tests assert, as far as users and peers can see it and no other file tests
//! it already. `tests/CONFORMANCE.md` has the whole table. Needs root and /dev/fuse.

use std::time::Duration;

use litefs_tests::apps::{App, ledger};
use litefs_tests::faults::{copy_tree, files_below, flip_bit, overwrite};
use litefs_tests::http::{get, import};
use litefs_tests::image::{assert_same, check_integrity, checked_export, checksum};
use litefs_tests::node::{Node, pair, single};
use litefs_tests::rng::Rng;
use litefs_tests::sample::{BOTH_KINDS, JOURNALS, drop_everywhere, insert_rows, pair_with, table};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, once};
use litefs_tests::watch::{Deadline, within};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_damaged_page_that_the_log_has_is_repaired() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("lastltx");
    let mut node = single(&scratch);
    table(&node, "db", "delete");
    let want = checked_export(&node, "db");
    // A crash, so that the start has to look; the last transactions are in the log.
    node.kill9();
    overwrite(&node.backing("db", "database"), 4096..4200, 0xEE);
    node.start();
    assert_eq!(checked_export(&node, "db"), want);
    assert_eq!(once(node.path("db"), "SELECT x FROM t"), ["one"]);
}

#[test]
fn a_file_that_lost_its_last_page_is_repaired() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("eof");
    let mut node = single(&scratch);
    table(&node, "db", "delete");
    let want = checked_export(&node, "db");
    node.kill9();
    let file = std::fs::File::options().write(true).open(node.backing("db", "database")).unwrap();
    file.set_len(want.1.len() as u64 - 4096).unwrap();
    node.start();
    assert_eq!(checked_export(&node, "db"), want);
}

#[test]
fn a_rolled_back_first_transaction_leaves_a_usable_name() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("initial");
    let mut node = single(&scratch);
    for journal in JOURNALS {
        once(
            node.path(journal),
            &format!("PRAGMA journal_mode={journal}; BEGIN; CREATE TABLE t(x); ROLLBACK"),
        );
    }
    node.stop().start();
    for journal in JOURNALS {
        once(node.path(journal), "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        checked_export(&node, journal);
    }
}

#[test]
fn a_hot_journal_in_the_data_directory_is_rolled_back_at_start() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("hot");
    let mut node = single(&scratch);
    table(&node, "db", "delete");
    let want = checked_export(&node, "db");
    let mut s = Session::open(node.path("db"));
    s.exec("PRAGMA cache_size=3; PRAGMA cache_spill=3; BEGIN");
    s.exec(&insert_rows(100, "hex(zeroblob(3000))"));
    let copy = scratch.join("copy");
    copy_tree(&node.data, &copy);
    assert!(files_below(&copy).iter().any(|(p, n)| p.ends_with("journal") && *n > 0), "a journal is there");
    s.exec("ROLLBACK");
    s.close();
    node.stop();
    std::fs::remove_dir_all(&node.data).unwrap();
    std::fs::rename(&copy, &node.data).unwrap();
    node.start();
    assert_eq!(checked_export(&node, "db"), want);
    assert_eq!(once(node.path("db"), "SELECT count(*) FROM t"), ["1"]);
}

#[test]
fn a_wal_in_the_data_directory_of_a_killed_daemon_is_kept() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("walkept");
    let (mut primary, replica) = pair(&scratch);
    let mut s = Session::open(primary.path("db"));
    s.exec("PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)");
    for i in 0..20 {
        s.exec(&format!("INSERT INTO t VALUES({i})"));
    }
    primary.kill9();
    s.kill9();
    primary.start();
    assert_eq!(once(primary.path("db"), "SELECT count(*) FROM t"), ["20"]);
    assert_same(&primary, &replica, "db", &scratch);
}

#[test]
fn snapshots_taken_while_writing_are_whole() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("whole");
    let node = single(&scratch);
    for journal in BOTH_KINDS {
        ledger(&node, journal, journal);
        let writers: Vec<_> =
            (1..3).map(|w| App::writer(&node.path(journal), w, &["--pad", "3000"])).collect();
        for _ in 0..15 {
            let answer = get(&node, &format!("/export?name={journal}"), LIMIT).unwrap();
            assert_eq!(answer.status, 200);
            check_integrity(&answer.body, &scratch);
            let file = scratch.join("snapshot.db");
            std::fs::write(&file, &answer.body).unwrap();
            assert_eq!(once(&file, "SELECT sum(bal) FROM acct"), ["100000"]);
            assert_eq!(once(&file, "SELECT count(*)-coalesce(max(seq),0) FROM log WHERE w=1"), ["0"]);
            let _ = std::fs::remove_file(&file);
        }
        for w in writers {
            w.stop();
        }
        assert!(checksum(&checked_export(&node, journal).1) != 0);
    }
}

fn short_retention(scratch: &Scratch) -> (Node, Node) {
    let mut primary = Node::primary(scratch, "p");
    primary.set("data.retention", "1s").set("data.retention-monitor-interval", "200ms").start();
    let replica = Node::replica(scratch, "r", &primary).started();
    (primary, replica)
}

#[test]
fn who_comes_after_retention_gets_a_snapshot() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("retention");
    let (primary, mut replica) = short_retention(&scratch);
    for journal in BOTH_KINDS {
        table(&primary, journal, journal);
        replica.sync_with(&primary, journal);
    }
    replica.stop();
    let mut logged = Vec::new();
    for journal in BOTH_KINDS {
        for _ in 0..30 {
            once(primary.path(journal), "INSERT INTO t(x) VALUES(hex(randomblob(20000)))");
        }
        logged.push(log_size(&primary, journal));
    }
    std::thread::sleep(Duration::from_secs(3));
    for journal in BOTH_KINDS {
        once(primary.path(journal), "INSERT INTO t(x) VALUES('later')");
    }
    replica.start();
    let late = Node::replica(&scratch, "late", &primary).started();
    for journal in BOTH_KINDS {
        assert_same(&primary, &replica, journal, &scratch);
        assert_same(&primary, &late, journal, &scratch);
        once(primary.path(journal), "INSERT INTO t(x) VALUES('increment')");
        assert_same(&primary, &replica, journal, &scratch);
    }
}

fn log_size(node: &Node, db: &str) -> u64 {
    files_below(&node.backing(db, "log")).iter().map(|(_, n)| *n).sum()
}

#[test]
fn the_log_does_not_grow_for_ever_under_writes_or_at_rest() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("loggrow");
    let (primary, replica) = short_retention(&scratch);
    table(&primary, "db", "wal");
    let mut sizes = Vec::new();
    let mut s = Session::open(primary.path("db"));
    for _ in 0..8 {
        for _ in 0..300 {
            s.exec("UPDATE t SET x=hex(randomblob(20000)) WHERE id=1");
        }
        std::thread::sleep(Duration::from_millis(1500));
        sizes.push(log_size(&primary, "db"));
    }
    s.close();
    // 300 × 44 kB are 13 MB a round, 105 MB in all: what is kept is a part of that, segments of several
    // megabytes and spare ones included.
    assert!(sizes[7] <= 50 << 20, "{sizes:?}");
    assert_same(&primary, &replica, "db", &scratch);
}

#[test]
fn the_filter_restricts_what_a_replica_gets() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("filter");
    let primary = single(&scratch);
    let mut replica = Node::replica(&scratch, "r", &primary);
    replica.set("lease.databases", "[wanted.db]").start();
    for db in ["wanted.db", "other.db", "wanted.db2"] {
        table(&primary, db, "wal");
    }
    assert_same(&primary, &replica, "wanted.db", &scratch);
    once(primary.path("other.db"), "INSERT INTO t(x) VALUES('two')");
    once(primary.path("wanted.db"), "INSERT INTO t(x) VALUES('two')");
    assert_same(&primary, &replica, "wanted.db", &scratch);
    assert!(!replica.path("other.db").exists() && !replica.path("wanted.db2").exists());
}

#[test]
fn a_node_of_another_cluster_applies_nothing() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("cluster");
    let a = Node::primary(&scratch, "a").started();
    table(&a, "db", "delete");
    // A node that has been the primary of a cluster of its own.
    let mut b = Node::primary(&scratch, "b").started();
    table(&b, "mine", "delete");
    let (mine, ids) =
        (checked_export(&b, "mine"), [&a, &b].map(|n| std::fs::read(n.data.join("clusterid")).unwrap()));
    assert_ne!(ids[0], ids[1]);
    b.stop();
    b.set("lease.candidate", "false").set("lease.hostname", "a").set("lease.advertise-url", &a.url());
    b.spawn();
    std::thread::sleep(Duration::from_secs(3));
    assert!(b.log_text().to_lowercase().contains("cluster"), "{}", b.log_tail(20));
    assert!(!b.path("db").exists(), "a database of another cluster");
    assert_eq!(std::fs::read(b.data.join("clusterid")).unwrap(), ids[1]);
    b.stop();
    b.set("lease.candidate", "true").set("lease.hostname", "b");
    let url = b.url();
    b.set("lease.advertise-url", &url).start();
    assert_eq!(checked_export(&b, "mine"), mine);
}

/// Makes the replica's history differ by letting it be a primary for a while.
fn diverge(primary: &mut Node, replica: &mut Node, on_primary: &str, on_replica: &str) {
    replica.stop();
    once(primary.path("db"), on_primary);
    let (name, url) = (replica.name.clone(), replica.url());
    replica
        .set("lease.candidate", "true")
        .set("lease.hostname", &name)
        .set("lease.advertise-url", &url)
        .start();
    once(replica.path("db"), on_replica);
    replica.stop();
    let (name, url) = (primary.name.clone(), primary.url());
    replica.set("lease.candidate", "false").set("lease.hostname", &name).set("lease.advertise-url", &url);
    replica.start();
}

#[test]
fn a_diverged_replica_gets_a_snapshot_and_its_own_is_kept() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("diverge");
    let (mut primary, mut replica) = pair(&scratch);
    for journal in BOTH_KINDS {
        table(&primary, "db", journal);
        replica.sync_with(&primary, "db");
        let insert = |n: u32, x: &str| vec![format!("INSERT INTO t(x) VALUES('{x}')"); n as usize].join(";");
        // The same number of transactions, more on the replica, fewer on the replica.
        for (p, r) in [(1, 1), (1, 4), (4, 1)] {
            diverge(&mut primary, &mut replica, &insert(p, "right"), &insert(r, "wrong"));
            assert_same(&primary, &replica, "db", &scratch);
            assert_eq!(once(replica.path("db"), "SELECT count(*) FROM t WHERE x='wrong'"), ["0"]);
            let kept = replica.data.join("quarantine");
            assert!(!files_below(&kept).is_empty(), "what it had is kept in {}", kept.display());
            once(primary.path("db"), "INSERT INTO t(x) VALUES('goes on')");
            assert_same(&primary, &replica, "db", &scratch);
        }
        drop_everywhere(&primary, &replica, "db");
    }
}

#[test]
fn events_come_in_order_on_both_roles() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("events");
    let (primary, replica) = pair(&scratch);
    table(&primary, "db", "wal");
    replica.sync_with(&primary, "db");
    for node in [&primary, &replica] {
        replica.sync_with(&primary, "db");
        let mut c = std::net::TcpStream::connect(("127.0.0.1", node.port())).unwrap();
        c.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        c.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut lines = BufReader::new(c).lines().map_while(Result::ok).filter(|l| l.starts_with('{'));
        let init: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        assert_eq!(init["type"], "init", "{init}");
        assert_eq!(init["data"]["isPrimary"], node.name == "p", "{init}");
        let first = primary.txid("db");
        for _ in 0..3 {
            once(primary.path("db"), "INSERT INTO t(x) VALUES('event')");
        }
        for i in 1..=3 {
            let event: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
            assert_eq!(event["type"], "tx", "{event}");
            assert_eq!(event["db"], "db", "{event}");
            assert_eq!(event["data"]["txID"], format!("{:016x}", first + i), "{event}");
        }
    }
}

#[test]
fn import_makes_and_replaces_under_an_open_connection() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("import");
    let (primary, replica) = pair(&scratch);
    for (i, journal) in JOURNALS.iter().enumerate() {
        let source = scratch.join(format!("source{i}"));
        once(
            &source,
            &format!(
                "PRAGMA journal_mode={journal}; PRAGMA page_size=1024; CREATE TABLE t(x); INSERT INTO t VALUES('imported {i}')"
            ),
        );
        let answer = import(&primary, &format!("new{i}"), &std::fs::read(&source).unwrap());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_same(&primary, &replica, &format!("new{i}"), &scratch);
        // Over a database of any mode, while an application has it open.
        let db = format!("old{i}");
        once(
            primary.path(&db),
            &format!(
                "PRAGMA journal_mode={}; CREATE TABLE t(x); INSERT INTO t VALUES('old')",
                JOURNALS[(i + 1) % 4]
            ),
        );
        let mut open = Session::open(primary.path(&db));
        open.exec("PRAGMA busy_timeout=5000");
        assert_eq!(open.one("SELECT x FROM t"), "old");
        primary.ctl_ok(&["-q", "import", "--name", &db, "--replace", &source.display().to_string()]);
        assert_eq!(open.one("SELECT x FROM t"), format!("imported {i}"), "{journal}");
        open.exec("INSERT INTO t VALUES('after')");
        open.close();
        assert_same(&primary, &replica, &db, &scratch);
    }
}

#[test]
fn only_byte_72_of_the_lock_file_can_be_locked() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("haltbyte");
    let node = single(&scratch);
    table(&node, "db", "delete");
    let file = std::fs::File::options().read(true).write(true).open(node.path("db-lock"));
    assert!(file.is_ok(), "db-lock opens: {file:?}");
    let answer = get(&node, "/info", LIMIT).unwrap();
    let info: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(info["isPrimary"], true, "{info}");
    assert!(within(LIMIT, || node.path("db-pos").exists()));
}

#[test]
fn a_bit_flipped_in_the_log_is_never_sent_as_true() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("corruptltx");
    let (mut primary, mut replica) = pair_with(&scratch, &["wal"], table);
    replica.stop();
    once(primary.path("wal"), "INSERT INTO t(x) VALUES('not sent yet')");
    primary.stop();
    let log = primary.backing("wal", "log");
    let segment = files_below(&log).into_iter().next_back().expect("a segment").0;
    flip_bit(&segment, 4096, 9000, &mut Rng::new(3));
    primary.start();
    replica.start();
    assert_same(&primary, &replica, "wal", &scratch);
}
