//! What the daemon can do as an ordinary SQLite client of its own mount, for one database.
//!
//! The kernel keeps SQLite's byte-range locks (`FUSE_POSIX_LOCKS` is not negotiated), so the daemon
//! takes part in locking like any other process: OFD locks on descriptors that it opened through the
//! mount. The trait is defined here and implemented in `litefsd::fuse`; tests implement it over a
//! plain directory, where the same locks and the same SQLite work without FUSE.
//!
//! Everything but [`OwnMount::probe`] may issue FUSE requests that other handler threads must answer:
//! call it only from worker threads that hold no lock a handler takes.

use std::io;

use litefs_sqlite::lock_bytes::Lock;

/// The files of a database that have a name in the mount.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// `db`
    Database,
    /// `db-journal`
    Journal,
    /// `db-wal`
    Wal,
    /// `db-shm`
    Shm,
}

impl FileKind {
    /// What stands behind the database's name in the mount.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Database => "",
            Self::Journal => "-journal",
            Self::Wal => "-wal",
            Self::Shm => "-shm",
        }
    }
}

/// Strength of a byte-range lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LockKind {
    /// `F_RDLCK`
    Shared,
    /// `F_WRLCK`
    Exclusive,
}

/// Answer of [`OwnMount::probe`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Nobody else holds a lock that conflicts.
    Free,
    /// Somebody else does.
    Held {
        /// Process that holds it, as this process sees it; `None` for OFD locks and foreign pid namespaces.
        pid: Option<u32>,
        /// What it holds.
        kind: LockKind,
    },
    /// The file does not exist in the mount (for shm locks: nobody can hold one).
    NoFile,
    /// The own descriptor is not open yet: repeat on a worker after [`OwnMount::open`].
    NotOpen,
}

/// See the module documentation.
pub trait OwnMount: Send + Sync {
    /// Who conflicts with `kind` on `lock`? `F_OFD_GETLK`: no FUSE request, may be called from a handler.
    fn probe(&self, lock: Lock, kind: LockKind) -> Probe;

    /// Opens the own descriptor of `file` (`Database` or `Shm` or `Wal`) if it is not open. With `create` the
    /// file is made if it is missing; without, `Ok(false)` says that it does not exist.
    fn open(&self, file: FileKind, create: bool) -> io::Result<bool>;

    /// Closes the own descriptor (after UNLINK of the file); its locks go with it.
    fn close(&self, file: FileKind);

    /// `F_OFD_SETLK`; `Ok(false)` if somebody else holds a conflicting lock. Never waits.
    fn try_lock(&self, lock: Lock, kind: LockKind) -> io::Result<bool>;

    /// Releases a lock taken by [`OwnMount::try_lock`].
    fn unlock(&self, lock: Lock) -> io::Result<()>;

    /// `pread` through the mount; fewer bytes at the end of the file.
    fn read_at(&self, file: FileKind, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// `pwrite` of all of `buf` through the mount.
    fn write_all_at(&self, file: FileKind, buf: &[u8], offset: u64) -> io::Result<()>;

    /// `ftruncate` through the mount.
    fn set_len(&self, file: FileKind, len: u64) -> io::Result<()>;

    /// Size through the mount.
    fn len(&self, file: FileKind) -> io::Result<u64>;

    /// `fdatasync` through the mount.
    fn sync(&self, file: FileKind) -> io::Result<()>;

    /// Removes the file through the mount.
    fn unlink(&self, file: FileKind) -> io::Result<()>;
}

/// Tells the kernel about what the daemon changed behind its back, in backing files.
///
/// Call from a thread that holds no lock which a READ or WRITE handler takes: the kernel waits for
/// pages that are locked by requests in flight. Unknown nodes are not an error.
pub trait Invalidator: Send + Sync {
    /// The bytes `[offset, offset+len)` of a file changed (`len` 0: to the end), and perhaps its size.
    fn data(&self, db: &litefs_types::DbName, file: FileKind, offset: u64, len: u64);
    /// The directory entry of a file appeared or went away.
    fn entry(&self, db: &litefs_types::DbName, file: FileKind);
    /// The content of `db-pos`, `.primary` or `.lag` changed, or modes did with the role.
    fn virtual_files(&self, db: Option<&litefs_types::DbName>);
}
