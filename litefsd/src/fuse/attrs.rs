//! Attributes: what `stat` shows.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use super::access::Ownership;
use super::model::{Backing, DatabaseFiles, FileStat, FileSystemModel, Lag, ModelError, ModelResult};
use super::names::FileRef;
use super::nodes::{Node, ROOT, Target};
use super::ops::Core;
use super::virtual_files::{POS_SIZE, lag_mtime, lag_text, primary_text};

/// For what only changes by a request through this mount, or is invalidated: ten years.
pub(crate) const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Preferred size of an IO.
const BLOCK_SIZE: u32 = 4096;

/// Of virtual files; the kernel asks again each time.
pub(crate) const VIRTUAL: u16 = 0o444;

/// How long the kernel may keep attributes of a target.
pub(crate) fn ttl<D: DatabaseFiles>(target: &Target<D>) -> Duration {
    if target.is_virtual() { Duration::ZERO } else { FOREVER }
}

impl<M: FileSystemModel> Core<M> {
    /// Attributes of the root directory.
    pub(crate) fn root_attr(&self) -> FileAttr {
        let mode = self.options.ownership.dir_mode();
        // On a replica nothing can be created: shown, but not enforced (SQLite on a replica needs its -shm).
        let mode = if self.view.writable() { mode } else { mode & !0o222 };
        let stat = FileStat { size: 0, mtime: self.started, ino: 0 };
        attr(ROOT, FileType::Directory, mode, 1, stat, self.options.ownership)
    }

    /// Attributes of a node.
    pub(crate) fn node_attr(&self, node: &Node<M::Db>) -> ModelResult<FileAttr> {
        let owner = self.options.ownership;
        if !node.is_linked()
            && let Some(backing) = node.backing()
        {
            let mode = self.file_mode(&node.target);
            return Ok(attr(node.id, FileType::RegularFile, mode, 0, backing.stat()?, owner));
        }
        match self.stat(&node.target) {
            Ok(stat) if node.target.is_virtual() || stat.ino == node.backing_ino => {
                Ok(attr(node.id, FileType::RegularFile, self.file_mode(&node.target), 1, stat, owner))
            }
            // Removed or replaced by the daemon; an open handle still has the old file.
            other => match node.backing() {
                Some(backing) => Ok(attr(
                    node.id,
                    FileType::RegularFile,
                    self.file_mode(&node.target),
                    0,
                    backing.stat()?,
                    owner,
                )),
                None => Err(other.err().unwrap_or(ModelError::Errno(libc::ESTALE))),
            },
        }
    }

    /// Size, time and backing identity of a target now.
    pub(crate) fn stat(&self, target: &Target<M::Db>) -> ModelResult<FileStat> {
        let at = |size: u64, mtime: SystemTime| FileStat { size, mtime, ino: 0 };
        Ok(match target {
            Target::Primary => {
                let host = self.view.primary_hostname().ok_or(ModelError::Errno(libc::ENOENT))?;
                at(primary_text(&host).len() as u64, self.started)
            }
            Target::Lag => {
                let lag: Lag = self.view.lag();
                at(lag_text(lag).len() as u64, lag_mtime(lag, SystemTime::now()))
            }
            Target::Pos(db) => at(POS_SIZE, db.last_change().unwrap_or(self.started)),
            Target::Lock(_) => at(0, self.started),
            Target::File(db, file) => db.attr(*file)?,
        })
    }

    /// Permission bits that are shown.
    pub(crate) fn file_mode(&self, target: &Target<M::Db>) -> u16 {
        let mode = self.options.ownership.file_mode;
        match target {
            Target::Primary | Target::Lag | Target::Lock(_) => VIRTUAL,
            Target::File(_, FileRef::DATABASE) if !self.view.writable() => mode & !0o222,
            Target::Pos(_) | Target::File(..) => mode,
        }
    }

    /// Attributes of a node that was just looked up or created: the first answer decides.
    pub(crate) fn fresh_attr(&self, node: &Arc<Node<M::Db>>, stat: FileStat) -> FileAttr {
        attr(node.id, FileType::RegularFile, self.file_mode(&node.target), 1, stat, self.options.ownership)
    }
}

fn attr(id: u64, kind: FileType, perm: u16, nlink: u32, stat: FileStat, owner: Ownership) -> FileAttr {
    FileAttr {
        ino: INodeNo(id),
        size: stat.size,
        blocks: stat.size.div_ceil(512),
        atime: stat.mtime,
        mtime: stat.mtime,
        ctime: stat.mtime,
        crtime: stat.mtime,
        kind,
        perm,
        nlink,
        uid: owner.uid,
        gid: owner.gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// In a LOOKUP answer that says that nothing is there.
pub(crate) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
