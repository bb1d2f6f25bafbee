//! What the adapter asks of the store: a file system of databases, without FUSE.
//!
//! Owns: the traits and their error. Does not own: any implementation; the daemon's is over
//! `litefs_store`, the tests' is over a plain directory.
//!
//! *Rules for an implementation.* A method called with `may_block == false` runs on a thread that
//! must answer other requests: it makes no request to the own mount and waits for nobody who does. If
//! it would have to, it returns [`ModelError::NeedsWorker`] **before any side effect**; the adapter
//! calls it again with the same arguments and `may_block == true` on the database's worker.
//! What else the worker must not do while a request waits: see [`super::deferred`].

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use litefs_types::{DbName, Pos};

use super::names::FileRef;

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The daemon itself, through its own mount.
    pub own: bool,
    /// Runs on a worker: own-mount IO is allowed.
    pub may_block: bool,
    /// *Thread* id of the caller; 0 from another pid namespace, or for writes from the page cache.
    pub pid: u32,
    /// The file handle, unique for the life of the mount; 0 where the request has none.
    pub handle: u64,
    /// The file's name is gone (unlinked, or replaced): the bytes may be kept, but they mean nothing.
    pub unlinked: bool,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// `O_RDONLY` or `O_RDWR`
    pub read: bool,
    /// `O_WRONLY` or `O_RDWR`
    pub write: bool,
    /// `O_TRUNC`: cut to nothing by this very OPEN.
    pub truncate: bool,
}

/// What `stat` tells of a backing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: SystemTime,
    /// Identity of the backing file: differs when the file was replaced.
    pub ino: u64,
}

/// Why an operation was not done.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum ModelError {
    /// Call again on the database's worker.
    #[error("the operation must run on the database's worker")]
    NeedsWorker,
    /// Answer of the system call.
    #[error("refused: {}", io::Error::from_raw_os_error(*.0))]
    Errno(i32),
}

impl From<io::Error> for ModelError {
    fn from(e: io::Error) -> Self {
        Self::Errno(e.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Shorthand.
pub type ModelResult<T> = Result<T, ModelError>;

/// An open backing file. Lives until the kernel forgets the node (the number of a backing file must
/// not be given to another one while the kernel has pages of the first).
pub trait Backing: Send + Sync + 'static {
    /// `pread`; takes no lock of the database.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// `fstat`
    fn stat(&self) -> io::Result<FileStat>;
    /// `ftruncate` of a file whose name is gone: means nothing for the database, and must not reach
    /// another file that has the name now.
    fn set_len(&self, size: u64) -> io::Result<()> {
        let _ = size;
        Err(io::Error::from_raw_os_error(libc::ESTALE))
    }
}

/// Fewer bytes only at the end of the file: the kernel takes the rest for zeroes.
pub(crate) fn read_full(file: &impl Backing, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The files of one database. Every method may be called from several threads at once.
pub trait DatabaseFiles: Send + Sync + 'static {
    /// An open file.
    type Opened: Backing;

    /// Its name.
    fn name(&self) -> &DbName;

    /// Whether the directory shows it: it has pages and was not dropped.
    fn listed(&self) -> bool;

    /// Content of `db-pos`.
    fn pos(&self, caller: &Caller) -> ModelResult<Pos>;

    /// Time of the last transaction, the modification time of `db-pos`.
    fn last_change(&self) -> Option<SystemTime>;

    /// Size and time of a file; `ENOENT` if it does not exist.
    fn attr(&self, file: FileRef) -> ModelResult<FileStat>;

    /// Opens an existing file. The first OPEN of the database by an application is the moment to
    /// open the own descriptors (on the worker: it holds no directory lock).
    fn open_file(&self, caller: &Caller, file: FileRef, mode: OpenMode) -> ModelResult<Self::Opened>;

    /// Creates and opens; an existing file is opened unless `exclusive` (`EEXIST`).
    fn create_file(
        &self,
        caller: &Caller,
        file: FileRef,
        mode: u32,
        exclusive: bool,
    ) -> ModelResult<Self::Opened>;

    /// Called on the worker after a CREATE of the database file by an application was answered, for
    /// opening the own descriptors: during CREATE the kernel holds the directory's lock.
    fn created(&self) {}

    /// Writes all of `data`. `from_page_cache`: written back from a shared mapping, at any time and
    /// with any lock state, `caller.pid` and the handle are guesses.
    fn write(
        &self,
        caller: &Caller,
        file: FileRef,
        opened: &Self::Opened,
        offset: u64,
        data: &[u8],
        from_page_cache: bool,
    ) -> ModelResult<()>;

    /// `ftruncate`
    fn truncate(&self, caller: &Caller, file: FileRef, size: u64) -> ModelResult<()>;

    /// `fsync`, or `fdatasync` with `data_only`.
    fn fsync(
        &self,
        caller: &Caller,
        file: FileRef,
        opened: &Self::Opened,
        data_only: bool,
    ) -> ModelResult<()>;

    /// Some descriptor of the handle was closed (`close` waits for the answer and reports an error).
    /// Only for the database file and the wal-index.
    fn flush(&self, caller: &Caller, file: FileRef, opened: &Self::Opened) -> ModelResult<()> {
        let _ = (caller, file, opened);
        Ok(())
    }

    /// Removes the name.
    fn unlink(&self, caller: &Caller, file: FileRef) -> ModelResult<()>;

    /// The last descriptor of the handle is gone. Nobody waits for it.
    fn release(&self, caller: &Caller, file: FileRef, opened: &Self::Opened) -> ModelResult<()>;
}

/// The databases.
pub trait FileSystemModel: Send + Sync + 'static {
    /// A database.
    type Db: DatabaseFiles;

    /// A database that is known, also one that was dropped.
    fn database(&self, name: &str) -> Option<Arc<Self::Db>>;

    /// All known ones.
    fn databases(&self) -> Vec<Arc<Self::Db>>;

    /// Makes the database known, without files. An existing one is returned as it is.
    fn create_database(&self, caller: &Caller, name: &DbName) -> ModelResult<Arc<Self::Db>>;

    /// `rename` of `from` onto the database name `to`.
    fn rename_onto(&self, caller: &Caller, from: (&DbName, FileRef), to: &DbName) -> ModelResult<()> {
        let _ = (caller, from, to);
        Err(ModelError::Errno(libc::EPERM))
    }

    /// `fsync` of the mount's root directory: names made or removed before must survive a power loss.
    fn sync_directory(&self, caller: &Caller) -> ModelResult<()> {
        let _ = caller;
        Ok(())
    }
}

/// How far this node is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// This node is the primary.
    Primary,
    /// Never caught up with a primary so far.
    NotReady,
    /// Milliseconds since the primary's last sign, and when that was.
    Behind {
        /// Milliseconds.
        millis: i64,
        /// Time of the primary at its last sign.
        at: SystemTime,
    },
}

/// What the mount shows of the node itself. Called for each `stat` and read: must be quick.
pub trait NodeView: Send + Sync + 'static {
    /// Host name of the primary if this node is a connected replica.
    fn primary_hostname(&self) -> Option<String>;
    /// Content of `.lag`.
    fn lag(&self) -> Lag;
    /// This node accepts writes: modes show write bits.
    fn writable(&self) -> bool;
    /// OPEN of a database for writing answers `EACCES` (`fuse.replica-writes: readonly` on a replica).
    fn refuse_write_opens(&self) -> bool {
        false
    }
}
