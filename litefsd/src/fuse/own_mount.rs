//! The daemon as a client of its own mount.
//!
//! Owns: marking own requests, keeping own-mount IO off the threads that must not do it, closing all
//! own descriptors at the end. Does not own: descriptors and locks ([`OfdFiles`]), lock order (store).
//! Tested by `tests/tests/fuse_adapter`.
//!
//! OPEN, CREATE, UNLINK and SETATTR by path are known as own by the calling thread's id, everything on
//! a descriptor by its handle. Own OPENs are answered with `FOPEN_NOFLUSH`, so that the descriptors of
//! a killed daemon close without asking anybody.
//!
//! *Invariant:* nothing is ever mapped: a daemon that is killed with a mapping of its own mount hangs
//! in the kernel, and all applications with it.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use litefs_sqlite::lock_bytes::{Lock, LockFile};
use litefs_store::own_mount::{FileKind, LockKind, OwnMount, Probe};
use litefs_store::plain_mount::OfdFiles;
use litefs_types::DbName;

use super::scope::{OwnThreads, Serving};

/// The number of the node that a name leads to, if the kernel knows one (so that somebody may have it
/// open). `st_ino` of the file is that number.
pub type Known = Arc<dyn Fn(&str) -> Option<u64> + Send + Sync>;

/// In the order of their numbers.
const KINDS: [FileKind; 4] = [FileKind::Database, FileKind::Journal, FileKind::Wal, FileKind::Shm];

/// Makes the own descriptors of each database.
pub struct OwnMounts {
    dir: PathBuf,
    own: OwnThreads,
    known: Known,
    closed: Arc<AtomicBool>,
    made: Mutex<Vec<Weak<FuseOwnMount>>>,
}

impl OwnMounts {
    /// For the mount at `dir`.
    pub fn new(dir: PathBuf, own: OwnThreads, known: Known) -> Self {
        Self { dir, own, known, closed: Arc::default(), made: Mutex::default() }
    }

    /// The own descriptors of one database; each call makes a new set.
    pub fn make(&self, db: &DbName) -> Arc<FuseOwnMount> {
        let made = Arc::new(FuseOwnMount {
            files: OfdFiles::new(self.dir.clone(), db.clone()),
            names: KINDS.map(|kind| format!("{db}{}", kind.suffix())),
            nodes: Default::default(),
            own: self.own.clone(),
            known: self.known.clone(),
            closed: self.closed.clone(),
        });
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|w| w.strong_count() > 0);
        all.push(Arc::downgrade(&made));
        made
    }

    /// Closes every own descriptor, and lets none be opened again: they would keep the mount busy.
    pub fn close_all(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let all = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        for mount in all.iter().filter_map(Weak::upgrade) {
            for kind in KINDS {
                mount.close(kind);
            }
        }
    }
}

/// [`OwnMount`] through a FUSE mount of this process.
pub struct FuseOwnMount {
    files: OfdFiles,
    /// By [`FileKind`], so that a probe allocates nothing.
    names: [String; 4],
    /// Which node each own descriptor refers to.
    nodes: [AtomicU64; 4],
    own: OwnThreads,
    known: Known,
    closed: Arc<AtomicBool>,
}

fn would_deadlock(what: &str) -> io::Error {
    // A mistake in the caller; without this check a thread would wait for itself for ever.
    tracing::error!(what, serving = ?Serving::now(), "own-mount IO on a thread that answers requests");
    io::Error::from_raw_os_error(libc::EDEADLK)
}

impl FuseOwnMount {
    /// IO on an open descriptor.
    fn io<T>(&self, what: &str, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if Serving::now() == Serving::Inline {
            return Err(would_deadlock(what));
        }
        let _own = self.own.enter();
        f()
    }

    /// IO that needs the directory.
    fn name_io<T>(&self, what: &str, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if matches!(Serving::now(), Serving::Deferred { directory_locked: true, .. }) {
            return Err(would_deadlock(what));
        }
        self.io(what, f)
    }

    /// While an application's CREATE or UNLINK waits for this thread, the kernel holds the directory:
    /// open only what is found in the kernel's cache of names (the database is, the application has it
    /// open).
    fn open_from_cache(&self, file: FileKind) -> io::Result<bool> {
        if self.files.is_open(file) {
            if self.is_current(file) {
                return Ok(true);
            }
            self.files.close(file);
        }
        match self.io("open", || open_cached(&self.files.path(file))) {
            Ok(f) => {
                self.files.put(file, f);
                self.note_node(file)?;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn open_now(&self, file: FileKind, create: bool) -> io::Result<bool> {
        if matches!(Serving::now(), Serving::Deferred { directory_locked: true, .. }) {
            return match self.open_from_cache(file)? {
                false if create => Err(would_deadlock("create")),
                open => Ok(open),
            };
        }
        let open = self.io("open", || self.files.open(file, create))?;
        if open {
            self.note_node(file)?;
        }
        Ok(open)
    }

    fn note_node(&self, file: FileKind) -> io::Result<()> {
        let node = self.io("stat", || self.files.inode(file))?;
        self.nodes[file as usize].store(node, Ordering::Release);
        Ok(())
    }

    /// Whether the name still leads to the file that the own descriptor refers to. An own OPEN can race
    /// with an UNLINK and catch the old file; its locks would be free for ever.
    fn is_current(&self, file: FileKind) -> bool {
        (self.known)(&self.names[file as usize]) == Some(self.nodes[file as usize].load(Ordering::Acquire))
    }
}

/// `openat2` with `RESOLVE_CACHED` (Linux 5.12): `EAGAIN` if a name would have to be looked up.
fn open_cached(path: &Path) -> io::Result<File> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // Two steps: `open_how` is not exhaustive, so it cannot be written as a literal.
    // SAFETY: all-zero bytes are a valid `open_how`, a plain C struct of integers.
    #[allow(unsafe_code)]
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_CACHED;
    // SAFETY: `path` is a C string and `how` a valid `open_how` of the given size, both alive during the
    // call. The result is checked before it is taken for a new descriptor that nobody else owns.
    #[allow(unsafe_code)]
    let fd = unsafe {
        let fd = libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            std::ptr::from_ref(&how),
            std::mem::size_of::<libc::open_how>(),
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    Ok(File::from(fd))
}

impl OwnMount for FuseOwnMount {
    fn probe(&self, lock: Lock, kind: LockKind) -> Probe {
        let file = match lock.file() {
            LockFile::Database => FileKind::Database,
            LockFile::Shm => FileKind::Shm,
        };
        match self.files.probe(lock, kind) {
            Some(answer) if self.is_current(file) => answer,
            // Who holds a lock has the file open, so the kernel knows it. Asked without a request.
            _ if (self.known)(&self.names[file as usize]).is_none() => Probe::NoFile,
            _ => Probe::NotOpen,
        }
    }

    fn open(&self, file: FileKind, create: bool) -> io::Result<bool> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the mount is coming to its end"));
        }
        let opened = self.open_now(file, create);
        if self.closed.load(Ordering::SeqCst) {
            // `close_all` may have passed by while this was being opened.
            self.close(file);
        }
        opened
    }

    fn close(&self, file: FileKind) {
        // RELEASE is sent without waiting, and there is no FLUSH: allowed on any thread.
        self.files.close(file);
    }

    fn try_lock(&self, lock: Lock, kind: LockKind) -> io::Result<bool> {
        // Kernel-kept locks: no request.
        self.files.try_lock(lock, kind)
    }

    fn unlock(&self, lock: Lock) -> io::Result<()> {
        self.files.unlock(lock)
    }

    fn read_at(&self, file: FileKind, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.io("read", || self.files.read_at(file, buf, offset))
    }

    fn write_all_at(&self, file: FileKind, buf: &[u8], offset: u64) -> io::Result<()> {
        self.io("write", || self.files.write_all_at(file, buf, offset))
    }

    fn set_len(&self, file: FileKind, len: u64) -> io::Result<()> {
        self.io("truncate", || self.files.set_len(file, len))
    }

    fn len(&self, file: FileKind) -> io::Result<u64> {
        self.io("stat", || self.files.len(file))
    }

    fn sync(&self, file: FileKind) -> io::Result<()> {
        self.io("fsync", || self.files.sync(file))
    }

    fn unlink(&self, file: FileKind) -> io::Result<()> {
        self.name_io("unlink", || self.files.unlink(file))
    }
}
