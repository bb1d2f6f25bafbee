//! Capture of rollback-journal transactions (DELETE, TRUNCATE, PERSIST): rules R1–R9.
//!
//! Disk order of a commit:
//! 1. record with all changed pages → log, made durable in place of SQLite's FSYNC of the database: a redo
//!    from the log gives the same pages, and one sync of blocks that exist is what a commit costs;
//! 2. the permit is checked;
//! 3. the journal is finalised on disk (removed, cut, or its magic destroyed): the commit point;
//! 4. reply to the application;
//! 5. marker "committed" → log, one grouped fdatasync; only then do replicas see it.
//!
//! A crash between 1 and 3 leaves a live journal: it is played back and the record is cut. Between 3
//! and 5: the journal is gone, so the record counts. A journal that reappears after power loss has the
//! identity that the marker names: it is removed.

use std::time::Instant;

use litefs_sqlite::db_header::DbHeader;
use litefs_sqlite::journal::{JOURNAL_MAGIC, JournalHeader, is_live};
use litefs_types::{PageNo, PageSize, Pos, Timestamp};

use super::commit::{NewTx, Origin, PageAt};
use super::files::{Caller, OpenedFile};
use super::journal_file::Ending;
use super::{Database, DurableBy, Inner, JournalMode, Pending, SumsUndo};
use crate::disk::{DiskFile, Op};
use crate::error::{Result, StoreError};
use crate::log::{JournalId, Lsn};
use crate::notice::Change;
use crate::own_mount::FileKind;

const DB_WRITE: Op = Op::new("db.write");
const DB_TRUNCATE: Op = Op::new("db.truncate");
const DB_SYNC: Op = Op::new("db.sync");
const JOURNAL_WRITE: Op = Op::new("journal.write");
const JOURNAL_TRUNCATE: Op = Op::new("journal.truncate");
const JOURNAL_UNLINK: Op = Op::new("journal.unlink");
const JOURNAL_SYNC: Op = Op::new("journal.sync");

/// Bytes of a journal header that mean something; below this size a journal is none (rule H19).
const JOURNAL_HEADER: u64 = 28;
/// Bytes of the database header.
const DB_HEADER: usize = 100;

/// The rollback journal as it is on disk.
#[derive(Default)]
pub(super) struct JournalState {
    /// Starts with the magic: SQLite would play it back.
    pub(super) live: bool,
    /// Page size in its header, while it is live.
    pub(super) page_size: Option<PageSize>,
    /// For the log record.
    pub(super) identity: Option<JournalId>,
}

/// A rollback transaction in the log whose journal still stands.
pub(super) struct PreparedRollback {
    /// Database changes that it covers.
    pub(super) seq: u64,
    pub(super) pos: Pos,
    pub(super) undo: SumsUndo,
    pub(super) mode_before: JournalMode,
    pub(super) page_size_before: Option<PageSize>,
    pub(super) timestamp: Timestamp,
    pub(super) commit: u32,
    pub(super) page_size: PageSize,
    /// Its super-journal is about to be removed: from then on it is committed, whatever happens to the role.
    pub(super) bound: bool,
}

impl Database {
    /// Reads the journal's header again after it changed.
    fn look_at_journal(&self, g: &mut Inner, file: &dyn DiskFile) -> Result<()> {
        let mut head = [0u8; 512];
        let n = file.read_at(&mut head, 0).map_err(StoreError::io("read of the journal's header"))?;
        let head = &head[..n];
        g.journal = JournalState {
            live: n as u64 >= JOURNAL_HEADER && is_live(head),
            page_size: head
                .first_chunk()
                .and_then(|b| JournalHeader::parse(b).ok())
                .and_then(|h| h.page_size),
            identity: JournalId::of(head),
        };
        Ok(())
    }

    /// A WRITE of the journal.
    pub(super) fn write_journal(
        &self,
        caller: &Caller,
        opened: &OpenedFile,
        offset: u64,
        data: &[u8],
    ) -> Result<()> {
        self.gate_journal(caller, "write of the journal")?;
        let mut g = self.lock();
        self.check_alive(&g)?;
        if g.journal.live && offset < 8 && !keeps_magic(offset, data) {
            // PERSIST, or EXCLUSIVE locking: the header is zeroed. This is the commit point.
            return self.finalise(&mut g, |_| {
                opened
                    .file
                    .write_all_at(JOURNAL_WRITE, data, offset)
                    .map_err(StoreError::io("end of the journal"))
            });
        }
        if !g.journal.live {
            self.require_permit("write of a journal")?;
        }
        self.write_journal_file(&mut g, opened, JOURNAL_WRITE, offset, data)?;
        if offset < JOURNAL_HEADER {
            self.look_at_journal(&mut g, &*opened.file)?;
        }
        Ok(())
    }

    /// A change of the journal's size; all sizes are legal.
    pub(super) fn truncate_journal(&self, caller: &Caller, opened: &OpenedFile, size: u64) -> Result<()> {
        self.gate_journal(caller, "truncation of the journal")?;
        let mut g = self.lock();
        self.check_alive(&g)?;
        if g.journal.live && size < JOURNAL_HEADER {
            return self.finalise(&mut g, |g| self.cut_journal_file(g, opened, size));
        }
        opened.file.set_len(JOURNAL_TRUNCATE, size).map_err(StoreError::io("truncation of the journal"))?;
        opened.resized(size);
        if size == 0 {
            opened.set_special(false);
        }
        Ok(())
    }

    /// Removal of the journal: the commit point of DELETE mode.
    pub(super) fn unlink_journal(&self, caller: &Caller) -> Result<()> {
        self.gate_journal(caller, "removal of the journal")?;
        let mut g = self.lock();
        self.check_alive(&g)?;
        if g.journal.live {
            return self.finalise(&mut g, |g| self.remove_journal_file(g));
        }
        self.remove_name(FileKind::Journal, JOURNAL_UNLINK)
    }

    /// FSYNC of the journal.
    pub(super) fn fsync_journal(&self, opened: &OpenedFile) -> Result<()> {
        let ending = Self::journal_ending(&self.lock());
        opened.file.sync_data(JOURNAL_SYNC).map_err(|source| {
            // SQLite rolls back; nothing of this transaction is in the database file yet, or it is
            // covered by what an earlier sync made durable. No acknowledgement depends on it.
            StoreError::Io { what: "fsync of the journal", source }
        })?;
        Self::journal_file_synced(&mut self.lock(), ending);
        Ok(())
    }

    /// A WRITE of the database file.
    pub(super) fn write_database(
        &self,
        caller: &Caller,
        opened: &OpenedFile,
        offset: u64,
        data: &[u8],
    ) -> Result<()> {
        let live = {
            let g = self.lock();
            self.check_alive(&g)?;
            g.journal.live
        };
        if !live {
            return self.write_without_journal(caller, opened, offset, data);
        }
        self.gate_exclusive(caller, "write of the database")?;
        let mut g = self.lock();
        let Some(ps) = g.page_size.or(g.journal.page_size) else {
            return Err(StoreError::broken("the journal's header has no page size"));
        };
        self.preserve(offset, data.len() as u64)?;
        // First: a write that fails may have changed a part.
        g.rollback.touch(offset, data.len() as u64, ps);
        g.dirty_seq += 1;
        g.dirty_synced = false;
        opened.file.write_all_at(DB_WRITE, data, offset).map_err(StoreError::io("write of the database"))
    }

    /// A change of the database file's size.
    pub(super) fn truncate_database(&self, caller: &Caller, opened: &OpenedFile, size: u64) -> Result<()> {
        let live = {
            let g = self.lock();
            self.check_alive(&g)?;
            g.journal.live
        };
        if !live {
            return self.truncate_without_journal(caller, opened, size);
        }
        self.gate_exclusive(caller, "truncation of the database")?;
        let mut g = self.lock();
        let Some(ps) = g.page_size.or(g.journal.page_size) else {
            return Err(StoreError::broken("the journal's header has no page size"));
        };
        let old = opened.file.len().map_err(StoreError::io("size of the database"))?;
        if size < old {
            self.preserve(size, old - size)?;
        }
        opened.file.set_len(DB_TRUNCATE, size).map_err(StoreError::io("truncation of the database"))?;
        g.rollback.truncate(size, ps);
        g.dirty_seq += 1;
        g.dirty_synced = false;
        Ok(())
    }

    /// FSYNC of the database: what SQLite wants to survive is made durable in the log, which recovery
    /// redoes into the file. The file itself is synced with the stamp of the page sums, seldom.
    ///
    /// Really synced is what the log does not hold: pages that a rollback put back, an import session.
    pub(super) fn fsync_database(&self, opened: &OpenedFile) -> Result<()> {
        let (how, seq) = {
            let mut g = self.lock();
            self.check_alive(&g)?;
            let dirty = g.journal.live && g.rollback.is_dirty();
            // A failure here (a full disk) shows again at the finalise, which can refuse cleanly.
            let record = dirty && g.dirty_seq > 0 && matches!(self.prepare_rollback(&mut g), Ok(true));
            // Every page that a checkpoint wrote is one that the durable log explains (rule C3).
            let checkpoint = !g.journal.live
                && g.import.is_none()
                && g.wal.generation().is_some()
                && self.log_durable_to(g.published);
            (
                if record {
                    Need::Log
                } else if checkpoint {
                    Need::Nothing
                } else {
                    Need::File
                },
                g.dirty_seq,
            )
        };
        match how {
            Need::Log => self.sync_log()?,
            Need::Nothing => return Ok(()),
            Need::File => {
                if let Err(source) = opened.file.sync_data(DB_SYNC) {
                    let mut g = self.lock();
                    self.poison(&mut g, format!("fsync of the database failed: {source}"));
                    return Err(StoreError::Io { what: "fsync of the database", source });
                }
            }
        }
        let mut g = self.lock();
        g.log_synced_for_file |= matches!(how, Need::Log);
        if g.dirty_seq == seq {
            g.dirty_synced = true;
        }
        Ok(())
    }

    /// What the header of the database file says: page size and pages (rule R3).
    fn header_now(&self, g: &Inner, file: &dyn DiskFile) -> Result<(PageSize, u32)> {
        let mut head = [0u8; DB_HEADER];
        let n = file.read_at(&mut head, 0).map_err(StoreError::io("read of the database header"))?;
        let size = file.len().map_err(StoreError::io("size of the database"))?;
        if size == 0 {
            // Rolled back to nothing, or never written.
            return Ok((g.page_size.or(g.journal.page_size).unwrap_or(PageSize::DEFAULT), 0));
        }
        let header = DbHeader::parse(&head[..n])
            .map_err(|e| StoreError::Corrupt { what: "the database header", reason: e.to_string() })?;
        let pages = header.page_count(size);
        Ok((header.page_size(), pages))
    }

    /// Puts the dirty pages into the log. `Ok(false)`: nothing changed (a rollback, or a finalise without writes).
    pub(super) fn prepare_rollback(&self, g: &mut Inner) -> Result<bool> {
        if let Some(p) = &g.prepared_rollback
            && p.seq == g.dirty_seq
        {
            return Ok(true);
        }
        let taken_back = self.take_back_rollback(g)?;
        let opened = self.backing(FileKind::Database)?;
        let (ps, commit) = self.header_now(g, &*opened.file)?;
        let old = g.sums.page_count();
        let pages: Vec<PageNo> = if g.page_size.is_some_and(|known| known == ps) || old == 0 {
            g.rollback.dirty_pages(old, commit, ps)
        } else {
            // VACUUM with another page size: every page is new (rule R9).
            (1..=commit).filter_map(PageNo::new).filter(|p| *p != ps.lock_page()).collect()
        };
        let identity = g.journal.identity.unwrap_or_default();
        let tx = NewTx {
            source: &*opened.file,
            fresh: None,
            page_size: ps,
            commit,
            origin: Origin::Rollback(identity),
        };
        let built = self.append(g, &tx, pages.into_iter().map(|p| (p, PageAt::File(ps.offset(p)))))?;
        let Some(undo) = built.undo else {
            if taken_back {
                self.forget_for_good(g)?;
            }
            return Ok(false);
        };
        g.prepared_rollback = Some(PreparedRollback {
            seq: g.dirty_seq,
            pos: g.tip,
            undo,
            mode_before: built.mode_before,
            page_size_before: built.page_size_before,
            timestamp: built.timestamp,
            commit,
            page_size: ps,
            bound: false,
        });
        Ok(true)
    }

    /// Forgets a prepared record: the pages changed since, or the journal was not finalised. Returns
    /// whether there was one. Durable only with the next sync of the log: without its journal a record
    /// that came back after a power loss would count.
    pub(super) fn take_back_rollback(&self, g: &mut Inner) -> Result<bool> {
        let Some(p) = g.prepared_rollback.take() else { return Ok(false) };
        g.undo_sums(p.undo);
        g.mode = p.mode_before;
        g.page_size = p.page_size_before;
        g.tip = g.published;
        let tip = g.tip;
        match self.log.rewind_lazily(tip) {
            Ok(()) => Ok(true),
            Err(e) => Err(self.poison(g, format!("the log could not be cut back: {e}"))),
        }
    }

    /// Makes it durable that a prepared record is forgotten.
    pub(super) fn forget_for_good(&self, g: &mut Inner) -> Result<()> {
        self.log.sync().map_err(|e| self.poison(g, format!("fsync of the log failed: {e}")))?;
        Ok(())
    }

    /// The journal goes away: commit, or end of a rollback.
    fn finalise(&self, g: &mut Inner, on_disk: impl FnOnce(&mut Inner) -> Result<()>) -> Result<()> {
        let changed = g.rollback.is_dirty() && self.prepare_rollback(g)?;
        if !changed {
            // ROLLBACK, or a transaction that changed nothing: no commit, allowed on any role (rule R6).
            // Without a marker nothing tells recovery that this journal is done with.
            if let Some(journal) = self.files.current(FileKind::Journal) {
                journal.set_special(true);
            }
            on_disk(g)?;
            self.end_of_journal(g);
            return Ok(());
        }
        // The commit point is the next step: the right to commit is checked here, not only at the start.
        let bound = g.prepared_rollback.as_ref().is_some_and(|p| p.bound);
        if !bound && let Err(refused) = self.require_permit("commit") {
            self.take_back_rollback(g)?;
            self.forget_for_good(g)?;
            return Err(refused);
        }
        if g.dirty_synced || g.log_synced_for_file {
            // Durable since the FSYNC of the database, unless the record was made again after it: then it also
            // holds what that FSYNC was to make durable.
            if !self.log_durable_to(g.tip)
                && let Err(e) = self.log.sync()
            {
                self.poison(g, format!("fsync of the log failed: {e}"));
                return Err(e.into());
            }
        }
        if let Err(e) = on_disk(g) {
            // The journal still stands: SQLite reports the error and rolls back from it.
            self.take_back_rollback(g)?;
            self.forget_for_good(g)?;
            return Err(e);
        }
        let Some(p) = g.prepared_rollback.take() else { return Ok(()) };
        let marked = match p.pos.txid() {
            Some(txid) => self.log.mark_committed(txid),
            None => Ok(Lsn::default()),
        };
        let (marker, ending) = match marked {
            Ok(marker) => (marker, Ending::Marked(marker)),
            Err(e) => {
                // Committed all the same: the journal is gone. Only power loss that brings it back could
                // undo the transaction, so it must not reach replicas before recovery has judged it.
                self.poison(g, format!("the commit marker could not be written: {e}"));
                (Lsn::default(), Ending::Unmarked)
            }
        };
        self.counters.committed();
        g.published = p.pos;
        g.published_pages = p.commit;
        g.last_timestamp = Some(p.timestamp);
        if g.wal.generation().is_none() {
            g.complete_at = p.pos;
        }
        g.pending.push_back(Pending {
            change: Change {
                db: self.name.clone(),
                pos: p.pos,
                page_size: p.page_size,
                commit: p.commit,
                timestamp: p.timestamp,
                local: true,
            },
            durable: DurableBy::Marker(marker),
            since: Instant::now(),
        });
        self.end_of_journal(g);
        self.journal_file_ended(g, Some(ending));
        self.wake_publisher();
        Ok(())
    }

    pub(super) fn end_of_journal(&self, g: &mut Inner) {
        g.rollback.clear();
        g.journal = JournalState::default();
        self.journal_file_ended(g, None);
        g.dirty_synced = false;
        g.log_synced_for_file = false;
        g.dirty_seq = 0;
        self.transaction_ended.notify_all();
    }
}

/// What an FSYNC of the database has to wait for.
#[derive(Clone, Copy)]
enum Need {
    /// The transaction's record.
    Log,
    /// The file itself.
    File,
    /// All of it is in the durable log.
    Nothing,
}

/// Whether a WRITE at the start of a live journal leaves its magic as it is.
fn keeps_magic(offset: u64, data: &[u8]) -> bool {
    let magic = &JOURNAL_MAGIC[offset as usize..];
    let n = magic.len().min(data.len());
    data[..n] == magic[..n]
}
