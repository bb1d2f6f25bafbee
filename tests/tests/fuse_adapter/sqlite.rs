//! SQLite works, and costs what it should.

use std::sync::atomic::Ordering::SeqCst;

use litefsd::fuse::stats::Op;

use crate::fixture::Fixture;

fn several_processes(mode: &str, defer_all: bool) {
    let f = Fixture::new();
    f.knobs().defer_all.store(defer_all, SeqCst);
    let mut first = f.app("db");
    assert_eq!(first.ok(&format!("PRAGMA journal_mode={mode}")), mode);
    first.ok("PRAGMA cache_size=10; CREATE TABLE counter(v); INSERT INTO counter VALUES(0); CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    let mut apps: Vec<_> = (0..3).map(|_| f.app("db")).collect();
    for app in &mut apps {
        app.send("increment 40");
    }
    for mut app in apps {
        assert_eq!(app.answer(), "", "mode {mode}");
        app.end();
    }
    assert_eq!(first.ok("SELECT v FROM counter"), "120", "an update was lost in mode {mode}");
    first.ok("VACUUM");
    assert_eq!(first.ok("PRAGMA integrity_check"), "ok");
    first.ok("PRAGMA wal_checkpoint(TRUNCATE)");
    first.end();
    let on_disk = rusqlite::Connection::open(f.backing("db")).unwrap();
    let v: i64 = on_disk.query_row("SELECT v FROM counter", [], |r| r.get(0)).unwrap();
    assert_eq!(v, 120);
    assert!(!defer_all || f.count(Op::Deferred) > 1000);
    // Handles and nodes are given back; RELEASE is asynchronous.
    assert!(crate::fixture::eventually(|| f.mounted().core().open_handles() == 0), "handles are left");
}

#[test]
fn wal() {
    several_processes("wal", false);
}

#[test]
fn delete() {
    several_processes("delete", false);
}

#[test]
fn truncate() {
    several_processes("truncate", false);
}

#[test]
fn persist() {
    several_processes("persist", false);
}

#[test]
fn wal_with_every_request_deferred() {
    several_processes("wal", true);
}

#[test]
fn delete_with_every_request_deferred() {
    several_processes("delete", true);
}

#[test]
fn a_commit_over_two_databases_has_a_super_journal() {
    let f = Fixture::new();
    let mut app = f.app("a");
    let other = f.dir.join("b");
    app.ok(&format!("ATTACH '{}' AS other; CREATE TABLE t(x); CREATE TABLE other.t(x)", other.display()));
    f.knobs().take();
    app.ok("BEGIN; INSERT INTO main.t VALUES(1); INSERT INTO other.t VALUES(1); COMMIT");
    let seen = f.knobs().take();
    let of = |what| {
        use litefsd::fuse::names::FileRef::SuperJournal;
        seen.iter().filter(|s| s.what == what && matches!(s.file, SuperJournal(_))).count()
    };
    assert_eq!((of("create"), of("unlink")), (1, 1), "{seen:?}");
    assert!(of("write") > 0);
    app.end();
}

fn per_transaction(f: &Fixture, n: u64, mut one: impl FnMut(u64)) -> f64 {
    (0..5).for_each(&mut one);
    let before = f.mounted().core().stats().snapshot();
    let requests = f.requests();
    (5..5 + n).for_each(&mut one);
    let cost = (f.requests() - requests) as f64 / n as f64;
    for ((op, a), (_, b)) in before.iter().zip(f.mounted().core().stats().snapshot()) {
        if b > *a {
            println!("  {:10} {:6.2}", op.label(), (b - a) as f64 / n as f64);
        }
    }
    println!("  = {cost:.2} round trips");
    cost
}

#[test]
fn round_trips() {
    // Measured with a bare protocol loop: WAL insert 4.2, TRUNCATE 12 + 11 writes of the journal.
    // In PERSIST mode each reader opens the journal to see whether it is hot.
    for (mode, insert, select) in
        [("wal", 4.5, 0.02), ("truncate", 24.0, 0.02), ("persist", 28.0, 3.1), ("delete", 26.0, 0.02)]
    {
        let f = Fixture::new();
        let mut app = f.app("db");
        assert_eq!(app.ok(&format!("PRAGMA journal_mode={mode}")), mode);
        app.ok("PRAGMA synchronous=FULL; CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
        println!("{mode} insert");
        let cost = per_transaction(&f, 100, |i| {
            app.ok(&format!("INSERT INTO t VALUES({i}, 'some text')"));
        });
        assert!(cost <= insert, "{mode}: {cost} round trips for an insert");
        println!("{mode} select");
        let cost = per_transaction(&f, 100, |_| {
            app.ok("SELECT count(*) FROM t");
        });
        assert!(cost <= select, "{mode}: {cost} round trips for a warm select");
        app.end();
    }
}

#[test]
fn a_reader_does_not_wait_for_an_fsync() {
    let f = Fixture::new();
    let mut writer = f.app("db");
    writer.ok("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let mut reader = f.app("db");
    assert_eq!(reader.ok("SELECT count(*) FROM t"), "1");
    let slow = std::time::Duration::from_millis(800);
    f.knobs().set_hook(move |what, _, _| {
        if what == "fsync" {
            std::thread::sleep(slow);
        }
        Ok(())
    });
    let begin = std::time::Instant::now();
    writer.send("PRAGMA synchronous=FULL; INSERT INTO t VALUES(2)");
    while begin.elapsed() < slow / 2 {
        assert_eq!(reader.ok("SELECT count(*) FROM t"), "1");
    }
    writer.answer();
    assert!(begin.elapsed() >= slow);
    assert_eq!(reader.ok("SELECT count(*) FROM t"), "2");
}

/// More databases in FSYNC than there are handler threads: others are still answered.
#[test]
fn fsyncs_do_not_occupy_all_threads() {
    use std::fs::{self, File};
    let f = Fixture::new();
    let slow = std::time::Duration::from_millis(1500);
    let names: Vec<String> = (0..8).map(|i| format!("db{i}")).collect();
    for name in &names {
        fs::write(f.dir.join(name), "x").unwrap();
    }
    f.knobs().set_hook(move |what, _, _| {
        if what == "fsync" {
            std::thread::sleep(slow);
        }
        Ok(())
    });
    let begin = std::time::Instant::now();
    std::thread::scope(|s| {
        for name in &names {
            let file = File::open(f.dir.join(name)).unwrap();
            s.spawn(move || file.sync_all().unwrap());
        }
        std::thread::sleep(slow / 5);
        for i in 0..50 {
            assert!(fs::metadata(f.dir.join(format!("missing{i}"))).is_err());
        }
        fs::write(f.dir.join("other"), vec![1; 100_000]).unwrap();
        assert!(begin.elapsed() < slow, "requests of others waited for an fsync");
    });
    assert!(begin.elapsed() < slow * 2, "fsyncs of different databases waited for each other");
}
