//! The locks of the VFS, on the database file and on the wal-index, and the wal-index itself.
//!
//! Owns: the order of `os_unix.c`, and what the first opener and the last closer of an index do. Does not
//! own: who holds what ([`super::super::locks`]).

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use litefs_sqlite::lock_bytes::Lock;
use litefs_store::StoreError;
use litefs_store::database::Database;
use litefs_store::own_mount::{FileKind, LockKind};
use rusqlite::ffi;

use super::super::world::{Index, REGION};
use super::{Body, Named, Target, body};

impl Named {
    /// unixLock.
    pub(super) fn raise(&mut self, to: c_int) -> bool {
        let (me, l) = (self.handle, &self.locks);
        if to >= ffi::SQLITE_LOCK_SHARED && self.level < ffi::SQLITE_LOCK_SHARED {
            if l.conflict(me, Lock::Pending, LockKind::Shared).is_some()
                || !l.set(me, Lock::Shared, LockKind::Shared)
            {
                return false;
            }
            self.level = ffi::SQLITE_LOCK_SHARED;
        }
        if to == ffi::SQLITE_LOCK_RESERVED && self.level < to {
            if !l.set(me, Lock::Reserved, LockKind::Exclusive) {
                return false;
            }
            self.level = to;
        }
        if to == ffi::SQLITE_LOCK_EXCLUSIVE && self.level < to {
            if !l.set(me, Lock::Pending, LockKind::Exclusive) {
                return false;
            }
            self.level = ffi::SQLITE_LOCK_PENDING;
            if !l.set(me, Lock::Shared, LockKind::Exclusive) {
                return false;
            }
            self.level = to;
        }
        true
    }

    pub(super) fn lower(&mut self, to: c_int) {
        if self.level <= to {
            return;
        }
        for lock in [Lock::Pending, Lock::Reserved] {
            self.locks.release(self.handle, lock);
        }
        if to == ffi::SQLITE_LOCK_SHARED {
            self.locks.set(self.handle, Lock::Shared, LockKind::Shared);
        } else {
            self.locks.release(self.handle, Lock::Shared);
        }
        self.level = to;
    }

    pub(super) fn is_wal(&self) -> bool {
        matches!(self.target, Target::File(_, FileKind::Wal))
    }

    pub(super) fn name(&self) -> String {
        match &self.target {
            Target::File(db, _) | Target::Super(db, _) => db.name().to_string(),
        }
    }

    pub(super) fn db(&self) -> &Database {
        match &self.target {
            Target::File(db, _) | Target::Super(db, _) => db,
        }
    }

    /// unixOpenSharedMemory.
    pub(super) fn open_index(&mut self) -> Result<Arc<Index>, StoreError> {
        if let Some(i) = &self.index {
            return Ok(Arc::clone(i));
        }
        let caller = self.world.caller(self.handle);
        let index = self.world.index(&self.name(), true).ok_or(StoreError::NotFound)?;
        self.db().create_file(&caller, FileKind::Shm, false)?;
        if self.locks.set(self.handle, Lock::Dms, LockKind::Exclusive) {
            self.world.reset_index(&self.name());
            self.db().truncate(&caller, FileKind::Shm, 3)?;
        }
        self.locks.set(self.handle, Lock::Dms, LockKind::Shared);
        self.index = Some(Arc::clone(&index));
        Ok(index)
    }
}

#[allow(unsafe_code)] // called by SQLite
pub(super) unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as in `body`.
    match unsafe { body(file) } {
        Body::Named(f) => {
            if f.raise(level) {
                ffi::SQLITE_OK
            } else {
                ffi::SQLITE_BUSY
            }
        }
        Body::Temp(_) => ffi::SQLITE_OK,
    }
}

#[allow(unsafe_code)] // called by SQLite
pub(super) unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as in `body`.
    if let Body::Named(f) = unsafe { body(file) } {
        f.lower(level);
    }
    ffi::SQLITE_OK
}

#[allow(unsafe_code)] // called by SQLite
pub(super) unsafe extern "C" fn check_reserved(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: as in `body`; `out` is a pointer to the answer.
    unsafe {
        *out = match body(file) {
            Body::Temp(_) => 0,
            Body::Named(f) => {
                c_int::from(f.locks.conflict(f.handle, Lock::Reserved, LockKind::Shared).is_some())
            }
        };
    }
    ffi::SQLITE_OK
}

#[allow(unsafe_code)] // called by SQLite
pub(super) unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    assert_eq!(size as usize, REGION);
    // SAFETY: as in `body`; `out` is a pointer to the answer.
    unsafe {
        *out = ptr::null_mut();
        let Body::Named(f) = body(file) else { return ffi::SQLITE_IOERR };
        let Ok(index) = f.open_index() else { return ffi::SQLITE_CANTOPEN };
        let region = region as usize;
        if index.region(region).is_none() && extend != 0 {
            let grown = (region as u64 + 1) * REGION as u64;
            if f.db().truncate(&f.world.caller(f.handle), FileKind::Shm, grown).is_err() {
                return ffi::SQLITE_IOERR_SHMSIZE;
            }
            index.grow(region + 1);
        }
        if let Some(p) = index.region(region) {
            *out = p.cast();
        }
    }
    ffi::SQLITE_OK
}

#[allow(unsafe_code)] // called by SQLite
pub(super) unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    at: c_int,
    n: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: as in `body`.
    let Body::Named(f) = (unsafe { body(file) }) else { return ffi::SQLITE_IOERR };
    let of = |i: c_int| match i {
        0 => Lock::WalWrite,
        1 => Lock::WalCkpt,
        2 => Lock::WalRecover,
        n => Lock::WalRead(n as u8 - 3),
    };
    let exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
    let kind = if exclusive { LockKind::Exclusive } else { LockKind::Shared };
    let all: Vec<Lock> = (at..at + n).map(of).collect();
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        // What the writer did is visible before it lets go.
        f.world.requested();
        for l in all {
            f.locks.release(f.handle, l);
        }
        return ffi::SQLITE_OK;
    }
    if all.iter().any(|l| f.locks.conflict(f.handle, *l, kind).is_some()) {
        return ffi::SQLITE_BUSY;
    }
    for l in all {
        f.locks.set(f.handle, l, kind);
    }
    ffi::SQLITE_OK
}

#[allow(unsafe_code)] // called by SQLite
pub(super) unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {}

#[allow(unsafe_code)] // called by SQLite
pub(super) unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: as in `body`.
    let Body::Named(f) = (unsafe { body(file) }) else { return ffi::SQLITE_OK };
    f.index = None;
    f.locks.release(f.handle, Lock::Dms);
    let others = f.locks.conflict(f.handle, Lock::Dms, LockKind::Exclusive).is_some();
    if delete != 0 && !others && f.db().unlink(&f.world.caller(f.handle), FileKind::Shm).is_ok() {
        let name = f.name();
        f.world.remove_index(&name);
    }
    ffi::SQLITE_OK
}
