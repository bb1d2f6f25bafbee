//! Capture of WAL transactions: rules W1–W12 of the capture rules.
//!
//! A transaction is *prepared*, with its content in the log, in the WRITE that completes its commit
//! frame, before the reply. It is *published* only when the wal-index shows it (`publish`), never at
//! FSYNC: a writer killed in FSYNC is overwritten by the next one.

use std::sync::atomic::Ordering;
use std::time::Instant;

use litefs_core::capture::{FrameTx, ReadAt, ReadFailed, WalEvent, frame_data_offset};
use litefs_ltx::WalSpan;
use litefs_types::PageSize;

use super::apply::note_frames;
use super::commit::{NewTx, Origin};
use super::files::{Caller, OpenedFile};
use super::{Database, Inner, Logged, Prepared};
use crate::disk::{DiskFile, Op};
use crate::error::{Result, StoreError};
use crate::own_mount::FileKind;

const WRITE: Op = Op::new("wal.write");
const ZAP: Op = Op::new("wal.zap");
const TRUNCATE: Op = Op::new("wal.truncate");
const SYNC: Op = Op::new("wal.sync");
const UNLINK: Op = Op::new("wal.unlink");

/// Bytes of a WAL header (SQLite file format, section 4.1).
const HEADER: u64 = 32;
/// Bytes of a frame header.
const FRAME_HEADER: usize = 24;

/// Whether a WRITE goes on with a transaction: it does not touch the header of the first frame behind
/// what is captured, nor anything before.
fn begins_behind_first(g: &Inner, offset: u64) -> bool {
    behind_captured(g).is_some_and(|first| offset > first)
}

/// Where the first frame behind what is captured begins.
fn behind_captured(g: &Inner) -> Option<u64> {
    let ps = g.wal.generation()?.page_size;
    Some(frame_data_offset(g.wal.captured_frames() + 1, ps) - FRAME_HEADER as u64)
}

/// The commit frame that was refused last. The kernel sends the WRITE of a page in parts; if the last one
/// fails, SQLite is told of a short write and tries the rest again, alone. That must fail too, or it would
/// take the commit, whose frame is destroyed by now, for made. A new header begins anew.
#[derive(Clone, Copy)]
pub(super) struct RefusedFrame {
    /// Offset of its header.
    header: u64,
    /// Offset behind its page.
    end: u64,
    errno: i32,
}

impl RefusedFrame {
    fn new(frame: u32, page_size: PageSize, why: &StoreError) -> Self {
        let page = frame_data_offset(frame, page_size);
        Self { header: page - FRAME_HEADER as u64, end: page + page_size.bytes() as u64, errno: why.errno() }
    }
}

/// Reads frames back for the tracker.
pub(super) struct Backing<'a>(pub(super) &'a dyn DiskFile);

impl ReadAt for Backing<'_> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::result::Result<(), ReadFailed> {
        self.0.read_exact_at(buf, offset).map_err(|_| ReadFailed)
    }
}

impl Database {
    /// A WRITE of the wal.
    pub(super) fn write_wal(
        &self,
        caller: &Caller,
        opened: &OpenedFile,
        offset: u64,
        data: &[u8],
    ) -> Result<()> {
        self.require_permit("write of the wal")?;
        // On a worker the gate may open a descriptor, which is a request of its own: never under the lock.
        let gated = if offset < HEADER || caller.may_block {
            Some(self.gate_wal(caller, "write of the wal")?)
        } else {
            None
        };
        if offset < HEADER {
            self.settle_before_wal_end(caller)?;
        }
        let mut g = self.lock();
        self.check_alive(&g)?;
        // The first request of a transaction proves the lock for the others: it lasts until their end.
        let by_x = match gated {
            Some(by_x) => by_x,
            None if g.wal_tx == Some(caller.handle) && begins_behind_first(&g, offset) => g.wal_tx_by_x,
            // A handler's probe makes no request, so it may run under the lock.
            None => self.gate_wal(caller, "write of the wal")?,
        };
        g.wal_tx = Some(caller.handle);
        g.wal_tx_by_x = by_x;
        if let Err(refused) = g.wal.check_write(offset, data.len() as u64) {
            // Only a client that ignores SQLite's locks can do this; what it overwrites is committed.
            tracing::error!(db = %self.name, pid = caller.pid, offset, "refused a write into committed wal frames: {refused}");
            return Err(StoreError::broken("write into committed wal frames"));
        }
        g.refused_frame = g.refused_frame.filter(|refused| offset > refused.header && offset < refused.end);
        if let Some(refused) = g.refused_frame {
            return Err(StoreError::refused(refused.errno, "the rest of a refused commit"));
        }
        opened.file.write_all_at(WRITE, data, offset).map_err(StoreError::io("write of the wal"))?;
        opened.grew(offset, data.len());
        Self::watch_wal_room(&mut g, opened);
        let mut back = Backing(&*opened.file);
        let events = match g.wal.wrote(offset, data, &mut back) {
            Ok(events) => events,
            // What it found is lost with the error: nobody knows any more what the wal holds.
            Err(e) => return Err(self.poison(&mut g, format!("the wal could not be followed: {e}"))),
        };
        let mut committed = false;
        for event in events {
            committed |= matches!(event, WalEvent::Commit(_));
            if let Err(e) = self.wal_event(&mut g, opened, event, by_x, Some((offset, data))) {
                let behind = behind_captured(&g);
                drop(g);
                self.uncache_wal(behind);
                return Err(e);
            }
        }
        if committed {
            // The next frame is the first of a transaction.
            g.wal_tx = None;
        }
        if committed || g.wal.uncaptured_commit() || g.room.is_wanted() {
            drop(g);
            self.wake_publisher();
        }
        Ok(())
    }

    fn wal_event(
        &self,
        g: &mut Inner,
        opened: &OpenedFile,
        event: WalEvent,
        by_x: bool,
        fresh: Option<(u64, &[u8])>,
    ) -> Result<()> {
        match event {
            WalEvent::NewGeneration => {
                g.wal_versions.clear();
                g.wal_sizes.clear();
                g.wal_synced = 0;
                g.wal_needs_reset = false;
                // SQLite restarts a WAL only after all of it is in the database file.
                g.complete_at = g.published;
                Ok(())
            }
            WalEvent::Dropped { from_frame } => self.drop_prepared(g, from_frame),
            WalEvent::Commit(tx) => {
                match self.prepare_wal(g, opened, &tx, by_x, fresh) {
                    Ok(()) => Ok(()),
                    Err(e) => {
                        // The application is told that this commit failed and will use the frame numbers
                        // again. The commit frame must not stay behind complete: after a crash SQLite
                        // would recover it.
                        self.zap(g, opened, tx.last);
                        if let Some(generation) = g.wal.generation() {
                            g.refused_frame = Some(RefusedFrame::new(tx.last, generation.page_size, &e));
                        }
                        Err(e)
                    }
                }
            }
        }
    }

    /// A commit was refused, and what it wrote zapped in the backing file: the kernel must not show the
    /// next opener its frames from the cache, complete. Under no lock (rule B.10).
    fn uncache_wal(&self, from: Option<u64>) {
        if let (Some(m), Some(from)) = (self.env.mounted.get(), from) {
            m.invalidator.data(&self.name, FileKind::Wal, from, 0);
        }
    }

    /// Destroys a frame header in the backing file. Whoever calls it sees to the kernel's cache.
    fn zap(&self, g: &mut Inner, opened: &OpenedFile, frame: u32) {
        let Some(ps) = g.wal.generation().map(|w| w.page_size) else { return };
        let at = frame_data_offset(frame, ps) - FRAME_HEADER as u64;
        let zeros = [0; FRAME_HEADER];
        let done = opened.file.write_all_at(ZAP, &zeros, at).is_ok();
        let told = g.wal.wrote(at, &zeros, &mut Backing(&*opened.file));
        if !done || told.is_err() {
            self.poison(g, "a refused commit could not be removed from the wal");
        }
    }

    /// Appends a transaction to the log with its content.
    pub(super) fn prepare_wal(
        &self,
        g: &mut Inner,
        opened: &OpenedFile,
        tx: &FrameTx,
        heap_index: bool,
        fresh: Option<(u64, &[u8])>,
    ) -> Result<()> {
        let Some(generation) = g.wal.generation() else {
            return Err(StoreError::broken("wal frames without a wal header"));
        };
        let ps = generation.page_size;
        if g.page_size.is_some_and(|known| known != ps) && g.sums.page_count() != 0 {
            return Err(StoreError::broken("the wal has another page size than the database"));
        }
        let span = WalSpan { offset: tx.wal_offset, size: tx.wal_size, salt: generation.salt };
        let frames = tx.pages.iter().map(|(page, frame)| (*page, frame_data_offset(*frame, ps)));
        let new = NewTx {
            source: &*opened.file,
            fresh,
            page_size: ps,
            commit: tx.commit,
            origin: Origin::Wal(span),
        };
        let built = self.log_wal_pages(g, &new, frames)?;
        let txid = g.tip.txid_raw();
        note_frames(g, &built.sums, tx.commit, txid);
        g.prepared.push_back(Prepared {
            pos: g.tip,
            last_frame: tx.last,
            chain: tx.chain,
            pages: tx.commit,
            logged: built.undo.map(|undo| Logged {
                undo,
                mode_before: built.mode_before,
                timestamp: built.timestamp,
                page_size_before: built.page_size_before,
            }),
            heap_index,
            at: Instant::now(),
        });
        Ok(())
    }

    /// Forgets prepared transactions that end at or behind `from_frame`: their frames were overwritten.
    pub(super) fn drop_prepared(&self, g: &mut Inner, from_frame: u32) -> Result<()> {
        // Whatever takes their place was not synced with them.
        g.wal_synced = g.wal_synced.min(from_frame.saturating_sub(1));
        g.wal_drops += 1;
        let mut cut = false;
        while g.prepared.back().is_some_and(|p| p.last_frame >= from_frame) {
            let Some(p) = g.prepared.pop_back() else { break };
            if let Some(logged) = p.logged {
                g.undo_sums(logged.undo);
                g.mode = logged.mode_before;
                g.page_size = logged.page_size_before;
                cut = true;
            }
            g.tip = g.prepared.back().map_or(g.published, |p| p.pos);
        }
        if cut {
            tracing::debug!(db = %self.name, pos = %g.tip, "dropped prepared transactions that never became visible");
            let tip = g.tip;
            self.log
                .rewind(tip)
                .map_err(|e| self.poison(g, format!("the log could not be cut back: {e}")))?;
        }
        Ok(())
    }

    /// Rule W6: before a wal ends (header WRITE, TRUNC 0, UNLINK) and before a checkpoint, what the
    /// wal-index shows is published and the log is durable up to it.
    pub(super) fn settle_before_wal_end(&self, caller: &Caller) -> Result<()> {
        let ready = {
            let g = self.lock();
            self.check_alive(&g)?;
            g.settled() && self.log_durable(&g)
        };
        if ready {
            return Ok(());
        }
        if !caller.may_block {
            return Err(StoreError::NeedsWorker);
        }
        self.resolve()?;
        self.sync_log()
    }

    /// A change of the wal's size.
    pub(super) fn truncate_wal(&self, caller: &Caller, opened: &OpenedFile, size: u64) -> Result<()> {
        self.require_permit("truncation of the wal")?;
        self.gate_wal(caller, "truncation of the wal")?;
        if size < HEADER {
            self.settle_before_wal_end(caller)?;
        }
        let mut g = self.lock();
        self.check_alive(&g)?;
        if let Err(refused) = g.wal.check_truncate(size) {
            tracing::error!(db = %self.name, pid = caller.pid, size, "refused to cut committed wal frames: {refused}");
            return Err(StoreError::broken("truncation of committed wal frames"));
        }
        opened.file.set_len(TRUNCATE, size).map_err(StoreError::io("truncation of the wal"))?;
        opened.resized(size);
        g.room.gone();
        g.warm.cut(size);
        for event in g.wal.truncated(size) {
            self.wal_event(&mut g, opened, event, false, None)?;
        }
        if size < HEADER {
            self.wal_ended(&mut g);
        }
        Ok(())
    }

    /// Removal of the wal by the last connection, or at a switch to a rollback mode.
    pub(super) fn unlink_wal(&self, caller: &Caller) -> Result<()> {
        self.require_permit("removal of the wal")?;
        self.gate_exclusive(caller, "removal of the wal")?;
        self.settle_before_wal_end(caller)?;
        let opened = self.backing(FileKind::Wal)?;
        let mut g = self.lock();
        self.check_alive(&g)?;
        for event in g.wal.removed() {
            self.wal_event(&mut g, &opened, event, false, None)?;
        }
        self.wal_ended(&mut g);
        g.room.gone();
        self.remove_name(FileKind::Wal, UNLINK)
    }

    /// The wal holds nothing that the database file does not.
    pub(super) fn wal_ended(&self, g: &mut Inner) {
        g.wal_versions.clear();
        g.wal_sizes.clear();
        g.wal_synced = 0;
        g.wal_needs_reset = false;
        g.warm.cut(0);
        if g.settled() {
            g.complete_at = g.published;
        }
    }

    /// FSYNC of the wal: what it covers is as durable as SQLite asked for.
    pub(super) fn fsync_wal(&self, opened: &OpenedFile) -> Result<()> {
        let mark = {
            let g = self.lock();
            self.check_alive(&g)?;
            // Not the verified frames of a transaction that may be rolled back: other frames take their
            // place, which this sync does not cover.
            (g.wal.generation().map(|w| w.salt), g.wal_drops, g.wal.captured_frames())
        };
        if let Err(source) = opened.file.sync_data(SYNC) {
            let mut g = self.lock();
            self.poison(&mut g, format!("fsync of the wal failed: {source}"));
            return Err(StoreError::Io { what: "fsync of the wal", source });
        }
        if self.names_in_doubt.load(Ordering::Acquire) {
            self.sync_log()?;
        }
        let mut g = self.lock();
        if (g.wal.generation().map(|w| w.salt), g.wal_drops) == (mark.0, mark.1)
            && self.files.is_current(FileKind::Wal, opened)
        {
            g.wal_synced = g.wal_synced.max(mark.2);
        }
        let waiting = g.ask_index() || !g.pending.is_empty();
        drop(g);
        if waiting {
            self.wake_publisher();
        }
        Ok(())
    }
}
