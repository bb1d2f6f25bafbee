//! The disk says no, once, and goes on: full at each operation, a failed sync at each sync.
//!
//! Whatever the application was told holds afterwards, also after a power loss; what is captured is what
//! SQLite has; and with room on the disk again everything goes on. After a failed sync nothing is
//! acknowledged any more, because what it did not write counts as written for every later one.

use litefs_store::disk::Op;
use litefs_store::sim_disk::{At, Crash, Fault, SimDisk};

use super::check::{dump, image, sound};
use super::run::{Look, Run, Script, soak};
use super::vfs::Visible;
use super::world::{Options, World};
use super::{modes, multi, rollback, wal, whole};

fn is_sync(op: Op) -> bool {
    op.name().contains("sync") || op.name() == "data.dir"
}

/// Changes of the log that were half made: only recovery knows what is on the disk.
fn may_poison(op: Op) -> bool {
    is_sync(op)
        || matches!(op.name(), "log.mark" | "log.rewind" | "own.write" | "own.truncate" | "own.unlink")
}

/// Runs the script once for every operation that `hit` picks, with this fault there.
fn everywhere(fault: Fault, hit: fn(Op) -> bool, script: &Script) {
    let options = Options::default();
    let disk = SimDisk::new();
    let mut run = Run::new(&disk, options, Look::Leave);
    let before = disk.trace().len();
    script(&mut run).unwrap_or_else(|e| panic!("without a fault: {e:?}"));
    run.finish();
    let trace = disk.trace().split_off(before);
    let mut hits = 0;
    for (n, op) in trace.into_iter().enumerate() {
        // In short runs every second of the many writes.
        if !hit(op) || op.name().starts_with("shm.") || (!soak() && !is_sync(op) && n % 2 == 1) {
            continue;
        }
        hits += 1;
        once(fault, n, op, options, script);
    }
    assert!(hits > 0);
}

fn once(fault: Fault, n: usize, op: Op, options: Options, script: &Script) {
    let place = format!("{fault:?} at {op} (no. {n})");
    let disk = SimDisk::new();
    let mut run = Run::new(&disk, options, Look::Leave);
    run.tolerant = true;
    disk.arm(At::Nth(n), fault);
    if std::env::var_os("CRASH_TRACE").is_some() {
        eprintln!("--- {place}");
    }
    script(&mut run).unwrap_or_else(|e| panic!("{place}: {e:?}"));
    let (world, _) = run.finish();
    disk.disarm();
    goes_on(&world, op, &place);
    let oracle = world.known();
    assert!(oracle.wrong.is_empty(), "{place}: {:?}", oracle.wrong);
    let here: Vec<_> = world
        .store
        .databases()
        .iter()
        .map(|db| {
            let bytes = db.poisoned().is_none().then(|| image(db, &place));
            (db.name().to_string(), db.pos(), bytes)
        })
        .collect();
    drop(world);
    for how in [Crash::KeepAll, Crash::LoseAll, Crash::Random(n as u64)] {
        let place = format!("{place}, then {how:?}");
        let world =
            World::open(&disk.crash(how), options).unwrap_or_else(|e| panic!("{place}: does not open: {e}"));
        let set_aside: Vec<_> =
            world.disk.files().into_iter().filter(|f| f.starts_with("/data/quarantine")).collect();
        assert!(set_aside.is_empty(), "{place}: contradicts itself: {set_aside:?}");
        let promised = if how == Crash::KeepAll { &oracle.acknowledged } else { &oracle.durable };
        for (name, pos, bytes) in &here {
            let Some(db) = world.store.database(name) else {
                assert!(pos.is_zero(), "{place}: {name} is gone");
                continue;
            };
            let found = image(&db, &place);
            for low in [promised.get(name), oracle.announced.get(name)].into_iter().flatten() {
                assert!(db.pos().txid() >= low.txid(), "{place}: {name} is at {}, promised {low}", db.pos());
            }
            if let Some(bytes) = bytes
                && db.pos() == *pos
            {
                assert!(found == *bytes, "{place}: {name} changed at {pos}");
            } else if let Some(bytes) = bytes
                && how == Crash::KeepAll
                && !bytes.is_empty()
            {
                // Only free pages may have changed.
                assert_eq!(dump(&found, &place), dump(bytes, &place), "{place}: {name}");
            }
        }
    }
}

/// With room again everything works; a database that gave up says so and acknowledges nothing.
fn goes_on(world: &std::sync::Arc<World>, op: Op, place: &str) {
    let visible = Visible::new(world);
    for db in world.store.databases() {
        let place = format!("{place}, going on");
        let Ok(c) = visible.connect(db.name().as_str()) else {
            assert!(db.poisoned().is_some(), "{place}: cannot be opened");
            continue;
        };
        let before = db.log().tip();
        let wrote =
            c.execute_batch("CREATE TABLE IF NOT EXISTS after_fault(x); INSERT INTO after_fault VALUES(1)");
        world.publish();
        if let Some(reason) = db.poisoned() {
            assert!(may_poison(op), "{place}: gave up for good: {reason}");
            assert!(wrote.is_err(), "{place}: acknowledged after {reason}");
            continue;
        }
        wrote.unwrap_or_else(|e| panic!("{place}: {e}"));
        assert!(db.pos().txid() > before.txid(), "{place}: not captured");
        sound(&c, &place);
        drop(c);
        world.publish();
        let shown = visible.connect(db.name().as_str()).ok().and_then(|c| super::run::serialize(&c));
        assert!(Some(image(&db, &place)) == shown, "{place}: what is captured is not what SQLite has");
    }
}

const FULL: Fault = Fault::Error(libc::ENOSPC);
const HALF: Fault = Fault::Short(libc::ENOSPC);
const LOST: Fault = Fault::LostSync(libc::EIO);

fn not_sync(op: Op) -> bool {
    // A removal needs no room.
    !is_sync(op) && !op.name().contains("unlink")
}

macro_rules! cases {
    ($($name:ident: $script:expr;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn disk_full() {
                everywhere(FULL, not_sync, &$script);
            }

            #[test]
            fn disk_full_within_a_write() {
                everywhere(HALF, not_sync, &$script);
            }

            #[test]
            fn sync_fails() {
                everywhere(LOST, is_sync, &$script);
            }
        })*
    };
}

cases! {
    delete: |r: &mut Run| rollback::small(r, "DELETE", "FULL");
    truncate: |r: &mut Run| rollback::small(r, "TRUNCATE", "FULL");
    persist: |r: &mut Run| rollback::sizes(r, "PERSIST", "FULL");
    wal_full: |r: &mut Run| wal::commits(r, "FULL");
    wal_normal: |r: &mut Run| wal::readers(r, "NORMAL");
    wal_alone: |r: &mut Run| wal::exclusive(r, "FULL");
    wal_copies: |r: &mut Run| wal::exclusive_late(r, "NORMAL");
    between_modes: modes::to_wal_and_back;
    page_size: modes::page_size;
    two_databases: |r: &mut Run| multi::both(r, "DELETE");
    imports: whole::imports;
    drops: whole::drops;
    upkeep: |r: &mut Run| whole::upkeep(r, "WAL", "FULL");
}
