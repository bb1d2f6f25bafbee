//! Runs a script of SQL statements and store operations, three ways: to learn its positions and compare
//! them with what SQLite has ([`learn`]), with every disk operation looked at ([`matrix`]), and with
//! faults (`faults`).

use std::collections::BTreeMap;
use std::ffi::c_uint;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use litefs_store::StoreError;
use litefs_store::disk::Op;
use litefs_store::sim_disk::{At, Crash, Fault, Moment, SimDisk};
use litefs_types::Pos;
use rusqlite::{Connection, ffi};

use super::check::{Bounds, check, check_going_on};
use super::vfs::Visible;
use super::world::{Hang, Options, World};

/// What goes wrong in a script when the disk does.
#[derive(Debug)]
#[allow(dead_code)] // shown by `Debug`
pub enum Failed {
    /// A statement.
    Sql(rusqlite::Error),
    /// An operation on the store.
    Store(StoreError),
}

impl From<rusqlite::Error> for Failed {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sql(e)
    }
}

impl From<StoreError> for Failed {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

/// What a test does. Must do the same each time; errors are the script's to return.
pub type Script = dyn Fn(&mut Run) -> Result<(), Failed> + Send + Sync;

/// How a run looks at itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Compares what the store has with what SQLite has after each step.
    Compare,
    /// Changes nothing: only counts.
    Leave,
}

/// What was learned from a run without a crash.
#[derive(Default, Clone)]
pub struct Learned {
    /// Every position that was ever announced, by database.
    pub committed: BTreeMap<String, Vec<Pos>>,
    /// Where each database was after each step.
    pub after: Vec<BTreeMap<String, Pos>>,
    /// What SQLite showed at a position.
    pub images: BTreeMap<(String, u64, u64), Vec<u8>>,
}

/// A connection.
struct Open {
    db: String,
    connection: Connection,
    /// The file that its locks belong to.
    handle: u64,
}

/// A script being run.
pub struct Run {
    /// The store and the mount.
    pub world: Arc<World>,
    visible: Visible,
    connections: BTreeMap<usize, Open>,
    /// Whether SQLite promises that what it commits from now on survives a power loss.
    pub durable: bool,
    /// Statements may fail: the disk does.
    pub tolerant: bool,
    /// The log's end may be a transaction that nobody saw.
    unsettled: bool,
    /// Failed steps.
    pub failed: usize,
    look: Look,
    steps: Arc<AtomicUsize>,
    learned: Learned,
}

impl Run {
    /// A run on this disk, which is opened (recovered) first.
    pub fn new(disk: &SimDisk, options: Options, look: Look) -> Self {
        let world = World::open(disk, options).expect("the store opens");
        Self {
            visible: Visible::new(&world),
            world,
            connections: BTreeMap::new(),
            durable: false,
            tolerant: false,
            unsettled: false,
            failed: 0,
            look,
            steps: Arc::default(),
            learned: Learned::default(),
        }
    }

    /// Opens connection `n`.
    pub fn open(&mut self, n: usize, db: &str) -> Result<(), Failed> {
        let c = match self.visible.connect(db) {
            // The fault that was meant for this; it hits once.
            Err(_) if self.tolerant => self.visible.connect(db)?,
            other => other?,
        };
        // The database file is opened at once, the wal or journal when it is needed.
        let handle = self.world.last_handle();
        self.connections.insert(n, Open { db: db.to_owned(), connection: c, handle });
        Ok(())
    }

    /// The process of connection `n` is killed: its locks are gone, nothing else happens. A step.
    pub fn kill(&mut self, n: usize) {
        if let Some(open) = self.connections.remove(&n) {
            self.world.locks(&open.db).release_all(open.handle);
            std::mem::forget(open.connection);
        }
        self.world.dead.store(false, Ordering::SeqCst);
        self.unsettled = true;
        self.stepped();
    }

    /// A commit whose writer never gets beyond its FSYNC of the wal, or its removal of the journal; kill it
    /// next. A step.
    pub fn hangs_at(&mut self, n: usize, at: Hang, sql: &str) {
        *self.world.hang.lock().unwrap() = Some(at);
        let done = self.connections[&n].connection.execute_batch(sql);
        *self.world.hang.lock().unwrap() = None;
        assert!(done.is_err(), "it did not hang");
        self.unsettled = true;
        self.stepped();
    }

    /// A statement that must fail. A step.
    pub fn fails(&mut self, n: usize, sql: &str) {
        let c = &self.connections[&n].connection;
        assert!(c.execute_batch(sql).is_err(), "not refused: {sql}");
        if !c.is_autocommit() {
            let _ = c.execute_batch("ROLLBACK");
        }
        // Not compared: a connection opened without the role would make the daemon take its locks.
        self.unsettled = true;
        self.stepped();
        self.unsettled = false;
    }

    /// Whatever a killed writer left has been overwritten, or seen by everybody.
    pub fn settled(&mut self) {
        self.unsettled = false;
    }

    /// The name of a database for ATTACH.
    pub fn path(&self, db: &str) -> String {
        self.visible.path(db)
    }

    /// Closes connection `n`; a step.
    pub fn close(&mut self, n: usize) {
        self.connections.remove(&n);
        self.stepped();
    }

    /// One statement, or several; a step.
    pub fn sql(&mut self, n: usize, sql: &str) -> Result<(), Failed> {
        let c = &self.connections.get(&n).expect("an open connection").connection;
        let done = c.execute_batch(sql);
        if done.is_err() && !c.is_autocommit() {
            // What an application does; SQLite may have done it already.
            let _ = c.execute_batch("ROLLBACK");
        }
        match done {
            Ok(()) => {
                self.stepped();
                Ok(())
            }
            Err(e) if self.tolerant => {
                if std::env::var_os("CRASH_TRACE").is_some() {
                    eprintln!("failed: {sql}: {e}");
                }
                self.failed += 1;
                self.world.publish();
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// An operation on the store; a step.
    pub fn step(&mut self, f: impl FnOnce(&World) -> Result<(), StoreError>) -> Result<(), Failed> {
        match f(&self.world) {
            Ok(()) => self.stepped(),
            Err(_) if self.tolerant => {
                self.failed += 1;
                self.world.publish();
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Where the databases are: by the log's end, which is committed while SQLite is idle, though perhaps
    /// not published yet.
    fn positions(&self) -> BTreeMap<String, Pos> {
        self.world.store.databases().iter().map(|db| (db.name().to_string(), db.log().tip())).collect()
    }

    fn stepped(&mut self) {
        self.world.publish();
        let idle = self.connections.values().all(|o| o.connection.is_autocommit());
        let now = self.positions();
        if idle {
            // After a fault the log's end may be a transaction that failed, and stays until recovery.
            let done = if self.tolerant || self.unsettled {
                self.world.store.databases().iter().map(|db| (db.name().to_string(), db.pos())).collect()
            } else {
                now.clone()
            };
            let mut o = self.world.oracle.lock().unwrap();
            if self.durable {
                o.durable.clone_from(&done);
            }
            o.acknowledged = done;
        }
        self.steps.fetch_add(1, Ordering::SeqCst);
        self.learned.after.push(now);
        if self.look == Look::Compare && idle && !self.unsettled {
            self.compare();
        }
    }

    /// What the store exports is what SQLite has, byte for byte.
    fn compare(&mut self) {
        for name in self.connections.values().map(|o| &o.db) {
            let db = self.world.db(name);
            // Without a shared wal-index time is the evidence (rule W8).
            for _ in 0..20 {
                if db.settled_pos().is_none() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    self.world.publish();
                }
            }
            if db.pos().is_zero() || db.page_count() == 0 {
                continue;
            }
            // Not by the writer: its cache may hold free pages that it never wrote. None with EXCLUSIVE.
            let Some(image) = self.visible.connect(name).ok().and_then(|c| serialize(&c)) else { continue };
            let mut exported = Vec::new();
            let pos = db.write_export(&mut exported).unwrap_or_else(|e| panic!("export of {name}: {e}"));
            assert!(exported == image, "{name} at {pos}: what is captured is not what SQLite has");
            let key = (name.clone(), pos.txid_raw(), pos.checksum().get());
            self.learned.images.insert(key, image);
        }
    }

    /// Closes every connection, newest first.
    pub fn finish(mut self) -> (Arc<World>, Learned) {
        while self.connections.pop_last().is_some() {}
        self.world.publish();
        (Arc::clone(&self.world), std::mem::take(&mut self.learned))
    }
}

/// The database as a connection sees it.
#[allow(unsafe_code)] // SQLite's C interface
pub fn serialize(c: &Connection) -> Option<Vec<u8>> {
    let mut n = 0i64;
    // SAFETY: an open connection; the memory is ours and freed as the interface says.
    unsafe {
        let p = ffi::sqlite3_serialize(c.handle(), c"main".as_ptr(), &raw mut n, 0 as c_uint);
        if p.is_null() {
            return None;
        }
        let image = std::slice::from_raw_parts(p, n as usize).to_vec();
        ffi::sqlite3_free(p.cast());
        Some(image)
    }
}

/// A first run: the positions that exist, and whether they are what SQLite has.
pub fn learn(disk: &SimDisk, options: Options, script: &Script) -> Learned {
    // Looking opens and closes connections, which may end a wal: what is compared is a run of its own.
    let mut run = Run::new(&disk.crash(Crash::KeepAll), options, Look::Compare);
    script(&mut run).unwrap_or_else(|e| panic!("without any fault, compared: {e:?}"));
    let images = run.finish().1.images;
    let mut run = Run::new(&disk.crash(Crash::KeepAll), options, Look::Leave);
    script(&mut run).unwrap_or_else(|e| panic!("without any fault: {e:?}"));
    let (world, mut learned) = run.finish();
    learned.images = images;
    learned.committed = world.known().history;
    // What a killed writer left complete in the wal may come back, too.
    for step in &learned.after {
        for (db, pos) in step {
            let known = learned.committed.entry(db.clone()).or_default();
            if !known.contains(pos) {
                known.push(*pos);
            }
        }
    }
    learned.after.push(world.store.databases().iter().map(|db| (db.name().to_string(), db.pos())).collect());
    learned
}

/// Random crashes at each operation.
fn seeds() -> u64 {
    if soak() { 12 } else { 2 }
}

/// Whether this is the long variant (`LITEFS_SOAK`, set by `make soak`).
pub fn soak() -> bool {
    std::env::var_os("LITEFS_SOAK").is_some()
}

/// What a matrix looked at.
#[derive(Default, Debug)]
pub struct Seen {
    /// Disk operations by name.
    pub operations: BTreeMap<Op, usize>,
    /// Crashes that were recovered from.
    pub crashes: usize,
    /// Crashes after which something did not hold.
    pub wrong: Vec<String>,
}

/// Crashes that differ from the rules in [`check`].
#[derive(Clone, Copy, Default, Debug)]
pub struct Rules {
    /// SQLite itself promises nothing about a power loss (synchronous=OFF): data may contradict itself.
    pub power_loss_may_break: bool,
    /// A replica may lose to a power loss what it can get again.
    pub can_be_sent_again: bool,
    /// The databases are always together at the end of the same step.
    pub together: bool,
}

/// What is done with a recovered world besides [`check`].
pub type Then = dyn Fn(&SimDisk, Options, &Bounds<'_>, &str) + Send + Sync;

/// Runs the script with a crash at each disk operation: the daemon killed, the power gone, and in between.
/// Fails if anything does not hold.
pub fn matrix(options: Options, rules: Rules, script: &Script) -> Seen {
    let seen = look(&SimDisk::new(), options, rules, script, &(Arc::new(check_going_on) as Arc<Then>));
    seen.all_right()
}

/// [`matrix`] with the usual rules, and with a store that works ahead and one that does not.
pub fn eager_and_not(options: Options, script: &Script) {
    for eager in [true, false] {
        matrix(Options { eager, ..options }, Rules::default(), script);
    }
}

impl Seen {
    /// Says what was looked at; fails if anything did not hold.
    pub fn all_right(self) -> Self {
        eprintln!("{} crashes at {} operations", self.crashes, self.operations.values().sum::<usize>());
        let first = self.wrong.join("\n");
        assert!(self.wrong.is_empty(), "{} crashes; the first that went wrong:\n{first}", self.crashes);
        self
    }
}

/// The same, without judging.
pub fn look(disk: &SimDisk, options: Options, rules: Rules, script: &Script, then: &Arc<Then>) -> Seen {
    let learned = Arc::new(learn(disk, options, script));
    let disk = disk.crash(Crash::KeepAll);
    let seen = Arc::new(Mutex::new(Seen::default()));
    look_again(&disk, options, rules, script, &learned, &seen, then);
    std::mem::take(&mut *seen.lock().unwrap())
}

/// The second run, on a disk that was made ready for it.
pub fn look_again(
    disk: &SimDisk,
    options: Options,
    rules: Rules,
    script: &Script,
    learned: &Arc<Learned>,
    seen: &Arc<Mutex<Seen>>,
    then: &Arc<Then>,
) {
    let mut run = Run::new(disk, options, Look::Leave);
    let (oracle, steps) = (Arc::clone(&run.world.oracle), Arc::clone(&run.steps));
    let (out, known, and) = (Arc::clone(seen), Arc::clone(learned), Arc::clone(then));
    let turn = AtomicUsize::new(0);
    disk.watch(Some(Arc::new(move |at: &SimDisk, op: Op, moment: Moment| {
        // The wal-index is never read after a crash.
        if op.name().starts_with("shm.") {
            return;
        }
        let oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let step = steps.load(Ordering::SeqCst);
        let n = turn.fetch_add(1, Ordering::Relaxed) + 1;
        if std::env::var_os("CRASH_OPS").is_some() && moment == Moment::Before {
            eprintln!("{n}: {op}, step {step}");
        }
        let mut kinds = vec![Crash::KeepAll];
        if moment == Moment::Before {
            kinds.push(Crash::LoseAll);
            *out.lock().unwrap().operations.entry(op).or_default() += 1;
        }
        kinds.extend((0..seeds()).map(|s| Crash::Random(s * 7919 + n as u64 * 31)));
        for how in kinds {
            let bounds = Bounds::new(&known, &oracle, step, how, rules);
            let place = format!("{moment:?} {op} (no. {n}), step {step}, {how:?}");
            out.lock().unwrap().judge(|| {
                let left = at.crash(how);
                check(&left, options, &bounds, &place);
                if going_on(n, how) {
                    and(&left, options, &bounds, &place);
                }
                if (n + 1).is_multiple_of(4) {
                    let left = interrupted(&left, options, n);
                    check(&left, options, &bounds, &format!("{place}, and recovery interrupted"));
                }
            });
        }
    })));
    script(&mut run).unwrap_or_else(|e| panic!("the second time: {e:?}"));
    let (world, again) = run.finish();
    disk.watch(None);
    let oracle = world.known();
    drop(world);
    let mut seen = seen.lock().unwrap();
    seen.wrong.extend(oracle.wrong.iter().cloned());
    if again.after != learned.after[..again.after.len()] {
        seen.wrong.push("not the same twice".into());
    }
    for how in [Crash::KeepAll, Crash::LoseAll] {
        let bounds = Bounds::new(learned, &oracle, learned.after.len(), how, rules);
        let place = format!("at the end, {how:?}");
        seen.judge(|| {
            let left = disk.crash(how);
            check(&left, options, &bounds, &place);
            then(&left, options, &bounds, &place);
        });
    }
}

impl Seen {
    /// One crash. SQLite's C code may be below on the stack: a panic must not go through it.
    fn judge(&mut self, crash: impl FnOnce()) {
        if self.wrong.len() >= MOST_WRONG {
            return;
        }
        self.crashes += 1;
        if let Err(why) = catch_unwind(AssertUnwindSafe(crash)) {
            self.wrong.push(words(&*why));
        }
    }
}

/// What a crash within recovery leaves, at some disk operation of it.
fn interrupted(left: &SimDisk, options: Options, n: usize) -> SimDisk {
    let whole = left.crash(Crash::KeepAll);
    drop(World::open(&whole, options));
    let disk = left.crash(Crash::KeepAll);
    let operations = whole.trace().len();
    if operations == 0 {
        return disk;
    }
    let fault = [Fault::Stop, Fault::TornStop, Fault::StopAfter][n % 3];
    disk.arm(At::Nth(n * 13 % operations), fault);
    drop(World::open(&disk, options));
    if std::env::var("CRASH_AT").is_ok_and(|at| at == n.to_string()) {
        eprintln!("recovery {:?}\nstopped {:?} {:?}", whole.trace(), fault, disk.trace());
    }
    disk.crash([Crash::KeepAll, Crash::LoseAll, Crash::Random(n as u64)][n / 4 % 3])
}

/// Failures after which a matrix stops looking.
const MOST_WRONG: usize = 4;

/// Whether applications go on after this crash: not after all of them, it takes longer than the check.
fn going_on(n: usize, how: Crash) -> bool {
    n.is_multiple_of(5) && !matches!(how, Crash::Random(s) if s % 2 == 1)
}

/// What a panic said.
pub fn words(why: &(dyn std::any::Any + Send)) -> String {
    why.downcast_ref::<String>()
        .cloned()
        .or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "a panic without words".into())
}
