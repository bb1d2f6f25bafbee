//! A replica applies what a primary made: transactions, snapshots, drops. After a crash it has some
//! position that existed, and goes on from there to the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use litefs_store::StoreError;
use litefs_store::database::OpenMode;
use litefs_store::disk::Op;
use litefs_store::own_mount::FileKind;
use litefs_store::sim_disk::{At, Crash, Fault, SimDisk};
use litefs_store::spool::Spooled;
use litefs_types::{NodeId, Pos};

use super::check::{Bounds, image};
use super::rollback::rows;
use super::run::{Failed, Look, Rules, Run, Script, Then, look};
use super::world::{Options, World};

/// One LTX file: the position it leads to, and its bytes.
type Files = Vec<(Pos, Vec<u8>)>;

/// What a primary would send.
fn made_by(script: &Script, snapshot_first: bool) -> Files {
    let mut run = Run::new(&SimDisk::new(), Options::default(), Look::Leave);
    let mut files = Vec::new();
    script(&mut run).unwrap();
    let (world, _) = run.finish();
    let db = world.db("db");
    let log = db.log();
    let mut next = log.first();
    while let Some(e) = next.and_then(|t| log.get(t).unwrap()) {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut e.reader(), &mut bytes).unwrap();
        files.push((e.post(), bytes));
        next = Some(e.max_txid().next());
    }
    if snapshot_first {
        let mut bytes = Vec::new();
        let pos = db.write_snapshot(NodeId::new(9), true, &mut bytes).unwrap();
        // Diverged: something else at another position, then the snapshot.
        files.truncate(2);
        files.push((pos, bytes));
    }
    files
}

fn apply(w: &World, bytes: &[u8]) -> Result<(), StoreError> {
    let db = w.store.create_database(&"db".parse().unwrap())?;
    db.apply(Spooled::from_bytes(bytes.to_vec())).map(|_| ())
}

/// Applies them all, with a reader from the second on.
fn replay(r: &mut Run, files: &Files, reader: bool) -> Result<(), Failed> {
    for (n, (_, bytes)) in files.iter().enumerate() {
        r.step(|w| apply(w, bytes))?;
        if reader && n == 1 {
            r.open(1, "db")?;
        }
        if reader && n >= 1 && !r.world.db("db").is_dropped() {
            r.sql(1, "SELECT count(*) FROM sqlite_schema")?;
        }
        r.step(|w| {
            w.store.tick();
            w.store.maintain();
            Ok(())
        })?;
    }
    Ok(())
}

/// A replica catches up after the crash.
fn catch_up(files: &Files, left: &SimDisk, options: Options, place: &str) {
    let place = format!("{place}, catching up");
    let world = World::open(&left.crash(Crash::KeepAll), options).unwrap();
    let at = world.store.database("db").map_or(Pos::ZERO, |db| db.pos());
    let from = files.iter().position(|(pos, _)| *pos == at).map_or(0, |i| i + 1);
    for (pos, bytes) in &files[from..] {
        apply(&world, bytes).unwrap_or_else(|e| panic!("{place} from {at}: {e}"));
        assert_eq!(world.db("db").pos(), *pos, "{place}");
    }
    image(&world.db("db"), &place);
}

fn run(files: Files, reader: bool) {
    let options = Options { primary: false, ..Options::default() };
    let rules = Rules { can_be_sent_again: true, ..Rules::default() };
    let files = Arc::new(files);
    let (mine, theirs) = (Arc::clone(&files), files);
    let then: Arc<Then> =
        Arc::new(move |left: &SimDisk, o, _: &Bounds<'_>, place: &str| catch_up(&theirs, left, o, place));
    look(&SimDisk::new(), options, rules, &move |r| replay(r, &mine, reader), &then).all_right();
}

fn rollback_mode(r: &mut Run) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(1, "PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.sql(1, &rows(0, 12, "grown"))?;
    r.sql(1, "UPDATE t SET x = 'small' WHERE id > 2")?;
    r.sql(1, "VACUUM")?;
    r.sql(1, "PRAGMA page_size=1024; VACUUM")?;
    r.sql(1, "INSERT INTO t VALUES(100, 'other page size')")?;
    r.close(1);
    Ok(())
}

fn wal_mode(r: &mut Run) -> Result<(), Failed> {
    r.open(1, "db")?;
    r.sql(1, "PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.sql(1, "PRAGMA journal_mode=WAL")?;
    r.sql(1, &rows(0, 12, "grown"))?;
    r.sql(1, "UPDATE t SET x = 'small' WHERE id > 2")?;
    r.sql(1, "VACUUM")?;
    r.sql(1, "PRAGMA journal_mode=DELETE")?;
    r.sql(1, "INSERT INTO t VALUES(100, 'delete')")?;
    r.sql(1, "PRAGMA journal_mode=WAL")?;
    r.sql(1, "INSERT INTO t VALUES(101, 'wal')")?;
    r.close(1);
    Ok(())
}

fn dropped(r: &mut Run) -> Result<(), Failed> {
    rollback_mode(r)?;
    r.step(|w| w.db("db").drop_database().map(|_| ()))?;
    r.open(1, "db")?;
    r.sql(1, "PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
    r.close(1);
    r.step(|w| w.db("db").drop_database().map(|_| ()))
}

#[test]
fn rollback_transactions() {
    run(made_by(&rollback_mode, false), false);
}

#[test]
fn rollback_transactions_with_a_reader() {
    run(made_by(&rollback_mode, false), true);
}

#[test]
fn wal_transactions() {
    run(made_by(&wal_mode, false), false);
}

#[test]
fn wal_transactions_with_a_reader() {
    run(made_by(&wal_mode, false), true);
}

#[test]
fn drops() {
    run(made_by(&dropped, false), false);
}

#[test]
fn snapshot_over_rollback() {
    run(made_by(&rollback_mode, true), false);
}

#[test]
fn snapshot_over_wal() {
    run(made_by(&wal_mode, true), false);
}

/// A reader keeps a received snapshot out of the database file: exports, and replicas of this node once it is
/// the primary, get it all the same.
#[test]
fn a_snapshot_that_is_only_in_frames_can_be_copied() {
    let files = made_by(&wal_mode, true);
    let later = made_by(&wal_mode, false);
    let (pos, snapshot) = files.last().unwrap();
    let mut r = Run::new(&SimDisk::new(), Options { primary: false, ..Options::default() }, Look::Leave);
    r.step(|w| apply(w, &later[0].1)).unwrap();
    r.step(|w| apply(w, &later[1].1)).unwrap();
    r.open(1, "db").unwrap();
    r.sql(1, "BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
    r.step(|w| apply(w, snapshot)).unwrap();
    let db = r.world.db("db");
    assert_eq!(db.pos(), *pos);
    let kept = "/data/dbs/db/snapshot.ltx";
    assert!(r.world.disk.content(kept).is_some(), "the reader did not keep it out of the file");
    let bytes = image(&db, "in frames");

    // One that was started before the checkpoint goes on behind it.
    let started = db.export().unwrap();
    r.sql(1, "COMMIT").unwrap();
    r.close(1);
    for _ in 0..3 {
        r.world.store.tick();
        r.world.store.maintain();
    }
    let mut out = Vec::new();
    started.write(&db, &mut out).unwrap();
    assert!(out == bytes);
    assert!(image(&db, "later") == bytes);
}

/// A drop that fails half way: the old content does not come back, neither here nor after a restart.
fn drop_that_fails_at(op: Op, heals: bool) {
    let made = made_by(
        &|r: &mut Run| {
            wal_mode(r)?;
            r.step(|w| w.db("db").drop_database().map(|_| ()))
        },
        false,
    );
    let ((pos, drop), before) = made.split_last().unwrap();
    let options = Options { primary: false, ..Options::default() };
    let mut r = Run::new(&SimDisk::new(), options, Look::Leave);
    for (_, bytes) in before {
        r.step(|w| apply(w, bytes)).unwrap();
    }
    let db = r.world.db("db");
    r.world.disk.arm(At::NthOf(op, 0), Fault::Error(libc::EIO));
    let done = apply(&r.world, drop);
    r.world.disk.disarm();
    assert_eq!(done.is_ok(), heals, "{op}: {done:?}");
    assert_eq!(db.poisoned().is_none(), heals, "{op}");
    for how in [Crash::KeepAll, Crash::LoseAll] {
        let world = World::open(&r.world.disk.crash(how), options).unwrap();
        let db = world.db("db");
        assert_eq!((db.pos(), db.is_dropped()), (*pos, true), "{op} {how:?}");
        let set_aside = world.disk.files().into_iter().any(|f| f.starts_with("/data/quarantine"));
        assert!(!set_aside, "{op} {how:?}: contradicts itself");
    }
}

#[test]
fn a_drop_that_fails_half_way_is_completed() {
    // Written again while the database stays locked ...
    drop_that_fails_at(Op::new("own.truncate"), true);
    drop_that_fails_at(Op::new("own.unlink"), true);
    // ... or left to recovery.
    drop_that_fails_at(Op::new("drop.unlink"), false);
}

/// An apply that waits for a reader keeps neither the next one nor the upkeep of other databases waiting.
#[test]
fn an_open_beside_a_blocked_apply_does_not_wait_for_it() {
    let made = made_by(
        &|r: &mut Run| {
            wal_mode(r)?;
            r.step(|w| w.db("db").drop_database().map(|_| ()))
        },
        false,
    );
    let (drop, before) = made.split_last().unwrap();
    let mut r = Run::new(&SimDisk::new(), Options { primary: false, ..Options::default() }, Look::Leave);
    for (_, bytes) in before {
        r.step(|w| apply(w, bytes)).unwrap();
    }
    r.open(1, "db").unwrap();
    r.sql(1, "BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
    let world = Arc::clone(&r.world);
    std::thread::scope(|s| {
        let applying = s.spawn(|| apply(&world, &drop.1));
        std::thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        let mode = OpenMode { read: true, write: true, truncate: false };
        let db = world.db("db");
        assert!(db.open_file(&world.caller(99), FileKind::Database, mode).is_ok());
        world.store.tick();
        let took = start.elapsed();
        assert!(!applying.is_finished(), "it was not blocked");
        // The reader's locks go, without SQLite at work beside the apply.
        r.kill(1);
        applying.join().unwrap().unwrap();
        assert!(took < Duration::from_secs(1), "OPEN and upkeep took {took:?}");
    });
}
