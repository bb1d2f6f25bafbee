//! [`OwnMount`] over the files of a directory: OFD locks, `pread`, `pwrite`.
//!
//! Owns: [`OfdFiles`], the descriptors and locks of one database's files in a directory that may be a
//! FUSE mount of this very process, and [`PlainMount`], the same over an ordinary directory, where
//! SQLite and the locks work without FUSE. Does not own: who may call what from which thread (see
//! `own_mount`), nor the order of locks (see `apply::locks`). Tested below, and by everything that
//! applies transactions in tests.
//!
//! Only OFD locks: closing any descriptor of a file drops a process's POSIX locks on it, and threads of
//! one process do not exclude each other with them. Every descriptor is close-on-exec, as the standard
//! library opens files: a lock must not live on in a child process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use litefs_sqlite::lock_bytes::{Lock, LockFile};
use litefs_types::DbName;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::own_mount::{FileKind, LockKind, OwnMount, Probe};

/// Mode of files that the daemon creates here; in a mount the daemon's own CREATE handler decides.
const CREATE_MODE: u32 = 0o644;

/// The descriptors of one database's files in a directory, and OFD locks on them.
///
/// Operations on a file that was not opened fail with [`io::ErrorKind::NotConnected`].
#[derive(Debug)]
pub struct OfdFiles {
    dir: PathBuf,
    db: DbName,
    /// One slot per [`FileKind`]. A slot is write-locked only to swap the pointer, never across a system
    /// call, so that [`OfdFiles::probe`] can read it in a FUSE handler.
    slots: [RwLock<Option<Arc<File>>>; 4],
}

impl OfdFiles {
    /// The files of `db` in `dir`; opens nothing.
    pub fn new(dir: PathBuf, db: DbName) -> Self {
        Self { dir, db, slots: [const { RwLock::new(None) }; 4] }
    }

    /// Path of a file.
    pub fn path(&self, file: FileKind) -> PathBuf {
        self.dir.join(format!("{}{}", self.db, file.suffix()))
    }

    /// Whether the own descriptor of `file` is open.
    pub fn is_open(&self, file: FileKind) -> bool {
        self.slot(file).is_some()
    }

    /// Inode number of the file that the own descriptor refers to, with or without a name.
    pub fn inode(&self, file: FileKind) -> io::Result<u64> {
        Ok(self.get(file)?.metadata()?.ino())
    }

    fn slot(&self, file: FileKind) -> RwLockReadGuard<'_, Option<Arc<File>>> {
        self.slots[file as usize].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn swap(&self, file: FileKind, with: Option<Arc<File>>) -> Option<Arc<File>> {
        let mut slot = self.slots[file as usize].write().unwrap_or_else(PoisonError::into_inner);
        // The old descriptor is returned, not dropped here: closing it can be a FUSE request.
        std::mem::replace(&mut *slot, with)
    }

    fn get(&self, file: FileKind) -> io::Result<Arc<File>> {
        self.slot(file).clone().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, format!("the own descriptor of {file:?} is not open"))
        })
    }

    /// `F_OFD_GETLK`: makes no FUSE request and waits for nothing that does. `None`: not open.
    ///
    /// For an OFD lock of somebody else, and for a holder in a foreign pid namespace, the pid is unknown.
    pub fn probe(&self, lock: Lock, kind: LockKind) -> Option<Probe> {
        // The guard is held across the call instead of a clone of the pointer: the last clone would
        // close the file in this thread.
        let slot = self.slot(file_of(lock));
        let file = slot.as_ref()?;
        let mut fl = flock(lock, lock_type(kind));
        Some(match fcntl(&**file, FcntlArg::F_OFD_GETLK(&mut fl)) {
            Ok(_) if i32::from(fl.l_type) == libc::F_UNLCK => Probe::Free,
            // An error is answered like a lock held by somebody unknown: a caller that waits for "free"
            // must not go on, and one that needs a proof asks again before it trusts anything.
            Err(_) => Probe::Held { pid: None, kind },
            Ok(_) => Probe::Held {
                pid: u32::try_from(fl.l_pid).ok().filter(|p| *p != 0),
                kind: if i32::from(fl.l_type) == libc::F_RDLCK {
                    LockKind::Shared
                } else {
                    LockKind::Exclusive
                },
            },
        })
    }

    /// See [`OwnMount::open`]. A descriptor whose file lost its name, or whose name now belongs to
    /// another file, is replaced; its locks go with it.
    pub fn open(&self, file: FileKind, create: bool) -> io::Result<bool> {
        let path = self.path(file);
        let open = self.slot(file).clone();
        if let Some(f) = open {
            if same_file(&f, &path)? {
                return Ok(true);
            }
            drop(self.swap(file, None));
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(CREATE_MODE)
            .open(&path);
        match opened {
            Ok(f) => {
                drop(self.swap(file, Some(Arc::new(f))));
                Ok(true)
            }
            Err(e) if !create && e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Takes a descriptor that was opened in another way; one that is open already stays.
    pub fn put(&self, file: FileKind, opened: File) {
        let mut slot = self.slots[file as usize].write().unwrap_or_else(PoisonError::into_inner);
        let surplus = if slot.is_none() { slot.replace(Arc::new(opened)) } else { Some(Arc::new(opened)) };
        drop(slot);
        drop(surplus);
    }

    /// See [`OwnMount::close`].
    pub fn close(&self, file: FileKind) {
        drop(self.swap(file, None));
    }

    /// See [`OwnMount::try_lock`].
    pub fn try_lock(&self, lock: Lock, kind: LockKind) -> io::Result<bool> {
        match self.set_lock(lock, lock_type(kind)) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// See [`OwnMount::unlock`]. Nothing to do if the descriptor is closed.
    pub fn unlock(&self, lock: Lock) -> io::Result<()> {
        if !self.is_open(file_of(lock)) {
            return Ok(());
        }
        self.set_lock(lock, libc::F_UNLCK)
    }

    fn set_lock(&self, lock: Lock, kind: libc::c_int) -> io::Result<()> {
        let f = self.get(file_of(lock))?;
        let fl = flock(lock, kind);
        loop {
            match fcntl(&*f, FcntlArg::F_OFD_SETLK(&fl)) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// See [`OwnMount::read_at`].
    pub fn read_at(&self, file: FileKind, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let f = self.get(file)?;
        let mut done = 0;
        while done < buf.len() {
            match f.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// See [`OwnMount::write_all_at`].
    pub fn write_all_at(&self, file: FileKind, buf: &[u8], offset: u64) -> io::Result<()> {
        self.get(file)?.write_all_at(buf, offset)
    }

    /// See [`OwnMount::set_len`].
    pub fn set_len(&self, file: FileKind, len: u64) -> io::Result<()> {
        self.get(file)?.set_len(len)
    }

    /// See [`OwnMount::len`].
    pub fn len(&self, file: FileKind) -> io::Result<u64> {
        Ok(self.get(file)?.metadata()?.len())
    }

    /// See [`OwnMount::sync`].
    pub fn sync(&self, file: FileKind) -> io::Result<()> {
        self.get(file)?.sync_data()
    }

    /// See [`OwnMount::unlink`]. Leaves the descriptor open.
    pub fn unlink(&self, file: FileKind) -> io::Result<()> {
        std::fs::remove_file(self.path(file))
    }
}

fn same_file(f: &File, path: &Path) -> io::Result<bool> {
    let ours = f.metadata()?;
    match std::fs::metadata(path) {
        Ok(m) => Ok((m.dev(), m.ino()) == (ours.dev(), ours.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

const fn file_of(lock: Lock) -> FileKind {
    match lock.file() {
        LockFile::Database => FileKind::Database,
        LockFile::Shm => FileKind::Shm,
    }
}

const fn lock_type(kind: LockKind) -> libc::c_int {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

/// The kernel refuses OFD operations unless `l_pid` is zero.
const fn flock(lock: Lock, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: lock.start() as libc::off_t,
        l_len: lock.len() as libc::off_t,
        l_pid: 0,
    }
}

/// [`OwnMount`] over an ordinary directory: for tests, and for tools that work on plain files.
#[derive(Debug)]
pub struct PlainMount(OfdFiles);

impl PlainMount {
    /// The files of `db` in `dir`.
    pub fn new(dir: PathBuf, db: DbName) -> Self {
        Self(OfdFiles::new(dir, db))
    }

    /// Path of a file.
    pub fn path(&self, file: FileKind) -> PathBuf {
        self.0.path(file)
    }
}

impl OwnMount for PlainMount {
    fn probe(&self, lock: Lock, kind: LockKind) -> Probe {
        match self.0.probe(lock, kind) {
            Some(p) => p,
            None if self.0.path(file_of(lock)).exists() => Probe::NotOpen,
            None => Probe::NoFile,
        }
    }

    fn open(&self, file: FileKind, create: bool) -> io::Result<bool> {
        self.0.open(file, create)
    }

    fn close(&self, file: FileKind) {
        self.0.close(file);
    }

    fn try_lock(&self, lock: Lock, kind: LockKind) -> io::Result<bool> {
        self.0.try_lock(lock, kind)
    }

    fn unlock(&self, lock: Lock) -> io::Result<()> {
        self.0.unlock(lock)
    }

    fn read_at(&self, file: FileKind, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(file, buf, offset)
    }

    fn write_all_at(&self, file: FileKind, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(file, buf, offset)
    }

    fn set_len(&self, file: FileKind, len: u64) -> io::Result<()> {
        self.0.set_len(file, len)
    }

    fn len(&self, file: FileKind) -> io::Result<u64> {
        self.0.len(file)
    }

    fn sync(&self, file: FileKind) -> io::Result<()> {
        self.0.sync(file)
    }

    fn unlink(&self, file: FileKind) -> io::Result<()> {
        self.0.unlink(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (tempfile::TempDir, PlainMount, PlainMount) {
        let dir = tempfile::tempdir().unwrap();
        let mount = || PlainMount::new(dir.path().to_owned(), "db".parse().unwrap());
        let (a, b) = (mount(), mount());
        (dir, a, b)
    }

    #[test]
    fn two_descriptors_exclude_each_other_and_probe_says_so() {
        let (_dir, a, b) = pair();
        assert_eq!(a.probe(Lock::Shared, LockKind::Shared), Probe::NoFile);
        assert!(!a.open(FileKind::Database, false).unwrap());
        assert!(a.open(FileKind::Database, true).unwrap());
        assert_eq!(b.probe(Lock::Shared, LockKind::Shared), Probe::NotOpen);
        assert!(b.open(FileKind::Database, false).unwrap());

        assert!(a.try_lock(Lock::Shared, LockKind::Shared).unwrap());
        assert!(b.try_lock(Lock::Shared, LockKind::Shared).unwrap());
        assert!(!a.try_lock(Lock::Shared, LockKind::Exclusive).unwrap());
        let held = Probe::Held { pid: None, kind: LockKind::Shared };
        assert_eq!(a.probe(Lock::Shared, LockKind::Exclusive), held);
        assert_eq!(a.probe(Lock::Shared, LockKind::Shared), Probe::Free);
        assert_eq!(a.probe(Lock::Pending, LockKind::Exclusive), Probe::Free);
        b.unlock(Lock::Shared).unwrap();
        assert!(a.try_lock(Lock::Shared, LockKind::Exclusive).unwrap());
        a.close(FileKind::Database);
        assert_eq!(b.probe(Lock::Shared, LockKind::Exclusive), Probe::Free);
    }

    #[test]
    fn open_notices_a_replaced_file() {
        let (_dir, a, b) = pair();
        assert!(a.open(FileKind::Shm, true).unwrap());
        assert!(a.try_lock(Lock::WalWrite, LockKind::Exclusive).unwrap());
        b.unlink(FileKind::Shm).unwrap();
        assert!(!a.open(FileKind::Shm, false).unwrap());
        assert!(b.open(FileKind::Shm, true).unwrap());
        assert!(a.open(FileKind::Shm, false).unwrap());
        assert!(b.try_lock(Lock::WalWrite, LockKind::Exclusive).unwrap());
        assert!(!a.try_lock(Lock::WalWrite, LockKind::Exclusive).unwrap());
        assert_eq!(
            a.read_at(FileKind::Wal, &mut [0], 0).unwrap_err().kind(),
            io::ErrorKind::NotConnected,
            "an operation on a closed file is an error, not a panic"
        );
    }
}
