//! The file system that FUSE shows, over the store.
//!
//! A translation of names and errors, nothing else: which request is allowed is the store's decision.
//! The reason of a refusal is logged here, because the application sees only the errno.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use litefs_store::database::{self, Database, HandleId, OpenedFile};
use litefs_store::own_mount::FileKind;
use litefs_store::{Store, StoreError};
use litefs_types::{DbName, Pos};

use crate::fuse::model::{
    Backing, Caller, DatabaseFiles, FileStat, FileSystemModel, ModelError, ModelResult, OpenMode,
};
use crate::fuse::names::FileRef;

/// A backing file in the mount.
pub struct StoreFile {
    opened: OpenedFile,
    /// For the database file: its pages are checked before they are served.
    check: Option<Arc<Database>>,
}

impl Backing for StoreFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.opened.read_at(buf, offset)?;
        match &self.check {
            Some(db) => db.verify_read(&self.opened, offset, &mut buf[..n]).map(|()| n),
            None => Ok(n),
        }
    }

    fn stat(&self) -> io::Result<FileStat> {
        let (size, mtime) = self.opened.stat()?;
        Ok(FileStat { size, mtime, ino: self.opened.node })
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.opened.set_len_unlinked(size)
    }
}

/// A database in the mount.
pub struct StoreDb {
    db: Arc<Database>,
    store: Arc<Store>,
}

/// The databases in the mount.
pub struct StoreModel {
    store: Arc<Store>,
}

impl StoreModel {
    /// Over this store.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }
}

fn caller(c: &Caller) -> database::Caller {
    database::Caller { own: c.own, may_block: c.may_block, pid: c.pid, handle: HandleId(c.handle) }
}

/// The error FUSE answers; what a person should know of it goes to the log.
fn answer(db: &str, what: &str, e: &StoreError) -> ModelError {
    match e {
        StoreError::NeedsWorker => return ModelError::NeedsWorker,
        StoreError::NotFound | StoreError::Exists => {}
        // The place of the refusal has said more.
        StoreError::Refused { .. } => tracing::debug!(db, "{what}: {e}"),
        _ => tracing::warn!(db, "{what}: {e}"),
    }
    ModelError::Errno(e.errno())
}

impl StoreDb {
    fn done<T>(&self, what: &str, r: Result<T, StoreError>) -> ModelResult<T> {
        r.map_err(|e| answer(self.db.name().as_str(), what, &e))
    }

    fn file(&self, file: FileRef, opened: OpenedFile) -> StoreFile {
        StoreFile { opened, check: (file == FileRef::DATABASE).then(|| Arc::clone(&self.db)) }
    }

    /// A super-journal is written only while some database of the mount has a writer.
    fn gate_super_journal(&self, c: &database::Caller) -> ModelResult<()> {
        for db in self.store.databases() {
            match db.write_locked(c) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => return Err(answer(db.name().as_str(), "super-journal", &e)),
            }
        }
        tracing::warn!(db = %self.db.name(), pid = c.pid, "refused a super-journal: nobody holds a write lock on this mount");
        Err(ModelError::Errno(libc::EACCES))
    }
}

impl DatabaseFiles for StoreDb {
    type Opened = StoreFile;

    fn name(&self) -> &DbName {
        self.db.name()
    }

    fn listed(&self) -> bool {
        self.db.page_count() > 0
    }

    fn pos(&self, c: &Caller) -> ModelResult<Pos> {
        if c.may_block {
            return Ok(self.db.resolve_pos());
        }
        self.db.settled_pos().ok_or(ModelError::NeedsWorker)
    }

    fn last_change(&self) -> Option<SystemTime> {
        let ms = self.db.last_timestamp()?.millis();
        Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).ok()?))
    }

    fn attr(&self, file: FileRef) -> ModelResult<FileStat> {
        let attr = match file {
            FileRef::Kind(kind) => self.db.attr(kind),
            FileRef::SuperJournal(s) => self.db.super_journal_attr(s.as_str()),
        };
        let a = self.done("attributes", attr)?;
        Ok(FileStat { size: a.size, mtime: a.mtime, ino: a.node })
    }

    fn open_file(&self, c: &Caller, file: FileRef, mode: OpenMode) -> ModelResult<StoreFile> {
        let opened = match file {
            FileRef::Kind(kind) => self.db.open_file(
                &caller(c),
                kind,
                database::OpenMode { read: mode.read, write: mode.write, truncate: mode.truncate },
            ),
            FileRef::SuperJournal(s) => self.db.open_super_journal(s.as_str(), false, false),
        };
        self.done("open", opened).map(|o| self.file(file, o))
    }

    fn create_file(&self, c: &Caller, file: FileRef, _mode: u32, exclusive: bool) -> ModelResult<StoreFile> {
        let c = caller(c);
        let opened = match file {
            FileRef::Kind(kind) => self.db.create_file(&c, kind, exclusive),
            FileRef::SuperJournal(s) => {
                self.gate_super_journal(&c)?;
                self.db.open_super_journal(s.as_str(), true, exclusive)
            }
        };
        self.done("create", opened).map(|o| self.file(file, o))
    }

    fn created(&self) {
        self.db.open_own_descriptors();
    }

    fn write(
        &self,
        c: &Caller,
        file: FileRef,
        opened: &StoreFile,
        offset: u64,
        data: &[u8],
        from_page_cache: bool,
    ) -> ModelResult<()> {
        let c = caller(c);
        let r = match file {
            FileRef::Kind(kind) => self.db.write(&c, kind, &opened.opened, offset, data, from_page_cache),
            FileRef::SuperJournal(_) => {
                self.gate_super_journal(&c)?;
                self.db.write_super_journal(&opened.opened, offset, data)
            }
        };
        self.done("write", r)
    }

    fn truncate(&self, c: &Caller, file: FileRef, size: u64) -> ModelResult<()> {
        let c = caller(c);
        let r = match file {
            FileRef::Kind(kind) => self.db.truncate(&c, kind, size),
            FileRef::SuperJournal(s) => {
                self.gate_super_journal(&c)?;
                self.db.truncate_super_journal(s.as_str(), size)
            }
        };
        self.done("truncate", r)
    }

    fn fsync(&self, c: &Caller, file: FileRef, opened: &StoreFile, _data_only: bool) -> ModelResult<()> {
        let r = match file {
            FileRef::Kind(kind) => self.db.fsync(&caller(c), kind, &opened.opened),
            FileRef::SuperJournal(_) => self.db.sync_super_journal(&opened.opened),
        };
        self.done("fsync", r)
    }

    fn flush(&self, c: &Caller, file: FileRef, _opened: &StoreFile) -> ModelResult<()> {
        match file {
            FileRef::Kind(kind) => self.done("close", self.db.flush(&caller(c), kind)),
            FileRef::SuperJournal(_) => Ok(()),
        }
    }

    fn unlink(&self, c: &Caller, file: FileRef) -> ModelResult<()> {
        let c = caller(c);
        let r = match file {
            FileRef::Kind(kind) => self.db.unlink(&c, kind),
            FileRef::SuperJournal(s) => {
                self.gate_super_journal(&c)?;
                // The commit point of all members: their records first.
                let name = file.name_in_mount(self.db.name().as_str());
                for member in self.store.databases() {
                    if let Err(e) = member.ready_for_super_commit(&name) {
                        return Err(answer(member.name().as_str(), "commit over several databases", &e));
                    }
                }
                self.db.unlink_super_journal(s.as_str())
            }
        };
        self.done("unlink", r)
    }

    fn release(&self, c: &Caller, file: FileRef, _opened: &StoreFile) -> ModelResult<()> {
        match file {
            FileRef::Kind(FileKind::Database) => {
                self.done("last close", self.db.flush(&caller(c), FileKind::Database))
            }
            _ => Ok(()),
        }
    }
}

impl FileSystemModel for StoreModel {
    type Db = StoreDb;

    fn database(&self, name: &str) -> Option<Arc<StoreDb>> {
        let db = self.store.database(name)?;
        Some(Arc::new(StoreDb { db, store: Arc::clone(&self.store) }))
    }

    fn databases(&self) -> Vec<Arc<StoreDb>> {
        let wrap = |db| Arc::new(StoreDb { db, store: Arc::clone(&self.store) });
        self.store.databases().into_iter().map(wrap).collect()
    }

    fn create_database(&self, c: &Caller, name: &DbName) -> ModelResult<Arc<StoreDb>> {
        let made = self.store.create_for_application(&caller(c), name);
        let db = made.map_err(|e| answer(name.as_str(), "creation of a database", &e))?;
        Ok(Arc::new(StoreDb { db, store: Arc::clone(&self.store) }))
    }

    fn sync_directory(&self, _c: &Caller) -> ModelResult<()> {
        self.store.sync_dirs().map_err(|e| answer("", "sync of the directory", &e))
    }
}
