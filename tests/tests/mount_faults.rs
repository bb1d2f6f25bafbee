//! Disks that are full, fail or lie (E9, E11, E15; D8), writable mappings (D32), reused inodes (D30).
//! Needs root, /dev/fuse and strace.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use litefs_tests::faults::{
    SmallDisk, attach_to_file, copy_tree, files_below, files_to_damage, flip_bit, inject, no_injection,
    restore,
};
use litefs_tests::http;
use litefs_tests::image::{assert_same, check_integrity, checked_export, dump};
use litefs_tests::node::{Node, pair, single};
use litefs_tests::rng::Rng;
use litefs_tests::sample::{BOTH_KINDS, pair_with, table};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, codes, once};
use litefs_tests::watch::Deadline;

const ROW: &str = "INSERT INTO t(x) VALUES(hex(randomblob(20000)))";

#[test]
fn a_full_disk_on_the_primary_heals_by_itself() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("fullp");
    let disk = SmallDisk::mount(&scratch.dir("p").join("data"), 80);
    let (primary, replica) = pair(&scratch);
    for journal in BOTH_KINDS {
        table(&primary, journal, journal);
        replica.sync_with(&primary, journal);
        let mut s = Session::open(primary.path(journal));
        s.exec("PRAGMA wal_autocheckpoint=20");
        let ballast = disk.fill(600);
        let mut written = 1;
        let error = loop {
            match s.try_exec(ROW) {
                Ok(_) => written += 1,
                Err(e) => break e,
            }
            assert!(written < 5000, "the disk never gets full");
        };
        assert!(
            matches!(error.primary(), codes::FULL | codes::IOERR | codes::READONLY | codes::CANTOPEN),
            "{journal}: {error:?}"
        );
        assert!(
            !litefs_tests::http::get(&primary, "/info", Duration::from_secs(5)).unwrap().body.is_empty(),
            "the daemon is up"
        );
        assert_eq!(s.one("SELECT count(*) FROM t"), written.to_string(), "reads go on");
        std::fs::remove_file(ballast).unwrap();
        let ok = litefs_tests::watch::within(Duration::from_secs(20), || {
            s.try_exec("INSERT INTO t(x) VALUES('healed')").is_ok()
        });
        assert!(
            ok,
            "{journal}: still refused with space: {:?}\n{}",
            s.try_exec("INSERT INTO t(x) VALUES('?')"),
            primary.log_tail(15)
        );
        assert_eq!(s.one("SELECT count(*) FROM t"), (written + 1).to_string(), "{journal}");
        s.close();
        assert_same(&primary, &replica, journal, &scratch);
        std::fs::remove_file(primary.path(journal)).unwrap();
    }
    drop((primary, replica));
    drop(disk);
}

#[test]
fn a_full_disk_on_the_replica_heals_by_itself() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("fullr");
    let disk = SmallDisk::mount(&scratch.dir("r").join("data"), 80);
    let (primary, replica) = pair(&scratch);
    for journal in BOTH_KINDS {
        table(&primary, journal, journal);
        replica.sync_with(&primary, journal);
        let ballast = disk.fill(200);
        let mut s = Session::open(primary.path(journal));
        for _ in 0..60 {
            s.exec(ROW);
        }
        s.close();
        std::thread::sleep(Duration::from_secs(1));
        // In rollback modes a database that could be written only in part stays locked until it is whole
        // (B.7); in WAL mode readers have the state before.
        let mut reader = Session::open(replica.path(journal));
        match reader.try_exec("SELECT count(*) FROM t") {
            Ok(rows) => {
                assert!(rows[0].parse::<u32>().unwrap() < 61, "{journal}: the disk was not full");
                assert_eq!(reader.one("PRAGMA integrity_check"), "ok", "{journal}");
            }
            Err(e) => assert!(journal == "delete" && e.primary() == codes::BUSY, "{journal}: {e:?}"),
        }
        reader.close();
        std::fs::remove_file(ballast).unwrap();
        assert_same(&primary, &replica, journal, &scratch);
        std::fs::remove_file(primary.path(journal)).unwrap();
    }
    drop((primary, replica));
    drop(disk);
}

/// W12: the kernel keeps pages of the wal, also that with the header of a frame whose data was refused. A
/// process that recovers the wal through the mount must not find the frame complete.
#[test]
fn a_refused_commit_is_not_left_in_the_kernels_cache() {
    /// Pages of 512 bytes: the header of this frame ends with a page of the cache, so the WRITE of its data,
    /// which is refused, does not touch that page.
    const FRAME: u32 = 276;
    const HEADER: u64 = 32 + (FRAME as u64 - 1) * 536;
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("w12");
    let node = single(&scratch);
    let mut s = Session::open(node.path("db"));
    s.exec("PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL");
    s.exec("CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    let shm = File::open(node.path("db-shm")).unwrap();
    let mx_frame = || {
        let mut b = [0; 4];
        shm.read_exact_at(&mut b, 16).unwrap();
        u32::from_ne_bytes(b)
    };
    while mx_frame() < FRAME - 1 {
        s.exec("UPDATE t SET x = x + 1");
    }
    assert_eq!(mx_frame(), FRAME - 1);
    let before = s.one("SELECT x FROM t");
    // Into the cache, with what lies behind the last frame.
    std::fs::read(node.path("db-wal")).unwrap();
    let (segment, _) = files_below(&node.backing("db", "log")).into_iter().next().unwrap();
    // The publisher is done with the log: a failed sync of it would be another matter.
    std::thread::sleep(Duration::from_millis(300));
    let full = attach_to_file(&node, "pwrite64", "error=ENOSPC:when=1", &segment);
    let refused = s.try_exec("UPDATE t SET x = 'refused'");
    drop(full);
    assert!(refused.is_err(), "the log was not full");
    let (cached, backing) =
        (File::open(node.path("db-wal")).unwrap(), File::open(node.backing("db", "wal")).unwrap());
    let header = |f: &File| {
        let mut b = [0; 24];
        f.read_exact_at(&mut b, HEADER).unwrap();
        b
    };
    assert_eq!(header(&backing), [0; 24], "the frame was not destroyed");
    assert!(
        litefs_tests::watch::within(Duration::from_secs(5), || header(&cached) == [0; 24]),
        "the kernel still shows the refused frame: {:?}",
        header(&cached)
    );
    assert_eq!(s.one("SELECT x FROM t"), before);
    s.exec("UPDATE t SET x = 'and on'");
    s.close();
    assert_eq!(once(node.path("db"), "SELECT x FROM t"), ["and on"]);
}

/// E11: after a failed sync the kernel has forgotten which pages were dirty; a second one that succeeds
/// proves nothing. Acknowledged must only be what survives.
#[test]
fn a_failed_sync_is_never_acknowledged_later() {
    let _deadline = Deadline::secs(240);
    let scratch = Scratch::new("e11");
    for journal in ["wal", "delete"] {
        for n in 1..=4 {
            let mut node = single(&scratch);
            table(&node, "db", journal);
            node.stop();
            inject(&mut node, "fdatasync,fsync", &format!("error=EIO:when={n}"));
            node.spawn();
            let up = litefs_tests::watch::within(Duration::from_secs(10), || {
                !node.is_running() || node.is_ready()
            });
            assert!(up, "neither up nor down: {}", node.log_tail(20));
            let mut acknowledged = Vec::new();
            if node.is_running() {
                let mut s = Session::open(node.path("db"));
                if s.try_exec("PRAGMA synchronous=FULL").is_ok() {
                    for i in 100..130 {
                        if s.try_exec(&format!("INSERT INTO t VALUES({i},'full')")).is_ok() {
                            acknowledged.push(i);
                        }
                    }
                }
                s.kill9();
            }
            // Power fails: what was not synced is gone. Killing comes as near as one gets here.
            if node.is_running() {
                node.kill9();
            } else {
                node.wait_end(Duration::from_secs(1));
            }
            no_injection(&mut node);
            node.start();
            for i in &acknowledged {
                assert_eq!(
                    once(node.path("db"), &format!("SELECT x FROM t WHERE id={i}")),
                    ["full"],
                    "{journal} {n}"
                );
            }
            checked_export(&node, "db");
            node.stop();
            std::fs::remove_dir_all(&node.data).unwrap();
        }
    }
}

/// Besides the table: pages that a transaction filled and the next one left.
fn small_and_large_rows(node: &Node, db: &str, journal: &str) {
    table(node, db, journal);
    once(
        node.path(db),
        "INSERT INTO t(x) SELECT hex(zeroblob(3000)) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3)",
    );
    once(node.path(db), "UPDATE t SET x='small' WHERE id=2");
}

/// Flips a bit in each file of a stopped node in turn, the others being as they are now, and tells `look`
/// which one it was and where the log of that start begins. Segments are zeros behind their end: what is used is damaged.
fn each_flipped(node: &mut Node, seed: u64, scratch: &Scratch, mut look: impl FnMut(&mut Node, &str, usize)) {
    let good = scratch.join("good");
    copy_tree(&node.data, &good);
    let mut rng = Rng::new(Rng::seed_or(seed));
    for (name, size) in files_to_damage(&good) {
        restore(node, &good);
        let at = flip_bit(&node.data.join(&name), 0, size.min(6000), &mut rng);
        let what = format!("bit flipped in {} at {at}", name.display());
        eprintln!("{what}");
        let offset = node.log_text().len();
        node.start();
        look(node, &what, offset);
        node.stop();
    }
}

/// E15, replica: one bit in any of its files; it ends equal to the primary whatever it was.
#[test]
fn a_flipped_bit_on_a_stopped_replica_is_healed_from_the_primary() {
    let _deadline = Deadline::secs(300);
    let scratch = Scratch::new("fliprepl");
    let (primary, mut replica) = pair_with(&scratch, &BOTH_KINDS, small_and_large_rows);
    replica.stop();
    each_flipped(&mut replica, 15, &scratch, |replica, _, _| {
        for db in BOTH_KINDS {
            once(primary.path(db), "INSERT INTO t(x) VALUES('later')");
            assert_same(&primary, replica, db, &scratch);
        }
    });
}

/// E15, primary: there is no peer to heal from; it must start, say so, and serve nothing false as true.
#[test]
fn a_flipped_bit_on_a_stopped_primary_is_noticed() {
    let _deadline = Deadline::secs(300);
    let scratch = Scratch::new("flipprim");
    let (mut primary, mut replica) = pair_with(&scratch, &BOTH_KINDS, small_and_large_rows);
    let want = BOTH_KINDS.map(|db| checked_export(&primary, db));
    replica.stop();
    primary.stop();
    each_flipped(&mut primary, 16, &scratch, |primary, what, log_before| {
        for (db, (pos, image)) in BOTH_KINDS.iter().zip(&want) {
            let answer = http::get(primary, &format!("/export?name={db}"), Duration::from_secs(20));
            let noticed = primary.log_text()[log_before..].to_lowercase();
            let noticed = ["quarantine", "checksum", "corrupt", "mismatch", "damaged"]
                .iter()
                .any(|w| noticed.contains(w));
            match answer {
                // Healed from the log; a new transaction number for the same content is fine if it says so.
                Ok(a) if a.status == 200 && a.body == *image => {
                    assert!(primary.pos(db) == Some(*pos) || noticed, "{what}: {:?}", primary.pos(db));
                }
                _ => assert!(
                    noticed,
                    "{what}: {db} is different and the log says nothing:\n{}",
                    primary.log_tail(20)
                ),
            }
        }
    });
}

#[test]
fn a_writable_mapping_is_refused() {
    use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("mapping");
    let (primary, replica) = pair(&scratch);
    table(&primary, "db", "delete");
    let before = checked_export(&primary, "db");
    let file = std::fs::File::options().read(true).write(true).open(primary.path("db")).unwrap();
    let length = std::num::NonZeroUsize::new(4096).unwrap();
    let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh shared mapping of 4096 bytes of a file that is larger; it is used within its bounds
    // and unmapped below. (Refusing the mapping itself is as good.)
    #[allow(unsafe_code)]
    let synced = unsafe {
        match mmap(None, length, flags, MapFlags::MAP_SHARED, &file, 0) {
            Err(_) => Err(nix::errno::Errno::EACCES),
            Ok(at) => {
                at.cast::<u8>().as_ptr().add(3000).write_volatile(0x5a);
                let result = msync(at, 4096, MsFlags::MS_SYNC);
                munmap(at, 4096).unwrap();
                result
            }
        }
    };
    assert!(synced.is_err(), "a write that came from nowhere was accepted");
    drop(file);
    assert_eq!(checked_export(&primary, "db"), before);
    once(primary.path("db"), "INSERT INTO t(x) VALUES('next')");
    assert_same(&primary, &replica, "db", &scratch);
}

#[test]
fn an_unlinked_journal_never_shows_in_a_new_file() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("inode");
    let node = single(&scratch);
    table(&node, "db", "delete");
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut s = Session::open(node.path("db"));
        s.exec("PRAGMA cache_size=3; PRAGMA cache_spill=3; BEGIN; INSERT INTO t(x) SELECT hex(zeroblob(3000)) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3)");
        if let Ok(f) = std::fs::File::open(node.path("db-journal")) {
            let _ = f.read_at(&mut [0; 4096], 0);
            held.push(f);
        }
        s.exec("COMMIT; PRAGMA journal_mode=wal; INSERT INTO t(x) VALUES('wal')");
        let wal = std::fs::read(node.path("db-wal")).unwrap();
        assert!(
            std::fs::read(node.backing("db", "wal")).unwrap().starts_with(&wal),
            "stale bytes in the wal"
        );
        held.push(std::fs::File::open(node.path("db-wal")).unwrap());
        s.exec("PRAGMA journal_mode=delete");
        s.close();
    }
    assert!(!held.is_empty());
    let (_, image) = checked_export(&node, "db");
    check_integrity(&image, &scratch);
    assert!(dump(&node.path("db")).len() > 10);
}
