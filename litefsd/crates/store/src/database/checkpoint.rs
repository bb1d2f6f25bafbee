//! Writes of the database file without a live journal: checkpoints by applications (rules C1–C5), the
//! cut after a VACUUM, import sessions, and what must be refused (rule R7).

use litefs_ltx::checksum::page_checksum;
use litefs_types::{Checksum, PageNo, PageSize};

use super::files::{Caller, OpenedFile};
use super::{Database, Inner};
use crate::disk::Op;
use crate::error::{Result, StoreError};

const CHECKPOINT_WRITE: Op = Op::new("checkpoint.write");
const CHECKPOINT_TRUNCATE: Op = Op::new("checkpoint.truncate");

impl Database {
    /// A WRITE of the database file while no journal could undo it.
    pub(super) fn write_without_journal(
        &self,
        caller: &Caller,
        opened: &OpenedFile,
        offset: u64,
        data: &[u8],
    ) -> Result<()> {
        if self.import_write(caller, offset, data)? {
            return Ok(());
        }
        // Also of frames that the daemon wrote: an application may checkpoint on a replica (rule P8).
        let frames = !self.lock().wal_versions.is_empty();
        if !frames {
            tracing::warn!(
                db = %self.name,
                pid = caller.pid,
                "refused a write of the database without a journal: journal_mode=MEMORY and OFF are not supported, \
                 and an existing database cannot be copied over (use `litefsctl import --name {} --replace FILE`)",
                self.name,
            );
            return Err(StoreError::denied("no journal and no wal explains the write"));
        }
        self.gate_checkpoint(caller, "checkpoint")?;
        let mut g = self.lock();
        self.check_alive(&g)?;
        if !self.explained(&mut g, offset, data)? {
            drop(g);
            // Of a transaction that is not published or not durable yet: asks the index, waits for the log.
            self.settle_before_wal_end(caller)?;
            g = self.lock();
            self.check_alive(&g)?;
            self.captured(&mut g, offset, data)?;
        }
        self.warm_wal(&mut g);
        self.preserve(offset, data.len() as u64)?;
        opened.file.write_all_at(CHECKPOINT_WRITE, data, offset).map_err(StoreError::io("checkpoint write"))
    }

    /// Whether every page of a checkpoint's WRITE is a version that is published and that the durable log
    /// explains: then nothing has to be waited for, also while others commit (rules C2, C3).
    fn explained(&self, g: &mut Inner, offset: u64, data: &[u8]) -> Result<bool> {
        let shown = self.log.durable().txid_raw().min(g.published.txid_raw());
        let mut all = true;
        for_each_page(g.page_size, offset, data, |no, sum| {
            let known = no.and_then(|no| g.wal_versions.get(&no));
            all &= known.is_some_and(|v| v.iter().any(|v| v.sum == sum && v.txid <= shown));
        })?;
        Ok(all)
    }

    /// Every page of a checkpoint's WRITE must be a version that was captured (rule C2); everything that
    /// the wal-index shows is published and durable now.
    fn captured(&self, g: &mut Inner, offset: u64, data: &[u8]) -> Result<()> {
        let mut unknown = None;
        for_each_page(g.page_size, offset, data, |no, sum| {
            let known = no.is_some_and(|no| {
                g.sums.get(no) == sum
                    || g.wal_versions.get(&no).is_some_and(|v| v.iter().any(|v| v.sum == sum))
            });
            if !known {
                unknown = Some(no.map_or(0, PageNo::get));
            }
        })?;
        match unknown {
            // What is about to reach the database file was never captured: replicas would differ.
            Some(page) => {
                Err(self
                    .poison(g, format!("checkpoint of a version of page {page} that was never committed")))
            }
            None => Ok(()),
        }
    }

    /// A change of the database file's size while no journal could undo it.
    pub(super) fn truncate_without_journal(
        &self,
        caller: &Caller,
        opened: &OpenedFile,
        size: u64,
    ) -> Result<()> {
        if self.import_truncate(caller, size)? {
            return Ok(());
        }
        if size == 0 {
            // No transaction and no checkpoint does this; `cp` and a shell's `>` do.
            tracing::warn!(
                db = %self.name,
                pid = caller.pid,
                "refused to empty an existing database: it cannot be copied over; use `litefsctl import --name {} --replace FILE`",
                self.name,
            );
            return Err(StoreError::denied("an existing database cannot be emptied or copied over"));
        }
        self.gate_checkpoint(caller, "truncation of the database")?;
        self.settle_before_wal_end(caller)?;
        let g = self.lock();
        self.check_alive(&g)?;
        let Some(ps) = g.page_size else {
            return Err(StoreError::broken("truncation of a database without pages"));
        };
        let fits = |pages: u32| ps.file_size(pages) == size;
        if !fits(g.published_pages) && !g.wal_sizes.iter().any(|n| fits(*n)) {
            tracing::warn!(db = %self.name, pid = caller.pid, size, pages = g.published_pages, "refused a truncation that no transaction explains");
            return Err(StoreError::broken("truncation that no transaction explains"));
        }
        let old = opened.file.len().map_err(StoreError::io("size of the database"))?;
        if size < old {
            self.preserve(size, old - size)?;
        }
        opened.file.set_len(CHECKPOINT_TRUNCATE, size).map_err(StoreError::io("truncation of the database"))
    }
}

/// Number and checksum of each page in a WRITE of whole pages; `None`: a number that no database has.
fn for_each_page(
    page_size: Option<PageSize>,
    offset: u64,
    data: &[u8],
    mut f: impl FnMut(Option<PageNo>, Checksum),
) -> Result<()> {
    let Some(ps) = page_size else {
        return Err(StoreError::broken("checkpoint of a database without pages"));
    };
    let size = u64::from(ps.get());
    if !offset.is_multiple_of(size) || !(data.len() as u64).is_multiple_of(size) {
        return Err(StoreError::broken("checkpoint of a part of a page"));
    }
    for (n, page) in data.chunks_exact(ps.bytes()).enumerate() {
        let no = u32::try_from(offset / size + n as u64 + 1).ok().and_then(PageNo::new);
        f(no, no.map_or(Checksum::NONE, |no| page_checksum(no, page)));
    }
    Ok(())
}
