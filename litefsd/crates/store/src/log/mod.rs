//! The append-only log of one database: every transaction as the LTX bytes that replicas get.
//!
//! Owns the directory `log/`: segments (`segment`) of records (`record`), pre-zeroed and recycled,
//! because overwriting allocated blocks costs a third of creating a file per transaction. Owns no
//! meaning: a record's payload is opaque here, and what is published or streamed is `database`'s.
//!
//! Start with [`Log::open`], [`Log::append`], [`Log::sync`], [`Log::get`].
//!
//! Locks, in this order: `append` (held by an [`Appender`] until it is finished) → `view` (short, never
//! across a write or a sync) ; `sync` is taken alone or inside `append`. Readers take `view` once for
//! [`Log::get`] and none for reading.
//!
//! *Invariants:* the records are contiguous (each one's pre position is the one's before post position);
//! what [`Log::sync`] covered is there after any crash, unless it was rewound; a rewound record never
//! comes back after [`Log::rewind`] returned; memory does not grow with the number of records.
//!
//! Tests: `tests` (behaviour), `crash_tests` (every disk operation × before, after, torn).

mod append;
mod open;
mod read;
pub(crate) mod record;
mod retention;
mod rewind;
pub(crate) mod segment;
mod sync;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use litefs_types::{Checksum, Pos, Timestamp, Txid};

pub use self::append::{Appender, RecordMeta};
pub use self::read::{EntryReader, LogEntry};
pub use self::record::{JournalId, RecordKind};
pub use self::retention::{Pin, Trimmed};
use self::segment::{Entry, Extent, SegFile};
use crate::disk::{Disk, Op};

/// Size of the first segment, and of any that has to be made on the commit path: zeroing it takes
/// about 0.1 ms.
///
/// Unit tests run with an eighth, so that a crash matrix over segment switches is quick.
pub const MIN_SEGMENT: u64 = if cfg!(test) { 32 } else { 256 } * 1024;
/// Size that segments grow to: seldom enough to switch, small enough for retention to follow a size limit.
pub const MAX_SEGMENT: u64 = 16 * 1024 * 1024;
/// Indexes of sealed segments that are kept in memory (at most 1 MiB each, typically 10 KiB).
const CACHED_SEGMENTS: usize = 8;

/// Names of the log's disk operations.
pub mod ops {
    use crate::disk::Op;

    /// Opening and listing at start.
    pub const OPEN: Op = Op::new("log.open");
    /// A record.
    pub const APPEND: Op = Op::new("log.append");
    /// The marker "committed".
    pub const MARK: Op = Op::new("log.mark");
    /// fdatasync of a segment.
    pub const SYNC: Op = Op::new("log.sync");
    /// fsync of the directory, after a new segment.
    pub const SYNC_DIR: Op = Op::new("log.sync-dir");
    /// Seal and footer of a full segment.
    pub const SEAL: Op = Op::new("log.seal");
    /// Making a segment.
    pub const NEW_SEGMENT: Op = Op::new("log.new-segment");
    /// Making the spare segment.
    pub const SPARE: Op = Op::new("log.spare");
    /// Taking records back.
    pub const REWIND: Op = Op::new("log.rewind");
    /// Removing or recycling old segments.
    pub const TRIM: Op = Op::new("log.trim");
    /// Starting again behind a snapshot.
    pub const RESET: Op = Op::new("log.reset");
    /// Taking over a spooled file.
    pub const ADOPT: Op = Op::new("log.adopt");
}

/// Why the log could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused. For an append: the record is not there, the log goes on.
    #[error("{op} failed")]
    Io {
        /// Which operation.
        op: Op,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A sync failed before: nothing may be acknowledged on this log any more; recover.
    #[error("the log is out of use after a failed sync")]
    Poisoned,
    /// A record does not follow the last one, or a rewind names a position that is not in the log.
    #[error("transaction {txid} with pre-checksum {pre} does not follow {tip}")]
    NotContiguous {
        /// The record's first transaction.
        txid: Txid,
        /// Its checksum before.
        pre: Checksum,
        /// The end of the log.
        tip: Pos,
    },
    /// A record's bytes are damaged.
    #[error("the log record of transaction {0} is damaged")]
    Corrupt(Txid),
}

impl LogError {
    /// Adds the operation's name; for `map_err`.
    pub(crate) fn io(op: Op) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, source }
    }
}

/// Result of the log.
pub type Result<T> = std::result::Result<T, LogError>;

/// See the module documentation.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    append: Mutex<AppendState>,
    view: Mutex<View>,
    sync: Mutex<SyncState>,
    synced: Condvar,
    pins: Arc<Mutex<BTreeMap<Txid, usize>>>,
    poisoned: AtomicBool,
}

/// What only the holder of the append lock touches.
struct AppendState {
    /// Header and payload of the record being made.
    buf: Vec<u8>,
}

/// What the log holds.
struct View {
    /// Full segments, oldest first.
    sealed: VecDeque<Sealed>,
    /// The segment that is appended to.
    open: Option<OpenSegment>,
    tip: Pos,
    /// Counts changes; a sync covers those up to the value it saw.
    lsn: u64,
    /// Segments with changes that no sync has covered, oldest first.
    dirty: Vec<Arc<SegFile>>,
    dir_dirty: bool,
    next_seq: u64,
    /// Size of the spare segment, if there is one.
    spare: Option<u64>,
    /// Least recently used last.
    cache: VecDeque<(u64, Arc<Loaded>)>,
}

/// A change of the log's files, in the order of the changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Lsn(u64);

struct OpenSegment {
    seg: Arc<SegFile>,
    extent: Extent,
    entries: Vec<Entry>,
}

struct Sealed {
    seq: u64,
    base: Pos,
    extent: Extent,
    file_len: u64,
    file: std::sync::Weak<SegFile>,
}

/// A sealed segment with its index.
struct Loaded {
    seg: Arc<SegFile>,
    entries: Vec<Entry>,
}

struct SyncState {
    /// Somebody is syncing, or must not be disturbed by a sync.
    running: bool,
    lsn: u64,
    pos: Pos,
}

/// A lock whose holder panicked is taken over: the daemon aborts on panics, tests look at what is left.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// The end of the log: the last transaction that was appended, durable or not.
    pub fn tip(&self) -> Pos {
        lock(&self.view).tip
    }

    /// How far the log is known to be durable.
    pub fn durable(&self) -> Pos {
        lock(&self.sync).pos
    }

    /// The last change that a sync covered.
    pub fn synced(&self) -> Lsn {
        Lsn(lock(&self.sync).lsn)
    }

    /// The oldest transaction in the log; `None` if it holds none.
    pub fn first(&self) -> Option<Txid> {
        let v = lock(&self.view);
        let sealed = v.sealed.iter().map(|s| (s.base, s.extent.count));
        let open = v.open.iter().map(|o| (o.seg.head.base, o.extent.count));
        sealed.chain(open).find(|(_, count)| *count > 0).map(|(base, _)| base.next_txid())
    }

    /// The position before the oldest record; the end, if there is none.
    pub fn base(&self) -> Pos {
        let v = lock(&self.view);
        v.sealed.front().map(|s| s.base).or(v.open.as_ref().map(|o| o.seg.head.base)).unwrap_or(v.tip)
    }

    /// Bytes of the log's files, the spare one not counted.
    pub fn size_bytes(&self) -> u64 {
        let v = lock(&self.view);
        v.sealed.iter().map(|s| s.file_len).sum::<u64>() + v.open.as_ref().map_or(0, |o| o.extent.end)
    }

    /// Records in the log.
    pub fn count(&self) -> u64 {
        let v = lock(&self.view);
        v.sealed.iter().map(|s| s.extent.count).sum::<u64>() + v.open.as_ref().map_or(0, |o| o.extent.count)
    }

    /// When the last record was appended; `None` in an empty log.
    pub fn last_time(&self) -> Option<Timestamp> {
        let v = lock(&self.view);
        let open = v.open.as_ref().map(|o| o.extent);
        open.into_iter()
            .chain(v.sealed.iter().rev().map(|s| s.extent))
            .find(|e| e.count > 0)
            .map(|e| e.last_time)
    }

    /// Whether a sync has failed; see [`LogError::Poisoned`].
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Puts the log out of use, as a failed sync does: for failures elsewhere after which nothing may be
    /// acknowledged (an fsync of the database or the wal).
    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
        self.synced.notify_all();
    }

    fn check_usable(&self) -> Result<()> {
        if self.is_poisoned() { Err(LogError::Poisoned) } else { Ok(()) }
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl View {
    /// Notes a change in `seg` that the next sync has to cover.
    fn touch(&mut self, seg: &Arc<SegFile>) {
        self.lsn += 1;
        if !self.dirty.iter().any(|d| Arc::ptr_eq(d, seg)) {
            self.dirty.push(Arc::clone(seg));
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dir", &self.dir).field("tip", &self.tip()).finish_non_exhaustive()
    }
}
