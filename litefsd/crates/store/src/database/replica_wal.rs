//! The daemon as the WAL writer of a replica's database (rules P1, P7, B.5), and the way back to being only a
//! listener (rule X3).

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use litefs_core::capture::{ReadAt, frame_data_offset};
use litefs_types::{PageNo, Pos};

use super::wal::Backing;
use super::{Database, Inner, JournalMode, OwnIo, Version};
use crate::apply::ApplyError;
use crate::apply::wal_writer::{WalPosition, WalWriter};
use crate::error::{Result, StoreError};
use crate::own_mount::{FileKind, OwnMount};

/// A reader that has the wal open keeps a switch to a rollback mode waiting: it is only tried.
const LEAVE_WAL: Duration = Duration::from_millis(50);
/// And not again before this: each try holds up the next transaction.
const LEAVE_WAL_AGAIN: Duration = Duration::from_secs(1);

/// How long an application's first OPEN waits for an apply under way.
const ATTACH_WAIT: Duration = Duration::from_millis(100);

/// The versions of each page that frames hold, and the database sizes that their transactions had.
type FrameSums = (HashMap<PageNo, Vec<Version>>, Vec<u32>);

impl Database {
    /// The tracker goes on from frames that the daemon wrote (rule X3).
    pub(super) fn adopt_wal(&self, g: &mut Inner, at: &WalPosition) {
        match at.generation {
            Some(generation) => g.wal.adopt(generation, at.mx_frame, at.chain),
            None => {
                let _ = g.wal.removed();
            }
        }
        g.wal_synced = 0;
        g.wal_needs_reset = at.chain_broken;
        // A checkpoint may copy any of them: the sums of what the frames hold.
        let (versions, sizes) = match self.frame_sums(at, g.tip) {
            Ok(known) => known,
            Err(e) => {
                self.poison(g, format!("the wal could not be read back: {e}"));
                return;
            }
        };
        g.wal_versions = versions;
        g.wal_sizes = sizes;
    }

    fn frame_sums(&self, at: &WalPosition, tip: Pos) -> Result<FrameSums> {
        // Which transaction a frame is of is not written in it: at the latest the last one.
        let txid = tip.txid_raw();
        let mut versions = HashMap::<PageNo, Vec<Version>>::new();
        let mut sizes = Vec::new();
        let Some(generation) = at.generation else { return Ok((versions, sizes)) };
        let opened = self.backing(FileKind::Wal)?;
        let mut backing = Backing(&*opened.file);
        let mut frame = vec![0u8; 24 + generation.page_size.bytes()];
        for n in 1..=at.mx_frame {
            backing.read_at(frame_data_offset(n, generation.page_size) - 24, &mut frame).map_err(|_| {
                StoreError::Corrupt { what: "the wal", reason: format!("frame {n} is missing") }
            })?;
            let number = |i: usize| u32::from_be_bytes([frame[i], frame[i + 1], frame[i + 2], frame[i + 3]]);
            if let Some(page) = PageNo::new(number(0)) {
                let sum = litefs_ltx::checksum::page_checksum(page, &frame[24..]);
                versions.entry(page).or_default().push(Version { sum, txid });
            }
            if number(4) != 0 {
                sizes.push(number(4));
            }
        }
        Ok((versions, sizes))
    }

    /// Background work of a replica: copies frames into the database file, and leaves the WAL when page
    /// 1 names a rollback journal.
    pub(super) fn maintain_replica(&self) -> Result<()> {
        let Some(own) = self.own().cloned() else { return Ok(()) };
        let writer = {
            // An apply that waits for a reader must not keep the upkeep of other databases waiting.
            let Some(mut own_io) = self.try_lock_own() else { return Ok(()) };
            let Some(writer) = own_io.writer.clone().filter(|w| w.is_attached()) else { return Ok(()) };
            if self.lock().mode == JournalMode::Rollback {
                // Under `own_io`: an apply must not meet a writer that has just left.
                return self.leave_wal(&mut own_io, &*own, &writer);
            }
            // Not held any longer: a checkpoint must not keep the next transaction waiting.
            writer
        };
        if writer.needs_checkpoint() {
            self.checkpoint_frames(&*own, &writer)?;
        }
        Ok(())
    }

    /// Copies what readers let it into the database file.
    fn checkpoint_frames(&self, own: &dyn OwnMount, writer: &WalWriter) -> Result<()> {
        let at = self.pos();
        let before = || self.log.sync().map(|_| ()).map_err(io::Error::other);
        if !writer.checkpoint(own, &before)?.complete {
            return Ok(());
        }
        self.lock().complete_at = at;
        match self.try_lock_own() {
            Some(mut own_io) => self.forget_kept_snapshot(&mut own_io),
            // After the next checkpoint.
            None => Ok(()),
        }
    }

    /// Before the mount goes: what frames hold is copied into the database file, so that the next start has
    /// nothing to do. Readers may prevent it.
    pub(crate) fn before_unmount(&self) -> Result<()> {
        let Some(own) = self.own().cloned() else { return Ok(()) };
        let writer = self.lock_own().writer.clone();
        match writer.filter(|w| w.is_attached()) {
            Some(writer) => self.checkpoint_frames(&*own, &writer),
            None => Ok(()),
        }
    }

    /// Page 1 names a rollback journal: gives the WAL up when its readers let it. Tried now and then.
    fn leave_wal(&self, own_io: &mut OwnIo, own: &dyn OwnMount, writer: &WalWriter) -> Result<()> {
        if own_io.leave_wal_after.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let before = || self.log.sync().map(|_| ()).map_err(io::Error::other);
        match writer.leave_wal(own, &before, Instant::now() + LEAVE_WAL) {
            Ok(()) => {
                own_io.writer = None;
                own_io.leave_wal_after = None;
                let mut g = self.lock();
                g.complete_at = g.published;
                g.wal_versions.clear();
                g.wal_sizes.clear();
                Ok(())
            }
            Err(ApplyError::Blocked(b)) => {
                tracing::debug!(db = %self.name, "stays in WAL mode until its readers leave: {b}");
                own_io.leave_wal_after = Some(Instant::now() + LEAVE_WAL_AGAIN);
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// On a replica: takes the locks of a WAL database before an application can (rule P1).
    ///
    /// An application waits for it in OPEN, so it does not wait for long itself: an apply may be waiting for
    /// a reader.
    pub(super) fn attach_as_replica(&self) -> Result<()> {
        let Some(mut own_io) = self.lock_own_until(Instant::now() + ATTACH_WAIT) else {
            return Err(StoreError::Busy {
                what: "the WAL writer's lock",
                holder: "a transaction that is being applied".into(),
            });
        };
        let wal = {
            let g = self.lock();
            g.mode == JournalMode::Wal && g.sums.page_count() > 0
        };
        if wal && self.own().is_some() {
            self.attached(&mut own_io)?;
        }
        Ok(())
    }
}
