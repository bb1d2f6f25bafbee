//! Group commit: one fdatasync for everybody who waits.
//!
//! Owns the order "segments, oldest first, then the directory": a later segment never becomes the
//! durable end while an earlier one is not. Runs outside of the append lock, so commits go on while the
//! disk works. Tests: `tests`, `crash_tests`.

use std::sync::{MutexGuard, PoisonError};

use litefs_types::Pos;

use super::{Log, LogError, Result, SyncState, lock, ops};

impl Log {
    /// Makes everything durable that was appended, marked or rewound before the call, and returns the
    /// position up to which that is so. Concurrent callers share one fdatasync.
    ///
    /// A failure puts the log out of use for ever: the kernel reports it once and then takes the pages
    /// for clean, so a second sync that succeeds would prove nothing.
    pub fn sync(&self) -> Result<Pos> {
        let want = lock(&self.view).lsn;
        let mut s = lock(&self.sync);
        loop {
            self.check_usable()?;
            if s.lsn >= want {
                return Ok(s.pos);
            }
            if !s.running {
                break;
            }
            s = self.wait(s);
        }
        s.running = true;
        drop(s);
        let done = self.flush_dirty();
        let mut s = lock(&self.sync);
        s.running = false;
        let r = match done {
            Ok((lsn, pos)) => {
                s.lsn = lsn;
                s.pos = pos;
                Ok(pos)
            }
            Err(e) => {
                self.poison();
                Err(e)
            }
        };
        drop(s);
        self.synced.notify_all();
        r
    }

    fn wait<'a>(&self, s: MutexGuard<'a, SyncState>) -> MutexGuard<'a, SyncState> {
        self.synced.wait(s).unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps syncs away; [`Log::leave_sync`] must follow. The append lock must be held, so that nobody
    /// who holds it can wait for us.
    pub(super) fn enter_sync(&self) {
        let mut s = lock(&self.sync);
        while s.running {
            s = self.wait(s);
        }
        s.running = true;
    }

    /// `done`: what is durable now, if the holder synced or cut something.
    pub(super) fn leave_sync(&self, done: impl FnOnce(&mut Pos)) {
        let mut s = lock(&self.sync);
        s.running = false;
        done(&mut s.pos);
        drop(s);
        self.synced.notify_all();
    }

    /// Syncs what is dirty; the caller has `running`.
    fn flush_dirty(&self) -> Result<(u64, Pos)> {
        let (lsn, pos, dirty, dir) = {
            let mut v = lock(&self.view);
            let dir = std::mem::take(&mut v.dir_dirty);
            (v.lsn, v.tip, std::mem::take(&mut v.dirty), dir)
        };
        for seg in &dirty {
            seg.file.sync_data(ops::SYNC).map_err(LogError::io(ops::SYNC))?;
        }
        if dir {
            self.disk.sync_dir(ops::SYNC_DIR, &self.dir).map_err(LogError::io(ops::SYNC_DIR))?;
        }
        Ok((lsn, pos))
    }
}
