//! The store's only way to the disk: a directory tree ([`Disk`]) and open files ([`DiskFile`]).
//!
//! Every call that reaches the disk carries an [`Op`], so that one call can be failed, delayed, traced
//! and counted by its name. The real disk is [`crate::os_disk::OsDisk`]; tests use the simulated one
//! (`sim_disk`), which loses what was not synced.
//!
//! Owns no policy: which file lies where is `layout`'s, what order is safe is its users' business.
//!
//! **A failed `sync_data`, `sync_all` or `sync_dir` is never retried**, here or by any caller: the
//! kernel marks the pages clean after it has reported the error once, so a second call that succeeds
//! says nothing about the first one's data. The caller stops acknowledging and recovers.
//!
//! Tests: `os_disk`, `sim_disk`; both are driven by the crash matrices of `log`, `sums_file`, `recover`.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// The name of a kind of disk operation, such as `log.sync`. Equal names, equal operations.
///
/// Convention: `<part>.<what>`, lower case, constant in the code: `const SYNC: Op = Op::new("log.sync")`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op(&'static str);

impl Op {
    /// Names an operation.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// How [`Disk::open`] opens a file. Start from [`OpenHow::READ`], [`OpenHow::READ_WRITE`] or
/// [`OpenHow::create`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenHow {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Make the file if it is missing.
    pub create: bool,
    /// Make the file; it must not exist (`O_EXCL`).
    pub create_new: bool,
    /// Cut to zero length.
    pub truncate: bool,
    /// Permission bits of a new file, before the umask.
    pub mode: u32,
}

impl OpenHow {
    /// Existing file, read only.
    pub const READ: Self =
        Self { read: true, write: false, create: false, create_new: false, truncate: false, mode: 0o666 };
    /// Existing file, read and write.
    pub const READ_WRITE: Self = Self { write: true, ..Self::READ };
    /// Read and write, made if missing.
    pub const CREATE: Self = Self { create: true, ..Self::READ_WRITE };
    /// Read and write; must not exist yet.
    pub const CREATE_NEW: Self = Self { create_new: true, ..Self::READ_WRITE };
    /// Read and write, made if missing, emptied if not.
    pub const REPLACE: Self = Self { truncate: true, ..Self::CREATE };

    /// The same with these permission bits for a new file.
    pub const fn with_mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }
}

/// What is known about a file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileMeta {
    /// Bytes.
    pub len: u64,
    /// Last change of the content.
    pub mtime: SystemTime,
    /// Inode number.
    pub ino: u64,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Units of 512 bytes that are allocated.
    pub blocks: u64,
    /// A directory (else: anything that is none).
    pub is_dir: bool,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// The name alone.
    pub name: OsString,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A directory tree on some disk. Paths are used as they are given.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file. A new file's directory entry is durable only after [`Disk::sync_dir`].
    fn open(&self, op: Op, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>>;

    /// `rename(2)`: replaces `to` if it exists. Durable after `sync_dir` of both parents.
    fn rename(&self, op: Op, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after `sync_dir` of the parent.
    fn unlink(&self, op: Op, path: &Path) -> io::Result<()>;

    /// Makes a directory and every missing parent. Existing ones are no error.
    fn create_dir_all(&self, op: Op, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it. A missing one is no error.
    fn remove_dir_all(&self, op: Op, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted, without `.` and `..`.
    fn read_dir(&self, op: Op, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// What is known about a path; follows no symbolic link.
    fn metadata(&self, op: Op, path: &Path) -> io::Result<FileMeta>;

    /// Makes creations, renames and removals in a directory durable. Never retried after a failure.
    fn sync_dir(&self, op: Op, path: &Path) -> io::Result<()>;

    /// Copies a file's content to a new file (which must not exist); shares the blocks where the file
    /// system can. The copy is not durable.
    fn copy(&self, op: Op, from: &Path, to: &Path) -> io::Result<()>;

    /// Whether a path exists. Errors other than "not found" are errors: "cannot tell" is not "no".
    fn exists(&self, op: Op, path: &Path) -> io::Result<bool> {
        match self.metadata(op, path) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// An open file with positioned IO: no file offset, so one handle serves any number of threads.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Fills `buf`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buf, offset)? == buf.len() {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        }
    }

    /// Writes all of `buf`; after an error any part of it may have been written.
    fn write_all_at(&self, op: Op, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts, or extends with zeros (a hole).
    fn set_len(&self, op: Op, len: u64) -> io::Result<()>;

    /// `fdatasync(2)`: content and size are durable. Never retried after a failure.
    fn sync_data(&self, op: Op) -> io::Result<()>;

    /// `fsync(2)`. Never retried after a failure.
    fn sync_all(&self, op: Op) -> io::Result<()>;

    /// Size in bytes.
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len)
    }

    /// Whether the size is zero.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// What is known about the open file, even when it has no name any more.
    fn metadata(&self) -> io::Result<FileMeta>;

    /// The operating system's file, for what has no place here (splice, passthrough); `None` on a
    /// simulated disk.
    fn std_file(&self) -> Option<&File>;
}
