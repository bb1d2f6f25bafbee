//! SIGKILL at bad moments: of applications, of the daemon, at random and at the n-th system call (tests
//! D6, D7, D10, D11, D28; E14). With synchronous=FULL nothing acknowledged may be missing afterwards.
//! Needs root, /dev/fuse and strace.

use std::time::{Duration, Instant};

use litefs_tests::apps::{App, acknowledged, assert_same_ledger, check_ledger, ledger};
use litefs_tests::faults::{attach, inject, no_injection};
use litefs_tests::image::{assert_same, checked_export};
use litefs_tests::node::{Node, pair, single};
use litefs_tests::proc::Proc;
use litefs_tests::rng::Rng;
use litefs_tests::sample::{JOURNALS, empty_table, pair_with, table};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, once};
use litefs_tests::watch::{Deadline, eventually, soak_factor, within};

/// Every sync of the daemon takes this long, in µs: the window in which a writer is killed.
const SLOW_SYNC: &str = "delay_enter=600000";

/// A WAL database on a daemon whose syncs are slow, and a replica.
fn slow_pair(scratch: &Scratch) -> (Node, Node, Proc) {
    let (primary, replica) = pair_with(scratch, &["wal"], table);
    let slow = attach(&primary, "fdatasync,fsync", SLOW_SYNC);
    (primary, replica, slow)
}

fn kill_a_writer_in_fsync(primary: &Node) {
    let mut writer = Session::open(primary.path("wal"));
    writer.exec("PRAGMA synchronous=FULL; SELECT count(*) FROM t");
    writer.start("INSERT INTO t(x) VALUES('in fsync')");
    assert_eq!(writer.finish(Duration::from_millis(250)), None, "the sync is slow");
    writer.kill9();
}

#[test]
fn a_writer_killed_in_fsync_while_another_lives_is_never_seen() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("d6");
    let (primary, replica, slow) = slow_pair(&scratch);
    let mut other = Session::open(primary.path("wal"));
    other.exec("PRAGMA synchronous=OFF; SELECT count(*) FROM t");
    let before = primary.pos("wal");
    kill_a_writer_in_fsync(&primary);
    drop(slow);
    assert_eq!(other.one("SELECT count(*) FROM t"), "1");
    assert_eq!(primary.pos("wal"), before, "published what nobody can see");
    other.exec("PRAGMA busy_timeout=20000; INSERT INTO t(x) VALUES('next')");
    assert_eq!(other.exec("SELECT x FROM t"), ["one", "next"]);
    replica.sync_with(&primary, "wal");
    assert_eq!(once(replica.path("wal"), "SELECT x FROM t"), ["one", "next"]);
    other.close();
    assert_same(&primary, &replica, "wal", &scratch);
}

#[test]
fn a_writer_killed_in_fsync_alone_is_recovered_by_the_next() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("d7");
    let (primary, replica, slow) = slow_pair(&scratch);
    let before = primary.txid("wal");
    kill_a_writer_in_fsync(&primary);
    drop(slow);
    let rows = once(primary.path("wal"), "SELECT x FROM t");
    // The next opener recovers it, unless it came so late that the daemon had settled the leftover (rule
    // W9). Either way everybody agrees.
    if rows == ["one", "in fsync"] {
        eventually(Duration::from_secs(10), "what recovery made visible is published", || {
            (primary.txid("wal") == before + 1).then_some(())
        });
    } else {
        assert_eq!(rows, ["one"]);
        eprintln!("settled before the next opener came");
        assert_eq!(primary.txid("wal"), before);
    }
    replica.sync_with(&primary, "wal");
    assert_eq!(once(replica.path("wal"), "SELECT x FROM t"), rows);
    assert_same(&primary, &replica, "wal", &scratch);
}

#[test]
fn slow_syncs_of_many_databases_do_not_stall_the_rest() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("d28");
    let primary = single(&scratch);
    for i in 0..8 {
        empty_table(&primary, &format!("db{i}"), "wal");
    }
    let slow = attach(&primary, "fdatasync,fsync", SLOW_SYNC);
    let mut reader = Session::open(primary.path("db7"));
    reader.exec("SELECT count(*) FROM t");
    let mut writers: Vec<Session> = (0..7).map(|i| Session::open(primary.path(&format!("db{i}")))).collect();
    for w in &mut writers {
        w.exec("PRAGMA synchronous=FULL; SELECT count(*) FROM t");
    }
    for w in &mut writers {
        w.start("INSERT INTO t(x) VALUES('slow')");
    }
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    reader.exec("SELECT count(*) FROM t");
    assert_eq!(primary.txid("db7"), primary.txid("db7"));
    assert!(start.elapsed() < Duration::from_millis(400), "others' syncs stall it: {:?}", start.elapsed());
    for w in &mut writers {
        assert!(w.finish(Duration::from_secs(30)).unwrap().is_ok());
    }
    drop(slow);
    writers.into_iter().for_each(Session::close);
    reader.close();
}

#[test]
fn a_killed_daemon_is_gone_at_once_and_maps_nothing_of_its_mount() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("d10");
    let mut node = single(&scratch);
    let mut sessions = Vec::new();
    for journal in JOURNALS {
        empty_table(&node, journal, journal);
        let mut s = Session::open(node.path(journal));
        s.exec("INSERT INTO t(x) VALUES(1)");
        sessions.push(s);
    }
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", node.pid())).unwrap();
    assert!(!maps.contains(&node.mount.display().to_string()), "{maps}");
    let start = Instant::now();
    node.kill9();
    assert!(start.elapsed() < Duration::from_secs(1), "the end took {:?}", start.elapsed());
    sessions.into_iter().for_each(Session::kill9);
    node.start();
    for journal in JOURNALS {
        assert_eq!(once(node.path(journal), "SELECT count(*) FROM t"), ["1"]);
    }
}

/// A process that outlived a daemon keeps its descriptors of the dead mount, but names resolve to the new
/// one: without the gate its close would unlink the live wal, its journal would roll others back (H4).
#[test]
fn connections_that_outlive_a_daemon_destroy_nothing() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("d11");
    let (mut primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        empty_table(&primary, journal, journal);
        let mut stale = Session::open(primary.path(journal));
        stale.exec("INSERT INTO t(x) VALUES('before'); INSERT INTO t(x) VALUES('before')");
        primary.kill9();
        primary.start();
        let mut live = Session::open(primary.path(journal));
        for i in 0..5 {
            live.exec(&format!("INSERT INTO t(x) VALUES('live{i}')"));
        }
        // Whatever the old one tries: it fails or reads, and the new ones lose nothing.
        let _ = stale.try_exec("SELECT count(*) FROM t");
        let result = stale.try_exec("INSERT INTO t(x) VALUES('stale')");
        assert!(result.is_err(), "{journal}: a write through a dead mount succeeded");
        stale.close();
        assert!(
            !primary.path(&format!("{journal}-journal")).exists() || journal != "delete",
            "a hot journal is left"
        );
        let mut third = Session::open(primary.path(journal));
        assert_eq!(
            third.one("SELECT count(*) FROM t WHERE x LIKE 'live%'"),
            "5",
            "{journal}: committed rows are gone"
        );
        assert_eq!(third.one("SELECT count(*) FROM t"), "7", "{journal}");
        third.exec("INSERT INTO t(x) VALUES('third')");
        third.close();
        live.exec("INSERT INTO t(x) VALUES('again')");
        live.close();
        assert_same(&primary, &replica, journal, &scratch);
    }
}

fn kills_of_the_daemon(journal: &str, rounds: u64) {
    let _deadline = Deadline::secs(60 + rounds * 20);
    let scratch = Scratch::new("killd");
    let (mut primary, replica) = pair(&scratch);
    let mut rng = Rng::new(Rng::seed_or(5));
    ledger(&primary, "db", journal);
    let mut said = Vec::new();
    for round in 0..rounds {
        let args = ["--setup", "PRAGMA synchronous=FULL", "--stop-on-error", "--pad", "900"];
        let mut writers: Vec<App> = (1..=3).map(|w| App::writer(&primary.path("db"), w, &args)).collect();
        writers[0].wait_for("ack", 1);
        std::thread::sleep(Duration::from_millis(rng.range(0, 400)));
        primary.kill9();
        // They hold the dead mount and end at their first error; none may hang.
        for w in writers {
            let (code, lines) = w.outcome(Duration::from_secs(40));
            assert_eq!(code, 0, "round {round}: {:?}", lines.last());
            said.push(lines);
        }
        primary.start();
        check_ledger(&primary.path("db"), &acknowledged(&said));
        assert_same(&primary, &replica, "db", &scratch);
    }
}

#[test]
fn random_kills_of_the_daemon_in_wal_mode() {
    kills_of_the_daemon("WAL", 5 * soak_factor());
}

#[test]
fn random_kills_of_the_daemon_in_delete_mode() {
    kills_of_the_daemon("DELETE", 4 * soak_factor());
}

#[test]
fn random_kills_of_the_daemon_in_persist_mode() {
    kills_of_the_daemon("PERSIST", 3 * soak_factor());
}

#[test]
fn random_kills_of_the_daemon_in_truncate_mode() {
    kills_of_the_daemon("TRUNCATE", 3 * soak_factor());
}

/// Until it is ready or has ended.
fn start_or_die(node: &mut Node) -> bool {
    node.spawn();
    within(Duration::from_secs(20), || !node.is_running() || node.is_ready());
    node.is_running() && node.is_ready()
}

/// Statements until one fails; how many inserts were acknowledged.
fn until_it_dies(node: &Node, journal: &str) -> u64 {
    let mut s = Session::open(node.path("db"));
    let setup = format!(
        "PRAGMA journal_mode={journal}; PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)"
    );
    let mut acknowledged = 0;
    if s.try_exec(&setup).is_ok() {
        for i in 1..=6 {
            if s.try_exec(&format!("INSERT INTO t VALUES({i}, hex(zeroblob({})))", i * 700)).is_err() {
                break;
            }
            acknowledged = i;
            let _ = s.try_exec("BEGIN; UPDATE t SET x=x||'no'; ROLLBACK; PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }
    s.kill9();
    acknowledged
}

fn at_every_call(journal: &str) {
    let _deadline = Deadline::secs(400 * soak_factor());
    let scratch = Scratch::new("e14");
    let mut survived = 0;
    let last = 5 * soak_factor();
    for call in
        ["pwrite64,write", "fdatasync,fsync", "ftruncate", "unlink,unlinkat", "rename,renameat2", "openat"]
    {
        for n in 1..=last {
            let mut node = Node::primary(&scratch, &format!("n{n}"));
            // openat is called often before anything happens.
            let when = if call == "openat" { 20 + n * 9 } else { n };
            inject(&mut node, call, &format!("signal=KILL:when={when}"));
            let acknowledged = if start_or_die(&mut node) { until_it_dies(&node, journal) } else { 0 };
            let died = within(Duration::from_millis(300), || !node.is_running());
            if died {
                node.wait_end(Duration::from_secs(1));
            } else {
                node.stop();
                survived += 1;
            }
            no_injection(&mut node);
            node.start();
            let what = format!("{journal}, killed at {call} {when}, {acknowledged} acknowledged");
            let mut s = Session::open(node.path("db"));
            if acknowledged > 0 {
                assert_eq!(
                    s.one(&format!("SELECT count(*) FROM t WHERE id<={acknowledged} AND length(x)=id*1400")),
                    acknowledged.to_string(),
                    "{what}"
                );
            }
            s.exec(
                "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x); INSERT INTO t(x) VALUES('goes on')",
            );
            assert_eq!(s.one("PRAGMA integrity_check"), "ok", "{what}");
            s.close();
            checked_export(&node, "db");
            node.stop();
            std::fs::remove_dir_all(&node.data).unwrap();
        }
    }
    println!("{journal}: {survived} runs never came to the call");
}

#[test]
fn the_daemon_is_killed_at_its_nth_call_in_wal_mode() {
    at_every_call("WAL");
}

#[test]
fn the_daemon_is_killed_at_its_nth_call_in_delete_mode() {
    at_every_call("DELETE");
}

#[test]
fn a_replica_killed_while_applying_goes_on() {
    let _deadline = Deadline::secs(120 * soak_factor());
    let scratch = Scratch::new("killr");
    let (primary, mut replica) = pair(&scratch);
    let mut rng = Rng::new(Rng::seed_or(6));
    for journal in JOURNALS {
        ledger(&primary, journal, journal);
    }
    let writers: Vec<App> =
        JOURNALS.iter().map(|j| App::writer(&primary.path(j), 1, &["--pause", "2"])).collect();
    for _ in 0..6 * soak_factor() {
        std::thread::sleep(Duration::from_millis(rng.range(20, 600)));
        replica.kill9();
        replica.start();
    }
    for (journal, writer) in JOURNALS.iter().zip(writers) {
        let acks = acknowledged(&[writer.stop()]);
        assert_same_ledger(&primary, &replica, journal, &acks, &scratch);
    }
}
