//! Settling what a dead writer left in the wal: rule W9.
//!
//! Owns: the proof that nobody has seen the transaction, and its removal. Does not own: when to look
//! ([`super::publish`]). Tested by the crash matrix of this crate (`killed`, `leftover`), by `mount_crash`, and the locks
//! below.

use litefs_core::capture::{WalEvent, frame_data_offset};
use litefs_sqlite::lock_bytes::Lock;

use super::Database;
use super::publish::Evidence;
use super::wal::Backing;
use crate::error::{Result, StoreError};
use crate::own_mount::{FileKind, LockKind, OwnMount};

/// Bytes of a frame header.
const FRAME_HEADER: u64 = 24;

impl Database {
    /// Rule W9: nobody shows this transaction. With WAL_WRITE in hand either the index covers it after
    /// all, or its first frame is destroyed and it is dropped.
    pub(super) fn settle_leftover(&self) -> Result<()> {
        let Some(own) = self.own().cloned() else { return Ok(()) };
        let Some(own_io) = self.try_lock_own() else { return Ok(()) };
        if !own.open(FileKind::Shm, false).map_err(StoreError::io("open of the wal-index"))? {
            return Ok(());
        }
        // A descriptor has one set of locks: those of an attached writer are enough, and must stay.
        let attached = own_io.writer.as_ref().is_some_and(|w| w.is_attached());
        let held = if attached { None } else { HeldWrite::take(&*own)? };
        if !attached && held.is_none() {
            return Ok(());
        }
        self.resolve_with(Evidence::Index)?;
        // Without a valid index nobody knows whether SQLite had shown it, and acknowledged it: the process may
        // be gone, and the next one, which has just emptied the index, recovers it from the wal.
        let Some(index) = self.read_index() else { return Ok(()) };
        let shown = {
            let g = self.lock();
            let Some(w) = g.wal.generation() else { return Ok(()) };
            index.salt == w.salt && index.mx_frame > g.wal.published_frames()
        };
        if shown { Ok(()) } else { self.destroy_leftover(&*own) }
    }

    /// With WAL_WRITE or EXCLUSIVE in hand, after the index was asked: destroys the first frame behind what
    /// is published, if a transaction was prepared there, and drops it.
    ///
    /// The frame first: a crash between leaves a record that recovery finds to be of no frame.
    pub(super) fn destroy_leftover(&self, own: &dyn OwnMount) -> Result<()> {
        let at = {
            let g = self.lock();
            let Some(ps) = g.wal.generation().map(|w| w.page_size) else { return Ok(()) };
            if g.prepared.is_empty() {
                return Ok(());
            }
            frame_data_offset(g.wal.published_frames() + 1, ps) - FRAME_HEADER
        };
        let zeros = [0u8; FRAME_HEADER as usize];
        own.open(FileKind::Wal, false).map_err(StoreError::io("open of the wal"))?;
        own.write_all_at(FileKind::Wal, &zeros, at)
            .map_err(StoreError::io("removal of an abandoned wal frame"))?;
        let opened = self.backing(FileKind::Wal)?;
        let mut g = self.lock();
        let events = g
            .wal
            .wrote(at, &zeros, &mut Backing(&*opened.file))
            .map_err(|e| StoreError::Corrupt { what: "the wal", reason: e.to_string() })?;
        tracing::info!(db = %self.name, "removed a transaction that its writer abandoned before it became visible");
        for event in events {
            if let WalEvent::Dropped { from_frame } = event {
                self.drop_prepared(&mut g, from_frame)?;
            }
        }
        Ok(())
    }
}

/// SHARED on the database, DMS and WAL_WRITE, for as long as this lives.
struct HeldWrite<'a> {
    own: &'a dyn OwnMount,
}

impl<'a> HeldWrite<'a> {
    /// `None` if somebody else is in the way; never waits.
    fn take(own: &'a dyn OwnMount) -> Result<Option<Self>> {
        let lock = |lock, kind| own.try_lock(lock, kind).map_err(StoreError::io("lock of the own mount"));
        // SQLite's order: PENDING shields the step to SHARED from a writer that waits for readers.
        if !lock(Lock::Pending, LockKind::Shared)? {
            return Ok(None);
        }
        let shared = lock(Lock::Shared, LockKind::Shared);
        own.unlock(Lock::Pending).map_err(StoreError::io("unlock of the own mount"))?;
        if !shared? {
            return Ok(None);
        }
        let held = Self { own };
        // While it is held nobody empties the index. Not emptied here, whoever was there before: what the
        // index says is what SQLite had shown when its last process died.
        let got = lock(Lock::Dms, LockKind::Shared)? && lock(Lock::WalWrite, LockKind::Exclusive)?;
        Ok(got.then_some(held))
    }
}

impl Drop for HeldWrite<'_> {
    fn drop(&mut self) {
        for lock in [Lock::WalWrite, Lock::Dms, Lock::Shared] {
            if let Err(e) = self.own.unlock(lock) {
                tracing::error!("a lock on the own mount could not be released: {e}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain_mount::PlainMount;

    #[test]
    fn locks_are_taken_in_sqlites_order_and_all_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let mount = || {
            let m = PlainMount::new(dir.path().to_owned(), "db".parse().unwrap());
            m.open(FileKind::Database, true).unwrap();
            m.open(FileKind::Shm, true).unwrap();
            m
        };
        let (own, app) = (mount(), mount());
        let exclusive = |lock| {
            let got = app.try_lock(lock, LockKind::Exclusive).unwrap();
            if got {
                app.unlock(lock).unwrap();
            }
            got
        };
        let all = [Lock::Shared, Lock::Dms, Lock::WalWrite];
        let held = HeldWrite::take(&own).unwrap();
        assert!(held.is_some());
        // With DMS free, an opener would empty the index under our eyes.
        assert_eq!(all.map(exclusive), [false; 3]);
        assert!(exclusive(Lock::Pending));
        drop(held);
        assert_eq!(all.map(exclusive), [true; 3]);
        for busy in all {
            assert!(app.try_lock(busy, LockKind::Exclusive).unwrap());
            assert!(HeldWrite::take(&own).unwrap().is_none(), "{busy:?}");
            app.unlock(busy).unwrap();
            assert_eq!(all.map(exclusive), [true; 3], "{busy:?}");
        }
    }
}
