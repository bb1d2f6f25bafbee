//! The backing file of the rollback journal, used again by the next transaction.
//!
//! Owns: what a removal or a cut of the journal through the mount does on disk. Does not own: what it means
//! (`rollback`). Tested by the crash matrix (`tests/crash`) and `tests/tests/mount_modes.rs`.
//!
//! A journal that is made and removed for each transaction costs a commit of the file system's own journal
//! for its name, and one for its blocks. So at the end of a transaction its file keeps name and blocks, and
//! only loses its magic, which is what SQLite does in PERSIST mode; the mount shows it as removed (DELETE)
//! or empty (TRUNCATE). For recovery a journal without magic is none.
//!
//! *The order.* The magic is destroyed with a plain write. Before the next transaction's first byte goes over
//! the old content it must be certain that a power loss cannot bring back the magic over a mixture of both:
//! either the marker of the transaction that ended is durable, and recovery knows that this journal is
//! done with, or the file was synced. And before the log forgets the transaction, which it may do behind a
//! stamp, the file is synced in any case.
//!
//! *What a longer file may contain behind the journal.* Page records of earlier transactions: they have
//! another nonce, so their checksums are wrong. Not: a second header, or the name of a super-journal at the
//! end, both of which recovery would believe. A journal with either is removed for good, and one that gets a
//! name at its end is cut there first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use litefs_sqlite::journal::JOURNAL_MAGIC;

use super::files::OpenedFile;
use super::{Database, Inner};
use crate::disk::{DiskFile, Op};
use crate::error::{Result, StoreError};
use crate::log::Lsn;
use crate::own_mount::FileKind;

const END: Op = Op::new("journal.end");
const END_SYNC: Op = Op::new("journal.end-sync");
const UNLINK: Op = Op::new("journal.unlink");
const TRUNCATE: Op = Op::new("journal.truncate");

/// The part of a journal's header that is overwritten at its end, as SQLite does in PERSIST mode.
const HEADER: usize = 28;
/// A bigger file gives its blocks back: the journal of a big transaction is rare.
const KEEP_AT_MOST: u64 = 4 * 1024 * 1024;

/// How the mount shows a file that is longer on disk.
#[derive(Debug)]
pub(super) struct Shown {
    len: AtomicU64,
    /// The next journal has the file: this one is empty for who still has it open.
    retired: AtomicBool,
    /// Of a journal: it has, or may have, a second header or a super-journal's name somewhere.
    special: AtomicBool,
}

/// What is known of the journal's file beyond its header.
#[derive(Default)]
pub(super) struct JournalFile {
    /// How the transaction ended whose journal this was, until that is durable.
    ending: Option<Ending>,
    /// An end was written that no sync of the file covered.
    unsynced: bool,
    /// The newest marker that is not needed: its journal's end was made durable by a sync of its own.
    done: Lsn,
}

/// The end of a journal that a power loss could still undo.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Of a committed transaction with this marker.
    Marked(Lsn),
    /// Nothing but the file says so.
    Unmarked,
}

impl OpenedFile {
    pub(super) fn shown(len: u64) -> Arc<Shown> {
        Arc::new(Shown {
            len: AtomicU64::new(len),
            retired: AtomicBool::new(false),
            special: AtomicBool::new(false),
        })
    }

    /// Bytes that the mount shows, where it is not the file's own length.
    pub(super) fn shown_len(&self) -> Option<u64> {
        self.shown.as_ref().map(|s| s.len.load(Relaxed))
    }

    /// Length and time of the last change, as `stat` shows them.
    pub fn stat(&self) -> std::io::Result<(u64, SystemTime)> {
        let m = self.file.metadata()?;
        Ok((self.shown_len().unwrap_or(m.len), m.mtime))
    }

    /// `pread`, up to the end that the mount shows.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let room = self.shown_len().map_or(u64::MAX, |len| len.saturating_sub(offset));
        let n = buf.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.file.read_at(&mut buf[..n], offset)
    }

    /// `ftruncate` of a file whose name is gone. Nobody reads it by name again.
    pub fn set_len_unlinked(&self, size: u64) -> std::io::Result<()> {
        const UNLINKED: Op = Op::new("fuse.truncate_unlinked");
        if self.is_retired() {
            return Ok(());
        }
        self.file.set_len(UNLINKED, size)?;
        self.resized(size);
        Ok(())
    }

    /// Something was written, before the reply: the kernel must never be told a smaller size than it knows.
    pub(super) fn grew(&self, offset: u64, len: usize) {
        if let Some(s) = &self.shown {
            s.len.fetch_max(offset.saturating_add(len as u64), Relaxed);
        }
    }

    /// The file was cut, or made longer, to `size`.
    pub(super) fn resized(&self, size: u64) {
        if let Some(s) = &self.shown {
            s.len.store(size, Relaxed);
        }
    }

    /// This journal's file is not for the next one.
    pub(super) fn set_special(&self, special: bool) {
        if let Some(s) = &self.shown {
            s.special.store(special, Relaxed);
        }
    }

    fn is_special(&self) -> bool {
        self.shown.as_ref().is_none_or(|s| s.special.load(Relaxed))
    }

    pub(super) fn is_retired(&self) -> bool {
        self.shown.as_ref().is_some_and(|s| s.retired.load(Relaxed))
    }

    fn retire(&self) {
        self.resized(0);
        if let Some(s) = &self.shown {
            s.retired.store(true, Relaxed);
        }
    }
}

impl Database {
    /// A WRITE of the journal, on disk.
    pub(super) fn write_journal_file(
        &self,
        g: &mut Inner,
        opened: &OpenedFile,
        op: Op,
        offset: u64,
        data: &[u8],
    ) -> Result<()> {
        self.secure_journal_end(g, opened)?;
        let ends = data.ends_with(&JOURNAL_MAGIC);
        if offset > 0 && (ends || data.starts_with(&JOURNAL_MAGIC)) {
            opened.set_special(true);
        }
        opened.file.write_all_at(op, data, offset).map_err(StoreError::io("write of the journal"))?;
        opened.grew(offset, data.len());
        if ends && offset > 0 {
            // A super-journal's name is found from the end of the file.
            let end = opened.shown_len().unwrap_or_default();
            let len = opened.file.len().map_err(StoreError::io("size of the journal"))?;
            if len > end {
                opened.file.set_len(TRUNCATE, end).map_err(StoreError::io("cut of the journal"))?;
            }
        }
        Ok(())
    }

    /// Whether the file may keep its blocks for the next journal.
    fn keeps_journal(opened: &OpenedFile) -> bool {
        !opened.is_special() && opened.file.len().is_ok_and(|len| len <= KEEP_AT_MOST)
    }

    /// Destroys the magic: a plain write, whole or not at all.
    fn end_journal_file(&self, g: &mut Inner, opened: &OpenedFile) -> Result<()> {
        let mut head = [0; HEADER];
        let n = opened.file.read_at(&mut head, 0).map_err(StoreError::io("read of the journal's header"))?;
        let ended = opened.file.write_all_at(END, &[0; HEADER], 0);
        ended.map_err(|source| {
            // SQLite is told that the commit failed and plays the journal back: it needs the header.
            if opened.file.write_all_at(END, &head[..n], 0).is_err() {
                return self.poison(g, "the header of a journal was lost");
            }
            StoreError::Io { what: "end of the journal", source }
        })
    }

    /// The end of a journal by a cut to `size` < 28 bytes, on disk.
    pub(super) fn cut_journal_file(&self, g: &mut Inner, opened: &OpenedFile, size: u64) -> Result<()> {
        if size == 0 && Self::keeps_journal(opened) {
            self.end_journal_file(g, opened)?;
        } else {
            opened.file.set_len(TRUNCATE, size).map_err(StoreError::io("truncation of the journal"))?;
            opened.set_special(false);
        }
        opened.resized(size);
        Ok(())
    }

    /// The end of a live journal by removal, on disk.
    pub(super) fn remove_journal_file(&self, g: &mut Inner) -> Result<()> {
        let opened = self.backing(FileKind::Journal)?;
        if !Self::keeps_journal(&opened) {
            return self.remove_name(FileKind::Journal, UNLINK);
        }
        self.end_journal_file(g, &opened)?;
        self.files.retire_journal(Arc::clone(&opened.file));
        opened.retire();
        Ok(())
    }

    /// A transaction ended; `ending`: what a power loss could still undo.
    pub(super) fn journal_file_ended(&self, g: &mut Inner, ending: Option<Ending>) {
        let JournalFile { unsynced, done, .. } = g.journal_file;
        g.journal_file = JournalFile { ending, unsynced: unsynced || ending.is_some(), done };
    }

    /// Before the first byte goes over an old journal.
    fn secure_journal_end(&self, g: &mut Inner, opened: &OpenedFile) -> Result<()> {
        match g.journal_file.ending {
            None => return Ok(()),
            Some(Ending::Marked(marker)) if self.log.synced() >= marker => {}
            Some(Ending::Marked(_)) => {
                if let Err(e) = self.log.sync() {
                    self.poison(g, format!("fsync of the log failed: {e}"));
                    return Err(e.into());
                }
            }
            Some(Ending::Unmarked) => {
                let synced = opened.file.sync_data(END_SYNC);
                synced.map_err(|e| self.poison(g, format!("fsync of the journal failed: {e}")))?;
            }
        }
        g.journal_file.ending = None;
        Ok(())
    }

    /// How the last journal ended. To be handed to [`Self::journal_file_synced`].
    pub(super) fn journal_ending(g: &Inner) -> Option<Ending> {
        g.journal_file.ending
    }

    /// The journal's file was synced after it had ended like this.
    pub(super) fn journal_file_synced(g: &mut Inner, ending: Option<Ending>) {
        if g.journal_file.ending != ending {
            // Another one ended meanwhile.
            return;
        }
        g.journal_file.unsynced = false;
        if let Some(Ending::Marked(marker)) = g.journal_file.ending.take() {
            g.journal_file.done = marker;
        }
    }

    /// Whether a power loss can bring back the journal of the transaction with this marker.
    pub(super) fn journal_is_over(&self, g: &Inner, marker: Lsn) -> bool {
        marker <= g.journal_file.done || self.log.synced() >= marker
    }

    /// Whether SQLite is about to sync the end of the journal itself: not where the journal was removed.
    pub(super) fn journal_end_is_synced_by_sqlite(&self, g: &Inner) -> bool {
        g.journal_file.ending.is_some() && self.files.current(FileKind::Journal).is_some()
    }

    /// For FSYNC of the directory: a removal that left the name must be as durable as one that did not.
    pub(super) fn sync_journal_end(&self) -> Result<()> {
        let over = match Self::journal_ending(&self.lock()) {
            None => true,
            Some(Ending::Marked(marker)) => self.log.synced() >= marker,
            Some(Ending::Unmarked) => false,
        };
        if over { Ok(()) } else { self.sync_journal_file() }
    }

    /// Makes it durable that every journal so far is over, whatever the log still knows of their
    /// transactions: before the log may forget them.
    pub(super) fn sync_journal_file(&self) -> Result<()> {
        let (ending, unsynced) = {
            let g = self.lock();
            (Self::journal_ending(&g), g.journal_file.unsynced)
        };
        let retired = self.files.retired_journal();
        let current = || self.files.current(FileKind::Journal).map(|f| f.file);
        if let Some(file) = retired.or_else(current).filter(|_| unsynced) {
            if let Err(e) = file.sync_data(END_SYNC) {
                // SQLite passes over an error of the directory's sync, which this may be for: the marker in
                // the log says the same.
                let marked = self.log.sync();
                let mut g = self.lock();
                let reason = match marked {
                    Ok(_) => format!("fsync of the journal failed: {e}"),
                    Err(log) => format!("fsync of the journal failed: {e}; and of the log: {log}"),
                };
                return Err(self.poison(&mut g, reason));
            }
            Self::journal_file_synced(&mut self.lock(), ending);
        }
        Ok(())
    }
}

/// A journal's file between two transactions.
pub(super) type Retired = Option<Arc<dyn DiskFile>>;
