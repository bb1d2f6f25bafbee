//! A store on a simulated disk, with a mount that exists only in memory: the files of the store, SQLite's
//! locks, and the shared memory of wal-indexes.
//!
//! The daemon's side of the mount ([`Mount`]) goes through [`Database`] as its real requests would.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use litefs_core::write_gate::{WriteGate, WritePermit};
use litefs_sqlite::lock_bytes::Lock;
use litefs_store::database::{Caller, Database, HandleId, OpenMode, OpenedFile};
use litefs_store::notice::{Change, ChangeNotice};
use litefs_store::own_mount::{FileKind, Invalidator, LockKind, OwnMount, Probe};
use litefs_store::recover::OnAnomaly;
use litefs_store::sim_disk::SimDisk;
use litefs_store::{MountFactory, ReplicaWrites, Store, StoreError, StoreOptions, StoreSettings};
use litefs_types::{DbName, NodeId, Pos};

use super::locks::{DAEMON, Locks};

/// Bytes of one region of a wal-index.
pub const REGION: usize = 32 * 1024;
/// The data directory.
pub const DATA: &str = "/data";

/// The wal-index of a database: memory that connections and the daemon share. Regions never move.
#[derive(Default)]
pub struct Index {
    regions: Mutex<Vec<usize>>,
}

impl Index {
    /// Makes sure that there are `n` regions.
    pub fn grow(&self, n: usize) {
        let mut r = self.regions.lock().unwrap();
        while r.len() < n {
            let region: Box<[u64]> = vec![0; REGION / 8].into();
            r.push(Box::into_raw(region).cast::<u64>() as usize);
        }
    }

    /// The address of a region, if it is there.
    pub fn region(&self, n: usize) -> Option<*mut u8> {
        self.regions.lock().unwrap().get(n).map(|r| *r as *mut u8)
    }

    fn len(&self) -> usize {
        self.regions.lock().unwrap().len() * REGION
    }

    fn zero(&self) {
        for at in (0..self.len()).step_by(8) {
            self.copy(at, &mut [0; 8], true);
        }
    }

    /// Copies to (`write`) or from the regions.
    #[allow(unsafe_code)] // memory that SQLite writes through pointers
    fn copy(&self, at: usize, buf: &mut [u8], write: bool) -> usize {
        let n = buf.len().min(self.len().saturating_sub(at));
        for (i, b) in buf[..n].iter_mut().enumerate() {
            let p = self.region((at + i) / REGION).unwrap();
            // SAFETY: inside a region, which lives as long as `self`; SQLite runs on this thread and is not
            // running now.
            unsafe {
                let p = p.add((at + i) % REGION);
                if write { p.write(*b) } else { *b = p.read() }
            }
        }
        n
    }
}

impl Drop for Index {
    #[allow(unsafe_code)] // what `grow` made
    fn drop(&mut self) {
        for r in self.regions.lock().unwrap().drain(..) {
            // SAFETY: from `Box::into_raw` of this type; every connection that knows the address holds an
            // `Arc` of this index.
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(r as *mut u64, REGION / 8)) });
        }
    }
}

/// What happens in the world, for whoever judges a crash.
#[derive(Clone, Default, Debug)]
pub struct Oracle {
    /// Everything ever announced, by database.
    pub history: BTreeMap<String, Vec<Pos>>,
    /// What must not have happened.
    pub wrong: Vec<String>,
    /// Announced to replicas, by database.
    pub announced: BTreeMap<String, Pos>,
    /// The end of the log when SQLite last said that everything is committed.
    pub acknowledged: BTreeMap<String, Pos>,
    /// The same, with everything durable that SQLite promises to be.
    pub durable: BTreeMap<String, Pos>,
}

struct Notice(Arc<Mutex<Oracle>>);

impl ChangeNotice for Notice {
    fn changed(&self, c: Change) {
        let mut o = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        o.history.entry(c.db.to_string()).or_default().push(c.pos);
        let before = o.announced.insert(c.db.to_string(), c.pos);
        assert!(
            before.is_none_or(|b| b.txid() < c.pos.txid()),
            "announced backwards: {before:?} {:?}",
            c.pos
        );
    }
}

/// The right to write, which tests take and give.
pub struct Gate(pub AtomicBool);

impl WriteGate for Gate {
    fn permit(&self) -> Option<WritePermit> {
        self.0.load(Ordering::SeqCst).then_some(WritePermit { epoch: 1, until: None })
    }
}

/// Where an application is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hang {
    /// Waiting for the FSYNC of a wal.
    Sync,
    /// Before it removes a journal.
    Delete,
}

/// How a world behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the publisher looks after each request, or only after statements.
    pub eager: bool,
    /// SQLite may believe that a sector's other bytes survive a torn write.
    pub psow: bool,
    /// Node may commit.
    pub primary: bool,
    /// For retention.
    pub max_log_size: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { eager: true, psow: true, primary: true, max_log_size: None }
    }
}

/// See the module documentation.
pub struct World {
    /// The disk.
    pub disk: SimDisk,
    /// The store on it.
    pub store: Arc<Store>,
    /// How it behaves.
    pub options: Options,
    /// What was promised.
    pub oracle: Arc<Mutex<Oracle>>,
    /// The right to write.
    pub gate: Arc<Gate>,
    /// Where the application that works now hangs for ever.
    pub hang: Mutex<Option<Hang>>,
    /// It hangs: none of its requests comes any more.
    pub dead: AtomicBool,
    locks: Mutex<BTreeMap<String, Arc<Locks>>>,
    indexes: Mutex<BTreeMap<String, Arc<Index>>>,
    next_handle: AtomicU64,
}

impl World {
    /// Opens the store: recovery included.
    pub fn open(disk: &SimDisk, options: Options) -> Result<Arc<Self>, StoreError> {
        let oracle = Arc::new(Mutex::new(Oracle::default()));
        let gate = Arc::new(Gate(AtomicBool::new(options.primary)));
        let store = Store::open(StoreOptions {
            disk: Arc::new(disk.clone()),
            settings: StoreSettings {
                dir: PathBuf::from(DATA),
                replica_writes: ReplicaWrites::Busy,
                max_log_age: None,
                max_log_size: options.max_log_size,
            },
            node_id: NodeId::new(7),
            gate: Arc::clone(&gate) as _,
            notice: Arc::new(Notice(Arc::clone(&oracle))),
            on_anomaly: if options.primary { OnAnomaly::Primary } else { OnAnomaly::Replica },
        })?;
        store.drive_by_hand();
        let world = Arc::new(Self {
            disk: disk.clone(),
            store,
            options,
            oracle,
            gate,
            hang: Mutex::new(None),
            dead: AtomicBool::new(false),
            locks: Mutex::default(),
            indexes: Mutex::default(),
            next_handle: AtomicU64::new(1),
        });
        let factory = Factory(Arc::downgrade(&world));
        world.store.set_mount(Arc::new(factory), Arc::new(Nobody));
        Ok(world)
    }

    /// The locks on a database's files.
    pub fn locks(&self, db: &str) -> Arc<Locks> {
        Arc::clone(self.locks.lock().unwrap().entry(db.to_owned()).or_default())
    }

    /// The wal-index of a database; with `create` it is made.
    pub fn index(&self, db: &str, create: bool) -> Option<Arc<Index>> {
        let mut all = self.indexes.lock().unwrap();
        if create { Some(Arc::clone(all.entry(db.to_owned()).or_default())) } else { all.get(db).cloned() }
    }

    /// The wal-index lost its name.
    pub fn remove_index(&self, db: &str) {
        self.indexes.lock().unwrap().remove(db);
    }

    /// The first to open a wal-index empties it.
    pub fn reset_index(&self, db: &str) {
        if let Some(i) = self.index(db, false) {
            i.zero();
        }
    }

    /// A number for an open file.
    pub fn handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// The number that was given last.
    pub fn last_handle(&self) -> u64 {
        self.next_handle.load(Ordering::Relaxed) - 1
    }

    /// An application's request on a worker thread.
    pub fn caller(&self, handle: u64) -> Caller {
        Caller { own: false, may_block: true, pid: 1, handle: HandleId(handle) }
    }

    /// A database that must be there.
    pub fn db(&self, name: &str) -> Arc<Database> {
        self.store.database(name).unwrap_or_else(|| panic!("no database {name}"))
    }

    /// A database that a fault may have kept from being made.
    pub fn find(&self, name: &str) -> Result<Arc<Database>, StoreError> {
        self.store.database(name).ok_or(StoreError::NotFound)
    }

    /// The publisher's turn, in every database.
    pub fn publish(&self) {
        for db in self.store.databases() {
            // A failure poisons the database: what follows shows it.
            let _ = db.publish_now();
        }
    }

    /// Whether a request is not made any more, because the application hangs before it.
    pub fn hangs(&self, at: Option<Hang>) -> bool {
        if at.is_some() && *self.hang.lock().unwrap() == at {
            self.dead.store(true, Ordering::SeqCst);
        }
        self.dead.load(Ordering::SeqCst)
    }

    /// After each request.
    pub fn requested(&self) {
        if self.options.eager {
            self.publish();
        }
    }

    /// What the oracle knows now.
    pub fn known(&self) -> Oracle {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Nobody;

impl Invalidator for Nobody {
    fn data(&self, _: &DbName, _: FileKind, _: u64, _: u64) {}
    fn entry(&self, _: &DbName, _: FileKind) {}
    fn virtual_files(&self, _: Option<&DbName>) {}
}

struct Factory(Weak<World>);

impl MountFactory for Factory {
    fn own_mount(&self, db: &DbName) -> Arc<dyn OwnMount> {
        Arc::new(Mount { world: self.0.clone(), db: db.to_string(), open: Mutex::default() })
    }
}

/// The daemon as a client of its own mount.
struct Mount {
    world: Weak<World>,
    db: String,
    open: Mutex<BTreeMap<u8, OpenedFile>>,
}

impl Mount {
    fn world(&self) -> io::Result<Arc<World>> {
        self.world.upgrade().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn db(&self) -> io::Result<Arc<Database>> {
        self.world()?.store.database(&self.db).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn index(&self) -> io::Result<Arc<Index>> {
        self.world()?.index(&self.db, false).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&self, file: FileKind) -> io::Result<OpenedFile> {
        let open = self.open.lock().unwrap();
        open.get(&(file as u8)).cloned().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn caller() -> Caller {
        Caller { own: true, may_block: true, pid: 0, handle: HandleId(0) }
    }
}

fn io_error(e: StoreError) -> io::Error {
    let errno = e.errno();
    match e {
        StoreError::Io { source, .. } => source,
        _ => io::Error::from_raw_os_error(errno),
    }
}

impl OwnMount for Mount {
    fn probe(&self, lock: Lock, kind: LockKind) -> Probe {
        self.world.upgrade().map_or(Probe::NoFile, |w| w.locks(&self.db).probe(lock, kind))
    }

    fn open(&self, file: FileKind, create: bool) -> io::Result<bool> {
        let db = self.db()?;
        if let Ok(open) = self.file(file) {
            if db.attr(file).is_ok_and(|a| a.node == open.node) {
                return Ok(true);
            }
            self.close(file);
        }
        let mode = OpenMode { read: true, write: true, truncate: false };
        let opened = match db.open_file(&Self::caller(), file, mode) {
            Ok(f) => f,
            Err(StoreError::NotFound) if !create => return Ok(false),
            Err(StoreError::NotFound) => db.create_file(&Self::caller(), file, false).map_err(io_error)?,
            Err(e) => return Err(io_error(e)),
        };
        if file == FileKind::Shm {
            self.world()?.index(&self.db, true);
        }
        self.open.lock().unwrap().insert(file as u8, opened);
        Ok(true)
    }

    fn close(&self, file: FileKind) {
        self.open.lock().unwrap().remove(&(file as u8));
        let Some(w) = self.world.upgrade() else { return };
        let gone: &[Lock] = match file {
            FileKind::Database => &[Lock::Pending, Lock::Reserved, Lock::Shared],
            FileKind::Shm => &[
                Lock::WalWrite,
                Lock::WalCkpt,
                Lock::WalRecover,
                Lock::WalRead(0),
                Lock::WalRead(1),
                Lock::WalRead(2),
                Lock::WalRead(3),
                Lock::WalRead(4),
                Lock::Dms,
            ],
            _ => &[],
        };
        for lock in gone {
            w.locks(&self.db).release(DAEMON, *lock);
        }
    }

    fn try_lock(&self, lock: Lock, kind: LockKind) -> io::Result<bool> {
        Ok(self.world()?.locks(&self.db).set(DAEMON, lock, kind))
    }

    fn unlock(&self, lock: Lock) -> io::Result<()> {
        self.world()?.locks(&self.db).release(DAEMON, lock);
        Ok(())
    }

    fn read_at(&self, file: FileKind, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let open = self.file(file)?;
        if file == FileKind::Shm {
            return Ok(self.index()?.copy(offset as usize, buf, false));
        }
        open.file.read_at(buf, offset)
    }

    fn write_all_at(&self, file: FileKind, buf: &[u8], offset: u64) -> io::Result<()> {
        let open = self.file(file)?;
        if file == FileKind::Shm {
            let index = self.index()?;
            index.grow((offset as usize + buf.len()).div_ceil(REGION));
            index.copy(offset as usize, &mut buf.to_vec(), true);
        }
        self.db()?.write(&Self::caller(), file, &open, offset, buf, false).map_err(io_error)
    }

    fn set_len(&self, file: FileKind, len: u64) -> io::Result<()> {
        self.file(file)?;
        if file == FileKind::Shm && len < 136 {
            self.index()?.zero();
        }
        self.db()?.truncate(&Self::caller(), file, len).map_err(io_error)
    }

    fn len(&self, file: FileKind) -> io::Result<u64> {
        self.file(file)?.file.len()
    }

    fn sync(&self, file: FileKind) -> io::Result<()> {
        let open = self.file(file)?;
        self.db()?.fsync(&Self::caller(), file, &open).map_err(io_error)
    }

    fn unlink(&self, file: FileKind) -> io::Result<()> {
        if file == FileKind::Shm {
            self.world()?.remove_index(&self.db);
        }
        self.db()?.unlink(&Self::caller(), file).map_err(io_error)
    }
}
