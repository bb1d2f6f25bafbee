//! Super-journals: the commit point of a transaction over several rollback-mode databases (rule R8).
//!
//! SQLite makes `<first db>-mjXXXXXX9XX`, writes the names of the members' journals into it, removes it
//! to commit all of them, then finalises each. Each member is captured at its own finalise; between the
//! removal and the finalise the members' records must already be durable, because a journal that names
//! a missing super-journal is no longer played back.

use litefs_types::DbName;

use super::Database;
use super::files::{Caller, FileAttr, OpenedFile};
use super::wal::Backing;
use crate::disk::{DiskFile, Op, OpenHow};
use crate::error::{Result, StoreError};
use litefs_sqlite::journal::super_journal::super_journal_name;
use litefs_sqlite::lock_bytes::Lock;

use crate::own_mount::{FileKind, LockKind, Probe};

const OPEN: Op = Op::new("super.open");
const CREATE: Op = Op::new("super.create");
const WRITE: Op = Op::new("super.write");
const TRUNCATE: Op = Op::new("super.truncate");
const SYNC: Op = Op::new("super.sync");
const UNLINK: Op = Op::new("super.unlink");
const META: Op = Op::new("super.metadata");

/// Longest super-journal in bytes: SQLite attaches at most 125 databases, with paths of at most 512 bytes.
const MAX_SUPER_JOURNAL: u64 = 128 * 1024;

/// What follows `-mj`: checked to be nine characters out of `0-9A-F` by the caller's type.
type Suffix<'a> = &'a str;

impl Database {
    /// Opens, with `create` makes, a super-journal.
    pub fn open_super_journal(
        &self,
        suffix: Suffix<'_>,
        create: bool,
        exclusive: bool,
    ) -> Result<OpenedFile> {
        debug_assert!(DbName::is_super_journal(&format!("x-mj{suffix}")));
        let how = match (create, exclusive) {
            (true, true) => OpenHow::CREATE_NEW,
            (true, false) => OpenHow::CREATE,
            _ => OpenHow::READ_WRITE,
        };
        if create {
            self.require_permit("creation of a super-journal")?;
        }
        let op = if create { CREATE } else { OPEN };
        let file =
            self.env.disk.open(op, &self.dir.super_journal(suffix), how).map_err(|source| {
                match source.kind() {
                    std::io::ErrorKind::NotFound => StoreError::NotFound,
                    std::io::ErrorKind::AlreadyExists => StoreError::Exists,
                    _ => StoreError::Io { what: "open of a super-journal", source },
                }
            })?;
        if create {
            self.dir_dirty.store(true, std::sync::atomic::Ordering::Release);
        }
        Ok(OpenedFile::other(file, self.env.next_node()))
    }

    /// What `stat` shows of a super-journal.
    pub fn super_journal_attr(&self, suffix: Suffix<'_>) -> Result<FileAttr> {
        let m = self.env.disk.metadata(META, &self.dir.super_journal(suffix)).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                StoreError::NotFound
            } else {
                StoreError::Io { what: "attributes of a super-journal", source }
            }
        })?;
        Ok(FileAttr { size: m.len, mtime: m.mtime, node: m.ino })
    }

    /// A WRITE of a super-journal.
    pub fn write_super_journal(&self, opened: &OpenedFile, offset: u64, data: &[u8]) -> Result<()> {
        if offset.saturating_add(data.len() as u64) > MAX_SUPER_JOURNAL {
            return Err(StoreError::refused(libc::EFBIG, "a super-journal of this size is none"));
        }
        opened.file.write_all_at(WRITE, data, offset).map_err(StoreError::io("write of a super-journal"))
    }

    /// A change of size.
    pub fn truncate_super_journal(&self, suffix: Suffix<'_>, size: u64) -> Result<()> {
        let f = self.open_super_journal(suffix, false, false)?;
        f.file
            .set_len(TRUNCATE, size.min(MAX_SUPER_JOURNAL))
            .map_err(StoreError::io("truncation of a super-journal"))
    }

    /// FSYNC.
    pub fn sync_super_journal(&self, opened: &OpenedFile) -> Result<()> {
        opened.file.sync_data(SYNC).map_err(StoreError::io("fsync of a super-journal"))
    }

    /// Removal: the commit point of its members. [`Database::ready_for_super_commit`] of every database
    /// comes before.
    pub fn unlink_super_journal(&self, suffix: Suffix<'_>) -> Result<()> {
        self.env.disk.unlink(UNLINK, &self.dir.super_journal(suffix)).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                StoreError::NotFound
            } else {
                StoreError::Io { what: "removal of a super-journal", source }
            }
        })?;
        self.dir_dirty.store(true, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    /// If this database's journal names the super-journal `name` (its file name in the mount): makes the
    /// record of the transaction durable, and refuses if it may not commit. After the super-journal is
    /// gone it is too late for either.
    pub fn ready_for_super_commit(&self, name: &str) -> Result<()> {
        {
            let mut g = self.lock();
            self.check_alive(&g)?;
            if !g.journal.live || !g.rollback.is_dirty() {
                return Ok(());
            }
            if !self.names_super_journal(name)? {
                return Ok(());
            }
            self.require_permit("commit of a transaction over several databases")?;
            if !self.prepare_rollback(&mut g)? {
                return Ok(());
            }
            if let Some(p) = &mut g.prepared_rollback {
                p.bound = true;
            }
        }
        self.sync_log()
    }

    /// Whether the journal ends with this super-journal's path.
    fn names_super_journal(&self, name: &str) -> Result<bool> {
        let opened = self.backing(FileKind::Journal)?;
        let (shown, journal) = (opened.shown_len(), opened.file);
        let size = match shown {
            Some(len) => len,
            None => journal.len().map_err(StoreError::io("size of a journal"))?,
        };
        let path = super_journal_name(&mut Backing(&*journal), size).map_err(|_| StoreError::Corrupt {
            what: "a journal",
            reason: "its end cannot be read".into(),
        })?;
        Ok(path.is_some_and(|p| p.rsplit(|b| *b == b'/').next() == Some(name.as_bytes())))
    }

    /// Whether somebody holds RESERVED or EXCLUSIVE: what a super-journal's request must be covered by,
    /// on some database of the mount.
    pub fn write_locked(&self, caller: &Caller) -> Result<bool> {
        for lock in [Lock::Reserved, Lock::Shared] {
            if let Probe::Held { .. } = self.probe(caller, lock, LockKind::Shared)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// For callers that hold only the trait object.
impl OpenedFile {
    /// The backing file.
    pub fn disk_file(&self) -> &dyn DiskFile {
        &*self.file
    }
}
