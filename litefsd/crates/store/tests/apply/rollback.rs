//! Databases with a rollback journal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use litefs_sqlite::lock_bytes::Lock;
use litefs_store::apply::{ApplyError, Blocker, drop_files, rollback_writer};
use litefs_store::own_mount::{FileKind, LockKind, OwnMount, Probe};
use litefs_store::plain_mount::PlainMount;
use litefs_types::PageNo;

use crate::client::{Client, Version};
use crate::primary::{CHECK, CutShort, Primary, Replica, SetOnDrop, Tx, in_ms, soon};

fn apply(r: &Replica, p: &Primary, tx: &Tx, deadline: Instant) -> Result<(), ApplyError> {
    rollback_writer::apply(&r.mount, &mut tx.source(), p.page_size, tx.commit, deadline).map(|_| ())
}

#[test]
fn a_reader_that_stays_is_named_and_one_that_left_sees_the_new_state() {
    let (mut p, r) = (Primary::new(4096, "delete"), Replica::new());
    let first = p.update(1..200, 50);
    apply(&r, &p, &first, soon()).unwrap();
    assert_eq!(r.image(), p.image);

    for version in [Version::Bundled, Version::System] {
        let mut c = Client::new(version, &r.path());
        c.run("PRAGMA mmap_size=1000000");
        let gen0 = c.one(CHECK);
        assert!(gen0.starts_with("ok|"), "{gen0}");
        c.run("BEGIN; SELECT count(*) FROM t;");
        let tx = p.update(100..300, 70);
        let before = r.image();
        let error = apply(&r, &p, &tx, in_ms(200)).unwrap_err();
        assert_eq!(error.blocker(), Some(Blocker { lock: Lock::Shared, pid: Some(c.pid()) }), "{error}");
        assert_eq!(r.image(), before, "blocked means untouched");
        assert_eq!(c.one(CHECK), gen0, "the reader's snapshot");
        c.run("COMMIT");
        apply(&r, &p, &tx, soon()).unwrap();
        let gen1 = c.one(CHECK);
        assert!(gen1.starts_with("ok|") && gen1 != gen0, "{gen1}");
        assert_eq!(c.one("PRAGMA integrity_check"), "ok");
        assert_eq!(r.image(), p.image);
    }
    let smaller = p.shrink(250);
    apply(&r, &p, &smaller, soon()).unwrap();
    assert_eq!(r.image(), p.image);
}

#[test]
fn pending_is_held_for_a_bounded_time_alone() {
    let (mut p, r) = (Primary::new(1024, "delete"), Replica::new());
    let first = p.update(1..50, 50);
    apply(&r, &p, &first, soon()).unwrap();
    let mut stays = Client::new(Version::Bundled, &r.path());
    stays.run("BEGIN; SELECT count(*) FROM t;");
    let watcher = PlainMount::new(r.dir.path().to_owned(), "db".parse().unwrap());
    watcher.open(FileKind::Database, false).unwrap();
    let tx = p.update(1..50, 60);
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let end = SetOnDrop(&over);
        let watch = s.spawn(|| {
            let (mut longest, mut since, mut free) = (Duration::ZERO, None::<Instant>, 0);
            while !over.load(Ordering::Relaxed) {
                if watcher.probe(Lock::Pending, LockKind::Shared) == Probe::Free {
                    since = None;
                    free += 1;
                } else {
                    longest = longest.max(since.get_or_insert_with(Instant::now).elapsed());
                }
                std::thread::sleep(Duration::from_micros(300));
            }
            (longest, free)
        });
        // A new reader with a busy timeout gets in although somebody waits for EXCLUSIVE all the time.
        let mut comes = Client::new(Version::Bundled, &r.path());
        comes.run("PRAGMA busy_timeout=3000");
        let reader = s.spawn(move || {
            (0..10)
                .map(|_| {
                    std::thread::sleep(Duration::from_millis(5));
                    comes.one(CHECK)
                })
                .collect::<Vec<_>>()
        });
        let blocked = apply(&r, &p, &tx, in_ms(1000));
        let got = reader.join();
        drop(end);
        let (longest, free) = watch.join().unwrap();
        assert!(blocked.unwrap_err().blocker().is_some());
        assert_eq!(got.unwrap(), vec!["ok|1"; 10]);
        // 50 ms by rule; the rest is what a busy machine adds.
        assert!(longest < Duration::from_millis(120), "{longest:?}");
        assert!(free > 10, "{free}");
    });
    for lock in [Lock::Pending, Lock::Reserved] {
        assert_eq!(watcher.probe(lock, LockKind::Exclusive), Probe::Free, "{lock:?} stayed");
    }
    stays.run("COMMIT");
    apply(&r, &p, &tx, soon()).unwrap();
    assert_eq!(r.image(), p.image);
}

#[test]
fn a_stale_journal_is_removed_and_not_played_back() {
    let (mut p, r) = (Primary::new(512, "persist"), Replica::new());
    let first = p.update(1..100, 50);
    apply(&r, &p, &first, soon()).unwrap();
    // A hot journal: what a process leaves that is killed after a spill.
    let mut writer = Client::new(Version::Bundled, &r.path());
    writer.run("PRAGMA cache_size=2; BEGIN; UPDATE t SET v=v+1, pad=zeroblob(60);");
    writer.kill();
    assert!(std::fs::read(r.mount.path(FileKind::Journal)).unwrap().starts_with(&[0xd9, 0xd5, 0x05, 0xf9]));
    let tx = p.snapshot();
    apply(&r, &p, &tx, soon()).unwrap();
    assert!(!r.has(FileKind::Journal));
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one("PRAGMA integrity_check"), "ok");
    assert_eq!(r.image(), p.image);
}

#[test]
fn half_a_transaction_is_never_read() {
    let (mut p, r) = (Primary::new(4096, "delete"), Replica::new());
    let first = p.update(1..500, 500);
    apply(&r, &p, &first, soon()).unwrap();
    let mut c = Client::new(Version::Bundled, &r.path());
    assert!(c.one(CHECK).starts_with("ok|1"));
    let tx = p.update(1..600, 510);
    let error =
        rollback_writer::apply(&r.mount, &mut CutShort(&tx, 5), p.page_size, tx.commit, soon()).unwrap_err();
    assert!(matches!(error, ApplyError::Torn(_)), "{error}");
    assert!(c.one("SELECT count(*) FROM t").contains("locked"));
    rollback_writer::redo(&r.mount, &mut tx.source(), p.page_size, tx.commit).unwrap();
    assert!(c.one(CHECK).starts_with("ok|2"));
    assert_eq!(r.image(), p.image);

    let page = |n: u32, len: usize| (PageNo::new(n).unwrap(), vec![0; len]);
    for bad in [vec![page(9, 4096)], vec![page(1, 512)], vec![page(2, 4096), page(2, 4096)]] {
        let error = rollback_writer::apply(&r.mount, &mut &bad[..], p.page_size, 8, soon()).unwrap_err();
        assert!(
            matches!(&error, ApplyError::Torn(e) if matches!(**e, ApplyError::BadPage { .. })),
            "{error}"
        );
    }
}

#[test]
fn a_dropped_database_is_empty() {
    let (mut p, r) = (Primary::new(4096, "delete"), Replica::new());
    drop_files(&r.mount, None, soon(), false).unwrap();
    let first = p.update(1..50, 50);
    apply(&r, &p, &first, soon()).unwrap();
    let mut c = Client::new(Version::Bundled, &r.path());
    c.run("BEGIN; SELECT count(*) FROM t;");
    assert!(drop_files(&r.mount, None, in_ms(50), false).unwrap_err().blocker().is_some());
    c.run("COMMIT");
    drop_files(&r.mount, None, soon(), false).unwrap();
    assert_eq!(r.image(), b"");
    assert_eq!(c.one("SELECT count(*) FROM sqlite_schema"), "0");
    // Not the same content: a connection that lived through the drop compares only the change counter.
    p.update(1..60, 50);
    let again = p.snapshot();
    apply(&r, &p, &again, soon()).unwrap();
    assert_eq!(c.one(CHECK), "ok|2");
}
