//! Databases with a WAL: locks, index, restart, checkpoint, hand-over.

use std::io;
use std::time::{Duration, Instant};

use litefs_sqlite::lock_bytes::Lock;
use litefs_sqlite::shm::{CheckpointInfo, IndexHeader};
use litefs_sqlite::wal_index::{BLOCK_LEN, entries_in, lookup, page_of};
use litefs_store::apply::wal_writer::{WalSync, WalWriter, Written};
use litefs_store::apply::{ApplyError, Blocker, rollback_writer};
use litefs_store::own_mount::{FileKind, LockKind, OwnMount, Probe};
use litefs_store::plain_mount::PlainMount;
use litefs_types::PageNo;

use crate::client::{Client, Version};
use crate::primary::{CHECK, CutShort, Primary, Replica, Tx, in_ms, soon};

#[allow(clippy::unnecessary_wraps)] // what a checkpoint calls may fail
pub fn log_is_durable() -> io::Result<()> {
    Ok(())
}

/// A replica that has the first transaction, and its writer.
pub fn start(p: &mut Primary) -> (Replica, WalWriter) {
    let r = Replica::new();
    let first = p.update(1..100, 60);
    rollback_writer::apply(&r.mount, &mut first.source(), p.page_size, first.commit, soon()).unwrap();
    let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
    (r, w)
}

pub fn write(r: &Replica, w: &WalWriter, tx: &Tx) -> Written {
    w.write_tx(&r.mount, &mut tx.source(), tx.commit, WalSync::No).unwrap()
}

pub fn checkpoint_all(r: &Replica, w: &WalWriter) {
    let c = w.checkpoint(&r.mount, &log_is_durable).unwrap();
    assert!(c.complete && c.backfilled == c.mx_frame && c.blocked_by.is_none(), "{c:?}");
}

fn shm(r: &Replica) -> Vec<u8> {
    std::fs::read(r.mount.path(FileKind::Shm)).unwrap()
}

#[test]
fn applied_transactions_are_seen_and_checkpointed() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    assert_eq!(shm(&r).len(), 32768);
    let mut clients = vec![Client::new(Version::Bundled, &r.path())];
    clients.extend(Client::system(&r.path()));
    for i in 0..20 {
        write(&r, &w, &p.update(i * 10..i * 10 + 50, 60));
        for c in &mut clients {
            assert_eq!(c.one(CHECK), format!("ok|{}", i + 2));
        }
    }
    checkpoint_all(&r, &w);
    assert_eq!(r.image(), p.image);
    let tx = p.update(1..3, 60);
    let written = write(&r, &w, &tx);
    assert!(written.restarted && written.first_frame == 1, "{written:?}");
    write(&r, &w, &p.shrink(150));
    checkpoint_all(&r, &w);
    assert_eq!(r.image(), p.image);
    for c in &mut clients {
        assert_eq!(c.one(CHECK), "ok|23");
        assert_eq!(c.one("PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn local_writers_are_busy_at_once_and_cannot_delay_the_apply() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    write(&r, &w, &p.update(1..50, 70));
    let mut clients = vec![Client::new(Version::Bundled, &r.path())];
    clients.extend(Client::system(&r.path()));
    for c in &mut clients {
        assert!(c.one(CHECK).starts_with("ok"));
        for sql in ["INSERT INTO t VALUES(9999,1,'')", "BEGIN IMMEDIATE"] {
            let start = Instant::now();
            let said = c.one(sql);
            let took = start.elapsed();
            assert!(said.contains("database is locked"), "{sql}: {said}");
            // The pipe to the other process and a busy machine are in it.
            assert!(took < Duration::from_millis(30), "{sql}: {took:?}");
        }
        assert!(c.one("PRAGMA journal_mode=delete").contains("locked"));
    }
    // TRUNCATE waits for readers with the busy handler, but cannot take WRITE before that.
    let mut reader = Client::new(Version::Bundled, &r.path());
    reader.run("BEGIN; SELECT count(*) FROM t;");
    clients[0].run("PRAGMA busy_timeout=1000");
    std::thread::scope(|s| {
        let c = &mut clients[0];
        let truncate = s.spawn(move || c.one("PRAGMA wal_checkpoint(TRUNCATE)"));
        let mut slowest = Duration::ZERO;
        for i in 0..50 {
            let tx = p.update(i..i + 20, 60);
            let start = Instant::now();
            write(&r, &w, &tx);
            slowest = slowest.max(start.elapsed());
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(slowest < Duration::from_millis(100), "{slowest:?}");
        let said = truncate.join().unwrap();
        assert!(said.starts_with("1|"), "busy: {said}");
    });
    for c in clients {
        c.close();
    }
    reader.close();
    assert!(r.has(FileKind::Wal) && r.has(FileKind::Shm), "the last close must leave them");
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one(CHECK), "ok|52");
}

#[test]
fn after_detach_a_local_commit_chains_on_our_frames() {
    for version in [Version::Bundled, Version::System] {
        let mut p = Primary::new(4096, "wal");
        let (r, w) = start(&mut p);
        let Some(mut c) = (if version == Version::System {
            Client::system(&r.path())
        } else {
            Some(Client::new(version, &r.path()))
        }) else {
            return;
        };
        c.run("PRAGMA wal_autocheckpoint=0");
        assert_eq!(c.one(CHECK), "ok|1");
        let written = write(&r, &w, &p.update(1..80, 90));
        assert!(c.one("DELETE FROM t WHERE id=50").contains("locked"));
        let pos = w.detach(&r.mount, soon()).unwrap();
        assert_eq!(pos, written.position);
        assert!(matches!(
            w.write_tx(&r.mount, &mut p.snapshot().source(), 5, WalSync::No),
            Err(ApplyError::Detached)
        ));
        assert_eq!(c.run("INSERT INTO t VALUES(12345,1,'local')"), Vec::<String>::new());
        let (_dir, conn) = r.recovered();
        let n: i64 = conn.query_row("SELECT count(*) FROM t WHERE id=12345", [], |r| r.get(0)).unwrap();
        assert_eq!(n, 1, "recovery finds the whole chain");
        let ok: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(ok, "ok");

        // And back: what it wrote is adopted, our frames chain on.
        let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
        assert!(w.position().mx_frame > pos.mx_frame && !w.position().chain_broken);
        let whole = p.snapshot();
        write(&r, &w, &whole);
        assert_eq!(c.one(CHECK), "ok|2");
        assert_eq!(c.one("SELECT count(*) FROM t WHERE id=12345"), "0");
        let (_dir, conn) = r.recovered();
        let generation: i64 = conn.query_row("SELECT gen FROM meta", [], |r| r.get(0)).unwrap();
        assert_eq!(generation, 2);
    }
}

#[test]
fn attach_waits_for_a_local_writer_and_names_it() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    w.detach(&r.mount, soon()).unwrap();
    let mut c = Client::new(Version::Bundled, &r.path());
    c.run("BEGIN IMMEDIATE");
    let error = WalWriter::attach(&r.mount, p.page_size, in_ms(60)).unwrap_err();
    assert_eq!(error.blocker(), Some(Blocker { lock: Lock::WalWrite, pid: Some(c.pid()) }));
    c.run("COMMIT");
    // Nothing stayed locked: the mode switch needs everything.
    assert_eq!(c.one("PRAGMA journal_mode=delete"), "delete");
    assert_eq!(c.one("PRAGMA journal_mode=wal"), "wal");
    c.run("PRAGMA locking_mode=exclusive; INSERT INTO t VALUES(7777,1,'')");
    let error = WalWriter::attach(&r.mount, p.page_size, in_ms(60)).unwrap_err();
    assert_eq!(error.blocker(), Some(Blocker { lock: Lock::Shared, pid: Some(c.pid()) }));
}

#[test]
fn leftovers_of_a_killed_writer_are_cleaned_from_the_index() {
    let mut p = Primary::new(512, "wal");
    let (r, w) = start(&mut p);
    write(&r, &w, &p.update(1..40, 60));
    let pos = w.detach(&r.mount, soon()).unwrap();
    // Another connection keeps the index alive while one dies with a spilled transaction.
    let mut stays = Client::new(Version::Bundled, &r.path());
    assert_eq!(stays.one(CHECK), "ok|2");
    let mut dies = Client::new(Version::Bundled, &r.path());
    dies.run("PRAGMA cache_size=2; BEGIN; UPDATE t SET pad=zeroblob(200);");
    dies.kill();
    let mx = pos.mx_frame;
    assert_ne!(page_of(&shm(&r), 0, mx + 20), 0, "the test needs leftovers");

    let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
    assert_eq!(w.position(), pos);
    let tx = p.update(1..5, 60);
    let written = write(&r, &w, &tx);
    let index = shm(&r);
    let header = IndexHeader::decode_pair(&index).unwrap();
    assert_eq!(header.mx_frame, written.last_frame);
    for entry in written.last_frame..4062 {
        assert_eq!(page_of(&index, 0, entry), 0, "entry {entry}");
    }
    for (i, (page, _)) in tx.pages.iter().enumerate() {
        let found = lookup(&index[..BLOCK_LEN], 0, page.get(), u32::MAX);
        assert_eq!(found, Some(mx + 1 + i as u32));
    }
    assert_eq!(stays.one(CHECK), "ok|3");
    assert_eq!(stays.one("PRAGMA integrity_check"), "ok");
    checkpoint_all(&r, &w);
    assert_eq!(r.image(), p.image);
}

#[test]
fn the_index_is_rebuilt_from_the_wal() {
    let mut p = Primary::new(512, "wal");
    let (r, w) = start(&mut p);
    let mut frames = 0;
    while frames < 9000 {
        frames = write(&r, &w, &p.update(1..4000, 60)).last_frame;
    }
    let pos = w.detach(&r.mount, soon()).unwrap();
    let before = shm(&r);
    // Nobody has the index open: whoever comes first truncates it.
    let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
    let after = w.position();
    assert_eq!((after, after.mx_frame), (pos, frames));
    let now = shm(&r);
    assert!(before[136..] == now[136..], "rebuilt as it had grown");
    assert_eq!(entries_in(2, frames), frames - 8158);
    let mut c = Client::new(Version::Bundled, &r.path());
    assert!(c.one(CHECK).starts_with("ok|"));
    // What lies behind the last commit does not count.
    w.detach(&r.mount, soon()).unwrap();
    c.close();
    let wal = r.mount.path(FileKind::Wal);
    if wal.exists() {
        let len = std::fs::metadata(&wal).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(len - 1).unwrap();
        let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
        assert!(w.position().mx_frame < frames);
    } else {
        assert_eq!(r.image(), p.image, "the last close checkpointed all of it");
    }
}

#[test]
fn restart_and_growth_while_readers_hold_marks() {
    let mut p = Primary::new(512, "wal");
    let (r, w) = start(&mut p);
    write(&r, &w, &p.update(1..100, 60));
    // One reader on mark 0 (everything is in the file), one on a mark in the WAL.
    checkpoint_all(&r, &w);
    let mut on_zero = Client::new(Version::Bundled, &r.path());
    on_zero.run("BEGIN");
    let zero = on_zero.one(CHECK);
    assert_eq!(r.mount.probe(Lock::WalRead(0), LockKind::Exclusive), held_by(&on_zero));

    let written = write(&r, &w, &p.update(1..100, 61));
    assert!(written.restarted, "a reader of the file alone does not keep the WAL");
    let mut in_wal = Client::new(Version::Bundled, &r.path());
    in_wal.run("BEGIN");
    let one = in_wal.one(CHECK);
    assert_eq!(r.mount.probe(Lock::WalRead(1), LockKind::Exclusive), held_by(&in_wal));

    let c = w.checkpoint(&r.mount, &log_is_durable).unwrap();
    assert!(!c.complete && c.backfilled == 0, "{c:?}");
    assert_eq!(c.blocked_by, Some(Blocker { lock: Lock::WalRead(0), pid: Some(on_zero.pid()) }));
    while w.position().mx_frame < 9000 {
        write(&r, &w, &p.update(1..2000, 62));
    }
    assert_eq!(shm(&r).len(), 3 * BLOCK_LEN, "the index grew under them");
    assert_eq!(on_zero.one(CHECK), zero);
    assert_eq!(in_wal.one(CHECK), one);
    on_zero.run("COMMIT");
    let c = w.checkpoint(&r.mount, &log_is_durable).unwrap();
    assert_eq!(c.blocked_by, Some(Blocker { lock: Lock::WalRead(1), pid: Some(in_wal.pid()) }));
    assert_eq!((c.backfilled, c.complete), (written.last_frame, false), "up to the oldest snapshot");
    assert_eq!(in_wal.one(CHECK), one);
    in_wal.run("COMMIT");
    checkpoint_all(&r, &w);
    assert_eq!(r.image(), p.image);
    let again = write(&r, &w, &p.update(1..10, 60));
    assert!(again.restarted);
    assert_eq!(shm(&r).len(), 3 * BLOCK_LEN, "never shrinks");
    for c in [&mut on_zero, &mut in_wal] {
        assert!(c.one(CHECK).starts_with("ok"));
    }
}

fn held_by(c: &Client) -> Probe {
    Probe::Held { pid: Some(c.pid()), kind: LockKind::Shared }
}

#[test]
fn a_failed_transaction_is_invisible_and_may_be_repeated() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    let mut c = Client::new(Version::Bundled, &r.path());
    let (a, b) = (p.update(1..300, 900), p.update(1..400, 900));
    write(&r, &w, &a);
    let before = w.position();
    let error =
        w.write_tx(&r.mount, &mut CutShort(&b, b.pages.len() - 1), b.commit, WalSync::Yes).unwrap_err();
    assert!(matches!(error, ApplyError::Source(_)));
    assert_eq!(w.position(), before);
    assert_eq!(c.one(CHECK), "ok|2");
    w.write_tx(&r.mount, &mut b.source(), b.commit, WalSync::Yes).unwrap();
    assert_eq!(c.one(CHECK), "ok|3");
    // A change of the size alone.
    let empty: &[(PageNo, Vec<u8>)] = &[];
    w.write_tx(&r.mount, &mut { empty }, b.commit, WalSync::No).unwrap();
    assert_eq!(c.one(CHECK), "ok|3");
    // A checkpoint whose log cannot be made durable touches nothing.
    let image = r.image();
    let error = w.checkpoint(&r.mount, &|| Err(io::Error::other("log"))).unwrap_err();
    assert!(matches!(error, ApplyError::Io { .. }), "{error}");
    assert_eq!(r.image(), image);
    for lock in [Lock::WalRead(0), Lock::WalCkpt] {
        let other = PlainMount::new(r.dir.path().to_owned(), "db".parse().unwrap());
        other.open(FileKind::Shm, false).unwrap();
        assert_eq!(other.probe(lock, LockKind::Exclusive), Probe::Free, "{lock:?}");
    }
    checkpoint_all(&r, &w);
    assert_eq!(r.image(), p.image);
}

#[test]
fn an_invalid_header_of_our_own_is_repaired() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    write(&r, &w, &p.update(1..30, 60));
    // As if the second of the two header writes had failed.
    r.mount.write_all_at(FileKind::Shm, &[0xff; 8], 0).unwrap();
    assert!(IndexHeader::decode_pair(&shm(&r)).is_none());
    write(&r, &w, &p.update(1..30, 61));
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one(CHECK), "ok|3");
    c.close();
    // An operator's `truncate -s 0`.
    r.mount.set_len(FileKind::Shm, 0).unwrap();
    write(&r, &w, &p.update(1..3, 62));
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!((c.one(CHECK), c.one("PRAGMA integrity_check")), ("ok|4".into(), "ok".into()));
    checkpoint_all(&r, &w);
    assert_eq!(r.image(), p.image);
}

/// What an application does to `-shm` at any time: readers of its header must cope.
#[test]
fn a_truncated_or_missing_index_is_no_valid_header() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    write(&r, &w, &p.update(1..30, 60));
    let whole = shm(&r);
    w.detach(&r.mount, soon()).unwrap();
    for len in [0, 3, 95, 4095, 32767] {
        assert_eq!(IndexHeader::decode_pair(&whole[..len]).is_some(), len >= 96, "{len}");
        assert_eq!(CheckpointInfo::decode(&whole[..len]).is_some(), len >= 136, "{len}");
        r.mount.open(FileKind::Shm, true).unwrap();
        r.mount.set_len(FileKind::Shm, len as u64).unwrap();
        let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
        assert_eq!(shm(&r).len(), 32768);
        assert_eq!(w.detach(&r.mount, soon()).unwrap().n_pages, (p.image.len() / 4096) as u32);
    }
    std::fs::remove_file(r.mount.path(FileKind::Shm)).unwrap();
    let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
    assert!(r.has(FileKind::Shm));
    write(&r, &w, &p.update(1..30, 61));
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one(CHECK), "ok|3");
}

#[test]
fn a_wal_with_a_broken_chain_is_emptied() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    write(&r, &w, &p.update(1..60, 100));
    let last = write(&r, &w, &p.update(1..60, 101)).last_frame;
    w.detach(&r.mount, soon()).unwrap();
    // A connection keeps the index; SQLite 3.40 leaves frame headers like this one.
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one(CHECK), "ok|3");
    let at = litefs_sqlite::wal::frame_offset(last, p.page_size) + 8;
    r.mount.write_all_at(FileKind::Wal, &[0; 16], at).unwrap();
    let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
    assert!(w.position().chain_broken && w.needs_checkpoint());
    write(&r, &w, &p.update(1..60, 102));
    assert_eq!(c.one(CHECK), "ok|4");
    checkpoint_all(&r, &w);
    assert!(!w.position().chain_broken);
    assert_eq!(std::fs::metadata(r.mount.path(FileKind::Wal)).unwrap().len(), 0);
    assert_eq!(c.one(CHECK), "ok|4");
    write(&r, &w, &p.update(1..60, 103));
    assert_eq!(c.one(CHECK), "ok|5");
}
