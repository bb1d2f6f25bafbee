//! The files of a database as the mount shows them: open, create, attributes, dispatch of writes.
//!
//! READ is not here: the FUSE adapter reads the backing file of an open handle directly and takes no
//! lock of the database.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use super::Database;
use super::journal_file::{Retired, Shown};
use crate::disk::{DiskFile, Op, OpenHow};
use crate::error::{Result, StoreError};
use crate::own_mount::FileKind;

const OPEN: Op = Op::new("db.open");
const CREATE: Op = Op::new("db.create");
const META: Op = Op::new("db.metadata");
const SHM_WRITE: Op = Op::new("shm.write");
const SHM_TRUNCATE: Op = Op::new("shm.truncate");
const SHM_UNLINK: Op = Op::new("shm.unlink");
const SHM_SYNC: Op = Op::new("shm.sync");
const OWN_WRITE: Op = Op::new("own.write");
const OWN_TRUNCATE: Op = Op::new("own.truncate");
const OWN_UNLINK: Op = Op::new("own.unlink");
const OWN_SYNC: Op = Op::new("own.sync");
const DIR_SYNC: Op = Op::new("db.sync_dir");
const STALE_WRITE: Op = Op::new("unlinked.write");

/// An open file of the mount, by the adapter's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HandleId(pub u64);

/// Who makes a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The daemon itself, on a descriptor that it opened through its own mount.
    pub own: bool,
    /// On a worker thread, where own-mount IO is allowed.
    pub may_block: bool,
    /// Process (or thread) id as the kernel gave it; 0 across pid namespaces. For messages only.
    pub pid: u32,
    /// The open file.
    pub handle: HandleId,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// `O_TRUNC`, where the kernel passes it on.
    pub truncate: bool,
}

/// A backing file with its number; the number is never used twice in a process.
#[derive(Clone)]
pub struct OpenedFile {
    /// The backing file; stays readable after UNLINK.
    pub file: Arc<dyn DiskFile>,
    /// Which one it is.
    pub node: u64,
    /// Of a wal or a journal: the file is longer than what the mount shows (`room`, `journal_file`).
    pub(super) shown: Option<Arc<Shown>>,
}

impl OpenedFile {
    fn new(kind: FileKind, file: Arc<dyn DiskFile>, node: u64, len: u64) -> Self {
        let shown = matches!(kind, FileKind::Wal | FileKind::Journal).then(|| Self::shown(len));
        Self { file, node, shown }
    }

    /// Without a name in the mount's list, such as a super-journal.
    pub(super) fn other(file: Arc<dyn DiskFile>, node: u64) -> Self {
        Self { file, node, shown: None }
    }
}

/// What `stat` shows of a file.
#[derive(Clone, Copy, Debug)]
pub struct FileAttr {
    /// Bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: SystemTime,
    /// The number of the backing file, see [`OpenedFile::node`].
    pub node: u64,
}

/// The backing files that have a name now.
pub(super) struct Files {
    slots: RwLock<[Option<OpenedFile>; 4]>,
    /// The file on disk under the journal's name while the mount shows none. Locked after `slots`.
    journal: Mutex<Retired>,
}

const fn slot(kind: FileKind) -> usize {
    match kind {
        FileKind::Database => 0,
        FileKind::Journal => 1,
        FileKind::Wal => 2,
        FileKind::Shm => 3,
    }
}

impl Files {
    pub(super) fn new() -> Self {
        Self { slots: RwLock::new([None, None, None, None]), journal: Mutex::new(None) }
    }

    pub(super) fn current(&self, kind: FileKind) -> Option<OpenedFile> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)[slot(kind)].clone()
    }

    pub(super) fn is_current(&self, kind: FileKind, file: &OpenedFile) -> bool {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)[slot(kind)]
            .as_ref()
            .is_some_and(|f| f.node == file.node)
    }

    /// The mount's journal is gone, its file stays.
    pub(super) fn retire_journal(&self, file: Arc<dyn DiskFile>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots[slot(FileKind::Journal)] = None;
        *self.journal() = Some(file);
    }

    /// The file that is kept for the next journal.
    pub(super) fn retired_journal(&self) -> Retired {
        self.journal().clone()
    }

    fn journal(&self) -> MutexGuard<'_, Retired> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a file on disk that is not the mount's.
    pub(super) fn is_retired(&self, kind: FileKind) -> bool {
        kind == FileKind::Journal && self.journal().is_some()
    }
}

impl Database {
    /// The backing file of `kind`, opened if it exists.
    pub(super) fn backing(&self, kind: FileKind) -> Result<OpenedFile> {
        if let Some(f) = self.files.current(kind) {
            return Ok(f);
        }
        let mut slots = self.files.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(f) = &slots[slot(kind)] {
            return Ok(f.clone());
        }
        if self.files.is_retired(kind) {
            return Err(StoreError::NotFound);
        }
        let path = self.path(kind);
        let file = match self.env.disk.open(OPEN, &path, OpenHow::READ_WRITE) {
            Ok(f) => f,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(StoreError::NotFound),
            Err(source) => return Err(StoreError::Io { what: "open of a database file", source }),
        };
        let len = file.len().map_err(StoreError::io("size of a database file"))?;
        let opened = OpenedFile::new(kind, file, self.env.next_node(), len);
        slots[slot(kind)] = Some(opened.clone());
        Ok(opened)
    }

    /// The backing file of `kind`, made if it is missing.
    pub(super) fn backing_or_create(&self, kind: FileKind, exclusive: bool) -> Result<OpenedFile> {
        match self.backing(kind) {
            Ok(_) if exclusive => return Err(StoreError::Exists),
            Err(StoreError::NotFound) => {}
            done => return done,
        }
        let mut slots = self.files.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(f) = &slots[slot(kind)] {
            // Somebody else was first. A second number for the same file would hide writes from capture.
            return if exclusive { Err(StoreError::Exists) } else { Ok(f.clone()) };
        }
        if kind == FileKind::Journal
            && let Some(file) = self.files.journal().take()
        {
            let opened = OpenedFile::new(kind, file, self.env.next_node(), 0);
            slots[slot(kind)] = Some(opened.clone());
            return Ok(opened);
        }
        let file = self
            .env
            .disk
            .open(CREATE, &self.path(kind), OpenHow::CREATE)
            .map_err(StoreError::io("creation of a database file"))?;
        let len = file.len().map_err(StoreError::io("size of a database file"))?;
        let opened = OpenedFile::new(kind, file, self.env.next_node(), len);
        slots[slot(kind)] = Some(opened.clone());
        drop(slots);
        self.dir_dirty.store(true, Ordering::Release);
        Ok(opened)
    }

    /// The same for a file that the daemon makes itself: the kernel remembers that it was not there.
    /// Worker threads only.
    pub(super) fn create_own(&self, kind: FileKind) -> Result<OpenedFile> {
        match self.backing(kind) {
            Err(StoreError::NotFound) => {}
            known => return known,
        }
        let made = self.backing_or_create(kind, false)?;
        if let Some(m) = self.env.mounted.get() {
            m.invalidator.entry(&self.name, kind);
            m.invalidator.virtual_files(Some(&self.name));
        }
        Ok(made)
    }

    /// Opens an existing file for the mount.
    pub fn open_file(&self, caller: &Caller, kind: FileKind, mode: OpenMode) -> Result<OpenedFile> {
        if kind == FileKind::Database && !caller.own {
            self.before_application_open(caller, mode)?;
        }
        let opened = self.backing(kind)?;
        if mode.truncate {
            self.truncate(caller, kind, 0)?;
        }
        Ok(opened)
    }

    /// Creates (or, without `exclusive`, opens) a file for the mount.
    pub fn create_file(&self, caller: &Caller, kind: FileKind, exclusive: bool) -> Result<OpenedFile> {
        match kind {
            _ if caller.own => {}
            FileKind::Database => self.require_permit("creation of a database")?,
            FileKind::Journal => {
                self.require_permit("creation of a journal")?;
                self.check_alive(&self.lock())?;
                self.gate_journal(caller, "creation of a journal")?;
            }
            // A reader that opens a WAL database creates both; on a replica the daemon made them before.
            FileKind::Wal | FileKind::Shm => {}
        }
        self.backing_or_create(kind, exclusive)
    }

    /// Whether the file has a name now.
    pub fn exists(&self, kind: FileKind) -> bool {
        self.files.current(kind).is_some()
            || (!self.files.is_retired(kind) && self.env.disk.exists(META, &self.path(kind)).unwrap_or(false))
    }

    /// What `stat` shows.
    pub fn attr(&self, kind: FileKind) -> Result<FileAttr> {
        let f = self.backing(kind)?;
        let (size, mtime) = f.stat().map_err(StoreError::io("attributes of a database file"))?;
        Ok(FileAttr { size, mtime, node: f.node })
    }

    /// A WRITE request. `from_page_cache`: the kernel wrote back a page that somebody changed through a
    /// mapping.
    pub fn write(
        &self,
        caller: &Caller,
        kind: FileKind,
        opened: &OpenedFile,
        offset: u64,
        data: &[u8],
        from_page_cache: bool,
    ) -> Result<()> {
        if !caller.own {
            self.counters.wrote(kind);
        }
        if kind == FileKind::Shm {
            // Always: a refused write-back of the shared index would fail somebody else's fsync, and
            // the index is rebuilt at every start anyway.
            return opened
                .file
                .write_all_at(SHM_WRITE, data, offset)
                .map_err(StoreError::io("write of the wal-index"));
        }
        if caller.own {
            return self.own_write(kind, opened, offset, data);
        }
        if from_page_cache {
            tracing::warn!(db = %self.name, pid = caller.pid, "refused a write through a shared mapping: its order is unknown (SQLITE_MMAP_READWRITE build?)");
            return Err(StoreError::broken("write through a writable mapping"));
        }
        if !self.files.is_current(kind, opened) {
            // Unlinked while open: nobody will ever read it by name again.
            if opened.is_retired() {
                return Err(StoreError::denied("the journal was removed, and its file is the next one's"));
            }
            opened.grew(offset, data.len());
            return opened
                .file
                .write_all_at(STALE_WRITE, data, offset)
                .map_err(StoreError::io("write of an unlinked file"));
        }
        match kind {
            FileKind::Wal => self.write_wal(caller, opened, offset, data),
            FileKind::Journal => self.write_journal(caller, opened, offset, data),
            FileKind::Database => self.write_database(caller, opened, offset, data),
            FileKind::Shm => Ok(()),
        }
    }

    /// The daemon's own write, made through the mount so that the kernel's cache stays coherent. It
    /// holds SQLite's locks and accounts for the change itself.
    fn own_write(&self, kind: FileKind, opened: &OpenedFile, offset: u64, data: &[u8]) -> Result<()> {
        if kind == FileKind::Database {
            self.preserve(offset, data.len() as u64)?;
        }
        opened.file.write_all_at(OWN_WRITE, data, offset).map_err(StoreError::io("own write"))?;
        opened.grew(offset, data.len());
        Ok(())
    }

    /// A change of size.
    pub fn truncate(&self, caller: &Caller, kind: FileKind, size: u64) -> Result<()> {
        let opened = self.backing(kind)?;
        if kind == FileKind::Shm {
            return opened
                .file
                .set_len(SHM_TRUNCATE, size)
                .map_err(StoreError::io("truncation of the wal-index"));
        }
        if caller.own {
            if kind == FileKind::Database {
                self.preserve(size, u64::MAX - size)?;
            }
            opened.file.set_len(OWN_TRUNCATE, size).map_err(StoreError::io("own truncation"))?;
            opened.resized(size);
            if kind == FileKind::Wal {
                self.lock().room.gone();
            }
            return Ok(());
        }
        match kind {
            FileKind::Wal => self.truncate_wal(caller, &opened, size),
            FileKind::Journal => self.truncate_journal(caller, &opened, size),
            FileKind::Database => self.truncate_database(caller, &opened, size),
            FileKind::Shm => Ok(()),
        }
    }

    /// FSYNC of one file.
    pub fn fsync(&self, caller: &Caller, kind: FileKind, opened: &OpenedFile) -> Result<()> {
        if caller.own {
            return opened.file.sync_data(OWN_SYNC).map_err(|source| {
                // A checkpoint or an apply of the daemon: what it wrote may be lost, and a second sync that
                // succeeds would say nothing about it.
                self.poison(&mut self.lock(), format!("fsync of the database failed: {source}"));
                StoreError::Io { what: "own sync", source }
            });
        }
        match kind {
            FileKind::Wal => self.fsync_wal(opened),
            FileKind::Database => self.fsync_database(opened),
            FileKind::Journal => self.fsync_journal(opened),
            FileKind::Shm => opened.file.sync_data(SHM_SYNC).map_err(StoreError::io("sync of the wal-index")),
        }
    }

    /// Removal of a name. Of the database itself: the drop of the database.
    pub fn unlink(&self, caller: &Caller, kind: FileKind) -> Result<()> {
        if !self.exists(kind) {
            return Err(StoreError::NotFound);
        }
        if caller.own {
            return self.remove_name(kind, OWN_UNLINK);
        }
        match kind {
            FileKind::Wal => self.unlink_wal(caller),
            FileKind::Journal => self.unlink_journal(caller),
            FileKind::Database => self.unlink_database(caller),
            FileKind::Shm => self.unlink_shm(caller),
        }
    }

    pub(super) fn remove_name(&self, kind: FileKind, op: Op) -> Result<()> {
        {
            // Locked until the name is gone: who opened the file by it in between would be taken for the
            // next file of that name.
            let mut slots = self.files.slots.write().unwrap_or_else(PoisonError::into_inner);
            match self.env.disk.unlink(op, &self.path(kind)) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(StoreError::Io { what: "removal of a database file", source }),
            }
            slots[slot(kind)] = None;
            if kind == FileKind::Journal {
                *self.files.journal() = None;
            }
        }
        self.dir_dirty.store(true, Ordering::Release);
        if matches!(kind, FileKind::Wal | FileKind::Shm | FileKind::Database)
            && let Some(own) = self.own()
        {
            // Its locks and reads would go on in a file without a name; the next probe opens the new one.
            own.close(kind);
        }
        Ok(())
    }

    fn unlink_shm(&self, caller: &Caller) -> Result<()> {
        self.gate_exclusive(caller, "removal of the wal-index")?;
        self.settle_before_wal_end(caller)?;
        self.remove_name(FileKind::Shm, SHM_UNLINK)
    }

    /// FLUSH: a descriptor was closed. The error of an import session reaches `close(2)`.
    pub fn flush(&self, caller: &Caller, kind: FileKind) -> Result<()> {
        if kind == FileKind::Database && !caller.own { self.finish_import_session(caller) } else { Ok(()) }
    }

    /// RELEASE: the last descriptor of a handle is gone. Nobody sees an error any more.
    pub fn release(&self, caller: &Caller, kind: FileKind) {
        if let Err(e) = self.flush(caller, kind) {
            tracing::warn!(db = %self.name, "at the last close: {e}");
        }
    }

    /// Makes creations and removals in the database's directory durable, if there were any.
    pub fn sync_dir(&self) -> Result<()> {
        self.sync_journal_end()?;
        // Cleared first: a name that is made during the sync marks the directory again.
        if self.dir_dirty.swap(false, Ordering::AcqRel)
            && let Err(source) = self.env.disk.sync_dir(DIR_SYNC, self.dir.dir())
        {
            // SQLite passes over this error, and a second sync that succeeds would prove nothing: the name of
            // the wal may be lost in a power loss, so from now on the log is the witness.
            self.names_in_doubt.store(true, Ordering::Release);
            return Err(StoreError::Io { what: "sync of the database's directory", source });
        }
        Ok(())
    }

    fn path(&self, kind: FileKind) -> PathBuf {
        match kind {
            FileKind::Database => self.dir.database(),
            FileKind::Journal => self.dir.journal(),
            FileKind::Wal => self.dir.wal(),
            FileKind::Shm => self.dir.shm(),
        }
    }
}
