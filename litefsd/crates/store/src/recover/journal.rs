//! The rollback journal, and the log record whose fate hangs on it (capture rules R4, R8, B.9).
//!
//! | journal | record | so |
//! |---|---|---|
//! | live, of a record without marker | in doubt | roll back, cut the record |
//! | live, of a record with marker | committed | the removal was lost: remove it again |
//! | live, names a super-journal that is gone | committed | remove it |
//! | live, of no record | – | its transaction never got that far: roll back |
//! | not live, or gone | in doubt | committed |

use std::sync::Arc;

use litefs_sqlite::db_header::{DB_HEADER_LEN, DbHeader};
use litefs_sqlite::journal::JournalReader;
use litefs_types::{DbName, PageSize, Pos, Txid};

use super::{OPEN, Recovery, SYNC, Source, Step, WRITE, anomaly, disk_error};
use crate::disk::{DiskFile, OpenHow};
use crate::log::{JournalId, LogEntry, RecordKind};

impl Recovery {
    /// Decides, rolls back, cuts. The journal itself is removed at the end of recovery.
    pub(super) fn journal(&mut self) -> Step<()> {
        let path = self.dir.journal();
        let doubt = self.log.in_doubt()?;
        let live = if self.exists(&path)? { self.live_journal()? } else { None };
        let Some((file, id)) = live else { return self.settle(doubt) };

        let owner = self.record_of(id)?;
        let in_doubt = match (&owner, &doubt) {
            (Some(o), Some(d)) => o.post() == d.post(),
            _ => false,
        };
        if owner.is_some() && !in_doubt {
            self.note("removed the journal of a committed transaction");
            return self.settle(doubt);
        }
        let len = file.len().map_err(disk_error("size of the journal"))?;
        let mut reader =
            match JournalReader::open(Source::new(Arc::clone(&file)), len, self.page_size_of_file()?) {
                Ok(Some(r)) => r,
                // Live by its magic, but shorter than its header's sector: nothing was written under it.
                Ok(None) => return self.settle(doubt),
                Err(_) => return Err(anomaly("the journal cannot be read")),
            };
        let super_journal = reader.super_journal().map_err(|_| anomaly("the journal cannot be read"))?;
        if let Some(name) = super_journal
            && !self.super_journal_exists(&name)?
        {
            self.note("removed a journal whose super-journal is gone: its transaction is committed");
            self.suspect = owner.is_none();
            return self.settle(doubt);
        }
        let rewind_to = match (&owner, &doubt) {
            (Some(o), _) => Some(o.pre()),
            _ => None,
        };
        if owner.is_none() {
            // A record in doubt is of an earlier transaction then: its journal is gone.
            self.settle(doubt)?;
        }
        self.play_back(&mut reader)?;
        if let Some(pre) = rewind_to {
            self.log.rewind(pre)?;
        }
        Ok(())
    }

    /// What is in doubt without a journal is committed.
    fn settle(&mut self, doubt: Option<LogEntry>) -> Step<()> {
        if let Some(d) = doubt {
            self.note(format!("transaction {} was committed: its journal is gone", d.max_txid()));
            self.log.mark_committed(d.max_txid())?;
        }
        Ok(())
    }

    /// The journal, if it has the magic and a whole header.
    fn live_journal(&mut self) -> Step<Option<(Arc<dyn DiskFile>, JournalId)>> {
        let file = self
            .disk
            .open(OPEN, &self.dir.journal(), OpenHow::READ)
            .map_err(disk_error("opening of the journal"))?;
        let mut head = [0; 512];
        let n = file.read_at(&mut head, 0).map_err(disk_error("read of the journal"))?;
        let head = &head[..n];
        Ok(match JournalId::of(head) {
            Some(id) if litefs_sqlite::journal::is_live(head) => Some((file, id)),
            _ => None,
        })
    }

    /// The newest record that was made under this journal. Only records that the database file may still
    /// lack can have one that is left: the others' removal was synced with the file.
    fn record_of(&self, id: JournalId) -> Step<Option<LogEntry>> {
        /// A few more, because a file system may keep a directory longer than it was asked to.
        const BEFORE_FLOOR: u64 = 64;
        let floor = self.db_pos.map_or(0, Pos::txid_raw).saturating_sub(BEFORE_FLOOR);
        let mut next = self.log.tip().txid();
        while let Some(t) = next {
            if t.get() <= floor {
                break;
            }
            let Some(e) = self.log.get(t)? else { break };
            if e.kind() == RecordKind::Rollback(id) {
                return Ok(Some(e));
            }
            next = Txid::prev(e.min_txid());
        }
        Ok(None)
    }

    /// The page size in the database's header, for journals that do not say.
    fn page_size_of_file(&mut self) -> Step<Option<PageSize>> {
        if !self.exists(&self.dir.database())? {
            return Ok(None);
        }
        let file = self.file()?;
        let mut head = [0; DB_HEADER_LEN];
        file.read_at(&mut head, 0).map_err(disk_error("read of the database's header"))?;
        let stamped = self.sums_file.stamp().and_then(|s| s.page_size);
        Ok(DbHeader::parse(&head).map(|h| h.page_size()).ok().or(stamped))
    }

    /// Super-journals lie in the directory of the database that they are named after.
    fn super_journal_exists(&self, name: &[u8]) -> Step<bool> {
        let file_name = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
        let Some((db, suffix)) = std::str::from_utf8(file_name)
            .ok()
            .filter(|s| DbName::is_super_journal(s))
            .and_then(|s| s.rsplit_once("-mj"))
        else {
            return Ok(false);
        };
        let Ok(db) = db.parse::<DbName>() else { return Ok(false) };
        self.exists(&self.root.db(&db).super_journal(suffix))
    }

    /// SQLite's rollback: old pages back, file cut to its old size.
    fn play_back(&mut self, reader: &mut JournalReader<Source>) -> Step<()> {
        let file = self.file()?;
        let ps = reader.page_size();
        let mut page = Vec::new();
        let mut pages = 0u32;
        let size = ps.file_size(reader.original_pages());
        if file.len().map_err(disk_error("size of the database"))? > size {
            file.set_len(WRITE, size).map_err(disk_error("cut of the database"))?;
        }
        while let Some(no) = reader.next_page(&mut page).map_err(|_| anomaly("the journal cannot be read"))? {
            file.write_all_at(WRITE, &page, ps.offset(no)).map_err(disk_error("write of a page"))?;
            pages += 1;
        }
        file.sync_data(SYNC).map_err(disk_error("sync of the database"))?;
        // Free pages that the transaction overwrote were never in the journal: they keep what it wrote.
        self.suspect = true;
        self.note(format!("rolled back a transaction ({pages} pages)"));
        Ok(())
    }
}
