//! A pass-through model: the files of a plain directory, named as in the mount.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use litefs_store::own_mount::FileKind;
use litefs_types::{DbName, Pos};
use litefsd::fuse::model::{
    Backing, Caller, DatabaseFiles, FileStat, FileSystemModel, Lag, ModelError, ModelResult, NodeView,
    OpenMode,
};
use litefsd::fuse::names::FileRef;

pub struct PlainFile(File);

impl Backing for PlainFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn stat(&self) -> io::Result<FileStat> {
        let m = self.0.metadata()?;
        Ok(FileStat { size: m.len(), mtime: m.modified()?, ino: m.ino() })
    }
    fn set_len(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }
}

/// A mutating request as the model saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub what: &'static str,
    pub file: FileRef,
    pub caller: Caller,
    pub from_page_cache: bool,
}

type Hook = Arc<dyn Fn(&'static str, FileRef, &Caller) -> ModelResult<()> + Send + Sync>;

/// What tests switch and look at.
#[derive(Default)]
pub struct Knobs {
    /// Everything goes to the worker first.
    pub defer_all: AtomicBool,
    /// Called before each operation.
    pub hook: Mutex<Option<Hook>>,
    pub seen: Mutex<Vec<Seen>>,
    pub on_created: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl Knobs {
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    pub fn set_hook(
        &self,
        hook: impl Fn(&'static str, FileRef, &Caller) -> ModelResult<()> + Send + Sync + 'static,
    ) {
        *self.hook.lock().unwrap() = Some(Arc::new(hook));
    }
}

pub struct PlainDb {
    name: DbName,
    dir: PathBuf,
    knobs: Arc<Knobs>,
}

pub struct PlainModel {
    pub dir: PathBuf,
    pub knobs: Arc<Knobs>,
    dbs: Mutex<HashMap<String, Arc<PlainDb>>>,
}

impl PlainModel {
    pub fn new(dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { dir, knobs: Arc::default(), dbs: Mutex::default() })
    }

    /// As if the database had come by replication.
    pub fn add(&self, name: &str) -> Arc<PlainDb> {
        let db = Arc::new(PlainDb {
            name: name.parse().unwrap(),
            dir: self.dir.clone(),
            knobs: self.knobs.clone(),
        });
        self.dbs.lock().unwrap().entry(name.into()).or_insert(db).clone()
    }
}

impl PlainDb {
    fn path(&self, file: FileRef) -> PathBuf {
        self.dir.join(file.name_in_mount(self.name.as_str()))
    }

    fn enter(&self, what: &'static str, file: FileRef, caller: &Caller) -> ModelResult<()> {
        if self.knobs.defer_all.load(SeqCst) && !caller.may_block {
            return Err(ModelError::NeedsWorker);
        }
        let hook = self.knobs.hook.lock().unwrap().clone();
        hook.map_or(Ok(()), |h| h(what, file, caller))
    }

    fn saw(&self, what: &'static str, file: FileRef, caller: &Caller, from_page_cache: bool) {
        self.knobs.seen.lock().unwrap().push(Seen { what, file, caller: *caller, from_page_cache });
    }
}

impl DatabaseFiles for PlainDb {
    type Opened = PlainFile;

    fn name(&self) -> &DbName {
        &self.name
    }
    fn listed(&self) -> bool {
        self.attr(FileRef::DATABASE).is_ok_and(|s| s.size > 0)
    }
    fn pos(&self, caller: &Caller) -> ModelResult<Pos> {
        self.enter("pos", FileRef::DATABASE, caller)?;
        // Any number that changes with the file will do.
        let size = self.attr(FileRef::DATABASE).map_or(0, |s| s.size / 512);
        Ok(format!("{size:016x}/{:016x}", if size == 0 { 0 } else { 1u64 << 63 }).parse().unwrap())
    }
    fn last_change(&self) -> Option<SystemTime> {
        None
    }
    fn attr(&self, file: FileRef) -> ModelResult<FileStat> {
        let m = std::fs::metadata(self.path(file))?;
        Ok(FileStat { size: m.len(), mtime: m.modified()?, ino: m.ino() })
    }
    fn open_file(&self, caller: &Caller, file: FileRef, mode: OpenMode) -> ModelResult<PlainFile> {
        self.enter("open", file, caller)?;
        self.saw("open", file, caller, false);
        let f = OpenOptions::new().read(true).write(true).truncate(mode.truncate).open(self.path(file))?;
        Ok(PlainFile(f))
    }
    fn create_file(
        &self,
        caller: &Caller,
        file: FileRef,
        _mode: u32,
        exclusive: bool,
    ) -> ModelResult<PlainFile> {
        self.enter("create", file, caller)?;
        self.saw("create", file, caller, false);
        let mut o = OpenOptions::new();
        o.read(true).write(true);
        let o = if exclusive { o.create_new(true) } else { o.create(true).truncate(false) };
        Ok(PlainFile(o.open(self.path(file))?))
    }
    fn created(&self) {
        let f = self.knobs.on_created.lock().unwrap().clone();
        if let Some(f) = f {
            f();
        }
    }
    fn write(
        &self,
        caller: &Caller,
        file: FileRef,
        opened: &PlainFile,
        offset: u64,
        data: &[u8],
        from_page_cache: bool,
    ) -> ModelResult<()> {
        self.enter("write", file, caller)?;
        self.saw("write", file, caller, from_page_cache);
        Ok(opened.0.write_all_at(data, offset)?)
    }
    fn truncate(&self, caller: &Caller, file: FileRef, size: u64) -> ModelResult<()> {
        self.enter("truncate", file, caller)?;
        self.saw("truncate", file, caller, false);
        Ok(OpenOptions::new().write(true).open(self.path(file))?.set_len(size)?)
    }
    fn fsync(
        &self,
        caller: &Caller,
        file: FileRef,
        _opened: &PlainFile,
        _data_only: bool,
    ) -> ModelResult<()> {
        // Nothing to be durable for: these tests are about the mount.
        self.enter("fsync", file, caller)
    }
    fn flush(&self, caller: &Caller, file: FileRef, _opened: &PlainFile) -> ModelResult<()> {
        self.enter("flush", file, caller)
    }
    fn unlink(&self, caller: &Caller, file: FileRef) -> ModelResult<()> {
        self.enter("unlink", file, caller)?;
        self.saw("unlink", file, caller, false);
        if file == FileRef::DATABASE {
            for kind in [FileKind::Journal, FileKind::Wal, FileKind::Shm] {
                let _ = std::fs::remove_file(self.path(FileRef::Kind(kind)));
            }
        }
        Ok(std::fs::remove_file(self.path(file))?)
    }
    fn release(&self, caller: &Caller, file: FileRef, _opened: &PlainFile) -> ModelResult<()> {
        self.enter("release", file, caller)?;
        self.saw("release", file, caller, false);
        Ok(())
    }
}

impl FileSystemModel for PlainModel {
    type Db = PlainDb;

    fn database(&self, name: &str) -> Option<Arc<PlainDb>> {
        self.dbs.lock().unwrap().get(name).cloned()
    }
    fn databases(&self) -> Vec<Arc<PlainDb>> {
        self.dbs.lock().unwrap().values().cloned().collect()
    }
    fn create_database(&self, _caller: &Caller, name: &DbName) -> ModelResult<Arc<PlainDb>> {
        Ok(self.add(name.as_str()))
    }
}

/// A node whose role tests change.
#[derive(Default)]
pub struct View {
    pub replica_of: Mutex<Option<String>>,
    pub refuse_write_opens: AtomicBool,
}

impl NodeView for View {
    fn primary_hostname(&self) -> Option<String> {
        self.replica_of.lock().unwrap().clone()
    }
    fn lag(&self) -> Lag {
        match *self.replica_of.lock().unwrap() {
            None => Lag::Primary,
            Some(_) => {
                Lag::Behind { millis: 25, at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) }
            }
        }
    }
    fn writable(&self) -> bool {
        self.replica_of.lock().unwrap().is_none()
    }
    fn refuse_write_opens(&self) -> bool {
        self.refuse_write_opens.load(SeqCst)
    }
}
