//! Replacing the content by a snapshot.
//!
//! Disk order: the whole snapshot durable under the name `snapshot.ltx` → files → log starts again behind it →
//! page sums stamped → `snapshot.ltx` removed. Recovery does the rest of it again where it was interrupted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use litefs_core::page_sums::PageSums;
use litefs_types::Pos;

use super::apply::{BUFFER, Incoming, LtxPages, change_of, half_written, note_frames};
use super::{Database, JournalMode, OwnIo};
use crate::apply::{Replaced, replace_all};
use crate::disk::{DiskFile, Op, OpenHow};
use crate::error::{Result, StoreError};
use crate::layout::DataLayout;
use crate::own_mount::FileKind;
use crate::quarantine;
use crate::spool::Spooled;

const SNAPSHOT: Op = Op::new("snapshot.write");
const SNAPSHOT_SYNC: Op = Op::new("snapshot.sync");
const SNAPSHOT_RENAME: Op = Op::new("snapshot.rename");
const SNAPSHOT_UNLINK: Op = Op::new("snapshot.unlink");

impl Database {
    /// Replaces the content by a snapshot.
    pub(super) fn apply_snapshot(
        &self,
        own_io: &mut OwnIo,
        incoming: Incoming,
        received: &Spooled,
    ) -> Result<Pos> {
        let Incoming { header, sums, post, mode } = incoming;
        let pos = Pos::new(header.max_txid, post);
        {
            let g = self.lock();
            self.check_alive(&g)?;
            if g.tip == pos && !self.wants_snapshot() {
                return Ok(pos);
            }
        }
        self.set_aside_diverged(pos)?;
        let own = self.own().cloned();
        if own.is_some() {
            self.create_own(FileKind::Database)?;
            let wal = {
                let g = self.lock();
                g.mode == JournalMode::Wal && g.sums.page_count() > 0
            };
            if wal {
                // With WAL_WRITE in hand a reader that does not leave makes it frames instead.
                self.attached(own_io)?;
            }
        }
        // The last step that may fail with nothing changed: from here on a restart applies the snapshot.
        self.keep_snapshot(received)?;
        let mut source = LtxPages(|| Ok(received.reader()));
        let mut as_frames = false;
        if let Some(own) = own {
            let replaced = self.wait_for_readers(|deadline, redo| {
                let writer = own_io.writer.as_deref();
                replace_all(&*own, writer, &mut source, header.page_size, header.commit, deadline, redo)
            });
            match replaced {
                Ok(how) => as_frames = matches!(how, Replaced::AsFrames(_)),
                Err(e) if !half_written(&e) => {
                    self.forget_snapshot()?;
                    return Err(e);
                }
                Err(e) => {
                    let mut g = self.lock();
                    return Err(
                        self.poison(&mut g, format!("a snapshot could not be written to the database: {e}"))
                    );
                }
            }
            if own_io.writer.as_ref().is_some_and(|w| !w.is_attached()) {
                own_io.writer = None;
            }
        } else {
            self.write_direct(&mut source, &header)?;
        }
        if let Err(e) = self.log.reset(pos, self.env.now()) {
            // The files hold the snapshot, the log what it replaced: nothing may follow before recovery.
            return Err(self.poison(&mut self.lock(), format!("the log could not start at a snapshot: {e}")));
        }
        {
            let mut g = self.lock();
            g.sums = PageSums::new(header.page_size);
            let _ = g.sums.set_all(&sums, header.commit);
            g.sums.mark_all_dirty();
            g.page_size = Some(header.page_size);
            g.mode = mode.unwrap_or(JournalMode::Rollback);
            g.wal_versions.clear();
            g.wal_sizes.clear();
            if as_frames {
                note_frames(&mut g, &sums, header.commit, pos.txid_raw());
            } else {
                g.complete_at = pos;
            }
            self.now_at(&mut g, &header, pos);
        }
        self.wants_snapshot.store(false, Ordering::Release);
        // Frames alone do not survive a power loss, and the log before them is gone.
        own_io.snapshot_kept = true;
        // It is applied, whatever happens to the stamp: that is tried again.
        let done = if as_frames { self.stamp(false) } else { self.forget_kept_snapshot(own_io) };
        if let Err(e) = done {
            tracing::warn!(db = %self.name, "the snapshot's file is kept for now: {e}");
        }
        self.show_listing(true);
        self.env.notice.changed(change_of(&self.name, &header, pos));
        Ok(pos)
    }

    /// What this node has and the cluster has not is kept in `quarantine/` before a snapshot replaces it.
    fn set_aside_diverged(&self, snapshot: Pos) -> Result<()> {
        let tip = self.lock().tip;
        let diverged = tip.txid_raw() >= snapshot.txid_raw();
        if !diverged && !self.wants_snapshot() {
            // Behind: a snapshot because the primary's log does not reach back as far.
            return Ok(());
        }
        let layout = DataLayout::new(self.env.settings.dir.clone());
        match quarantine::copy_database(&*self.env.disk, &layout, &self.name, self.env.now()) {
            Ok(kept) => {
                tracing::warn!(
                    db = %self.name,
                    have = %tip,
                    primary = %snapshot,
                    kept = %kept.display(),
                    "the local database differs from the primary's: it is set aside and replaced by a snapshot",
                );
                Ok(())
            }
            // Damaged, not diverged: the primary has all of it.
            Err(e) if !diverged => {
                tracing::warn!(db = %self.name, "a damaged database could not be set aside before a snapshot replaces it: {e}");
                Ok(())
            }
            Err(source) => {
                Err(StoreError::Io { what: "keeping of a diverged database in quarantine/", source })
            }
        }
    }

    /// Makes the snapshot durable under a name that recovery looks for.
    fn keep_snapshot(&self, received: &Spooled) -> Result<()> {
        let step = StoreError::io;
        let disk = &*self.env.disk;
        let tmp = self.dir.spool().join("snapshot.tmp");
        disk.create_dir_all(SNAPSHOT, &self.dir.spool()).map_err(step("creation of the spool directory"))?;
        let file =
            disk.open(SNAPSHOT, &tmp, OpenHow::REPLACE).map_err(step("creation of the snapshot file"))?;
        let mut buf = vec![0u8; BUFFER];
        let mut at = 0;
        loop {
            let n = received.read_at(&mut buf, at).map_err(step("read of a received snapshot"))?;
            if n == 0 {
                break;
            }
            file.write_all_at(SNAPSHOT, &buf[..n], at).map_err(step("write of the snapshot file"))?;
            at += n as u64;
        }
        file.sync_all(SNAPSHOT_SYNC).map_err(step("sync of the snapshot file"))?;
        disk.rename(SNAPSHOT_RENAME, &tmp, &self.dir.snapshot())
            .map_err(step("rename of the snapshot file"))?;
        disk.sync_dir(SNAPSHOT_SYNC, self.dir.dir()).map_err(step("sync of the database's directory"))
    }

    /// The snapshot's file, while pages of it may be nowhere else but in frames.
    pub(super) fn kept_snapshot(&self, own_io: &OwnIo) -> Result<Option<Arc<dyn DiskFile>>> {
        if !own_io.snapshot_kept {
            return Ok(None);
        }
        let file = self.env.disk.open(SNAPSHOT, &self.dir.snapshot(), OpenHow::READ);
        file.map(Some).map_err(StoreError::io("open of the snapshot file"))
    }

    /// The database file holds the snapshot: its page sums are stamped, and its own file goes.
    pub(super) fn forget_kept_snapshot(&self, own_io: &mut OwnIo) -> Result<()> {
        if own_io.snapshot_kept {
            self.stamp(false)?;
            self.forget_snapshot()?;
            own_io.snapshot_kept = false;
        }
        Ok(())
    }

    fn forget_snapshot(&self) -> Result<()> {
        let disk = &*self.env.disk;
        disk.unlink(SNAPSHOT_UNLINK, &self.dir.snapshot())
            .map_err(StoreError::io("removal of the snapshot file"))?;
        disk.sync_dir(SNAPSHOT_SYNC, self.dir.dir())
            .map_err(StoreError::io("sync of the database's directory"))
    }
}
