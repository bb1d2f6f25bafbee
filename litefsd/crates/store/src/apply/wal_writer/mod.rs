//! The daemon as a writer of a database's WAL: how a replica applies transactions, and how a primary
//! writes what is not an application's (import, drop).
//!
//! Owns: the state of one WAL and its locks between [`WalWriter::attach`] and [`WalWriter::detach`].
//! Its parts: `attach` (locks, adopting or rebuilding the index), `frames` (encoding), `index` (reading
//! and writing the index), `tx` (one transaction, restart), `checkpoint`, `leave` (back to a rollback
//! journal). Does not own: which transaction comes next. Tested in `tests/apply/wal*.rs`.
//!
//! *Invariant:* while attached, SHARED on the database, DMS and WRITE on the index are held. So readers
//! come and go, an application's write or TRUNCATE checkpoint gets BUSY at once, and nobody removes or
//! rebuilds the files.
//!
//! A database of no pages must not be written here: SQLite deletes the WAL of an empty file. Its first
//! transaction goes through [`super::rollback_writer`].

mod attach;
mod checkpoint;
mod frames;
mod index;
mod leave;
mod tx;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use litefs_sqlite::lock_bytes::Lock;
use litefs_sqlite::shm::IndexHeader;
use litefs_sqlite::wal::{WalHeader, frame_offset};
use litefs_types::PageSize;

use super::ApplyError;
use super::locks::{self, Backoff};
use crate::own_mount::{LockKind, OwnMount};
pub use checkpoint::Checkpoint;
pub use tx::Written;

/// Frames from which a checkpoint is worth while: SQLite's own default.
pub const CHECKPOINT_FRAMES: u32 = 1000;

/// Bytes of WAL above which a checkpoint that readers hold back is reported: 256 MiB cost every reader a
/// longer search, and the disk as much again as a large transaction.
pub const HARD_WAL_BYTES: u64 = 256 << 20;

/// Whether the WAL is made durable with each transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalSync {
    /// No: the durable log explains it. A replica.
    No,
    /// Yes, header and frames, as SQLite with `synchronous=FULL`. Where the WAL is the only witness.
    Yes,
}

/// Where a WAL stands: what a [`litefs_core`] tracker must know to go on from frames it did not see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalPosition {
    /// The header of the WAL file; `None` if no frame of it counts (then the next writer writes one).
    pub generation: Option<WalHeader>,
    /// Last committed frame, 0: none.
    pub mx_frame: u32,
    /// The checksum chain's value after it.
    pub chain: [u32; 2],
    /// Pages of the database; 0 if only the size of the database file says it.
    pub n_pages: u32,
    /// The frames up to `mx_frame` are not one valid chain: an old SQLite wrote them, its own recovery
    /// would lose transactions. Checkpoint and restart this WAL soon.
    pub chain_broken: bool,
}

/// A WAL that this process writes. See the module documentation.
///
/// Methods take `&self` and the mount that was given to [`WalWriter::attach`]. One task may apply and
/// another checkpoint at the same time.
#[derive(Debug)]
pub struct WalWriter {
    state: Mutex<State>,
    /// A checkpoint under way shall give up: somebody waits for the writer as a whole.
    cancel: AtomicBool,
}

#[derive(Debug)]
pub(super) struct State {
    /// Locks are held.
    pub(super) attached: bool,
    /// Page size of the database; of the WAL too unless that is empty.
    pub(super) page_size: PageSize,
    /// The index header as it is in the file.
    header: IndexHeader,
    /// The WAL header, if `header.mx_frame` is not 0.
    generation: Option<WalHeader>,
    /// Sequence number of the last WAL header in the file.
    sequence: u32,
    chain_broken: bool,
    /// The block that the last transaction ended in, as it is in the file. Nobody else writes it while
    /// WRITE is held; dropped when one of our own writes fails half way.
    block: Option<(u32, Box<[u8]>)>,
    /// A checkpoint is copying: frames must stay where they are.
    checkpointing: bool,
    /// Frames from which a checkpoint waits for readers.
    wait_from: u32,
    /// Reused for every transaction, at most a batch and a frame long.
    buf: Vec<u8>,
}

impl State {
    fn position(&self) -> WalPosition {
        let mx_frame = self.header.mx_frame;
        let generation = self.generation.filter(|_| mx_frame > 0);
        WalPosition {
            generation,
            mx_frame,
            chain: if generation.is_some() { self.header.frame_checksum } else { [0; 2] },
            n_pages: self.header.n_pages,
            chain_broken: self.chain_broken,
        }
    }

    fn check_attached(&self) -> Result<(), ApplyError> {
        if self.attached { Ok(()) } else { Err(ApplyError::Detached) }
    }

    /// The locks went away with the files.
    pub(super) fn detached(&mut self) {
        self.attached = false;
        self.block = None;
    }
}

impl WalWriter {
    pub(super) fn lock_state(&self) -> MutexGuard<'_, State> {
        // A panic within left files, not invariants of the state: what it caches is re-read.
        self.state.lock().unwrap_or_else(|e: PoisonError<_>| {
            let mut state = e.into_inner();
            state.block = None;
            state
        })
    }

    /// The state, with no checkpoint copying beside the caller; one that is under way gives up.
    pub(super) fn lock_idle(
        &self,
        mount: &dyn OwnMount,
        deadline: Instant,
    ) -> Result<MutexGuard<'_, State>, ApplyError> {
        let mut backoff = Backoff::new(deadline);
        loop {
            let state = self.lock_state();
            if !state.checkpointing {
                self.cancel.store(false, Ordering::Release);
                return Ok(state);
            }
            drop(state);
            self.cancel.store(true, Ordering::Release);
            if !backoff.pause() {
                let holder = locks::blocker(mount, Lock::WalCkpt, LockKind::Exclusive);
                return Err(ApplyError::Blocked(holder));
            }
        }
    }

    /// Where the WAL stands.
    pub fn position(&self) -> WalPosition {
        self.lock_state().position()
    }

    /// Whether the locks are held.
    pub fn is_attached(&self) -> bool {
        self.lock_state().attached
    }

    /// Bytes of WAL that readers may need.
    pub fn wal_bytes(&self) -> u64 {
        let state = self.lock_state();
        frame_offset(state.header.mx_frame.saturating_add(1), state.page_size)
    }
}
