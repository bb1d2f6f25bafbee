//! What is on the disk behind the mount, where it is not byte for byte what the mount shows: room ahead of the
//! wal, the journal's file that is used again; and how many requests a commit costs. Needs root and /dev/fuse.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use litefs_tests::image::{assert_same, dump};
use litefs_tests::node::{Node, pair, single};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, once};
use litefs_tests::watch::{Deadline, eventually};

const SOON: Duration = Duration::from_secs(10);

fn insert(s: &mut Session, rows: u32) {
    for _ in 0..rows {
        s.exec("INSERT INTO t(x) VALUES(randomblob(40))");
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

#[test]
fn a_wal_has_room_on_disk_that_nobody_sees() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("wal_room");
    let (p, r) = pair(&scratch);
    let mut s = Session::open(p.path("db"));
    s.exec("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    insert(&mut s, 20);
    let (shown, disk) = (p.path("db-wal"), p.backing("db", "wal"));
    eventually(SOON, "room ahead of the wal", || (size(&disk) >= 256 * 1024).then_some(()));
    let used = size(&shown);
    assert_eq!((used - 32) % (24 + 4096), 0, "a header and whole frames");
    assert!(used < 256 * 1024);
    let (seen, raw) = (fs::read(&shown).expect("the wal"), fs::read(&disk).expect("its file"));
    assert_eq!(seen.len() as u64, used);
    assert!(raw.starts_with(&seen) && raw[seen.len()..].iter().all(|b| *b == 0), "zeros behind the frames");

    // It stays ahead, up to what a wal reaches before its checkpoint.
    s.exec("PRAGMA wal_autocheckpoint=0");
    insert(&mut s, 150);
    eventually(SOON, "more room", || (size(&disk) >= 1024 * 1024).then_some(()));
    s.exec("BEGIN");
    s.exec("INSERT INTO t(x) SELECT randomblob(3000) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 3000) SELECT i FROM n)");
    s.exec("COMMIT");
    assert!(size(&disk) >= size(&shown) && size(&shown) > 8 * 1024 * 1024);
    assert_same(&p, &r, "db", &scratch);
    // A checkpoint that empties it takes the room away, and the next frames get theirs.
    assert_eq!(s.one("PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    assert_eq!((size(&shown), size(&disk)), (0, 0));
    insert(&mut s, 5);
    eventually(SOON, "room again", || (size(&disk) >= 256 * 1024).then_some(()));
    let before = dump(&p.path("db"));
    s.close();
    assert!(!shown.exists() && !disk.exists(), "the last connection removes it");
    assert_eq!(dump(&p.path("db")), before);
    assert_same(&p, &r, "db", &scratch);
}

#[test]
fn a_wal_with_room_survives_the_daemon() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("wal_room_kill");
    let mut p = single(&scratch);
    let mut s = Session::open(p.path("db"));
    s.exec("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    insert(&mut s, 30);
    eventually(SOON, "room", || (size(&p.backing("db", "wal")) >= 256 * 1024).then_some(()));
    p.kill9();
    s.kill9();
    p.start();
    assert_eq!(once(p.path("db"), "SELECT count(*) FROM t"), ["30"]);
    assert_eq!(once(p.path("db"), "PRAGMA integrity_check"), ["ok"]);
}

/// Requests that the daemon read so far, and other reads of its.
fn reads(node: &Node) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", node.pid())).expect("counters of the daemon");
    let line = io.lines().find_map(|l| l.strip_prefix("syscr: ")).expect("syscr");
    line.parse().expect("a number")
}

#[test]
fn fewer_requests_once_the_wal_is_reused_alone() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("wal_requests");
    let p = single(&scratch);
    let mut s = Session::open(p.path("db"));
    s.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    s.exec("PRAGMA wal_autocheckpoint=0");
    let cost = |s: &mut Session| {
        let before = reads(&p);
        insert(s, 400);
        reads(&p) - before
    };
    let first = cost(&mut s);
    assert!(s.one("PRAGMA wal_checkpoint(PASSIVE)").starts_with("0|"));
    // Beside the checkpoint, by the publisher.
    std::thread::sleep(Duration::from_millis(500));
    let second = cost(&mut s);
    assert!(second * 6 < first * 5, "{first} reads for 400 commits, then {second}");
}

const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

fn magic(path: &Path) -> bool {
    fs::read(path).is_ok_and(|b| b.starts_with(&MAGIC))
}

#[test]
fn the_journals_file_is_used_again() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("journal_file");
    let (mut p, r) = pair(&scratch);
    let (shown, disk) = (p.path("db-journal"), p.backing("db", "journal"));
    let mut s = Session::open(p.path("db"));
    s.exec("PRAGMA journal_mode=DELETE; CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    insert(&mut s, 3);
    let inode = fs::metadata(&disk).expect("it keeps its name").ino();
    assert!(!shown.exists() && !magic(&disk));
    insert(&mut s, 3);
    assert_eq!(fs::metadata(&disk).expect("it keeps its name").ino(), inode);

    // While it is live, the mount shows its own length and bytes.
    s.exec("PRAGMA cache_size=2; BEGIN");
    s.exec("INSERT INTO t(x) SELECT randomblob(900) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 60) SELECT i FROM n)");
    let (seen, raw) = (fs::read(&shown).expect("a live journal"), fs::read(&disk).expect("its file"));
    assert!(seen.starts_with(&MAGIC) && raw.starts_with(&seen) && seen.len() <= raw.len());
    s.exec("ROLLBACK");
    assert!(!shown.exists() && !magic(&disk), "a journal that was played back");
    s.exec("DELETE FROM t WHERE id = 2");

    for journal in ["TRUNCATE", "PERSIST", "DELETE", "TRUNCATE", "DELETE"] {
        s.exec(&format!("PRAGMA journal_mode={journal}"));
        insert(&mut s, 2);
        match journal {
            "TRUNCATE" => assert_eq!(size(&shown), 0, "{journal}"),
            "PERSIST" => assert!(size(&shown) > 0, "{journal}"),
            _ => assert!(!shown.exists(), "{journal}"),
        }
        assert!(!magic(&disk), "{journal}");
        assert_same(&p, &r, "db", &scratch);
    }
    // A journal with two headers leaves none behind: the second would be taken for the next one's. In
    // PERSIST mode SQLite looks for it; who comes after that in another mode is not shown it.
    let headers =
        || fs::read(&disk).map_or(0, |raw| raw.chunks(512).filter(|s| s.starts_with(&MAGIC)).count());
    for journal in ["DELETE", "PERSIST"] {
        s.exec(&format!("PRAGMA journal_mode={journal}; PRAGMA cache_size=1; BEGIN"));
        s.exec("UPDATE t SET x = randomblob(900); INSERT INTO t(x) SELECT randomblob(900) FROM t");
        s.exec("UPDATE t SET x = randomblob(800); COMMIT");
        assert_eq!(headers() > 0, journal == "PERSIST", "{journal}");
        let mut other = Session::open(p.path("db"));
        other.exec("PRAGMA journal_mode=DELETE; INSERT INTO t(x) VALUES(1)");
        assert_eq!(headers(), 0, "a header behind the journal after {journal}");
        other.close();
        assert_same(&p, &r, "db", &scratch);
    }

    // A daemon that dies beside a live journal that lies over a longer one.
    let rows = dump(&p.path("db"));
    s.exec("PRAGMA cache_size=2; BEGIN; UPDATE t SET x = randomblob(10) WHERE id < 8");
    s.exec("DELETE FROM t WHERE id > 8");
    p.kill9();
    s.kill9();
    p.start();
    assert_eq!(dump(&p.path("db")), rows);
    assert!(!shown.exists());
    once(p.path("db"), "INSERT INTO t(x) VALUES(1)");
    p.stop();
    assert!(!disk.exists(), "a clean stop leaves nothing");
}

#[test]
fn who_keeps_a_removed_journal_open_sees_none_of_the_next_one() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("journal_stale");
    let p = single(&scratch);
    let shown = p.path("db-journal");
    let mut s = Session::open(p.path("db"));
    s.exec("PRAGMA journal_mode=DELETE; CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    insert(&mut s, 10);
    s.exec("BEGIN IMMEDIATE; UPDATE t SET x = 1");
    let stale = fs::OpenOptions::new().read(true).write(true).open(&shown).expect("the live journal");
    s.exec("COMMIT");
    s.exec("BEGIN; UPDATE t SET x = 2");
    use std::os::unix::fs::FileExt as _;
    let mut b = [1; 64];
    assert_eq!(stale.read_at(&mut b, 0).expect("an empty file"), 0);
    assert!(stale.write_at(&[7; 64], 0).is_err(), "it would be the next journal's");
    stale.set_len(0).expect("means nothing");
    s.exec("ROLLBACK");
    assert_eq!(s.one("SELECT count(*), sum(x) FROM t"), "10|10");
    assert_eq!(s.one("PRAGMA integrity_check"), "ok");
}
