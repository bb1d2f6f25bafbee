//! All databases of a data directory.
//!
//! Owns: the directory lock, the cluster id file, the table of databases, the maintenance that is not
//! part of a commit (stamping page sums, retention). One daemon a directory: a second one is refused.
//!
//! Start with [`Store::open`]. Tested by `tests/crash`, `tests/mount`.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use litefs_core::write_gate::WriteGate;
use litefs_types::{ClusterId, DbName, NodeId};

use crate::database::{Caller, Database, ImportFile};
use crate::disk::{Disk, Op, OpenHow};
use crate::env::{Env, MountFactory, Mounted, StoreSettings};
use crate::error::{Result, StoreError};
use crate::layout::DataLayout;
use crate::notice::ChangeNotice;
use crate::own_mount::Invalidator;
use crate::recover::OnAnomaly;
use crate::spool::{self, SpoolWriter};

const DIR: Op = Op::new("data.dir");
const LIST: Op = Op::new("data.list");
const CLUSTER_ID: Op = Op::new("clusterid.write");
const CLUSTER_ID_READ: Op = Op::new("clusterid.read");
const CLUSTER_ID_RENAME: Op = Op::new("clusterid.rename");
const CLUSTER_ID_SYNC: Op = Op::new("clusterid.sync");
const LOCK: Op = Op::new("data.lock");
const LEGACY_ID: Op = Op::new("data.legacy_id");

/// Most databases a data directory may hold: each costs memory and, once written to, a thread.
pub const MAX_DATABASES: usize = 10_000;

/// What [`Store::open`] needs.
pub struct StoreOptions {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Settings.
    pub settings: StoreSettings,
    /// This process's stream id.
    pub node_id: NodeId,
    /// Says whether this node may commit.
    pub gate: Arc<dyn WriteGate>,
    /// Hears of every published transaction.
    pub notice: Arc<dyn ChangeNotice>,
    /// What recovery does with data that contradicts itself.
    pub on_anomaly: OnAnomaly,
}

/// See the module documentation.
pub struct Store {
    env: Arc<Env>,
    layout: DataLayout,
    databases: RwLock<BTreeMap<DbName, Arc<Database>>>,
    cluster_id: Mutex<Option<ClusterId>>,
    /// Held as long as the store lives; `None` on a simulated disk.
    _lock: Option<nix::fcntl::Flock<std::fs::File>>,
}

impl Store {
    /// Opens (or makes) a data directory and recovers every database in it.
    pub fn open(options: StoreOptions) -> Result<Arc<Self>> {
        let StoreOptions { disk, settings, node_id, gate, notice, on_anomaly } = options;
        let layout = DataLayout::new(settings.dir.clone());
        make_directories(&*disk, &layout)?;
        let lock = lock_directory(&*disk, &layout)?;
        spool::sweep(&*disk, &layout.spool()).map_err(StoreError::io("sweep of the spool directory"))?;
        // A file of versions before 0.5 that named the node; ids are random per process since.
        match disk.unlink(LEGACY_ID, &layout.root().join("id")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Io { what: "removal of the legacy id file", source: e });
            }
            _ => {}
        }
        let cluster_id = read_cluster_id(&*disk, &layout)?;
        let env = Arc::new(Env::new(disk, settings, node_id, gate, notice));
        let store = Arc::new(Self {
            env,
            layout,
            databases: RwLock::default(),
            cluster_id: Mutex::new(cluster_id),
            _lock: lock,
        });
        store.open_databases(on_anomaly)?;
        Ok(store)
    }

    fn open_databases(&self, on_anomaly: OnAnomaly) -> Result<()> {
        let entries = self.env.disk.read_dir(LIST, &self.layout.dbs()).map_err(|e| StoreError::Corrupt {
            what: "the data directory",
            reason: format!("{} cannot be listed: {e}", self.layout.dbs().display()),
        })?;
        let mut open = BTreeMap::new();
        for entry in entries {
            let name = entry.name.to_str().and_then(|s| DbName::from_str(s).ok());
            let Some(name) = name.filter(|_| entry.is_dir) else {
                // A stray file, or the directory that an empty name made on the original: not ours to touch.
                tracing::warn!(path = ?self.layout.dbs().join(&entry.name), "ignored: not a database directory");
                continue;
            };
            if open.len() == MAX_DATABASES {
                return Err(StoreError::Corrupt {
                    what: "the data directory",
                    reason: format!("it holds more than {MAX_DATABASES} databases"),
                });
            }
            let db = Database::recover(&self.env, &self.layout, &name, on_anomaly)?;
            open.insert(name, db);
        }
        *self.databases.write().unwrap_or_else(PoisonError::into_inner) = open;
        Ok(())
    }

    /// This process's stream id.
    pub fn node_id(&self) -> NodeId {
        self.env.node_id
    }

    /// The data directory.
    pub fn dir(&self) -> PathBuf {
        self.layout.root().to_path_buf()
    }

    /// The id of the cluster this directory belongs to.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the cluster's id. Order: write a temporary file, fsync, rename, fsync the directory.
    pub fn set_cluster_id(&self, id: ClusterId) -> Result<()> {
        let mut known = self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner);
        let step = StoreError::io;
        let disk = &*self.env.disk;
        let tmp = self.layout.root().join("clusterid.tmp");
        let file =
            disk.open(CLUSTER_ID, &tmp, OpenHow::REPLACE).map_err(step("creation of clusterid.tmp"))?;
        file.write_all_at(CLUSTER_ID, format!("{id}\n").as_bytes(), 0)
            .map_err(step("write of clusterid.tmp"))?;
        file.sync_all(CLUSTER_ID_SYNC).map_err(step("sync of clusterid.tmp"))?;
        disk.rename(CLUSTER_ID_RENAME, &tmp, &self.layout.cluster_id())
            .map_err(step("rename of clusterid.tmp"))?;
        disk.sync_dir(CLUSTER_ID_SYNC, self.layout.root()).map_err(step("sync of the data directory"))?;
        *known = Some(id);
        Ok(())
    }

    /// All databases, by name; also dropped ones, whose position is kept.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.databases.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// One database.
    pub fn database(&self, name: &str) -> Option<Arc<Database>> {
        self.databases.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// One database, made if it is not known: a directory without files, at position zero.
    pub fn create_database(&self, name: &DbName) -> Result<Arc<Database>> {
        if let Some(db) = self.database(name.as_str()) {
            return Ok(db);
        }
        let mut all = self.databases.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = all.get(name.as_str()) {
            return Ok(Arc::clone(db));
        }
        if all.len() >= MAX_DATABASES {
            return Err(StoreError::refused(
                libc::ENOSPC,
                format!("there are {MAX_DATABASES} databases already"),
            ));
        }
        let step = StoreError::io;
        let disk = &*self.env.disk;
        disk.create_dir_all(DIR, self.layout.db(name).dir())
            .map_err(step("creation of a database directory"))?;
        disk.sync_dir(DIR, &self.layout.dbs()).map_err(step("sync of the databases' directory"))?;
        let db = Database::recover(&self.env, &self.layout, name, OnAnomaly::Primary)?;
        all.insert(name.clone(), Arc::clone(&db));
        Ok(db)
    }

    /// A database that an application creates through the mount; refused on a replica.
    pub fn create_for_application(&self, caller: &Caller, name: &DbName) -> Result<Arc<Database>> {
        if let Some(db) = self.database(name.as_str()) {
            return Ok(db);
        }
        if self.env.gate.permit().is_none() {
            tracing::info!(db = %name, pid = caller.pid, "refused the creation of a database: this node is not the primary");
            return Err(StoreError::denied("this node is not the primary"));
        }
        self.create_database(name)
    }

    /// The mount is up: from now on the daemon takes part in SQLite's locking.
    pub fn set_mount(&self, factory: Arc<dyn MountFactory>, invalidator: Arc<dyn Invalidator>) {
        // A store is mounted once in its life.
        let _ = self.env.mounted.set(Mounted { factory, invalidator });
    }

    /// `fsync` of the mount's directory: every database directory with new or removed names.
    pub fn sync_dirs(&self) -> Result<()> {
        self.databases().iter().try_for_each(|db| db.sync_dir())
    }

    /// Stamps page sums and enforces retention in every database. Errors are logged, one database does
    /// not stop another.
    pub fn maintain(&self) {
        for db in self.databases() {
            if let Err(e) = db.maintain() {
                tracing::warn!(db = %db.name(), "maintenance: {e}");
            }
        }
    }

    /// No threads of our own: transactions are published when [`Database::publish_now`] is called. For
    /// tests that stop at every disk operation, which must come in the same order every time.
    #[cfg(any(test, feature = "sim"))]
    pub fn drive_by_hand(&self) {
        self.env.by_hand.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether this node may commit now.
    pub fn may_write(&self) -> bool {
        self.env.gate.permit().is_some()
    }

    /// Collects bytes for a database that need not exist yet, at most `limit` of them.
    pub fn spool(&self, db: &DbName, limit: u64) -> SpoolWriter {
        // A database's directory is made with the database, not for bytes that may turn out to be none.
        let known = self.database(db.as_str()).is_some();
        let dir = if known { self.layout.db(db).spool() } else { self.layout.spool() };
        SpoolWriter::new(Arc::clone(&self.env.disk), dir, limit)
    }

    /// A file for an import, before the database exists.
    pub fn import_file(&self) -> Result<ImportFile> {
        ImportFile::create(&self.env.disk, &self.layout.spool())
    }

    /// Changes when a database begins to ask for a snapshot ([`Database::wants_snapshot`]).
    pub fn snapshot_wishes(&self) -> u64 {
        self.env.snapshot_wishes.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Upkeep that cannot wait: to be called several times a second.
    pub fn tick(&self) {
        for db in self.databases() {
            if let Err(e) = db.tick() {
                tracing::debug!(db = %db.name(), "upkeep, tried again soon: {e}");
            }
        }
    }

    /// The first step of a clean stop, while the mount is still there.
    pub fn before_unmount(&self) {
        for db in self.databases() {
            if let Err(e) = db.before_unmount() {
                tracing::debug!(db = %db.name(), "left for the next start: {e}");
            }
        }
    }

    /// A clean stop, after the mount is gone: everything published is made durable and stamped, so that
    /// the next start reads no database file. Waits at most `deadline` a database for its publisher.
    /// `unmounted`: nobody has a file of the mount any more.
    pub fn close(&self, deadline: Duration, unmounted: bool) {
        for db in self.databases() {
            if let Err(e) = db.close(deadline, unmounted) {
                tracing::warn!(db = %db.name(), "not stopped cleanly, the next start recovers it: {e}");
            }
        }
    }
}

/// Makes the directories, and makes it durable that they are there: what is synced within them counts only
/// then.
fn make_directories(disk: &dyn Disk, layout: &DataLayout) -> Result<()> {
    let step = StoreError::io;
    if disk.exists(DIR, &layout.dbs()).map_err(step("look at the data directory"))? {
        return Ok(());
    }
    disk.create_dir_all(DIR, &layout.dbs()).map_err(step("creation of the data directory"))?;
    disk.sync_dir(DIR, layout.root()).map_err(step("sync of the data directory"))?;
    if let Some(parent) = layout.root().parent()
        && let Err(e) = disk.sync_dir(DIR, parent)
    {
        // Perhaps not ours to read; then somebody else made the data directory in it.
        tracing::debug!(dir = %parent.display(), "not synced: {e}");
    }
    Ok(())
}

/// Takes the directory for this process.
fn lock_directory(disk: &dyn Disk, layout: &DataLayout) -> Result<Option<nix::fcntl::Flock<std::fs::File>>> {
    let file =
        disk.open(LOCK, &layout.lock(), OpenHow::CREATE).map_err(StoreError::io("open of the lock file"))?;
    let Some(std_file) = file.std_file() else { return Ok(None) };
    let own = std_file.as_fd().try_clone_to_owned().map_err(StoreError::io("open of the lock file"))?;
    match nix::fcntl::Flock::lock(std::fs::File::from(own), nix::fcntl::FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(StoreError::refused(
            libc::EBUSY,
            format!("another litefsd uses {}; one daemon a data directory", layout.root().display()),
        )),
        Err((_, e)) => Err(StoreError::Io { what: "lock of the data directory", source: e.into() }),
    }
}

fn read_cluster_id(disk: &dyn Disk, layout: &DataLayout) -> Result<Option<ClusterId>> {
    /// Longer than any cluster id with white space around it.
    const MAX: usize = 256;
    let file = match disk.open(CLUSTER_ID_READ, &layout.cluster_id(), OpenHow::READ) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Io { what: "open of the clusterid file", source }),
    };
    let mut b = [0u8; MAX];
    let n = file.read_at(&mut b, 0).map_err(StoreError::io("read of the clusterid file"))?;
    let text = std::str::from_utf8(&b[..n]).unwrap_or_default().trim();
    let id = text.parse().map_err(|e| StoreError::Corrupt {
        what: "the clusterid file",
        reason: format!(
            "{e}: {} holds {text:?}; it is 'LFSC' and 16 hexadecimal digits. Restore it, or remove it to join the cluster anew",
            layout.cluster_id().display(),
        ),
    })?;
    Ok(Some(id))
}
