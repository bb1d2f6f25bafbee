//! One database: its files, its capture state, its positions. The only writer of its directory.
//!
//! Entry points: the file operations in `files` (called by FUSE handlers), [`Database::apply`]
//! (replication), [`Database::import`], and the publisher in `publish`.
//!
//! Three positions, each at most the one before:
//! *tip* – end of the log, the transaction is complete but nobody may have seen it;
//! *published* – SQLite on this node shows it;
//! *streamable* – durable enough that replicas may have it.
//!
//! Locks, in the order they are taken: `own_io` (worker threads only: serialises own-mount work) →
//! `inner` (capture state) → the log's own. No own-mount IO while `inner` is held: another FUSE
//! handler may need it to answer. Handlers never take `own_io`.
//!
//! Tested by `tests/mount` (real SQLite on a real mount), `tests/crash`, and the unit tests beside.

mod apply;
mod apply_snapshot;
mod checkpoint;
mod commit;
mod counters;
mod drop;
mod files;
mod gate;
mod import;
mod journal_file;
mod leftover;
mod lifecycle;
mod publish;
mod replica_wal;
mod rollback;
mod room;
mod stamp;
mod super_journal;

#[cfg(test)]
mod tests;
mod transfer;
mod verify;
mod wal;
mod warm;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, TryLockError, Weak};
use std::time::{Duration, Instant};

use litefs_core::capture::rollback::RollbackCapture;
use litefs_core::capture::wal::WalTracker;
use litefs_core::page_sums::{PageSums, Undo};
pub use litefs_sqlite::db_header::JournalMode;
use litefs_types::{Checksum, DbName, PageNo, PageSize, Pos, Timestamp};

pub use self::apply::ReceivedLtx;
pub use self::counters::Counters;
pub use self::files::{Caller, FileAttr, HandleId, OpenMode, OpenedFile};
pub use self::import::{CheckedImport, ImportFile};
pub use self::transfer::Export;

use self::files::Files;
use self::import::ImportSession;
use self::journal_file::JournalFile;
use self::rollback::{JournalState, PreparedRollback};
use self::room::WalRoom;
use self::wal::RefusedFrame;
use self::warm::WarmWal;
use crate::apply::wal_writer::WalWriter;
use crate::env::Env;
use crate::error::{Result, StoreError};
use crate::layout::DbLayout;
use crate::log::{Log, Lsn};
use crate::notice::Change;
use crate::own_mount::OwnMount;
use crate::snapshot::CopyOnWrite;
use crate::sums_file::SumsFile;

/// See the module documentation.
pub struct Database {
    name: DbName,
    dir: DbLayout,
    /// A name was made or removed since the directory was last synced.
    dir_dirty: AtomicBool,
    /// A sync of the directory failed: the wal may have no name after a power loss.
    names_in_doubt: AtomicBool,
    env: Arc<Env>,
    log: Arc<Log>,
    files: Files,
    inner: Mutex<Inner>,
    own: OnceLock<Arc<dyn OwnMount>>,
    own_io: Mutex<OwnIo>,
    cow: RwLock<Vec<Arc<CopyOnWrite>>>,
    cow_active: AtomicBool,
    publisher: Publisher,
    /// See [`Database::wants_snapshot`].
    wants_snapshot: AtomicBool,
    /// The mount's directory shows it.
    listed: AtomicBool,
    /// The daemon is changing the database file: its pages are not what the sums say for a moment.
    rewriting: AtomicBool,
    /// For the publisher thread.
    me: Weak<Database>,
    sums_file: Mutex<SumsFile>,
    counters: Counters,
    /// Notified when a rollback transaction ends: somebody may be waiting to copy the database.
    transaction_ended: Condvar,
}

/// What only workers touch, while they do own-mount IO.
#[derive(Default)]
struct OwnIo {
    /// The daemon as the WAL writer of a replica's database (rule P1), once attached.
    writer: Option<Arc<WalWriter>>,
    /// `snapshot.ltx` stays until a checkpoint has brought its frames into the database file.
    snapshot_kept: bool,
    /// When to try again to give up a WAL whose database went back to a rollback journal.
    leave_wal_after: Option<Instant>,
}

/// Wakes the publisher thread of this database.
#[derive(Default)]
struct Publisher {
    started: AtomicBool,
    /// Set while the thread waits without a deadline: only then is a wake-up worth a system call.
    idle: AtomicBool,
    bell: Condvar,
    bell_lock: Mutex<Bell>,
    /// Held while transactions are announced, so that they are in order whoever does it.
    announcing: Mutex<()>,
}

#[derive(Default)]
struct Bell {
    rung: bool,
    stop: bool,
}

/// The capture state of a database.
struct Inner {
    /// `None`: no transaction yet, or dropped.
    page_size: Option<PageSize>,
    mode: JournalMode,
    /// Page sums at `tip`.
    sums: PageSums,
    tip: Pos,
    published: Pos,
    published_pages: u32,
    streamable: Pos,
    last_timestamp: Option<Timestamp>,

    wal: WalTracker,
    /// Complete transactions in the log above `published`, oldest first.
    prepared: VecDeque<Prepared>,
    /// The handle whose transaction is being written to the wal, and whether EXCLUSIVE alone covers it.
    wal_tx: Option<HandleId>,
    wal_tx_by_x: bool,
    /// The versions of each page in frames of this WAL generation: what a checkpoint may write (rule C2).
    wal_versions: HashMap<PageNo, Vec<Version>>,
    /// Page counts that transactions of this generation had: what a checkpoint may cut to (rule C4).
    wal_sizes: Vec<u32>,
    /// Frames of the current generation that an FSYNC of the wal covered.
    wal_synced: u32,
    /// Counts what was dropped: frames that take the place of others were not synced with them.
    wal_drops: u64,
    /// The WAL holds a commit that SQLite's own recovery would lose (rule W7): reset it.
    wal_needs_reset: bool,
    refused_frame: Option<RefusedFrame>,
    warm: WarmWal,
    room: WalRoom,
    /// `published` when the database file last held everything (the WAL generation began).
    complete_at: Pos,

    journal: JournalState,
    journal_file: JournalFile,
    rollback: RollbackCapture,
    prepared_rollback: Option<PreparedRollback>,
    /// Counts changes to the database file inside a rollback transaction.
    dirty_seq: u64,
    /// An FSYNC of the database file came after the last of those changes.
    dirty_synced: bool,
    /// An FSYNC of the database file in this transaction was answered by a sync of the log instead.
    log_synced_for_file: bool,

    import: Option<ImportSession>,
    /// Published, not yet streamable.
    pending: VecDeque<Pending>,
    poisoned: Option<String>,
}

/// A WAL transaction in the log that the wal-index does not show yet.
struct Prepared {
    pos: Pos,
    last_frame: u32,
    /// Frame checksum of the last frame: `mxFrame` alone does not prove that it is this frame.
    chain: [u32; 2],
    pages: u32,
    /// `None`: nothing changed (a copy that `psow=0` appends), so there is no transaction.
    logged: Option<Logged>,
    /// X was held and no wal-index of this generation existed: rule W8.
    heap_index: bool,
    at: Instant,
}

/// A version of a page that frames of the wal hold.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    sum: Checksum,
    /// The first transaction with this content; the log explains the page once it is durable up to here.
    txid: u64,
}

/// The part of a prepared transaction that is in the log.
struct Logged {
    undo: SumsUndo,
    mode_before: JournalMode,
    timestamp: Timestamp,
    page_size_before: Option<PageSize>,
}

/// How to take back what a transaction did to the page sums.
enum SumsUndo {
    /// Some pages changed.
    Pages(Undo),
    /// The page size changed, so everything did.
    Whole(Box<PageSums>),
}

/// A published transaction on its way to the replicas.
struct Pending {
    change: Change,
    durable: DurableBy,
    since: Instant,
}

/// What makes a published transaction durable enough for replicas.
#[derive(Clone, Copy)]
enum DurableBy {
    /// An FSYNC of the wal that covered this frame, or a sync of the log.
    Frame(u32),
    /// A sync of the log that covers its record.
    Record,
    /// A sync of the log that covers its marker: without it, a journal that a power loss brings back would
    /// undo what replicas have.
    Marker(Lsn),
}

/// Why nothing is accepted after the log gave up by itself.
const LOG_FAILED: &str = "a sync of the log failed";

impl Database {
    /// The name.
    pub fn name(&self) -> &DbName {
        &self.name
    }

    /// The position that SQLite on this node shows, as far as it is known without asking the wal-index.
    pub fn pos(&self) -> Pos {
        self.lock().published
    }

    /// How far replicas may be sent.
    pub fn streamable_pos(&self) -> Pos {
        self.lock().streamable
    }

    /// How far what is published survives a power loss by the log alone.
    pub fn durable_pos(&self) -> Pos {
        let g = self.lock();
        let durable = self.log.durable();
        if durable.txid_raw() < g.published.txid_raw() { durable } else { g.published }
    }

    /// Page size; `None` before the first transaction and after a drop.
    pub fn page_size(&self) -> Option<PageSize> {
        self.lock().page_size
    }

    /// Pages at [`Self::pos`].
    pub fn page_count(&self) -> u32 {
        self.lock().published_pages
    }

    /// Whether the last transaction dropped it: only the name and the position remain.
    pub fn is_dropped(&self) -> bool {
        let g = self.lock();
        !g.published.is_zero() && g.published_pages == 0
    }

    /// By the database header.
    pub fn journal_mode(&self) -> JournalMode {
        self.lock().mode
    }

    /// Time stamp of the last published transaction of this process.
    pub fn last_timestamp(&self) -> Option<Timestamp> {
        self.lock().last_timestamp
    }

    /// Why no transaction is accepted any more, if so.
    pub fn poisoned(&self) -> Option<String> {
        let own = self.lock().poisoned.clone();
        own.or_else(|| self.log.is_poisoned().then(|| LOG_FAILED.to_owned()))
    }

    /// The transactions that are kept.
    pub fn log(&self) -> &Log {
        &self.log
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A handler that panicked aborts the process in release builds; in tests the state is still the
        // best there is.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_own(&self) -> MutexGuard<'_, OwnIo> {
        self.own_io.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, if nobody has it.
    fn try_lock_own(&self) -> Option<MutexGuard<'_, OwnIo>> {
        match self.own_io.try_lock() {
            Ok(io) => Some(io),
            Err(TryLockError::Poisoned(p)) => Some(p.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The same, waited for at most until then.
    fn lock_own_until(&self, deadline: Instant) -> Option<MutexGuard<'_, OwnIo>> {
        /// Pause between two looks.
        const PAUSE: Duration = Duration::from_millis(1);
        loop {
            if let Some(io) = self.try_lock_own() {
                return Some(io);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The own-mount client, if the mount is up.
    fn own(&self) -> Option<&Arc<dyn OwnMount>> {
        if let Some(own) = self.own.get() {
            return Some(own);
        }
        let made = self.env.mounted.get()?.factory.own_mount(&self.name);
        Some(self.own.get_or_init(|| made))
    }

    /// Stops accepting transactions: disk and log may disagree, and only recovery tells.
    fn poison(&self, g: &mut Inner, reason: impl Into<String>) -> StoreError {
        let reason = reason.into();
        if g.poisoned.is_none() {
            tracing::error!(db = %self.name, "stopped accepting transactions until the daemon is restarted: {reason}");
            g.poisoned = Some(reason.clone());
        }
        StoreError::Poisoned { db: self.name.clone(), reason }
    }

    fn check_alive(&self, g: &Inner) -> Result<()> {
        let reason = match &g.poisoned {
            // By upkeep: a spare segment, retention.
            None if self.log.is_poisoned() => LOG_FAILED.to_owned(),
            None => return Ok(()),
            Some(reason) => reason.clone(),
        };
        Err(StoreError::Poisoned { db: self.name.clone(), reason })
    }

    /// Saves what an active snapshot still needs of a database page that is about to be overwritten.
    fn preserve(&self, offset: u64, len: u64) -> Result<()> {
        if !self.cow_active.load(Ordering::Acquire) {
            return Ok(());
        }
        let list = self.cow.read().unwrap_or_else(PoisonError::into_inner);
        if list.is_empty() {
            return Ok(());
        }
        let Some(db) = self.files.current(crate::own_mount::FileKind::Database) else { return Ok(()) };
        let size = db.file.len().map_err(StoreError::io("size of the database file"))?;
        let end = offset.saturating_add(len).min(size);
        let mut buf = Vec::new();
        for c in list.iter().filter(|c| !c.is_done()) {
            // The snapshot's own: what is being written may have another one.
            let ps = c.page_size();
            buf.resize(ps.bytes(), 0);
            let mut n = offset / u64::from(ps.get());
            while n * u64::from(ps.get()) < end {
                if let Some(page) = u32::try_from(n + 1).ok().and_then(PageNo::new)
                    && c.wants(page)
                {
                    buf.fill(0);
                    db.file
                        .read_at(&mut buf, ps.offset(page))
                        .map_err(StoreError::io("read of a page that a snapshot still needs"))?;
                    c.preserve(page, &buf);
                }
                n += 1;
            }
        }
        Ok(())
    }
}

impl Inner {
    fn undo_sums(&mut self, undo: SumsUndo) {
        match undo {
            SumsUndo::Pages(undo) => self.sums.undo(undo),
            SumsUndo::Whole(sums) => self.sums = *sums,
        }
    }

    /// Nothing is prepared, no verified frame is waiting, and no commit that only the wal-index explains.
    fn settled(&self) -> bool {
        self.prepared.is_empty()
            && self.wal.verified_frames() <= self.wal.published_frames()
            && !self.wal.uncaptured_commit()
    }

    /// Only the wal-index tells whether SQLite shows something that is not published yet.
    fn ask_index(&self) -> bool {
        !self.prepared.is_empty() || self.wal.uncaptured_commit()
    }
}
