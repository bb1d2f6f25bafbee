//! What the kernel keeps, and what makes it forget.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use litefs_store::own_mount::{FileKind, Invalidator};
use litefs_types::DbName;
use litefsd::fuse::stats::Op;

use crate::fixture::{Fixture, eventually};

fn db() -> DbName {
    "db".parse().unwrap()
}

#[test]
fn pages_stay_until_they_are_invalidated() {
    let f = Fixture::new();
    let (path, backing) = (f.dir.join("db"), f.backing("db"));
    fs::write(&path, [1; 16384]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [1; 16384]);
    let reads = f.count(Op::Read);
    assert_eq!(fs::read(&path).unwrap(), [1; 16384]);
    assert_eq!(f.count(Op::Read), reads, "reopening a file does not drop its pages");

    let behind = File::options().write(true).open(&backing).unwrap();
    behind.write_all_at(&[2; 4096], 4096).unwrap();
    let open = File::open(&path).unwrap();
    let page = |n: u64| {
        let mut b = [0; 1];
        open.read_exact_at(&mut b, n * 4096).unwrap();
        b[0]
    };
    assert_eq!(page(1), 1, "the kernel was not told");
    let cache = f.mounted().core().kernel_cache();
    cache.data(&db(), FileKind::Database, 4096, 4096);
    assert_eq!((page(0), page(1), page(2)), (1, 2, 1));

    behind.write_all_at(&[3; 8192], 16384).unwrap();
    cache.data(&db(), FileKind::Database, 16384, 0);
    assert_eq!(fs::metadata(&path).unwrap().len(), 24576, "growth shows");
    assert_eq!(fs::read(&path).unwrap().len(), 24576);
    behind.set_len(4096).unwrap();
    cache.data(&db(), FileKind::Database, 4096, 0);
    assert_eq!(fs::read(&path).unwrap(), [1; 4096], "and so does shrinking");
    cache.data(&"unknown".parse().unwrap(), FileKind::Wal, 0, 0);
    // Invalidating in many small ranges is one call.
    let before = f.count(Op::InvalData);
    cache.data_ranges(&db(), FileKind::Database, &[(0, 512), (1024, 512), (512, 512)]);
    assert_eq!(f.count(Op::InvalData), before + 1);
}

#[test]
fn names_stay_until_they_are_invalidated() {
    let f = Fixture::new();
    fs::write(f.dir.join("db"), "x").unwrap();
    let journal = f.dir.join("db-journal");
    let cache = f.mounted().core().kernel_cache();
    assert!(!journal.exists());
    let lookups = f.count(Op::Lookup);
    assert!(!journal.exists());
    assert_eq!(f.count(Op::Lookup), lookups, "the kernel remembers what does not exist");

    fs::write(f.backing("db-journal"), "behind").unwrap();
    assert!(!journal.exists());
    cache.entry(&db(), FileKind::Journal);
    assert_eq!(fs::read_to_string(&journal).unwrap(), "behind");

    fs::remove_file(f.backing("db-journal")).unwrap();
    assert!(journal.exists());
    cache.entry(&db(), FileKind::Journal);
    assert!(!journal.exists());

    // A database that comes by replication.
    assert!(!f.dir.join("new").exists());
    f.model.add("new");
    fs::write(f.backing("new"), "pages").unwrap();
    cache.entry(&"new".parse().unwrap(), FileKind::Database);
    assert_eq!(fs::read_to_string(f.dir.join("new")).unwrap(), "pages");
    assert!(fs::read_dir(&f.dir).unwrap().any(|e| e.unwrap().file_name() == "new"));
}

#[test]
fn a_replaced_file_is_another_file() {
    let f = Fixture::new();
    let path = f.dir.join("db");
    fs::write(&path, "old").unwrap();
    let old = File::open(&path).unwrap();
    fs::write(f.backing("tmp"), "new one").unwrap();
    fs::rename(f.backing("tmp"), f.backing("db")).unwrap();
    // Not even invalidated: OPEN notices, and the kernel looks the name up again.
    assert_eq!(fs::read_to_string(&path).unwrap(), "new one");
    let new = File::open(&path).unwrap();
    assert_ne!(old.metadata().unwrap().ino(), new.metadata().unwrap().ino());
    let mut b = [0; 3];
    old.read_exact_at(&mut b, 0).unwrap();
    assert_eq!(&b, b"old");
    assert_eq!(old.metadata().unwrap().nlink(), 0);
}

#[test]
fn unlinked_files_work_and_their_numbers_are_not_used_again() {
    let f = Fixture::new();
    fs::write(f.dir.join("db"), "x").unwrap();
    let path = f.dir.join("db-journal");
    let mut numbers = std::collections::HashSet::new();
    let mut kept = Vec::new();
    for round in 0u8..20 {
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all_at(&[round; 5000], 0).unwrap();
        assert!(numbers.insert(file.metadata().unwrap().ino()));
        fs::remove_file(&path).unwrap();
        kept.push(file);
    }
    f.knobs().take();
    for (round, file) in kept.iter().enumerate() {
        let mut b = [0; 5000];
        file.read_exact_at(&mut b, 0).unwrap();
        assert_eq!(b, [round as u8; 5000], "stale bytes of another file");
        file.write_all_at(b"more", 5000).unwrap();
        let m = file.metadata().unwrap();
        assert_eq!((m.len(), m.nlink()), (5004, 0));
    }
    assert!(f.knobs().take().iter().all(|s| s.caller.unlinked), "the model is told that the name is gone");
    // A size change of an old file must not reach the one that has the name now.
    fs::write(&path, "the new one").unwrap();
    kept[0].set_len(3).unwrap();
    assert_eq!(kept[0].metadata().unwrap().len(), 3);
    assert_eq!(fs::read_to_string(&path).unwrap(), "the new one");
    drop(kept);
    assert!(eventually(|| f.mounted().core().open_handles() == 0));
}

#[test]
fn names_change_under_a_storm_of_lookups() {
    let f = Fixture::new();
    fs::write(f.dir.join("db"), "x").unwrap();
    let (journal, backing) = (f.dir.join("db-journal"), f.backing("db-journal"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = journal.exists();
                }
            });
        }
        for _ in 0..300 {
            for there in [true, false] {
                if there {
                    fs::write(&backing, "x").unwrap();
                } else {
                    fs::remove_file(&backing).unwrap();
                }
                f.mounted().core().kernel_cache().entry(&db(), FileKind::Journal);
                assert_eq!(journal.exists(), there, "an answer of before outlived its invalidation");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// As a replica in a rollback mode gets its transactions: in the backing file, then the kernel is told.
#[test]
fn sqlite_sees_what_was_written_behind_its_back() {
    for mmap in [0, 1 << 30] {
        let f = Fixture::new();
        let mut app = f.app("db");
        app.ok("CREATE TABLE t(x); INSERT INTO t VALUES(0)");
        app.ok(&format!("PRAGMA mmap_size={mmap}"));
        let behind = rusqlite::Connection::open(f.backing("db")).unwrap();
        for i in 1..50 {
            assert_eq!(app.ok("SELECT max(x) FROM t"), (i - 1).to_string());
            behind
                .execute_batch(&format!("INSERT INTO t VALUES({i}); INSERT INTO t VALUES(zeroblob(9000))"))
                .unwrap();
            behind.execute_batch("DELETE FROM t WHERE typeof(x) = 'blob'").unwrap();
            if i % 10 == 0 {
                behind.execute_batch("VACUUM").unwrap();
            }
            f.mounted().core().kernel_cache().data(&db(), FileKind::Database, 0, 0);
            assert_eq!(app.ok("SELECT max(x) FROM t"), i.to_string(), "mmap_size={mmap}");
        }
        assert_eq!(app.ok("PRAGMA integrity_check"), "ok");
        app.ok("INSERT INTO t VALUES(1000)");
        app.end();
    }
}
