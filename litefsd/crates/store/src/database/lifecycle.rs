//! From the data directory into memory and back: open, first use by an application, upkeep, close.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use litefs_core::capture::rollback::RollbackCapture;
use litefs_core::capture::wal::WalTracker;
use litefs_sqlite::lock_bytes::Lock;
use litefs_types::{DbName, Pos};

use super::files::{Caller, Files, OpenMode};
use super::rollback::JournalState;
use super::{Database, Inner, JournalMode, OwnIo, Publisher};
use crate::disk::Op;
use crate::env::{Env, ReplicaWrites};
use crate::error::{Result, StoreError};
use crate::layout::DataLayout;
use crate::own_mount::{FileKind, LockKind, Probe};
use crate::recover::{self, OnAnomaly};

const CLOSE_SYNC: Op = Op::new("close.sync");
const CLOSE_UNLINK: Op = Op::new("close.unlink");

impl Database {
    /// Opens one database directory, whatever state it was left in.
    pub(crate) fn recover(
        env: &Arc<Env>,
        layout: &DataLayout,
        name: &DbName,
        on_anomaly: OnAnomaly,
    ) -> Result<Arc<Self>> {
        let dir = layout.db(name);
        let found = recover::open(&env.disk, layout, name, on_anomaly, env.node_id, env.now())?;
        for note in &found.notes {
            tracing::info!(db = %name, "recovery: {note}");
        }
        let pos = found.pos;
        let mode = found.page_size.map_or(JournalMode::Rollback, |_| found.mode);
        let listed = found.sums.page_count() > 0;
        let inner = Inner {
            page_size: found.page_size,
            mode,
            published_pages: found.sums.page_count(),
            sums: found.sums,
            tip: pos,
            published: pos,
            streamable: pos,
            last_timestamp: found.last_timestamp,
            wal: WalTracker::new(),
            prepared: std::collections::VecDeque::new(),
            wal_tx: None,
            wal_tx_by_x: false,
            wal_versions: std::collections::HashMap::new(),
            wal_sizes: Vec::new(),
            wal_synced: 0,
            wal_drops: 0,
            wal_needs_reset: false,
            refused_frame: None,
            warm: super::warm::WarmWal::default(),
            room: super::room::WalRoom::default(),
            complete_at: pos,
            journal: JournalState::default(),
            journal_file: super::journal_file::JournalFile::default(),
            rollback: RollbackCapture::default(),
            prepared_rollback: None,
            dirty_seq: 0,
            dirty_synced: false,
            log_synced_for_file: false,
            import: None,
            pending: std::collections::VecDeque::new(),
            poisoned: None,
        };
        Ok(Arc::new_cyclic(|me| Self {
            name: name.clone(),
            dir,
            dir_dirty: AtomicBool::new(false),
            names_in_doubt: AtomicBool::new(false),
            env: Arc::clone(env),
            log: Arc::new(found.log),
            files: Files::new(),
            inner: Mutex::new(inner),
            own: OnceLock::new(),
            own_io: Mutex::new(OwnIo::default()),
            cow: RwLock::default(),
            cow_active: AtomicBool::new(false),
            publisher: Publisher::default(),
            wants_snapshot: AtomicBool::new(false),
            listed: AtomicBool::new(listed),
            rewriting: AtomicBool::new(false),
            me: me.clone(),
            sums_file: Mutex::new(found.sums_file),
            counters: super::Counters::default(),
            transaction_ended: Condvar::new(),
        }))
    }

    /// The first OPEN of the database by an application: from now on the daemon takes part in locking.
    pub(super) fn before_application_open(&self, caller: &Caller, mode: OpenMode) -> Result<()> {
        let primary = self.env.gate.permit().is_some();
        if !primary && mode.write && self.env.settings.replica_writes == ReplicaWrites::ReadOnly {
            return Err(StoreError::denied("this node is not the primary (fuse.replica-writes: readonly)"));
        }
        let Some(own) = self.own() else { return Ok(()) };
        let attached = primary || {
            // Busy with own work: a worker finds out.
            let io = self.own_io.try_lock();
            let g = self.lock();
            g.mode == JournalMode::Rollback
                || g.sums.page_count() == 0
                || io.is_ok_and(|io| io.writer.as_ref().is_some_and(|w| w.is_attached()))
        };
        let open = own.probe(Lock::Pending, LockKind::Shared) != Probe::NotOpen;
        if open && attached {
            return Ok(());
        }
        if !caller.may_block {
            return Err(StoreError::NeedsWorker);
        }
        self.open_own_descriptors();
        if !attached && let Err(e) = self.attach_as_replica() {
            // An application was first: its writes are refused anyway, and the next apply tries again.
            tracing::warn!(db = %self.name, "cannot take the WAL writer's lock yet: {e}");
        }
        Ok(())
    }

    /// Opens the daemon's own descriptor of the database file. Worker threads only.
    pub fn open_own_descriptors(&self) {
        if let Some(own) = self.own()
            && let Err(e) = own.open(FileKind::Database, false)
        {
            tracing::warn!(db = %self.name, "cannot open the own descriptor: {e}");
        }
    }

    /// The published position, if nothing waits to be published.
    pub fn settled_pos(&self) -> Option<Pos> {
        let g = self.lock();
        g.settled().then_some(g.published)
    }

    /// Upkeep between transactions: checkpoint of a replica's WAL, stamp of the page sums, retention,
    /// a spare log segment.
    pub fn maintain(&self) -> Result<()> {
        if self.poisoned().is_some() {
            return Ok(());
        }
        self.stamp(false)?;
        if let Some(mut own_io) = self.try_lock_own()
            && own_io.writer.is_none()
        {
            // A stamp failed when the snapshot was applied.
            self.forget_kept_snapshot(&mut own_io)?;
        }
        let floor = self.sums_file().floor();
        let age = self.env.settings.max_log_age.unwrap_or(Duration::MAX);
        let trimmed = self.log.trim(self.env.now(), age, self.env.settings.max_log_size, floor)?;
        self.counters.add_reaped(trimmed.records);
        Ok(())
    }

    /// Upkeep that cannot wait for the retention interval; cheap when there is nothing to do.
    pub(crate) fn tick(&self) -> Result<()> {
        if self.poisoned().is_some() {
            return Ok(());
        }
        self.log.prepare_spare()?;
        if self.env.gate.permit().is_none() {
            self.maintain_replica()
        } else if self.lock().wal_needs_reset {
            self.reset_wal()
        } else {
            Ok(())
        }
    }

    /// Rule W7, last step: SQLite's own recovery would lose what this wal holds, so it is copied into the
    /// database file and starts over.
    fn reset_wal(&self) -> Result<()> {
        let Some(own) = self.own().cloned() else { return Ok(()) };
        let Some(_own_io) = self.try_lock_own() else { return Ok(()) };
        let Some(ps) = self.page_size() else { return Ok(()) };
        /// It is tried again at the next upkeep.
        const PATIENCE: Duration = Duration::from_millis(20);
        let writer = crate::apply::wal_writer::WalWriter::attach(&*own, ps, Instant::now() + PATIENCE)?;
        self.resolve()?;
        let before = || self.log.sync().map(|_| ()).map_err(std::io::Error::other);
        let done = writer
            .checkpoint(&*own, &before)
            .and_then(|c| if c.complete { writer.reset(&*own) } else { Ok(false) });
        // Before the lock goes: the next writer's frames must find a tracker that knows where they begin.
        let mut g = self.lock();
        self.adopt_wal(&mut g, &writer.position());
        drop(g);
        writer.detach(&*own, Instant::now() + PATIENCE)?;
        let mut g = self.lock();
        if done? {
            g.wal_needs_reset = false;
            g.complete_at = g.published;
            tracing::info!(db = %self.name, "reset a wal that held commits with a broken checksum chain");
        }
        Ok(())
    }

    /// The last step of a stop. `unmounted`: no application has a file of the mount any more, so nothing
    /// changes, and the next start may trust what it finds.
    ///
    /// Order: log, database file, then the wal (which says nothing new) goes, then the stamp.
    pub(crate) fn close(&self, deadline: Duration, unmounted: bool) -> Result<()> {
        self.stop_publisher();
        let until = Instant::now() + deadline;
        while self.publisher_alive() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let clean = {
            let g = self.lock();
            self.check_alive(&g)?;
            unmounted && g.settled() && !g.journal.live && g.complete_at == g.published
        };
        self.sync_log()?;
        self.log.close()?;
        if clean {
            if let Ok(f) = self.backing(FileKind::Database) {
                f.file.sync_data(CLOSE_SYNC).map_err(StoreError::io("sync of the database"))?;
            }
            for kind in [FileKind::Wal, FileKind::Shm] {
                if self.exists(kind) {
                    self.remove_name(kind, CLOSE_UNLINK)?;
                }
            }
            if self.files.is_retired(FileKind::Journal) {
                self.remove_name(FileKind::Journal, CLOSE_UNLINK)?;
            }
            self.sync_dir()?;
        }
        self.stamp(clean)
    }
}
