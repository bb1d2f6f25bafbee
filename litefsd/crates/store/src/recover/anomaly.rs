//! What to do when the parts of a database contradict each other.
//!
//! A replica sets the directory aside and starts empty: the primary has everything. A primary has nobody
//! to ask. It sets a copy aside, rolls back and redoes what it can, and whatever the file then holds
//! becomes the next transaction, with every page in it: wrong perhaps, but the same on every node, and
//! what it was before is kept. A file that is no database is never deleted.

use std::path::PathBuf;
use std::sync::Arc;

use litefs_core::page_sums::PageSums;
use litefs_sqlite::db_header::{DB_HEADER_LEN, DbHeader};
use litefs_types::{DbName, NodeId, PageNo, Pos, Timestamp};

use super::{Recovery, SYNC, SYNC_DIR, Stop, WRITE, disk_error};
use crate::disk::Disk;
use crate::error::{Result, StoreError};
use crate::layout::DataLayout;
use crate::quarantine;

/// Moves the directory away; the next attempt finds none.
pub(super) fn start_empty(
    disk: &dyn Disk,
    layout: &DataLayout,
    name: &DbName,
    now: Timestamp,
) -> Result<PathBuf> {
    quarantine::move_database(disk, layout, name, now).map_err(StoreError::io("setting a database aside"))
}

/// Makes what is there consistent; the next attempt finds nothing wrong.
pub(super) fn rebaseline(
    disk: &Arc<dyn Disk>,
    layout: &DataLayout,
    name: &DbName,
    node_id: NodeId,
    now: Timestamp,
    notes: &mut Vec<String>,
    set_aside: &mut Vec<PathBuf>,
) -> Result<()> {
    let kept = quarantine::copy_database(&**disk, layout, name, now)
        .map_err(StoreError::io("keeping a copy of a database"))?;
    notes.push(format!("kept a copy as {}", kept.display()));
    set_aside.push(kept);
    let done = Recovery::start(disk, layout, name, node_id, now).and_then(|mut r| {
        let done = r.rebaseline();
        notes.append(&mut r.notes);
        done
    });
    match done {
        Ok(()) => Ok(()),
        Err(Stop::Error(e)) => Err(e),
        Err(Stop::Anomaly(a)) => {
            // Not even the pieces can be read. The copy is kept; the name is free again.
            notes.push(format!("cannot be put together: {}", a.0));
            let to = start_empty(&**disk, layout, name, now)?;
            notes.push(format!("set aside as {}", to.display()));
            set_aside.push(to);
            Ok(())
        }
    }
}

impl Recovery {
    fn rebaseline(&mut self) -> super::Step<()> {
        // Each of these may be what is wrong; what it achieved stays.
        self.try_step("the snapshot", |r| r.snapshot().map(|_| ()))?;
        self.try_step("the journal", Self::journal)?;
        let stamped = self.sums_file.stamp().map_or(Pos::ZERO, |s| s.sums_pos);
        let in_order = self.try_step("the log", Self::redo_what_is_missing)?;
        self.try_step("the wal", Self::overlay_wal)?;

        let file = self.file()?;
        let mut head = [0; DB_HEADER_LEN];
        let n = file.read_at(&mut head, 0).map_err(disk_error("read of the database's header"))?;
        let tip = self.log.tip();
        let last = if stamped.txid() > tip.txid() { stamped } else { tip };
        if n < DB_HEADER_LEN {
            return Err(super::anomaly("the file is no SQLite database"));
        }
        let header = DbHeader::parse(&head)
            .map_err(|e| super::anomaly(format!("the file is no SQLite database: {e}")))?;
        let ps = header.page_size();
        let pages = header.page_count(file.len().map_err(disk_error("size of the database"))?);
        file.set_len(WRITE, ps.file_size(pages)).map_err(disk_error("size of the database"))?;
        let mut sums = PageSums::new(ps);
        let mut all = Vec::new();
        self.each_page(ps, pages, |no, data| all.push((no, super::page_sum(ps, no, data))))?;
        let _ = sums.set_all(&all, pages);
        file.sync_all(SYNC).map_err(disk_error("sync of the database"))?;
        // Journal and wal are in the file now, and must not be looked at again.
        for path in [self.dir.journal(), self.dir.wal(), self.dir.shm(), self.dir.snapshot()] {
            self.remove(&path)?;
        }
        self.disk.sync_dir(SYNC_DIR, self.dir.dir()).map_err(disk_error("sync of the directory"))?;
        if !in_order || last != tip {
            // The log's end cannot be continued. Its records stay in the copy.
            let base = match last.txid() {
                Some(t) => Pos::new(t, sums.checksum()),
                None => Pos::ZERO,
            };
            self.log.reset(base, self.now)?;
        }
        let lock = sums.page_size().lock_page();
        let pages: Vec<_> = (1..=sums.page_count())
            .filter_map(PageNo::new)
            .filter(|no| *no != lock)
            .map(|no| (no, sums.get(no)))
            .collect();
        let tip = self.log.tip();
        self.log_pages(tip, &sums, &pages)?;
        let pos = self.log.sync()?;
        let update = self.sums_file.collect(&mut sums);
        self.sums_file.write(update, pos, pos, None).map_err(disk_error("write of the page sums"))?;
        self.note(format!("took the database as it is: {pos} holds all of its {} pages", sums.page_count()));
        Ok(())
    }

    /// Redoes what the file lacks by its stamp; without one, everything.
    fn redo_what_is_missing(&mut self) -> super::Step<()> {
        let tip = self.log.tip();
        self.redo_from(self.db_pos, None, PageSums::new(litefs_types::PageSize::DEFAULT))?;
        if let Some(t) = tip.txid()
            && let Some(e) = self.log.get(t)?
        {
            e.ltx_header()?;
        }
        Ok(())
    }

    /// Runs a step whose data may be damaged; `Ok(false)` if it was.
    fn try_step(&mut self, what: &str, step: impl FnOnce(&mut Self) -> super::Step<()>) -> super::Step<bool> {
        match step(self) {
            Ok(()) => Ok(true),
            Err(Stop::Error(e)) => Err(Stop::Error(e)),
            Err(Stop::Anomaly(a)) => {
                self.note(format!("{what} is damaged: {}", a.0));
                Ok(false)
            }
        }
    }
}
