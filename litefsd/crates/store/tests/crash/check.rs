//! What must hold after a crash, whatever it was.

use std::collections::BTreeMap;
use std::path::Path;

use litefs_ltx::checksum::database_checksum;
use litefs_store::database::Database;
use litefs_store::log::{LogEntry, RecordKind};
use litefs_store::sim_disk::{Crash, SimDisk};
use litefs_types::{Checksum, Pos};
use rusqlite::Connection;

use super::run::{Learned, Rules, serialize};
use super::vfs::Visible;
use super::world::{DATA, Options, Oracle, World};

/// Where the databases may be.
pub struct Bounds<'a> {
    learned: &'a Learned,
    low: BTreeMap<String, Pos>,
    high: BTreeMap<String, Pos>,
    may_break: bool,
    together: bool,
}

impl<'a> Bounds<'a> {
    /// After a crash of this kind in this step.
    pub fn new(learned: &'a Learned, oracle: &Oracle, step: usize, how: Crash, rules: Rules) -> Self {
        let power = how != Crash::KeepAll;
        let mut low =
            if power && rules.can_be_sent_again { BTreeMap::new() } else { oracle.announced.clone() };
        let promised = if power { &oracle.durable } else { &oracle.acknowledged };
        for (db, pos) in promised {
            let l = low.entry(db.clone()).or_insert(Pos::ZERO);
            if l.txid() < pos.txid() {
                *l = *pos;
            }
        }
        let last = learned.after.len() - 1;
        Self {
            learned,
            low,
            high: learned.after[step.min(last)].clone(),
            together: rules.together,
            may_break: rules.power_loss_may_break && power,
        }
    }
}

/// The database's bytes, and that they are what the position says.
pub fn image(db: &Database, place: &str) -> Vec<u8> {
    let name = db.name();
    let pos = db.pos();
    if db.page_count() == 0 {
        assert!(pos.is_zero() || pos.checksum() == Checksum::EMPTY, "{place}: {name} is empty at {pos}");
        return Vec::new();
    }
    let mut bytes = Vec::new();
    let at = db.write_export(&mut bytes).unwrap_or_else(|e| panic!("{place}: export of {name}: {e}"));
    assert_eq!(at, pos, "{place}");
    let ps = db.page_size().unwrap_or_else(|| panic!("{place}: {name} has pages but no page size"));
    assert_eq!(bytes.len() as u64, ps.file_size(db.page_count()), "{place}: size of {name}");
    let sum = database_checksum(ps, bytes.chunks(ps.bytes()));
    assert_eq!(sum, pos.checksum(), "{place}: {name} at {pos}: the bytes have another checksum");
    bytes
}

/// Contiguous, every record whole, ending at the position.
fn log_is_sound(db: &Database, place: &str) {
    let log = db.log();
    let mut at = log.base();
    while at.txid() < log.tip().txid() {
        let next = at.next_txid();
        let e = log
            .get(next)
            .unwrap_or_else(|e| panic!("{place}: record {next}: {e}"))
            .unwrap_or_else(|| panic!("{place}: record {next} of {} is missing", db.name()));
        assert_eq!(e.pre(), at, "{place}: record {next} does not follow");
        e.verify().unwrap_or_else(|e| panic!("{place}: record {next}: {e}"));
        at = e.post();
    }
    assert_eq!(at, log.tip(), "{place}: end of the log of {}", db.name());
    assert_eq!((log.tip(), log.durable()), (db.pos(), db.pos()), "{place}: log and position");
    assert_eq!(db.streamable_pos(), db.pos(), "{place}");
}

/// Recovers what a crash left and looks at all of it; then a second time, after losing everything that
/// recovery did not make durable.
pub fn check(left: &SimDisk, options: Options, bounds: &Bounds<'_>, place: &str) {
    let disk = left.crash(Crash::KeepAll);
    let world = World::open(&disk, options).unwrap_or_else(|e| panic!("{place}: does not open: {e}"));
    let set_aside: Vec<_> =
        disk.files().into_iter().filter(|f| f.starts_with(Path::new(DATA).join("quarantine"))).collect();
    assert!(bounds.may_break || set_aside.is_empty(), "{place}: contradicts itself: {set_aside:?}");
    let broken = !set_aside.is_empty();
    let mut images = BTreeMap::new();
    for (name, low) in &bounds.low {
        assert!(
            low.is_zero() || world.store.database(name).is_some(),
            "{place}: database {name} is gone, it was at {low}"
        );
    }
    for db in world.store.databases() {
        let name = db.name().to_string();
        log_is_sound(&db, place);
        let bytes = image(&db, place);
        if !broken {
            in_bounds(&db, &bytes, bounds, place);
        }
        for (file, kind) in [("journal", "rollback journal"), ("wal", "wal"), ("shm", "wal-index")] {
            let path = Path::new(DATA).join("dbs").join(&name).join(file);
            assert!(disk.content(path).is_none(), "{place}: a {kind} of {name} is left");
        }
        images.insert(name, (db.pos(), bytes));
    }
    if bounds.together {
        let now: BTreeMap<&String, Pos> = images.iter().map(|(name, (pos, _))| (name, *pos)).collect();
        let known =
            bounds.learned.after.iter().any(|step| {
                now.iter().all(|(name, pos)| step.get(*name).copied().unwrap_or(Pos::ZERO) == *pos)
            });
        assert!(known || now.values().all(|p| p.is_zero()), "{place}: not together: {now:?}");
    }
    drop(world);
    // Recovered again: the same, although everything that recovery left unsynced is lost.
    let disk = disk.crash(Crash::LoseAll);
    let world = World::open(&disk, options).unwrap_or_else(|e| panic!("{place}: does not open again: {e}"));
    for (name, (pos, bytes)) in images {
        let again = format!("{place}, recovered twice");
        let db = world.db(&name);
        assert_eq!(db.pos(), pos, "{again}: {name}");
        assert!(image(&db, &again) == bytes, "{again}: {name} changed");
    }
}

fn in_bounds(db: &Database, bytes: &[u8], bounds: &Bounds<'_>, place: &str) {
    let name = db.name().as_str();
    let pos = db.pos();
    let zero = Pos::ZERO;
    let low = bounds.low.get(name).copied().unwrap_or(zero);
    let high = bounds.high.get(name).copied().unwrap_or(zero);
    let known = bounds.learned.committed.get(name);
    if pos.is_zero() || known.is_some_and(|k| k.contains(&pos)) {
        assert!(pos.txid() >= low.txid(), "{place}: {name} is at {pos}, but {low} was promised");
        assert!(pos.txid() != low.txid() || pos == low, "{place}: {name} is at {pos} instead of {low}");
        assert!(pos.txid() <= high.txid(), "{place}: {name} is at {pos}, nothing after {high} was begun");
        return;
    }
    // Free pages keep what a rolled back transaction wrote to them: a transaction of its own, which
    // changes nothing that SQLite shows.
    let tip = pos.txid().unwrap();
    let entry = db.log().get(tip).unwrap();
    let before = entry.as_ref().map_or(zero, LogEntry::pre);
    let plain = entry.is_some_and(|e| e.kind() == RecordKind::Plain);
    assert!(
        plain && (before.is_zero() || known.is_some_and(|k| k.contains(&before))),
        "{place}: {name} is at {pos}, which was never committed; before it {before}; committed: {known:?}"
    );
    assert!(before.txid() >= low.txid() && before.txid() <= high.txid(), "{place}: {name} is at {before}");
    let key = (name.to_owned(), before.txid_raw(), before.checksum().get());
    if let Some(image) = bounds.learned.images.get(&key) {
        assert_eq!(dump(bytes, place), dump(image, place), "{place}: {name} at {pos} shows something else");
    }
}

/// What SQLite shows of a database file, and that it is sound.
pub fn dump(image: &[u8], place: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, image).unwrap();
    let c = Connection::open(&path).unwrap();
    sound(&c, place);
    let names: Vec<String> = c
        .prepare("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name")
        .unwrap()
        .query_map([], |r| r.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut out = Vec::new();
    for name in names {
        let mut s = c.prepare(&format!("SELECT * FROM {name} ORDER BY rowid")).unwrap();
        let columns = s.column_count();
        let mut rows = s.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let cells: Vec<_> = (0..columns).map(|i| format!("{:?}", row.get_ref(i).unwrap())).collect();
            out.push(format!("{name}: {}", cells.join(",")));
        }
    }
    out
}

/// SQLite finds nothing wrong.
pub fn sound(c: &Connection, place: &str) {
    let said: String = c
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .unwrap_or_else(|e| panic!("{place}: integrity_check: {e}"));
    assert_eq!(said, "ok", "{place}");
}

/// Applications go on after recovery: what SQLite has then is what is captured.
pub fn check_going_on(left: &SimDisk, options: Options, bounds: &Bounds<'_>, place: &str) {
    if bounds.may_break || !options.primary {
        return;
    }
    let disk = left.crash(Crash::KeepAll);
    let world = World::open(&disk, options).unwrap_or_else(|e| panic!("{place}: does not open: {e}"));
    let visible = Visible::new(&world);
    for db in world.store.databases() {
        let before = db.pos();
        let place = format!("{place}, going on from {before}");
        let c = visible.connect(db.name().as_str()).unwrap_or_else(|e| panic!("{place}: {e}"));
        sound(&c, &place);
        c.execute_batch("CREATE TABLE IF NOT EXISTS after_crash(x); INSERT INTO after_crash VALUES(1)")
            .unwrap_or_else(|e| panic!("{place}: {e}"));
        world.publish();
        assert!(db.pos().txid() > before.txid(), "{place}: not captured");
        let shown = visible.connect(db.name().as_str()).ok().and_then(|c| serialize(&c));
        assert!(Some(image(&db, &place)) == shown, "{place}: captured something else");
        drop(c);
        world.publish();
        log_is_sound(&db, &place);
    }
}
