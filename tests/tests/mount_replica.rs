//! Applications on a replica: what they see, what they may not do, and that neither they nor replication
//! wait for each other (rules P1–P9, B.7; tests D20–D24, E23). Needs root and /dev/fuse.

use std::time::{Duration, Instant};

use litefs_tests::apps::{App, acknowledged, assert_same_ledger, ledger};
use litefs_tests::image::assert_same;
use litefs_tests::node::{Node, pair, single};
use litefs_tests::sample::{BOTH_KINDS, JOURNALS, pair_with, table};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, Sqlite, codes, once};
use litefs_tests::watch::{Deadline, eventually};

#[test]
fn a_write_on_the_replica_never_succeeds() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("noreplw");
    let (primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        table(&primary, journal, journal);
        let pos = replica.sync_with(&primary, journal);
        for which in Sqlite::ALL {
            let mut s = Session::open_with(which, replica.path(journal));
            for sql in [
                "INSERT INTO t(x) VALUES('no')",
                "UPDATE t SET x='no'",
                "DROP TABLE t",
                "VACUUM",
                "CREATE TABLE u(x)",
            ] {
                let e = s.err(sql);
                let want = if journal == "wal" { codes::BUSY } else { codes::READONLY };
                assert_eq!(e.primary(), want, "{journal} {which:?} {sql}: {e:?}");
                assert_eq!(s.one("SELECT x FROM t"), "one");
            }
            s.close();
        }
        assert_eq!(replica.pos(journal), Some(pos));
        assert!(std::fs::remove_file(replica.path(journal)).is_err(), "drop on a replica");
        once(primary.path(journal), "INSERT INTO t(x) VALUES('two')");
        assert_same(&primary, &replica, journal, &scratch);
    }
    assert!(std::fs::File::create(replica.path("new.db")).is_err(), "a new database on a replica");
    assert_eq!(std::fs::read_to_string(replica.path(".primary")).unwrap(), "p\n");
}

#[test]
fn with_readonly_the_answer_is_readonly_in_every_mode() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("readonly");
    let primary = single(&scratch);
    let mut replica = Node::replica(&scratch, "r", &primary);
    replica.set("fuse.replica-writes", "readonly").start();
    for journal in JOURNALS {
        table(&primary, journal, journal);
        replica.sync_with(&primary, journal);
        let mut s = Session::open(replica.path(journal));
        assert_eq!(s.one("SELECT x FROM t"), "one");
        let e = s.err("INSERT INTO t(x) VALUES('no')");
        assert_eq!(e.primary(), codes::READONLY, "{journal}: {e:?}");
        once(primary.path(journal), "INSERT INTO t(x) VALUES('two')");
        replica.sync_with(&primary, journal);
        assert_eq!(s.one("SELECT count(*) FROM t"), "2");
        s.close();
        assert_same(&primary, &replica, journal, &scratch);
    }
}

#[test]
fn busy_comes_at_once_and_checkpoints_delay_nothing_alone() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("p1");
    let (primary, replica) = pair_with(&scratch, &["wal"], table);
    let mut s = Session::open(replica.path("wal"));
    s.exec("SELECT * FROM t");
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(s.err("INSERT INTO t(x) VALUES('no')").primary(), codes::BUSY);
            assert_eq!(s.err("BEGIN IMMEDIATE").primary(), codes::BUSY);
            start.elapsed() / 2
        })
        .collect();
    times.sort();
    // A pipe to the application and back is in it.
    assert!(times[10] < Duration::from_millis(2), "BUSY took {:?}", times[10]);
    s.exec("PRAGMA busy_timeout=3000");
    s.start("PRAGMA wal_checkpoint(TRUNCATE)");
    let start = Instant::now();
    once(primary.path("wal"), "INSERT INTO t(x) VALUES('two')");
    replica.sync_with(&primary, "wal");
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "a checkpoint on the replica delays it: {:?}",
        start.elapsed()
    );
    let result = s.finish(Duration::from_secs(10)).expect("an answer");
    assert!(result.is_ok(), "a checkpoint is no error: {result:?}\n{}", replica.log_tail(10));
    s.close();
    assert!(
        replica.path("wal-wal").exists() && replica.path("wal-shm").exists(),
        "the last close leaves them"
    );
    assert_same(&primary, &replica, "wal", &scratch);
}

#[test]
fn begin_immediate_on_a_replica_stops_nobody_for_ever() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("beginimm");
    let (primary, replica) = pair_with(&scratch, &BOTH_KINDS, table);
    let mut held = Session::open(replica.path("delete"));
    // Rollback modes: it may get its lock; then only this database waits, as for a reader.
    let got = held.try_exec("BEGIN IMMEDIATE");
    once(primary.path("delete"), "INSERT INTO t(x) VALUES('two')");
    once(primary.path("wal"), "INSERT INTO t(x) VALUES('two')");
    replica.sync_within(&primary, "wal", Duration::from_secs(5));
    if got.is_ok() {
        held.exec("ROLLBACK");
    }
    replica.sync_within(&primary, "delete", Duration::from_secs(5));
    held.close();
    assert_same(&primary, &replica, "delete", &scratch);
}

#[test]
fn a_snapshot_of_a_reader_stands_while_transactions_stream() {
    let _deadline = Deadline::secs(180);
    let scratch = Scratch::new("longread");
    let (primary, replica) = pair_with(&scratch, &JOURNALS, ledger);
    // E23: 60 s. In rollback modes a reader does hold the file; there only the others must not wait.
    let writer = App::writer(&primary.path("wal"), 1, &["--pause", "5"]);
    let reader = App::reader(&replica.path("wal"), &["--hold", "60000", "--count", "1"]);
    let mut blocker = Session::open(replica.path("delete"));
    blocker.exec("BEGIN; SELECT count(*) FROM acct");
    once(primary.path("delete"), "UPDATE acct SET pad='new'");
    let mut others: Vec<App> = (0..2).map(|_| App::reader(&replica.path("wal"), &[])).collect();
    for second in 1..=12 {
        std::thread::sleep(Duration::from_secs(5));
        for app in &mut others {
            app.wait_for("read", second * 50);
        }
        // Not behind: what is committed now is here within a moment.
        let want = primary.txid("wal");
        eventually(Duration::from_secs(2), "the replica keeps up", || {
            (replica.txid("wal") >= want).then_some(())
        });
        once(primary.path("truncate"), "UPDATE acct SET pad=pad||'.' WHERE id=1");
        replica.sync_within(&primary, "truncate", Duration::from_secs(2));
    }
    blocker.exec("COMMIT");
    blocker.close();
    reader.finish(Duration::from_secs(60));
    for app in others {
        app.stop();
    }
    let acks = acknowledged(&[writer.stop()]);
    for journal in ["delete", "truncate", "persist"] {
        assert_same(&primary, &replica, journal, &scratch);
    }
    assert_same_ledger(&primary, &replica, "wal", &acks, &scratch);
}

#[test]
fn readers_of_two_versions_while_thousands_of_frames_are_applied() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("frames");
    let (primary, replica) = pair_with(&scratch, &["wal"], ledger);
    let db = replica.path("wal");
    let readers = [
        App::reader(&db, &["--setup", "PRAGMA mmap_size=1000000000"]),
        App::reader(&db, &["--hold", "100"]),
        App::reader(&db, &["--reopen"]),
    ];
    // PASSIVE checkpoints by an application on the replica are allowed.
    let checkpointer = App::start("checkpoint", &db, &["--only", "PASSIVE", "--pause", "50"]);
    let mut old = Session::open_with(Sqlite::Debian, &db);
    old.exec("BEGIN");
    let snapshot = old.one("SELECT count(*), sum(bal) FROM acct");
    let writer = App::writer(
        &primary.path("wal"),
        1,
        &["--count", "1500", "--pad", "8000", "--setup", "PRAGMA synchronous=NORMAL"],
    );
    let acks = acknowledged(&[writer.finish(Duration::from_secs(90))]);
    assert_eq!(old.one("SELECT count(*), sum(bal) FROM acct"), snapshot);
    old.exec("COMMIT");
    old.close();
    replica.sync_with(&primary, "wal");
    for app in readers.into_iter().chain([checkpointer]) {
        app.stop();
    }
    assert_same_ledger(&primary, &replica, "wal", &acks, &scratch);
}

#[test]
fn rollback_apply_beside_readers_that_never_pause() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("rbreaders");
    let modes = ["delete", "persist"];
    let (primary, replica) = pair_with(&scratch, &modes, ledger);
    for journal in modes {
        // There is always one with a lock: apply must queue new readers to get in, and let them in again.
        let readers: Vec<App> =
            (0..4).map(|_| App::reader(&replica.path(journal), &["--hold", "30"])).collect();
        let writer = App::writer(&primary.path(journal), 1, &["--count", "60", "--pause", "5"]);
        let acks = acknowledged(&[writer.finish(Duration::from_secs(60))]);
        replica.sync_within(&primary, journal, Duration::from_secs(20));
        for reader in readers {
            assert!(reader.stop().iter().filter(|l| l.starts_with("read")).count() >= 2);
        }
        assert_same_ledger(&primary, &replica, journal, &acks, &scratch);
    }
}

#[test]
fn a_reader_that_opens_nothing_new_sees_every_transaction() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("stale");
    let (primary, replica) = pair_with(&scratch, &JOURNALS, table);
    for journal in JOURNALS {
        for mmap in [0, 1_000_000_000] {
            let mut reader = Session::open(replica.path(journal));
            reader.exec(&format!("PRAGMA mmap_size={mmap}"));
            for i in 0..20 {
                once(primary.path(journal), &format!("UPDATE t SET x='v{i}'"));
                replica.sync_with(&primary, journal);
                assert_eq!(
                    reader.one("SELECT x FROM t"),
                    format!("v{i}"),
                    "{journal} mmap={mmap}: a stale page"
                );
            }
            reader.close();
        }
    }
}

#[test]
fn the_replica_is_gone_for_a_while() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("away");
    let (primary, mut replica) = pair(&scratch);
    for journal in JOURNALS {
        table(&primary, journal, journal);
    }
    for round in 0..4 {
        if round % 2 == 0 {
            replica.stop()
        } else {
            replica.kill9()
        };
        for journal in JOURNALS {
            once(
                primary.path(journal),
                &format!("INSERT INTO t(x) VALUES('{round}'); UPDATE t SET x=x||'.'"),
            );
        }
        replica.start();
        for journal in JOURNALS {
            assert_same(&primary, &replica, journal, &scratch);
        }
    }
}

#[test]
fn the_primary_is_gone_for_a_while() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("headless");
    let (mut primary, replica) = pair_with(&scratch, &JOURNALS, table);
    for round in 0..4 {
        if round % 2 == 0 {
            primary.stop()
        } else {
            primary.kill9()
        };
        // Reads go on; .primary goes away, as with the original.
        eventually(Duration::from_secs(15), ".primary is gone", || {
            (!replica.path(".primary").exists()).then_some(())
        });
        for journal in JOURNALS {
            assert_eq!(once(replica.path(journal), "SELECT count(*) FROM t"), [(round + 1).to_string()]);
            let mut s = Session::open(replica.path(journal));
            s.err("INSERT INTO t(x) VALUES('no')");
            s.close();
        }
        primary.start();
        for journal in JOURNALS {
            once(primary.path(journal), "INSERT INTO t(x) VALUES('next')");
            assert_same(&primary, &replica, journal, &scratch);
        }
    }
}

/// On the primary, what a replica was sent is one thing, what its readers see another.
#[test]
fn status_shows_what_a_replica_applied_and_which_files_are_open() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("status");
    let (primary, replica) = pair(&scratch);
    table(&primary, "db", "delete");
    let first = replica.sync_with(&primary, "db");
    let hex = |n: u64| format!("{n:016x}");
    let status = |node: &Node| -> serde_json::Value {
        serde_json::from_str(&node.ctl_ok(&["--json", "status"])).unwrap()
    };
    let of_replica = || status(&primary)["replicas"][0]["databases"]["db"].clone();
    let is = |row: &serde_json::Value, sent: u64, applied: u64| {
        row["txid"] == hex(sent) && row["applied"] == hex(applied) && row["unapplied"] == sent - applied
    };
    let wait = |sent: u64, applied: u64| {
        eventually(Duration::from_secs(10), "the replica's position", || {
            is(&of_replica(), sent, applied).then_some(())
        });
    };
    let n = first.txid_raw();
    wait(n, n);
    // Rollback mode: synced before it is applied.
    assert_eq!(of_replica()["durable"], hex(n));

    let mut reader = Session::open(replica.path("db"));
    reader.exec("BEGIN; SELECT * FROM t");
    once(primary.path("db"), "INSERT INTO t(x) VALUES('two')");
    wait(n + 1, n);
    assert_eq!(status(&replica)["databases"][0]["open_handles"], 1);
    let text = primary.ctl_ok(&["status"]);
    assert!(text.lines().any(|l| l.contains("UNAPPLIED")) && text.contains("1 tx"), "{text}");
    reader.exec("COMMIT");
    wait(n + 1, n + 1);
    reader.close();
    eventually(Duration::from_secs(10), "the file to be closed", || {
        (status(&replica)["databases"][0]["open_handles"] == 0).then_some(())
    });
}
