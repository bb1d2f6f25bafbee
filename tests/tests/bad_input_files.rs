//! Data directories that something else has had its hands on while the node was stopped: journals, WALs,
//! databases, logs and sums that are rubbish, files where directories belong and the other way round,
//! strays. The node starts, says what it found, keeps what it cannot use, and ends where its peers are.
//! Needs root and /dev/fuse.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use litefs_tests::bad_input::{Before, assert_no_panic, names};
use litefs_tests::faults::{copy_tree, files_below, flip_bit, restore};
use litefs_tests::http::{export, get};
use litefs_tests::image::assert_same;
use litefs_tests::node::Node;
use litefs_tests::rng::Rng;
use litefs_tests::sample::{pair_with, sixty_rows};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::once;
use litefs_tests::watch::{Deadline, soak_factor, within};

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// Nothing is lost: position and bytes as before.
    Same,
    /// The database file itself is gone or wrong: what was there is in `quarantine/`, and the log says so.
    Kept,
    /// Either is right (it depends on where the damage is); nodes agree.
    Agrees,
}

type Damage = fn(&Path, &mut Rng);

fn noise(path: &Path, len: usize, rng: &mut Rng) {
    let bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
    fs::write(path, bytes).unwrap();
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let all = files_below(&dir.join("log"));
    let all: Vec<PathBuf> =
        all.into_iter().map(|(p, _)| p).filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    assert!(!all.is_empty(), "{}: no segment", dir.display());
    all
}

fn in_the_way(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
        fs::write(path, b"a file where a directory belongs").unwrap();
    } else {
        let _ = fs::remove_file(path);
        fs::create_dir(path).unwrap();
        fs::write(path.join("inside"), b"a directory where a file belongs").unwrap();
    }
}

/// A rollback journal with a right header (SQLite file format, section 3) and what follows.
fn journal(path: &Path, records: u32, pages: u32, sector: u32, page_size: u32, tail: &[u8]) {
    let mut b = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for n in [records, 0x1234_5678, pages, sector, page_size] {
        b.extend(n.to_be_bytes());
    }
    b.resize(512, 0);
    b.extend(tail);
    fs::write(path, b).unwrap();
}

/// A WAL of another database, as SQLite left it.
fn alien_wal(to: &Path) {
    let dir = to.with_extension("alien");
    fs::create_dir_all(&dir).unwrap();
    let other = dir.join("other.db");
    let mut s = litefs_tests::session::Session::open(&other);
    s.exec("PRAGMA journal_mode=WAL; CREATE TABLE alien(x); INSERT INTO alien VALUES(zeroblob(9000))");
    fs::copy(dir.join("other.db-wal"), to).unwrap();
    s.close();
    fs::remove_dir_all(&dir).unwrap();
}

/// Name, what must come of it, what is done to the database's directory.
const CASES: &[(&str, Then, Damage)] = &[
    ("a journal of noise", Then::Same, |d, r| noise(&d.join("journal"), 9000, r)),
    ("an empty journal", Then::Same, |d, _| fs::write(d.join("journal"), b"").unwrap()),
    ("a journal's magic and noise", Then::Same, |d, r| {
        noise(&d.join("journal"), 9000, r);
        let mut b = fs::read(d.join("journal")).unwrap();
        b[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
        fs::write(d.join("journal"), b).unwrap();
    }),
    ("a hot journal without records", Then::Same, |d, _| journal(&d.join("journal"), 0, 9, 512, 4096, &[])),
    ("a hot journal of wrong records", Then::Same, |d, _| {
        journal(&d.join("journal"), 3, 9, 512, 4096, &[0x5A; 12_312]);
    }),
    ("a hot journal with another page size", Then::Same, |d, _| {
        journal(&d.join("journal"), u32::MAX, u32::MAX, 512, 65536, &[1; 70_000]);
    }),
    ("a hot journal that empties the database", Then::Same, |d, _| {
        journal(&d.join("journal"), 0, 0, 512, 4096, &[]);
    }),
    ("a journal with a sector of 2 GiB", Then::Same, |d, _| {
        journal(&d.join("journal"), 1, 9, 1 << 31, 4096, &[1; 5000]);
    }),
    ("a wal of noise", Then::Same, |d, r| noise(&d.join("wal"), 50_000, r)),
    ("an empty wal", Then::Same, |d, _| fs::write(d.join("wal"), b"").unwrap()),
    ("a wal header alone", Then::Same, |d, _| {
        alien_wal(&d.join("wal"));
        fs::File::options().write(true).open(d.join("wal")).unwrap().set_len(32).unwrap();
    }),
    ("a wal of which the first frame is broken", Then::Same, |d, _| {
        alien_wal(&d.join("wal"));
        let mut b = fs::read(d.join("wal")).unwrap();
        b[100] ^= 1;
        fs::write(d.join("wal"), b).unwrap();
    }),
    ("the wal of another database", Then::Same, |d, _| alien_wal(&d.join("wal"))),
    ("a wal index of noise", Then::Same, |d, r| noise(&d.join("shm"), 32_768, r)),
    ("a wal index of 2 GiB", Then::Same, |d, _| {
        fs::File::create(d.join("shm")).unwrap().set_len(2 << 30).unwrap();
    }),
    ("sums of noise", Then::Same, |d, r| noise(&d.join("sums"), 9000, r)),
    ("no sums", Then::Same, |d, _| fs::remove_file(d.join("sums")).unwrap()),
    ("empty sums", Then::Same, |d, _| fs::write(d.join("sums"), b"").unwrap()),
    ("a snapshot of noise", Then::Same, |d, r| noise(&d.join("snapshot.ltx"), 9000, r)),
    ("a spool full of noise", Then::Same, |d, r| {
        fs::create_dir_all(d.join("spool/deep/er")).unwrap();
        noise(&d.join("spool/x"), 9000, r);
    }),
    ("strays beside the database", Then::Same, |d, r| {
        noise(&d.join("core.1234"), 900, r);
        fs::create_dir(d.join("lost+found")).unwrap();
        std::os::unix::fs::symlink("loop", d.join("loop")).unwrap();
        noise(&d.join("log/README"), 900, r);
        noise(&d.join("log/zzzzzzzzzzzzzzzz.seg"), 900, r);
    }),
    ("a segment of noise at the end", Then::Same, |d, r| {
        noise(&d.join("log/00000000ffffffff.seg"), 70_000, r);
    }),
    ("an empty segment at the end", Then::Same, |d, _| {
        fs::write(d.join("log/00000000ffffffff.seg"), b"").unwrap();
    }),
    ("the last segment cut", Then::Agrees, |d, _| {
        let last = segments(d).pop().unwrap();
        let file = fs::File::options().write(true).open(&last).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("a bit of the log", Then::Agrees, |d, r| {
        for seg in segments(d) {
            flip_bit(&seg, 0, 20_000, r);
        }
    }),
    ("the heads of all segments", Then::Agrees, |d, _| {
        for seg in segments(d) {
            let mut b = fs::read(&seg).unwrap();
            let n = b.len().min(512);
            b[..n].fill(0xEE);
            fs::write(&seg, b).unwrap();
        }
    }),
    ("no log", Then::Agrees, |d, _| fs::remove_dir_all(d.join("log")).unwrap()),
    ("neither log nor sums", Then::Agrees, |d, _| {
        fs::remove_dir_all(d.join("log")).unwrap();
        fs::remove_file(d.join("sums")).unwrap();
    }),
    ("text in place of the database", Then::Kept, |d, _| {
        fs::write(d.join("database"), b"this is no database\n".repeat(3000)).unwrap();
    }),
    ("noise in place of the database", Then::Kept, |d, r| noise(&d.join("database"), 40_960, r)),
    ("a short database", Then::Kept, |d, _| fs::write(d.join("database"), b"SQLite fo").unwrap()),
    ("a database without header", Then::Kept, |d, _| {
        let mut b = fs::read(d.join("database")).unwrap();
        b[..100].fill(0);
        fs::write(d.join("database"), b).unwrap();
    }),
    ("a database cut in half", Then::Kept, |d, _| {
        let b = fs::read(d.join("database")).unwrap();
        fs::write(d.join("database"), &b[..b.len() / 2 + 100]).unwrap();
    }),
    ("a database with a tail", Then::Agrees, |d, _| {
        let mut b = fs::read(d.join("database")).unwrap();
        b.extend([7; 12_345]);
        fs::write(d.join("database"), b).unwrap();
    }),
    ("no database", Then::Agrees, |d, _| fs::remove_file(d.join("database")).unwrap()),
    ("an empty database", Then::Agrees, |d, _| fs::write(d.join("database"), b"").unwrap()),
    ("a directory in place of the database", Then::Agrees, |d, _| in_the_way(&d.join("database"))),
    ("a file in place of the log", Then::Agrees, |d, _| in_the_way(&d.join("log"))),
    ("a directory in place of the sums", Then::Same, |d, _| in_the_way(&d.join("sums"))),
    ("a directory in place of the journal", Then::Same, |d, _| in_the_way(&d.join("journal"))),
    ("a directory in place of the wal", Then::Same, |d, _| in_the_way(&d.join("wal"))),
    ("a directory in place of the wal index", Then::Same, |d, _| in_the_way(&d.join("shm"))),
    ("a directory in place of a segment", Then::Agrees, |d, _| in_the_way(&segments(d).pop().unwrap())),
    ("a directory in place of a snapshot", Then::Same, |d, _| in_the_way(&d.join("snapshot.ltx"))),
    ("a file in place of the spool", Then::Same, |d, _| {
        let _ = fs::remove_dir_all(d.join("spool"));
        fs::write(d.join("spool"), b"").unwrap();
    }),
    ("transactions of the original that are noise", Then::Agrees, |d, r| {
        fs::create_dir(d.join("ltx")).unwrap();
        noise(&d.join("ltx/0000000000000001-0000000000000001.ltx"), 5000, r);
        noise(&d.join("ltx/garbage"), 100, r);
    }),
    ("a file in place of the original's directory", Then::Same, |d, _| {
        fs::write(d.join("ltx"), b"x").unwrap();
    }),
];

const JOURNALS: [&str; 2] = ["wal", "delete"];

/// A copy of the data directory to which each case is done: the cases must not depend on each other.
fn damage_and_start(node: &mut Node, saved: &Path, db: &str, damage: Damage, settle: bool, rng: &mut Rng) {
    restore(node, saved);
    if settle {
        // Copied files are other files; after a start and a stop they are known again.
        node.start().stop();
    }
    damage(&node.data.join("dbs").join(db), rng);
    node.start();
}

fn quarantined(node: &Node) -> usize {
    let dir = node.data.join("quarantine");
    if dir.exists() { names(&dir).len() } else { 0 }
}

#[test]
fn a_replica_with_damaged_files_ends_where_its_primary_is() {
    let _deadline = Deadline::secs(400);
    let scratch = Scratch::new("badrep");
    let (primary, mut replica) = pair_with(&scratch, &JOURNALS, sixty_rows);
    replica.stop();
    let saved = scratch.join("saved");
    copy_tree(&replica.data, &saved);
    let mut rng = Rng::new(Rng::seed_or(11));
    for (what, then, damage) in CASES {
        for db in JOURNALS {
            let what = format!("{what} ({db})");
            eprintln!("{what}");
            let offset = replica.log_text().len();
            damage_and_start(&mut replica, &saved, db, *damage, false, &mut rng);
            for each in JOURNALS {
                assert_same(&primary, &replica, each, &scratch);
            }
            // It is alive: what comes next arrives.
            once(primary.path(db), "UPDATE t SET x=x||'.' WHERE id=1");
            replica.sync_with(&primary, db);
            // Its log may bring it back; what is not brought back is kept, with a word about it.
            let text = replica.log_text();
            let said = ["recovery", "set aside", "snapshot"].iter().any(|w| text[offset..].contains(w));
            assert!(*then == Then::Same || said, "{what}: not a word of it\n{}", &text[offset..]);
            assert!(replica.is_running(), "{what}");
            assert_no_panic(&replica);
            replica.stop();
        }
    }
}

#[test]
fn a_primary_with_damaged_files_keeps_what_it_can_and_the_rest_aside() {
    let _deadline = Deadline::secs(400);
    let scratch = Scratch::new("badprim");
    let (mut primary, mut replica) = pair_with(&scratch, &JOURNALS, sixty_rows);
    let before: Vec<Before> = JOURNALS.iter().map(|db| Before::of(&primary, db)).collect();
    replica.stop();
    primary.stop();
    let (saved, saved_replica) = (scratch.join("saved"), scratch.join("saved-replica"));
    copy_tree(&primary.data, &saved);
    copy_tree(&replica.data, &saved_replica);
    let mut rng = Rng::new(Rng::seed_or(12));
    for (what, then, damage) in CASES {
        for (n, db) in JOURNALS.into_iter().enumerate() {
            let what = format!("{what} ({db})");
            eprintln!("{what}");
            let offset = primary.log_text().len();
            let believable =
                ["another database", "empties", "snapshot of noise"].iter().any(|w| what.contains(w));
            damage_and_start(&mut primary, &saved, db, *damage, believable, &mut rng);
            // The other database has nothing to do with it.
            let other = 1 - n;
            let same = |node: &Node, of: &Before| {
                let exported = export(node, &of.db);
                node.pos(&of.db) == Some(of.pos) && exported == of.image
            };
            assert!(
                same(&primary, &before[other]),
                "{what}: the other database changed\n{}",
                primary.log_tail(30)
            );
            let there = primary.path(db).exists();
            let text = primary.log_text();
            let new = &text[offset..];
            if *then == Then::Same {
                assert!(there && same(&primary, &before[n]), "{what}: lost something\n{new}");
                assert_eq!(once(primary.path(db), "PRAGMA integrity_check"), ["ok"], "{what}");
            } else if !there || !same(&primary, &before[n]) {
                assert!(quarantined(&primary) > 0, "{what}: changed, and nothing was kept\n{new}");
                assert!(
                    new.contains("set aside") || new.contains("kept a copy"),
                    "{what}: not a word\n{new}"
                );
            }
            // Writable, or free to be made anew; and a replica gets to wherever that is.
            if !there {
                sixty_rows(&primary, db, db);
            } else if same(&primary, &before[n]) {
                once(primary.path(db), "UPDATE t SET x=x||'.' WHERE id=1");
            }
            restore(&replica, &saved_replica);
            replica.start();
            for each in JOURNALS {
                if primary.path(each).exists() && each != db {
                    assert_same(&primary, &replica, each, &scratch);
                } else if primary.path(each).exists() {
                    replica.sync_within(&primary, each, Duration::from_secs(20));
                    let (a, b) = (export(&primary, each), export(&replica, each));
                    assert!(a == b, "{what}: nodes differ");
                }
            }
            assert!(primary.is_running() && replica.is_running(), "{what}");
            assert_no_panic(&primary);
            assert_no_panic(&replica);
            replica.stop();
            primary.stop();
        }
    }
}

/// Bits flipped anywhere in a stopped replica, again and again.
#[test]
fn a_replica_heals_from_random_damage() {
    let _deadline = Deadline::secs(90 + 60 * soak_factor());
    let scratch = Scratch::new("bitrot");
    let (primary, mut replica) = pair_with(&scratch, &JOURNALS, sixty_rows);
    let seed = Rng::seed_or(21);
    let mut rng = Rng::new(seed);
    for round in 0..12 * soak_factor() {
        replica.stop();
        let files = files_below(&replica.data.join("dbs"));
        for _ in 0..rng.range(1, 8) {
            let (path, size) = rng.pick(&files);
            match rng.range(0, 4) {
                _ if *size == 0 => {}
                0 => {
                    fs::File::options().write(true).open(path).unwrap().set_len(rng.range(0, *size)).unwrap();
                }
                _ => {
                    flip_bit(path, 0, 0, &mut rng);
                }
            }
        }
        for db in JOURNALS {
            once(primary.path(db), "UPDATE t SET x=x||'.' WHERE id=1");
        }
        replica.start();
        for db in JOURNALS {
            // A flipped page of a database that stopped cleanly is found when it is read (or exported).
            let healed = within(Duration::from_secs(20), || {
                let answer = get(&replica, &format!("/export?name={db}"), Duration::from_secs(10));
                let want = export(&primary, db);
                let healed = answer.is_ok_and(|a| a.status == 200 && a.body == want)
                    && replica.pos(db) == primary.pos(db);
                if !healed {
                    once(primary.path(db), "UPDATE t SET x=x||'.' WHERE id=1");
                    std::thread::sleep(Duration::from_millis(300));
                }
                healed
            });
            assert!(healed, "seed {seed}, round {round}: {db} stays damaged\n{}", replica.log_tail(30));
            assert_same(&primary, &replica, db, &scratch);
        }
        assert_no_panic(&replica);
    }
}
