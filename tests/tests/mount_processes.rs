//! Several processes at once, of two SQLite versions: locking across processes, invariants that hold for
//! every reader, random kills (E22). Needs root and /dev/fuse.

use std::time::{Duration, Instant};

use litefs_tests::apps::{App, acknowledged, assert_same_ledger, check_ledger, ledger};
use litefs_tests::image::assert_same;
use litefs_tests::node::{Node, pair};
use litefs_tests::rng::Rng;
use litefs_tests::sample::{JOURNALS, pair_with};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, Sqlite};
use litefs_tests::watch::{Deadline, soak_factor, within};

#[test]
fn a_driver_writes_while_the_command_reads() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("cli");
    let (primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        let mut writer = Session::open(primary.path(journal));
        writer.exec(&format!(
            "PRAGMA journal_mode={journal}; PRAGMA busy_timeout=5000; CREATE TABLE t(x INTEGER PRIMARY KEY)"
        ));
        let mut cli = Session::open_with(Sqlite::Debian, primary.path(journal));
        cli.exec("PRAGMA busy_timeout=5000");
        let end = Instant::now() + Duration::from_millis(1500);
        let (mut n, mut last) = (0_i64, 0_i64);
        while Instant::now() < end {
            cli.start("SELECT coalesce(MAX(x),0) FROM t");
            n += 1;
            writer.exec(&format!("INSERT INTO t VALUES({n})"));
            let rows = cli.finish(Duration::from_secs(10)).expect("an answer").expect("no error");
            let seen: i64 = rows[0].parse().unwrap();
            assert!(seen >= last && seen <= n, "{journal}: {seen} after {last}, {n} written");
            last = seen;
        }
        assert!(n > 20, "{journal}: only {n} transactions");
        cli.close();
        writer.close();
        assert_same(&primary, &replica, journal, &scratch);
    }
}

fn crowd(journal: &str, writers: u32, readers: usize, seconds: u64) {
    let _deadline = Deadline::secs(seconds * 4 + 120);
    let scratch = Scratch::new("crowd");
    let (primary, replica) = pair_with(&scratch, &[journal], ledger);
    let db = primary.path(journal);
    let mut rng = Rng::new(Rng::seed_or(77));
    let start = |w: u32| App::writer(&db, w, &["--pause", "3", "--pad", "400"]);
    let mut writing: Vec<App> = (1..=writers).map(start).collect();
    let reading: Vec<App> = (0..readers)
        .map(|i| {
            // Half of them on the replica; some keep a snapshot open, some open the file anew each time.
            let path = if i % 2 == 0 { &db } else { &replica.path(journal) };
            match i % 3 {
                0 => App::reader(path, &["--hold", "40"]),
                1 => App::reader(path, &["--setup", "PRAGMA mmap_size=100000000"]),
                _ => App::reader(path, &["--reopen"]),
            }
        })
        .collect();
    let checkpointers: Vec<App> = (0..2).map(|_| App::start("checkpoint", &db, &[])).collect();
    let (mut said, mut next) = (Vec::new(), writers + 1);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(rng.range(50, 600)));
        let victim = rng.range(0, writing.len() as u64) as usize;
        said.push(writing.swap_remove(victim).kill9());
        writing.push(start(next));
        next += 1;
        // No lock of the dead one may stay: somebody must get through. Who, SQLite's busy handler leaves to
        // chance: with readers all the time, one writer of a rollback database can lose for a minute.
        let acks = |apps: &[App]| apps.iter().map(|a| a.count("ack")).sum::<usize>();
        let before = acks(&writing);
        let moved = within(Duration::from_secs(60), || acks(&writing) > before);
        assert!(moved, "no writer commits after one was killed");
    }
    // The readers first: a writer that asks to stop ends its transaction, for which readers may have to leave.
    for app in checkpointers.into_iter().chain(reading) {
        app.stop();
    }
    said.extend(writing.into_iter().map(App::stop));
    let acks = acknowledged(&said);
    let rows = check_ledger(&db, &acks);
    assert!(rows >= u64::from(writers), "{rows} transactions");
    assert_same_ledger(&primary, &replica, journal, &acks, &scratch);
}

#[test]
fn thirty_two_processes_in_wal_mode() {
    crowd("WAL", 14, 16, 8 * soak_factor());
}

#[test]
fn sixteen_processes_in_delete_mode() {
    crowd("DELETE", 6, 8, 6 * soak_factor());
}

#[test]
fn sixteen_processes_in_persist_mode() {
    crowd("PERSIST", 6, 8, 6 * soak_factor());
}

#[test]
fn sixteen_processes_in_truncate_mode() {
    crowd("TRUNCATE", 6, 8, 6 * soak_factor());
}

#[test]
fn a_late_joiner_gets_a_snapshot_and_then_every_transaction() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("late");
    let (primary, replica) = pair(&scratch);
    for journal in JOURNALS {
        ledger(&primary, journal, journal);
    }
    let writers: Vec<App> =
        JOURNALS.iter().map(|j| App::writer(&primary.path(j), 1, &["--pause", "3"])).collect();
    std::thread::sleep(Duration::from_millis(700));
    let late = Node::replica(&scratch, "late", &primary).started();
    std::thread::sleep(Duration::from_millis(700));
    for (journal, writer) in JOURNALS.iter().zip(writers) {
        let acks = acknowledged(&[writer.stop()]);
        assert_same_ledger(&primary, &late, journal, &acks, &scratch);
        assert_same(&primary, &replica, journal, &scratch);
    }
}
