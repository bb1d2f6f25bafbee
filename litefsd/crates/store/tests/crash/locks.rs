//! SQLite's byte-range locks as the kernel would keep them, for every connection and the daemon.
//!
//! One thread does everything in these tests, so nothing ever waits: a conflict is an answer.

use std::sync::{Mutex, PoisonError};

use litefs_sqlite::lock_bytes::Lock;
use litefs_store::own_mount::{LockKind, Probe};

/// The daemon's own descriptors.
pub const DAEMON: u64 = 0;

/// Who holds what on the files of one database.
#[derive(Default)]
pub struct Locks(Mutex<Vec<(u64, Lock, LockKind)>>);

impl Locks {
    fn held(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Lock, LockKind)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps `owner` from having `kind` on `lock`.
    pub fn conflict(&self, owner: u64, lock: Lock, kind: LockKind) -> Option<LockKind> {
        self.held()
            .iter()
            .find(|(o, l, k)| {
                *o != owner && *l == lock && (kind == LockKind::Exclusive || *k == LockKind::Exclusive)
            })
            .map(|(.., k)| *k)
    }

    /// `F_SETLK`: takes, strengthens or weakens.
    pub fn set(&self, owner: u64, lock: Lock, kind: LockKind) -> bool {
        if self.conflict(owner, lock, kind).is_some() {
            return false;
        }
        self.release(owner, lock);
        self.held().push((owner, lock, kind));
        true
    }

    /// `F_UNLCK`.
    pub fn release(&self, owner: u64, lock: Lock) {
        self.held().retain(|(o, l, _)| (*o, *l) != (owner, lock));
    }

    /// Everything that `owner` holds.
    pub fn release_all(&self, owner: u64) {
        self.held().retain(|(o, ..)| *o != owner);
    }

    /// `F_OFD_GETLK` by the daemon.
    pub fn probe(&self, lock: Lock, kind: LockKind) -> Probe {
        match self.conflict(DAEMON, lock, kind) {
            Some(kind) => Probe::Held { pid: Some(1), kind },
            None => Probe::Free,
        }
    }
}
