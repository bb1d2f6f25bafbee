//! The lock-proof gate (capture rules, B.1): every mutating request must be covered by the lock that
//! SQLite would hold, on *this* mount.
//!
//! Without it a process that outlived a daemon crash destroys committed data on the new mount merely by
//! closing its connection: its locks are on the dead mount, its paths resolve to the new one.
//!
//! The gate proves that *somebody* holds the lock. It costs one `fcntl` and no FUSE request.

use litefs_sqlite::lock_bytes::{Lock, LockFile};

use super::Database;
use super::files::Caller;
use crate::error::{Result, StoreError};
use crate::own_mount::{FileKind, LockKind, Probe};

/// Every lock of a database: a drop needs all of them free.
const ALL: [Lock; 12] = [
    Lock::Pending,
    Lock::Reserved,
    Lock::Shared,
    Lock::WalWrite,
    Lock::WalCkpt,
    Lock::WalRecover,
    Lock::WalRead(0),
    Lock::WalRead(1),
    Lock::WalRead(2),
    Lock::WalRead(3),
    Lock::WalRead(4),
    Lock::Dms,
];

impl Database {
    /// Whether somebody holds a conflicting lock; opens the own descriptor first where it is missing.
    pub(super) fn probe(&self, caller: &Caller, lock: Lock, kind: LockKind) -> Result<Probe> {
        // No mount, no SQLite clients: everything goes (recovery and tests without a mount).
        let Some(own) = self.own() else { return Ok(Probe::Free) };
        match own.probe(lock, kind) {
            Probe::NotOpen => {}
            known => return Ok(known),
        }
        if !caller.may_block {
            return Err(StoreError::NeedsWorker);
        }
        let file = match lock.file() {
            LockFile::Database => FileKind::Database,
            LockFile::Shm => FileKind::Shm,
        };
        if !own.open(file, false).map_err(StoreError::io("open of the own lock descriptor"))? {
            return Ok(Probe::NoFile);
        }
        Ok(match own.probe(lock, kind) {
            Probe::NotOpen => Probe::NoFile,
            known => known,
        })
    }

    /// Whether somebody holds `lock` exclusively.
    fn exclusive(&self, caller: &Caller, lock: Lock) -> Result<bool> {
        Ok(matches!(self.probe(caller, lock, LockKind::Shared)?, Probe::Held { .. }))
    }

    /// X: the write lock on the SHARED range.
    pub(super) fn x_held(&self, caller: &Caller) -> Result<bool> {
        self.exclusive(caller, Lock::Shared)
    }

    /// R or X, for journals.
    pub(super) fn gate_journal(&self, caller: &Caller, what: &'static str) -> Result<()> {
        if self.own().is_none()
            || self.exclusive(caller, Lock::Reserved)?
            || self.exclusive(caller, Lock::Shared)?
        {
            return Ok(());
        }
        Err(self.refusal(caller, what, "RESERVED or EXCLUSIVE"))
    }

    /// WAL_WRITE or X, for the wal. Says whether it was X alone: then the writer may keep its wal-index
    /// in its own memory (rule W8).
    pub(super) fn gate_wal(&self, caller: &Caller, what: &'static str) -> Result<bool> {
        if self.own().is_none() || self.exclusive(caller, Lock::WalWrite)? {
            return Ok(false);
        }
        if self.exclusive(caller, Lock::Shared)? {
            return Ok(true);
        }
        Err(self.refusal(caller, what, "WAL_WRITE or EXCLUSIVE"))
    }

    /// WAL_CKPT or X, for a checkpoint.
    pub(super) fn gate_checkpoint(&self, caller: &Caller, what: &'static str) -> Result<()> {
        if self.own().is_none()
            || self.exclusive(caller, Lock::WalCkpt)?
            || self.exclusive(caller, Lock::Shared)?
        {
            return Ok(());
        }
        Err(self.refusal(caller, what, "WAL_CKPT or EXCLUSIVE"))
    }

    /// X.
    pub(super) fn gate_exclusive(&self, caller: &Caller, what: &'static str) -> Result<()> {
        if self.own().is_none() || self.x_held(caller)? {
            return Ok(());
        }
        Err(self.refusal(caller, what, "EXCLUSIVE"))
    }

    /// No lock of any kind by others: for the removal of a database and for import sessions.
    pub(super) fn unlocked_by_others(&self, caller: &Caller) -> Result<Option<Lock>> {
        for lock in ALL {
            if let Probe::Held { .. } = self.probe(caller, lock, LockKind::Exclusive)? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    fn refusal(&self, caller: &Caller, what: &'static str, needed: &'static str) -> StoreError {
        tracing::warn!(
            db = %self.name,
            pid = caller.pid,
            "refused {what}: nobody holds SQLite's {needed} lock on this mount; the process works without \
             locks (nolock=1, unix-none, cp over a live file) or outlived an earlier mount",
        );
        StoreError::denied("no SQLite lock covers the request")
    }
}
