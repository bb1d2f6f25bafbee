//! From pages to the log: builds the LTX of one transaction and appends it.
//!
//! Disk order of a commit is the log's (`crate::log`): record behind the tip, nothing else. Who may
//! see it, and when it must be durable, is decided by the callers.

use std::collections::BTreeMap;

use litefs_core::page_sums::PageSums;
use litefs_ltx::{Compression, Encoder, Header, WalSpan};
use litefs_types::{Checksum, PageNo, PageSize, Pos, Timestamp};

use super::{Database, Inner, JournalMode, SumsUndo};
use crate::disk::DiskFile;
use crate::error::{Result, StoreError};
use crate::log::{JournalId, RecordKind, RecordMeta};

/// Where the new content of a page is.
#[derive(Clone, Copy, Debug)]
pub(super) enum PageAt {
    /// At this offset of the file; bytes behind its end are zero.
    File(u64),
    /// All zero: a page that the transaction added without writing it.
    Zero,
}

/// Where a transaction came from.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    /// Frames of a wal.
    Wal(WalSpan),
    /// A rollback journal.
    Rollback(JournalId),
    /// The daemon itself: nothing but the log explains it.
    Daemon,
}

/// A transaction to be appended, without its pages.
pub(super) struct NewTx<'a> {
    /// The file that [`PageAt::File`] speaks of.
    pub(super) source: &'a dyn DiskFile,
    /// What was written to it last, and where: need not be read back.
    pub(super) fresh: Option<(u64, &'a [u8])>,
    pub(super) page_size: PageSize,
    /// Pages of the database afterwards.
    pub(super) commit: u32,
    pub(super) origin: Origin,
}

/// A transaction that was appended.
pub(super) struct Built {
    /// The sums of the pages that came from frames, for checkpoints.
    pub(super) sums: Vec<(PageNo, Checksum)>,
    /// How to take it back; `None` if nothing changed and nothing was appended.
    pub(super) undo: Option<SumsUndo>,
    pub(super) timestamp: Timestamp,
    pub(super) mode_before: JournalMode,
    pub(super) page_size_before: Option<PageSize>,
}

impl Database {
    /// The pages of a WAL transaction, and zeros for the pages that it added without a frame.
    pub(super) fn log_wal_pages(
        &self,
        g: &mut Inner,
        tx: &NewTx<'_>,
        frames: impl Iterator<Item = (PageNo, u64)>,
    ) -> Result<Built> {
        let old = g.sums.page_count();
        let lock = tx.page_size.lock_page();
        let frames = frames.filter(|(p, _)| *p != lock).map(|(p, at)| (p, PageAt::File(at)));
        if tx.commit <= old {
            return self.append(g, tx, frames);
        }
        let mut pages: BTreeMap<PageNo, PageAt> = (old + 1..=tx.commit)
            .filter_map(PageNo::new)
            .filter(|p| *p != lock)
            .map(|p| (p, PageAt::Zero))
            .collect();
        pages.extend(frames);
        self.append(g, tx, pages.into_iter())
    }

    /// Appends one transaction behind the tip and moves the tip. `pages` ascend.
    ///
    /// A transaction that changes no page and no size is none: nothing is appended (rule R5).
    pub(super) fn append(
        &self,
        g: &mut Inner,
        tx: &NewTx<'_>,
        pages: impl Iterator<Item = (PageNo, PageAt)>,
    ) -> Result<Built> {
        let NewTx { source, fresh, page_size: ps, commit, origin } = *tx;
        let (kind, span) = match origin {
            Origin::Wal(span) => (RecordKind::Wal, Some(span)),
            Origin::Rollback(journal) => (RecordKind::Rollback(journal), None),
            Origin::Daemon => (RecordKind::Plain, None),
        };
        let pre = g.tip;
        let txid = pre.next_txid();
        let timestamp = self.env.now();
        let (mode_before, page_size_before) = (g.mode, g.page_size);
        // A first transaction that was rolled back leaves nothing, not even a page size.
        let mut changed = g.sums.page_count() != commit || (commit > 0 && g.page_size != Some(ps));
        let mut mode = g.mode;
        let mut header = Header::new(ps, commit, txid, pre.checksum());
        header.timestamp = timestamp;
        header.node_id = self.env.node_id;
        header.wal = span;
        // What the iterator may leave out is little: a hint where the record fits.
        let most = pages.size_hint().1.and_then(|n| u32::try_from(n).ok());
        let mut sums = Vec::with_capacity(pages.size_hint().0);
        // One pass: only the trailer needs to know what became of it.
        let meta = RecordMeta {
            kind,
            min: txid,
            max: txid,
            pre: pre.checksum(),
            time: timestamp,
            len: most.map(|n| litefs_ltx::raw_size(ps, n)),
        };
        let mut enc = Encoder::new(self.log.append(meta)?, header, Compression::None).map_err(ltx_error)?;
        let mut page = vec![0u8; ps.bytes()];
        for (no, at) in pages {
            let known = match (at, fresh) {
                (PageAt::File(at), Some((offset, data))) if at == offset && data.len() == page.len() => {
                    Some(data)
                }
                _ => None,
            };
            if known.is_none() {
                read_page(source, at, &mut page)?;
            }
            let page = known.unwrap_or(&page);
            let sum = enc.page(no, page).map_err(ltx_error)?;
            changed |= g.sums.get(no) != sum;
            if no.get() == 1 {
                mode = mode_of(page);
            }
            sums.push((no, sum));
        }
        if !changed {
            // Without its end a record is none.
            return Ok(Built { sums, undo: None, timestamp, mode_before, page_size_before });
        }
        // Another page size, or the first pages after a drop: the old sums are of pages that are gone.
        let undo = if g.sums.page_size() == ps {
            SumsUndo::Pages(g.sums.set_all(&sums, commit))
        } else {
            let mut new = PageSums::new(ps);
            // Never undone by itself: the whole array is put back.
            let _ = new.set_all(&sums, commit);
            SumsUndo::Whole(Box::new(std::mem::replace(&mut g.sums, new)))
        };
        let pos = Pos::new(txid, g.sums.checksum());
        let written = enc
            .finish(pos.checksum())
            .map_err(ltx_error)
            .and_then(|(_, appender)| appender.finish(pos.checksum()).map_err(Into::into));
        if let Err(e) = written {
            g.undo_sums(undo);
            return Err(e);
        }
        g.mode = mode;
        g.page_size = Some(ps);
        g.tip = pos;
        Ok(Built { sums, undo: Some(undo), timestamp, mode_before, page_size_before })
    }

    /// Whether this node may commit. Checked again at the commit point, not only at the first write.
    pub(super) fn require_permit(&self, what: &'static str) -> Result<()> {
        if self.env.gate.permit().is_some() {
            return Ok(());
        }
        tracing::debug!(db = %self.name, "refused {what}: this node is not the primary");
        Err(StoreError::denied("this node is not the primary"))
    }
}

/// Reads a page; what lies behind the end of the file is zero (a page that SQLite never wrote).
pub(super) fn read_page(source: &dyn DiskFile, at: PageAt, page: &mut [u8]) -> Result<()> {
    match at {
        PageAt::Zero => page.fill(0),
        PageAt::File(offset) => {
            let n = source.read_at(page, offset).map_err(StoreError::io("read of a changed page"))?;
            page[n..].fill(0);
        }
    }
    Ok(())
}

/// By the write and read version of page 1.
pub(super) fn mode_of(page: &[u8]) -> JournalMode {
    if page.get(18..20) == Some(&[2, 2]) { JournalMode::Wal } else { JournalMode::Rollback }
}

/// An encoder's error is a disk error of the log, or a page that must not be there.
fn ltx_error(e: litefs_ltx::LtxError) -> StoreError {
    match e {
        litefs_ltx::LtxError::Io(source) => StoreError::Io { what: "append to the log", source },
        other => StoreError::Corrupt { what: "the transaction", reason: other.to_string() },
    }
}
