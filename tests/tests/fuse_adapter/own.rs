//! The daemon as a client of its own mount.

use std::fs;
use std::sync::Arc;
use std::sync::Mutex;

use litefs_sqlite::lock_bytes::Lock;
use litefs_store::own_mount::{FileKind, LockKind, OwnMount, Probe};
use litefs_types::DbName;
use litefsd::fuse::model::ModelError;
use litefsd::fuse::names::FileRef;
use litefsd::fuse::own_mount::FuseOwnMount;
use litefsd::fuse::stats::Op;

use crate::fixture::{Fixture, eventually};

fn db() -> DbName {
    "db".parse().unwrap()
}

fn own(f: &Fixture) -> Arc<FuseOwnMount> {
    f.mounted().own_mounts().make(&db())
}

#[test]
fn locks_are_shared_with_applications() {
    let f = Fixture::new();
    let mut app = f.app("db");
    app.ok("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let own = own(&f);
    assert_eq!(own.probe(Lock::WalWrite, LockKind::Shared), Probe::NotOpen);
    assert!(own.open(FileKind::Database, false).unwrap());
    assert!(own.open(FileKind::Shm, false).unwrap());
    assert!(!own.open(FileKind::Journal, false).unwrap());
    let requests = f.requests();
    assert_eq!(own.probe(Lock::WalWrite, LockKind::Shared), Probe::Free);

    app.ok("BEGIN IMMEDIATE");
    let held = Probe::Held { pid: Some(app.pid()), kind: LockKind::Exclusive };
    assert_eq!(own.probe(Lock::WalWrite, LockKind::Shared), held);
    assert!(!own.try_lock(Lock::WalWrite, LockKind::Exclusive).unwrap());
    app.ok("COMMIT");

    assert!(own.try_lock(Lock::WalWrite, LockKind::Exclusive).unwrap());
    assert_eq!(app.sql("INSERT INTO t VALUES(2)"), "error: database is locked");
    assert_eq!(app.ok("SELECT count(*) FROM t"), "1", "readers go on");
    own.unlock(Lock::WalWrite).unwrap();
    assert_eq!(f.requests(), requests, "locks and probes cost no request");
    app.ok("INSERT INTO t VALUES(2)");
    assert!(own.try_lock(Lock::WalWrite, LockKind::Exclusive).unwrap());
    own.close(FileKind::Shm);
    app.ok("INSERT INTO t VALUES(3)");

    // Rollback mode: RESERVED.
    own.close(FileKind::Database);
    app.ok("PRAGMA journal_mode=delete");
    assert!(own.open(FileKind::Database, false).unwrap());
    assert!(own.try_lock(Lock::Reserved, LockKind::Exclusive).unwrap());
    assert_eq!(app.sql("INSERT INTO t VALUES(4)"), "error: database is locked");
    own.unlock(Lock::Reserved).unwrap();
    app.ok("INSERT INTO t VALUES(4)");
    app.end();
}

#[test]
fn a_descriptor_of_an_unlinked_file_proves_nothing() {
    let f = Fixture::new();
    let start = |f: &Fixture| {
        let mut app = f.app("db");
        app.ok("PRAGMA journal_mode=wal; CREATE TABLE IF NOT EXISTS t(x); BEGIN IMMEDIATE");
        app
    };
    let mut app = start(&f);
    let own = own(&f);
    assert!(own.open(FileKind::Shm, false).unwrap());
    assert!(matches!(own.probe(Lock::WalWrite, LockKind::Shared), Probe::Held { .. }));
    app.ok("COMMIT");
    // The last close unlinks wal and wal-index; this descriptor is left behind.
    app.end();
    assert_eq!(own.probe(Lock::WalWrite, LockKind::Shared), Probe::NoFile);
    let app = start(&f);
    assert_eq!(own.probe(Lock::WalWrite, LockKind::Shared), Probe::NotOpen);
    assert!(own.open(FileKind::Shm, false).unwrap());
    let held = Probe::Held { pid: Some(app.pid()), kind: LockKind::Exclusive };
    assert_eq!(own.probe(Lock::WalWrite, LockKind::Shared), held);
    app.end();
}

#[test]
fn own_io_is_coherent_with_mappings_and_maps_nothing() {
    let f = Fixture::new();
    let mut app = f.app("db");
    app.ok("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let own = own(&f);
    assert!(own.open(FileKind::Shm, false).unwrap());
    let header = |mx: &mut [u8; 136]| own.read_at(FileKind::Shm, mx, 0).unwrap();
    let (mut a, mut b) = ([0; 136], [0; 136]);
    assert_eq!(header(&mut a), 136);
    app.ok("INSERT INTO t VALUES(2)");
    assert_eq!(header(&mut b), 136);
    assert_eq!(a[..48], a[48..96]);
    assert!(b[16..20] > a[16..20], "mxFrame of the mapping is seen without a write-back");
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(&*f.dir.to_string_lossy()), "a file of the own mount is mapped");
    app.end();
}

#[test]
fn own_requests_are_told_from_those_of_others() {
    let f = Fixture::new();
    let mut app = f.app("db");
    app.ok("CREATE TABLE t(x)");
    f.knobs().take();
    let own = own(&f);
    let flushes = f.count(Op::Flush);
    assert!(own.open(FileKind::Database, false).unwrap());
    assert!(own.open(FileKind::Wal, true).unwrap());
    own.write_all_at(FileKind::Wal, b"frames", 0).unwrap();
    own.set_len(FileKind::Wal, 3).unwrap();
    assert_eq!(own.len(FileKind::Wal).unwrap(), 3);
    own.sync(FileKind::Wal).unwrap();
    own.unlink(FileKind::Wal).unwrap();
    own.close(FileKind::Wal);
    own.close(FileKind::Database);
    assert!(
        eventually(|| f.knobs().seen.lock().unwrap().iter().filter(|s| s.what == "release").count() == 2)
    );
    let seen = f.knobs().take();
    assert!(seen.iter().all(|s| s.caller.own), "{seen:?}");
    let kinds: Vec<_> = seen.iter().map(|s| s.what).filter(|w| *w != "release").collect();
    assert_eq!(kinds, ["open", "create", "write", "truncate", "unlink"]);
    assert_eq!(f.count(Op::Flush), flushes, "closing an own descriptor asks nobody");

    // The same thread outside an own-mount call, and another process, are not us.
    fs::write(f.dir.join("db-wal"), "x").unwrap();
    fs::remove_file(f.dir.join("db-wal")).unwrap();
    app.ok("INSERT INTO t VALUES(1)");
    let seen = f.knobs().take();
    assert!(seen.len() > 5 && !seen.iter().any(|s| s.caller.own), "{seen:?}");
    // The kernel names threads, not processes.
    let tid = nix::unistd::gettid().as_raw() as u32;
    assert!(seen.iter().any(|s| s.what == "create" && s.caller.pid == tid));
    let of_app = |tid: u32| std::path::Path::new(&format!("/proc/{}/task/{tid}", app.pid())).exists();
    assert!(seen.iter().any(|s| s.what == "create" && of_app(s.caller.pid)));
    app.end();
}

#[test]
fn a_handler_must_not_touch_the_own_mount_but_may_probe() {
    let f = Fixture::new();
    fs::write(f.dir.join("db"), [0; 4096]).unwrap();
    let own = own(&f);
    assert!(own.open(FileKind::Database, false).unwrap());
    let result = Arc::new(Mutex::new(None));
    let (out, client) = (result.clone(), own.clone());
    f.knobs().set_hook(move |what, _, c| {
        if what == "fsync" && !c.may_block {
            let read = client.read_at(FileKind::Database, &mut [0; 10], 0).map_err(|e| e.raw_os_error());
            *out.lock().unwrap() = Some((read, client.probe(Lock::Reserved, LockKind::Shared)));
        }
        Ok(())
    });
    fs::File::open(f.dir.join("db")).unwrap().sync_all().unwrap();
    assert_eq!(*result.lock().unwrap(), Some((Err(Some(libc::EDEADLK)), Probe::Free)));
}

/// The store's way: OPEN waits until the own descriptor is there; a journal CREATE that needs it is
/// deferred, and then it is opened from the kernel's cache although the directory is locked.
#[test]
fn own_descriptors_are_opened_when_they_are_needed() {
    for created_hook in [true, false] {
        let f = Fixture::new();
        let own = own(&f);
        let (client, failed) = (own.clone(), Arc::new(Mutex::new(Vec::new())));
        let report = failed.clone();
        f.knobs().set_hook(move |what, file, c| {
            if c.own || what == "release" || (what == "create" && file == FileRef::DATABASE) {
                return Ok(());
            }
            if client.probe(Lock::Reserved, LockKind::Shared) == Probe::NotOpen {
                if !c.may_block {
                    return Err(ModelError::NeedsWorker);
                }
                match client.open(FileKind::Database, false) {
                    Ok(true) => {}
                    other => report.lock().unwrap().push((what, file, format!("{other:?}"))),
                }
            }
            Ok(())
        });
        if created_hook {
            let client = own.clone();
            *f.knobs().on_created.lock().unwrap() = Some(Arc::new(move || {
                client.open(FileKind::Database, false).unwrap();
            }));
        }
        let mut app = f.app("db");
        app.ok("CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        assert_ne!(own.probe(Lock::Reserved, LockKind::Shared), Probe::NotOpen);
        assert_eq!(failed.lock().unwrap().as_slice(), []);
        app.end();
        // An OPEN of what exists.
        own.close(FileKind::Database);
        let mut app = f.app("db");
        assert_eq!(app.ok("SELECT x FROM t"), "1");
        assert_ne!(own.probe(Lock::Reserved, LockKind::Shared), Probe::NotOpen);
        assert_eq!(failed.lock().unwrap().as_slice(), []);
        app.end();
    }
}

#[test]
fn nothing_that_looks_names_up_runs_while_the_directory_is_locked() {
    let f = Fixture::new();
    fs::write(f.dir.join("db"), "x").unwrap();
    let own = own(&f);
    let results = Arc::new(Mutex::new(Vec::new()));
    let (client, out) = (own.clone(), results.clone());
    f.knobs().set_hook(move |what, file, c| {
        if what == "create" && file == FileRef::Kind(FileKind::Journal) {
            if !c.may_block {
                return Err(ModelError::NeedsWorker);
            }
            let errno = |e: std::io::Error| e.raw_os_error().unwrap();
            let mut out = out.lock().unwrap();
            out.push(client.unlink(FileKind::Wal).map_err(errno).map(|()| true));
            out.push(client.open(FileKind::Wal, true).map_err(errno));
        }
        Ok(())
    });
    fs::write(f.dir.join("db-journal"), "x").unwrap();
    let results = results.lock().unwrap().clone();
    assert_eq!(results[0], Err(libc::EDEADLK));
    assert!(matches!(results[1], Err(libc::EDEADLK | libc::EAGAIN)), "{results:?}");
}

#[test]
fn a_wal_index_is_written_back_also_after_its_end() {
    let f = Fixture::new();
    let mut app = f.app("db");
    app.ok("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let own = own(&f);
    // An own handle that can write: the kernel may choose it for writing pages back.
    assert!(own.open(FileKind::Shm, false).unwrap());
    f.knobs().take();
    app.ok("INSERT INTO t VALUES(2)");
    app.end();
    own.close(FileKind::Shm);
    let done = || {
        let seen = f.knobs().seen.lock().unwrap();
        let mut back = seen.iter().filter(|s| s.from_page_cache).peekable();
        back.peek().is_some() && back.all(|s| !s.caller.own && s.file == FileRef::Kind(FileKind::Shm))
    };
    assert!(eventually(done), "{:?}", f.knobs().take());
}
