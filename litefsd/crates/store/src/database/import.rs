//! New content from outside: `cp FILE MOUNT/` of a new database (rule R10), and `import`.
//!
//! Both end in the same step: a whole SQLite file, checked before anything is touched, becomes one
//! transaction ([`Database::import`]).
//!
//! Disk order of an import: file staged and synced → record in the log, durable → database file. A crash
//! before the second step leaves everything as it was, after it recovery completes the import.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use litefs_sqlite::db_header::DbHeader;
use litefs_types::{PageNo, PageSize, Pos, Timestamp};

use super::commit::{NewTx, Origin, PageAt, read_page};
use super::files::{Caller, HandleId};
use super::{Database, DurableBy, Inner, JournalMode, Pending};
use crate::apply::locks::Exclusive;
use crate::apply::wal_writer::WalWriter;
use crate::apply::{ApplyError, PageSource, Replaced, replace_all};
use crate::disk::{Disk, DiskFile, Op, OpenHow};
use crate::error::{Result, StoreError};
use crate::notice::Change;
use crate::own_mount::FileKind;

const STAGE: Op = Op::new("import.stage");
const HEADER: Op = Op::new("import.header");
const SYNC: Op = Op::new("import.sync");
const DIRECT: Op = Op::new("import.direct");
const DB_HEADER: usize = 100;
/// How long an import waits for the database's locks before it reports who holds them.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Numbers the staged files of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file being received, not looked at yet; removed when dropped.
pub struct ImportFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    end: u64,
}

impl Drop for ImportFile {
    fn drop(&mut self) {
        // What stays is swept at the next start.
        let _ = self.disk.unlink(STAGE, &self.path);
    }
}

impl ImportFile {
    /// An empty file in this spool directory.
    pub(crate) fn create(disk: &Arc<dyn Disk>, spool: &Path) -> Result<Self> {
        let step = StoreError::io;
        disk.create_dir_all(STAGE, spool).map_err(step("creation of the spool directory"))?;
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = spool.join(format!("import-{}-{n}", std::process::id()));
        let file = disk
            .open(STAGE, &path, OpenHow::CREATE_NEW.with_mode(0o600))
            .map_err(step("creation of a spool file"))?;
        Ok(Self { disk: Arc::clone(disk), path, file, end: 0 })
    }
}

/// Appends.
impl Write for ImportFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(STAGE, data, self.end)?;
        self.end += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes written through one handle to a database without pages, before they are a database.
pub(super) struct ImportSession {
    handle: HandleId,
    file: ImportFile,
}

/// A checked SQLite file, ready to become a transaction.
pub struct CheckedImport {
    file: ImportFile,
    page_size: PageSize,
    pages: u32,
}

impl CheckedImport {
    /// Checks header and size of a SQLite file.
    ///
    /// Content is not checked page by page: `litefsctl import` runs `PRAGMA integrity_check` before.
    pub fn check(file: ImportFile) -> Result<Self> {
        let bad = |reason: String| StoreError::Corrupt { what: "the imported file", reason };
        let size = file.file.len().map_err(StoreError::io("size of the imported file"))?;
        let mut head = [0u8; DB_HEADER];
        let n = file.file.read_at(&mut head, 0).map_err(StoreError::io("read of the imported file"))?;
        let header = DbHeader::parse(&head[..n]).map_err(|e| bad(e.to_string()))?;
        let ps = header.page_size();
        if !size.is_multiple_of(u64::from(ps.get())) {
            return Err(bad(format!("{size} bytes are no whole number of pages of {ps} bytes")));
        }
        let in_file = u32::try_from(size / u64::from(ps.get())).map_err(|_| bad("too many pages".into()))?;
        let pages = header.page_count(size);
        if pages == 0 || pages > in_file {
            return Err(bad(format!("the header says {pages} pages, the file has {in_file}")));
        }
        Ok(Self { file, page_size: ps, pages })
    }

    /// Page size.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Pages by the header.
    pub fn pages(&self) -> u32 {
        self.pages
    }
}

/// The pages of a raw database file, without the lock page.
pub(super) struct FilePages<'a> {
    pub(super) file: &'a dyn DiskFile,
    pub(super) page_size: PageSize,
    pub(super) pages: u32,
}

impl PageSource for FilePages<'_> {
    fn for_each(
        &mut self,
        f: &mut dyn FnMut(PageNo, &[u8]) -> std::result::Result<(), ApplyError>,
    ) -> std::result::Result<(), ApplyError> {
        let mut buf = vec![0u8; self.page_size.bytes()];
        for no in (1..=self.pages).filter_map(PageNo::new).filter(|p| *p != self.page_size.lock_page()) {
            read_page(self.file, PageAt::File(self.page_size.offset(no)), &mut buf)
                .map_err(|e| ApplyError::Source(Box::new(e)))?;
            f(no, &buf)?;
        }
        Ok(())
    }
}

/// SQLite's locks, held by the daemon for a transaction of its own.
pub(super) enum Held {
    /// There is no mount, so there are no SQLite clients.
    Nothing,
    /// WAL_WRITE.
    Wal(WalWriter),
    /// EXCLUSIVE on the own descriptor, until [`replace_all`] releases it.
    Exclusive,
}

impl Database {
    /// A WRITE to a database without pages, by somebody who holds no lock: `cp`. `Ok(false)`: it is not that.
    pub(super) fn import_write(&self, caller: &Caller, offset: u64, data: &[u8]) -> Result<bool> {
        let stage = |s: &ImportSession| {
            s.file
                .file
                .write_all_at(STAGE, data, offset)
                .map_err(StoreError::io("staging of an imported file"))
        };
        {
            let g = self.lock();
            match &g.import {
                Some(s) if s.handle == caller.handle => return stage(s).map(|()| true),
                Some(_) => return Ok(false),
                None if g.sums.page_count() != 0 || g.wal.generation().is_some() => return Ok(false),
                None => {}
            }
        }
        self.require_permit("import")?;
        if let Some(lock) = self.unlocked_by_others(caller)? {
            tracing::info!(db = %self.name, pid = caller.pid, "refused a copy onto a database that is in use ({lock:?} is held)");
            return Err(StoreError::refused(libc::EBUSY, "the database is in use"));
        }
        let session = ImportSession {
            handle: caller.handle,
            file: ImportFile::create(&self.env.disk, &self.dir.spool())?,
        };
        stage(&session)?;
        let mut g = self.lock();
        if g.import.is_some() || g.sums.page_count() != 0 {
            return Err(StoreError::refused(libc::EBUSY, "somebody else is importing"));
        }
        g.import = Some(session);
        Ok(true)
    }

    /// A change of size inside an import session, or of a database without pages. `Ok(false)`: neither.
    pub(super) fn import_truncate(&self, caller: &Caller, size: u64) -> Result<bool> {
        let g = self.lock();
        if let Some(s) = &g.import
            && s.handle == caller.handle
        {
            s.file.file.set_len(STAGE, size).map_err(StoreError::io("staging of an imported file"))?;
            return Ok(true);
        }
        // O_TRUNC of an empty file.
        Ok(size == 0 && g.sums.page_count() == 0 && g.import.is_none())
    }

    /// The copy is complete: it becomes a transaction, or an error at `close(2)`.
    pub(super) fn finish_import_session(&self, caller: &Caller) -> Result<()> {
        let mine = self.lock().import.as_ref().is_some_and(|s| s.handle == caller.handle);
        if !mine {
            return Ok(());
        }
        if !caller.may_block {
            return Err(StoreError::NeedsWorker);
        }
        let Some(session) = self.lock().import.take() else { return Ok(()) };
        let done = CheckedImport::check(session.file).and_then(|db| self.import(db, false));
        // The kernel's cache holds what was written through the handle; the file holds what was committed.
        if let Some(m) = self.env.mounted.get() {
            m.invalidator.data(&self.name, FileKind::Database, 0, 0);
        }
        match done {
            Ok(pos) => {
                tracing::info!(db = %self.name, %pos, "imported a file that was copied into the mount");
                Ok(())
            }
            Err(e) => {
                tracing::warn!(db = %self.name, pid = caller.pid, "a file copied into the mount was not imported: {e}");
                Err(StoreError::broken("the copied file is no SQLite database"))
            }
        }
    }

    /// Replaces the whole content by a checked file, as one transaction. Worker threads only.
    ///
    /// Without `replace` the database must not have pages yet.
    pub fn import(&self, import: CheckedImport, replace: bool) -> Result<Pos> {
        self.require_permit("import")?;
        let _own_io = self.lock_own();
        if !replace && self.page_count() != 0 {
            return Err(StoreError::Exists);
        }
        let CheckedImport { file, page_size, pages } = import;
        let source = Arc::clone(&file.file);
        let _rewriting = self.rewriting();
        let held = self.hold_for_rewrite()?;
        let done = self
            .renew_counters(&*source)
            .and_then(|()| self.import_held(&held, &*source, page_size, pages, replace));
        self.let_go(held, done.is_err());
        let pos = done?;
        self.announce()?;
        Ok(pos)
    }

    fn import_held(
        &self,
        held: &Held,
        source: &dyn DiskFile,
        page_size: PageSize,
        pages: u32,
        replace: bool,
    ) -> Result<Pos> {
        self.settle_under_lock()?;
        let (before, built) = {
            let mut g = self.lock();
            self.check_alive(&g)?;
            // The permit is checked again at the commit point: the wait for locks may have been long.
            self.require_permit("import")?;
            if !replace && g.sums.page_count() != 0 {
                // Somebody made the database while the copy was being written.
                return Err(StoreError::Exists);
            }
            let before = g.published;
            let all = (1..=pages).filter_map(PageNo::new).filter(|p| *p != page_size.lock_page());
            let at = all.map(|p| (p, PageAt::File(page_size.offset(p))));
            let tx = NewTx { source, fresh: None, page_size, commit: pages, origin: Origin::Daemon };
            let built = self.append(&mut g, &tx, at)?;
            (before, built)
        };
        let Some(undo) = built.undo else { return Ok(before) };
        self.sync_log()?;
        let mut file = FilePages { file: source, page_size, pages };
        let in_file = match self.rewrite(held, &mut file, page_size, pages) {
            Ok(in_file) => in_file,
            Err(StoreError::Apply(blocked @ ApplyError::Blocked(_))) => {
                // Nothing was written: the record goes, durably, and the database is as before.
                let mut g = self.lock();
                g.undo_sums(undo);
                g.mode = built.mode_before;
                g.page_size = built.page_size_before;
                g.tip = before;
                if let Err(e) = self.log.rewind(before) {
                    return Err(self.poison(&mut g, format!("the log could not be cut back: {e}")));
                }
                return Err(blocked.into());
            }
            Err(e) => {
                // The record is durable, the files are half changed: recovery completes it.
                let mut g = self.lock();
                return Err(
                    self.poison(&mut g, format!("an import could not be written to the database: {e}"))
                );
            }
        };
        let mut g = self.lock();
        let pos = g.tip;
        self.publish_own(&mut g, pos, page_size, pages, built.timestamp);
        if in_file {
            g.complete_at = pos;
        }
        if matches!(held, Held::Exclusive) {
            // A wal or a journal that was there went with the old content.
            let _ = g.wal.removed();
            self.wal_ended(&mut g);
            self.end_of_journal(&mut g);
        }
        Ok(pos)
    }

    /// Takes SQLite's write locks for a transaction of the daemon itself.
    pub(super) fn hold_for_rewrite(&self) -> Result<Held> {
        let Some(own) = self.own() else { return Ok(Held::Nothing) };
        let deadline = Instant::now() + LOCK_WAIT;
        let (mode, page_size, pages) = {
            let g = self.lock();
            (g.mode, g.page_size, g.sums.page_count())
        };
        match page_size {
            Some(ps) if mode == JournalMode::Wal && pages > 0 => {
                Ok(Held::Wal(WalWriter::attach(&**own, ps, deadline)?))
            }
            _ => {
                self.create_own(FileKind::Database)?;
                own.open(FileKind::Database, false).map_err(StoreError::io("open of the database"))?;
                // Released by `replace_all`, or in `let_go`.
                std::mem::forget(Exclusive::acquire(&**own, false, deadline)?);
                Ok(Held::Exclusive)
            }
        }
    }

    /// Ends what [`Self::hold_for_rewrite`] began.
    fn let_go(&self, held: Held, failed: bool) {
        let Some(own) = self.own() else { return };
        match held {
            Held::Nothing => {}
            Held::Wal(writer) => {
                // Before the lock goes: the next writer's frames must find a tracker that knows where they
                // begin.
                self.adopt_wal(&mut self.lock(), &writer.position());
                // Nobody checkpoints with this writer, so it does not wait.
                if let Err(e) = writer.detach(&**own, Instant::now() + LOCK_WAIT) {
                    self.poison(&mut self.lock(), format!("the wal could not be handed back: {e}"));
                }
            }
            Held::Exclusive => {
                // After a success it is released already, and unlocking twice is nothing. Half written
                // (poisoned) it stays locked, so that nobody reads it.
                if !failed || self.poisoned().is_none() {
                    use litefs_sqlite::lock_bytes::Lock;
                    for lock in [Lock::Shared, Lock::Pending, Lock::Reserved] {
                        if let Err(e) = own.unlock(lock) {
                            tracing::error!(db = %self.name, "a lock on the own mount could not be released: {e}");
                        }
                    }
                }
            }
        }
    }

    /// With WAL_WRITE or EXCLUSIVE in hand: publishes what is committed, drops what is not.
    ///
    /// Files and log still agree afterwards: the import may yet be refused, and then the next opener
    /// recovers what is in the files.
    fn settle_under_lock(&self) -> Result<()> {
        self.resolve()?;
        if let Some(own) = self.own() {
            self.destroy_leftover(&**own)?;
        }
        let mut g = self.lock();
        let from = g.wal.published_frames() + 1;
        self.drop_prepared(&mut g, from)?;
        if g.journal.live || g.rollback.is_dirty() {
            // A dead writer's transaction. Its journal goes with the old content, not before.
            self.take_back_rollback(&mut g)?;
        }
        Ok(())
    }

    /// Writes the new content into the files. Whether it is in the database file, durably, and not in frames.
    fn rewrite(
        &self,
        held: &Held,
        source: &mut FilePages<'_>,
        page_size: PageSize,
        pages: u32,
    ) -> Result<bool> {
        let Some(own) = self.own() else {
            let opened = self.create_own(FileKind::Database)?;
            let file = &*opened.file;
            source.for_each(&mut |page, data| {
                file.write_all_at(DIRECT, data, page_size.offset(page))
                    .map_err(ApplyError::io("write the database"))
            })?;
            file.set_len(DIRECT, page_size.file_size(pages))
                .map_err(StoreError::io("size of the database"))?;
            return file.sync_data(SYNC).map(|()| true).map_err(StoreError::io("sync of the database"));
        };
        let (writer, redo) = match held {
            Held::Wal(w) => (Some(w), false),
            _ => (None, true),
        };
        let how = replace_all(&**own, writer, source, page_size, pages, Instant::now() + LOCK_WAIT, redo)?;
        Ok(matches!(how, Replaced::InPlace { .. }))
    }

    /// Makes open connections notice that everything changed: their caches go by the change counter. A
    /// database in WAL mode stays in WAL mode.
    fn renew_counters(&self, file: &dyn DiskFile) -> Result<()> {
        let step = StoreError::io;
        let mut current = [0u8; DB_HEADER];
        let known = match self.backing(FileKind::Database) {
            Ok(f) => f.file.read_at(&mut current, 0).map_err(step("read of the database header"))?,
            Err(StoreError::NotFound) => 0,
            Err(e) => return Err(e),
        };
        if let Ok(old) = DbHeader::parse(&current[..known]) {
            let mut head = [0u8; DB_HEADER];
            file.read_exact_at(&mut head, 0).map_err(step("read of the imported file"))?;
            let mut new = DbHeader::parse(&head)
                .map_err(|e| StoreError::Corrupt { what: "the imported file", reason: e.to_string() })?;
            new.set_change_counter(old.change_counter().max(new.change_counter()).wrapping_add(1));
            if old.journal_mode() == JournalMode::Wal {
                // Connections that stay open go on through the WAL, whatever the new page 1 says.
                new.set_journal_mode(JournalMode::Wal);
            }
            new.set_schema_cookie(old.schema_cookie().max(new.schema_cookie()).wrapping_add(1));
            file.write_all_at(HEADER, new.as_bytes(), 0).map_err(step("header of the imported file"))?;
        }
        file.sync_data(SYNC).map_err(step("sync of the imported file"))
    }

    /// A transaction of the daemon itself is in the files: SQLite shows it.
    pub(super) fn publish_own(
        &self,
        g: &mut Inner,
        pos: Pos,
        page_size: PageSize,
        pages: u32,
        timestamp: Timestamp,
    ) {
        g.published = pos;
        g.published_pages = pages;
        g.last_timestamp = Some(timestamp);
        g.pending.push_back(Pending {
            change: Change { db: self.name.clone(), pos, page_size, commit: pages, timestamp, local: true },
            durable: DurableBy::Record,
            since: Instant::now(),
        });
    }
}
