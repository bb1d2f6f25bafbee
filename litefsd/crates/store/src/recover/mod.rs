//! Opening a database directory, in whatever state a stop, a crash or a power loss left it.
//!
//! Afterwards everything committed is in `database` and the log, there is no journal, wal or shm, and
//! the page sums are those of the log's end. The cases and why they are right: capture rules B.9.
//!
//! 1. sweep `spool/`, convert a directory of Go LiteFS (`go_import`);
//! 2. after a clean stop with an untouched file: done, nothing is scanned (`fast`);
//! 3. `snapshot.ltx`: a snapshot was being applied, do it again (`snapshot`);
//! 4. the rollback journal decides about an in-doubt record, and is played back or removed (`journal`);
//! 5. redo the log into `database` and the sums (`redo`), check the database checksum;
//! 6. what the wal holds beyond the log is committed: log it, then redo it (`wal`);
//! 7. sync, remove journal, wal, shm, stamp the sums.
//!
//! Nothing here refuses to start because data contradicts itself; `anomaly` then follows the
//! [`OnAnomaly`] policy. Only the disk's own errors end it.
//!
//! Every step may be interrupted and done again. Tests: `tests`, `crash_tests`; vectors of Go LiteFS in
//! the workspace's `golden_datadirs`.

mod anomaly;
mod foreign;
mod journal;
mod redo;
mod snapshot;
mod wal;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use litefs_core::page_sums::PageSums;
use litefs_sqlite::db_header::{DB_HEADER_LEN, DbHeader, JournalMode};
use litefs_types::{Checksum, DbName, NodeId, PageNo, PageSize, Pos, Timestamp};

pub(crate) use self::snapshot::FileReader;
use crate::disk::{Disk, DiskFile, Op, OpenHow};
use crate::error::{Result, StoreError};
use crate::layout::{DataLayout, DbLayout};
use crate::log::{Log, LogError};
use crate::sums_file::{FileId, SumsFile};
use crate::{go_import, spool};

const OPEN: Op = Op::new("recover.open");
const REMOVE: Op = Op::new("recover.remove");
const SYNC_DIR: Op = Op::new("recover.sync-dir");
const WRITE: Op = Op::new("recover.write");
const SYNC: Op = Op::new("recover.sync");

/// What to do with a database whose parts contradict each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnAnomaly {
    /// Set the database aside and start empty: a snapshot from the primary replaces it.
    Replica,
    /// Set a copy aside, keep what wal, journal and log prove, and make the result a new transaction that
    /// holds every page, so that replicas get to the same state.
    Primary,
}

/// A database that is ready for use.
pub struct Recovered {
    /// Its log; everything in it is durable and committed.
    pub log: Log,
    /// The checksum of every page at `pos`.
    pub sums: PageSums,
    /// Where the sums are kept.
    pub sums_file: SumsFile,
    /// `None`: it never had a page, or was dropped.
    pub page_size: Option<PageSize>,
    /// Pages at `pos`; 0 if it never had one, or was dropped.
    pub page_count: u32,
    /// What page 1 says.
    pub mode: JournalMode,
    /// The end of the log. `database` is complete and durable up to here.
    pub pos: Pos,
    /// Time stamp of the last transaction, if the log still holds it.
    pub last_timestamp: Option<Timestamp>,
    /// What was found and done, in words; for the log.
    pub notes: Vec<String>,
    /// What was set aside.
    pub set_aside: Vec<PathBuf>,
}

/// Data that cannot all be true.
struct Anomaly(String);

/// How a step ended: the disk failed, or the data contradicts itself.
enum Stop {
    Error(StoreError),
    Anomaly(Anomaly),
}

type Step<T> = std::result::Result<T, Stop>;

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Self {
        Self::Error(e)
    }
}

impl From<LogError> for Stop {
    fn from(e: LogError) -> Self {
        match e {
            LogError::Io { .. } | LogError::Poisoned => Self::Error(e.into()),
            LogError::NotContiguous { .. } | LogError::Corrupt(_) => anomaly(e.to_string()),
        }
    }
}

fn anomaly(reason: impl Into<String>) -> Stop {
    Stop::Anomaly(Anomaly(reason.into()))
}

fn disk_error(what: &'static str) -> impl FnOnce(io::Error) -> Stop {
    move |e| Stop::Error(StoreError::io(what)(e))
}

/// What all steps work on.
struct Recovery {
    disk: Arc<dyn Disk>,
    root: DataLayout,
    name: DbName,
    dir: DbLayout,
    node_id: NodeId,
    now: Timestamp,
    log: Log,
    sums_file: SumsFile,
    notes: Vec<String>,
    /// The database file; made when it is first needed.
    file: Option<Arc<dyn DiskFile>>,
    /// `database` and the log after this give the end of the log; `None`: only the whole log does.
    db_pos: Option<Pos>,
    /// The database file's pages may differ from what the log says, beyond what a redo repairs.
    suspect: bool,
}

/// Opens the database `name`; see the module documentation. A missing directory is made.
pub fn open(
    disk: &Arc<dyn Disk>,
    layout: &DataLayout,
    name: &DbName,
    on_anomaly: OnAnomaly,
    node_id: NodeId,
    now: Timestamp,
) -> Result<Recovered> {
    let mut notes = Vec::new();
    let mut set_aside = Vec::new();
    let run = |notes: &mut Vec<String>| attempt(disk, layout, name, node_id, now, notes);
    let reason = match run(&mut notes) {
        Ok(r) => return Ok(r),
        Err(Stop::Error(e)) => return Err(e),
        Err(Stop::Anomaly(Anomaly(reason))) => reason,
    };
    notes.push(format!("does not add up: {reason}"));
    match on_anomaly {
        OnAnomaly::Replica => {
            let to = anomaly::start_empty(&**disk, layout, name, now)?;
            notes.push(format!("set aside as {}; waiting for a snapshot", to.display()));
            set_aside.push(to);
        }
        OnAnomaly::Primary => {
            anomaly::rebaseline(disk, layout, name, node_id, now, &mut notes, &mut set_aside)?;
        }
    }
    let again = run(&mut notes);
    match again {
        Ok(mut r) => {
            r.set_aside = set_aside;
            Ok(r)
        }
        Err(Stop::Error(e)) => Err(e),
        Err(Stop::Anomaly(Anomaly(reason))) => {
            Err(StoreError::Corrupt { what: "a recovered database", reason })
        }
    }
}

fn attempt(
    disk: &Arc<dyn Disk>,
    layout: &DataLayout,
    name: &DbName,
    node_id: NodeId,
    now: Timestamp,
    notes: &mut Vec<String>,
) -> Step<Recovered> {
    let dir = layout.db(name);
    if !disk.exists(OPEN, dir.dir()).map_err(disk_error("look at the database's directory"))? {
        disk.create_dir_all(OPEN, dir.dir()).map_err(disk_error("creation of the database's directory"))?;
        disk.sync_dir(SYNC_DIR, &layout.dbs()).map_err(disk_error("sync of the databases' directory"))?;
    }
    foreign::set_aside_wrong_kinds(&**disk, layout, name, now, notes)?;
    spool::sweep(&**disk, &dir.spool()).map_err(disk_error("sweep of the spool directory"))?;
    go_import::convert(disk, &dir, now, notes)?;
    let mut r = Recovery::start(disk, layout, name, node_id, now)?;
    let found = match r.fast()? {
        Some(found) => found,
        None => r.slow()?,
    };
    notes.append(&mut r.notes);
    r.finish(found, std::mem::take(notes))
}

impl Recovery {
    fn start(
        disk: &Arc<dyn Disk>,
        root: &DataLayout,
        name: &DbName,
        node_id: NodeId,
        now: Timestamp,
    ) -> Step<Self> {
        let dir = root.db(name);
        let sums_file =
            SumsFile::open(Arc::clone(disk), dir.sums()).map_err(disk_error("opening of the page sums"))?;
        let (log, notes) =
            Log::open(Arc::clone(disk), dir.log(), sums_file.floor()).map_err(StoreError::from)?;
        let db_pos = sums_file.stamp().map(|s| s.db_pos);
        Ok(Self {
            disk: Arc::clone(disk),
            root: root.clone(),
            name: name.clone(),
            dir,
            node_id,
            now,
            log,
            sums_file,
            notes,
            file: None,
            db_pos,
            suspect: false,
        })
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// After a clean stop: the file is as it was, nobody needs the log, the sums are in their file.
    fn fast(&mut self) -> Step<Option<PageSums>> {
        let Some(stamp) = self.sums_file.stamp().copied() else { return Ok(None) };
        let Some(id) = stamp.clean else { return Ok(None) };
        let tip = self.log.tip();
        if stamp.sums_pos != tip || stamp.db_pos != tip || self.log.in_doubt()?.is_some() {
            return Ok(None);
        }
        let now = match self.disk.metadata(OPEN, &self.dir.database()) {
            Ok(m) => FileId::from(m),
            Err(e) if e.kind() == io::ErrorKind::NotFound => FileId { len: 0, mtime: 0, ino: 0 },
            Err(e) => return Err(disk_error("look at the database")(e)),
        };
        if now != id && (now.len, id.len) != (0, 0) {
            self.note("the database file was changed while the daemon was stopped");
            self.suspect = true;
            return Ok(None);
        }
        self.set_aside_late_comers()?;
        for leftover in [self.dir.journal(), self.dir.wal(), self.dir.snapshot()] {
            if self.exists(&leftover)? {
                return Ok(None);
            }
        }
        let sums = self.sums_file.load().map_err(disk_error("read of the page sums"))?;
        let sums = sums.unwrap_or_else(|| PageSums::new(stamp.page_size.unwrap_or(PageSize::DEFAULT)));
        let fits = tip.is_zero() && sums.page_count() == 0 || sums.checksum() == tip.checksum();
        Ok(fits.then_some(sums))
    }

    fn slow(&mut self) -> Step<PageSums> {
        let snapshot = self.snapshot()?;
        self.set_aside_foreign()?;
        self.journal()?;
        let mut sums = self.redo(snapshot)?;
        if self.wal(&mut sums)? {
            self.redo_into_file(&sums)?;
        }
        Ok(sums)
    }

    /// Makes it so on disk, and says what there is.
    fn finish(mut self, mut sums: PageSums, notes: Vec<String>) -> Step<Recovered> {
        let pos = self.log.sync()?;
        let pages = sums.page_count();
        let page_size = (pages > 0).then(|| sums.page_size());
        if pages == 0 {
            // Dropped, or never written: an empty file would be a database in the mount.
            if !pos.is_zero() {
                self.remove(&self.dir.database())?;
            } else if self.exists(&self.dir.database())? {
                // What a first transaction left that never came to its end.
                let file = self.file()?;
                file.set_len(WRITE, 0).map_err(disk_error("cut of the database"))?;
            }
        } else if let Some(file) = self.file.take() {
            file.set_len(WRITE, sums.page_size().file_size(pages))
                .map_err(disk_error("cut of the database"))?;
            file.sync_data(SYNC).map_err(disk_error("sync of the database"))?;
        }
        // Only now: until here they were needed for a second try.
        let mut removed = false;
        for path in [self.dir.journal(), self.dir.wal(), self.dir.shm()] {
            removed |= self.remove(&path)?;
        }
        if removed || pages > 0 || !pos.is_zero() {
            self.disk.sync_dir(SYNC_DIR, self.dir.dir()).map_err(disk_error("sync of the directory"))?;
        }
        let update = self.sums_file.collect(&mut sums);
        if !(pos.is_zero() && self.sums_file.stamp().is_none()) {
            self.sums_file.write(update, pos, pos, None).map_err(disk_error("write of the page sums"))?;
        }
        // After the stamp: the old one speaks of a log that the snapshot replaced.
        if self.remove(&self.dir.snapshot())? {
            self.disk.sync_dir(SYNC_DIR, self.dir.dir()).map_err(disk_error("sync of the directory"))?;
        }
        let last_timestamp = match pos.txid() {
            Some(t) => match self.log.get(t)? {
                Some(e) => Some(e.ltx_header()?.timestamp),
                None => None,
            },
            None => None,
        };
        let mode = if pages > 0 { self.journal_mode()? } else { JournalMode::Rollback };
        Ok(Recovered {
            log: self.log,
            sums,
            sums_file: self.sums_file,
            page_size,
            page_count: pages,
            mode,
            pos,
            last_timestamp,
            notes,
            set_aside: Vec::new(),
        })
    }

    fn journal_mode(&self) -> Step<JournalMode> {
        let file = self
            .disk
            .open(OPEN, &self.dir.database(), OpenHow::READ)
            .map_err(disk_error("opening of the database"))?;
        let mut head = [0; DB_HEADER_LEN];
        file.read_at(&mut head, 0).map_err(disk_error("read of the database's header"))?;
        Ok(DbHeader::parse(&head).map_or(JournalMode::Rollback, |h| h.journal_mode()))
    }

    /// A database file that no log and no sums explain: nothing can be rolled back or redone on it.
    fn set_aside_foreign(&mut self) -> Step<()> {
        if !self.log.tip().is_zero() || self.sums_file.stamp().is_some_and(|s| !s.sums_pos.is_zero()) {
            return Ok(());
        }
        let path = self.dir.database();
        let Ok(meta) = self.disk.metadata(OPEN, &path) else { return Ok(()) };
        if meta.len == 0 {
            return Ok(());
        }
        let file =
            self.disk.open(OPEN, &path, OpenHow::READ).map_err(disk_error("opening of the database"))?;
        let mut head = [0; DB_HEADER_LEN];
        let n = file.read_at(&mut head, 0).map_err(disk_error("read of the database's header"))?;
        if n < DB_HEADER_LEN || DbHeader::parse(&head).is_err() {
            // The first transaction of a new database that spilled: the journal says "no pages before".
            let journal = self.disk.metadata(OPEN, &self.dir.journal()).is_ok_and(|m| m.len > 0);
            if journal && head.iter().all(|b| *b == 0) {
                return Ok(());
            }
            let to = crate::quarantine::move_file(&*self.disk, &self.root, &self.name, &path, self.now)
                .map_err(disk_error("setting the database file aside"))?;
            self.note(format!("the file is no SQLite database; set aside as {}", to.display()));
        }
        Ok(())
    }

    fn exists(&self, path: &std::path::Path) -> Step<bool> {
        self.disk.exists(OPEN, path).map_err(disk_error("look at a file"))
    }

    /// Removes a file; `Ok(false)` if there is none.
    fn remove(&self, path: &std::path::Path) -> Step<bool> {
        if !self.exists(path)? {
            return Ok(false);
        }
        self.disk.unlink(REMOVE, path).map_err(disk_error("removal of a file"))?;
        Ok(true)
    }

    /// The database file, made if it is missing.
    fn file(&mut self) -> Step<Arc<dyn DiskFile>> {
        if let Some(f) = &self.file {
            return Ok(Arc::clone(f));
        }
        let how = OpenHow::CREATE.with_mode(0o666);
        let f =
            self.disk.open(OPEN, &self.dir.database(), how).map_err(disk_error("opening of the database"))?;
        self.file = Some(Arc::clone(&f));
        Ok(f)
    }
}

/// A page's checksum, none for the lock page.
fn page_sum(ps: PageSize, page: PageNo, data: &[u8]) -> Checksum {
    if page == ps.lock_page() { Checksum::NONE } else { litefs_ltx::checksum::page_checksum(page, data) }
}

/// A disk file as the SQLite crate reads it. Keeps the cause of a failure.
pub(crate) struct Source {
    file: Arc<dyn DiskFile>,
    error: Option<io::Error>,
}

impl Source {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, error: None }
    }
}

impl litefs_sqlite::source::ReadAt for Source {
    fn read_at(
        &mut self,
        offset: u64,
        buf: &mut [u8],
    ) -> std::result::Result<(), litefs_sqlite::source::ReadFailed> {
        self.file.read_exact_at(buf, offset).map_err(|e| {
            self.error = Some(e);
            litefs_sqlite::source::ReadFailed
        })
    }
}
