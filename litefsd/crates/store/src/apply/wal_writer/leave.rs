//! From WAL back to a rollback journal, after a transaction that said so.

use std::io;
use std::time::Instant;

use litefs_sqlite::lock_bytes::Lock;

use super::WalWriter;
use crate::apply::locks::Exclusive;
use crate::apply::rollback_writer::remove;
use crate::apply::{ApplyError, locks};
use crate::own_mount::{FileKind, LockKind, OwnMount};

impl WalWriter {
    /// Under EXCLUSIVE: copies all frames into the database, empties and removes WAL and index, and
    /// releases every lock; the writer is detached then.
    ///
    /// To be tried from time to time after the transaction whose page 1 names a rollback journal was
    /// applied with [`WalWriter::write_tx`]. As long as a connection has the WAL open it is
    /// [`ApplyError::Blocked`], the writer stays attached, and transactions go on as frames: SQLite follows
    /// the WAL for as long as it exists, whatever page 1 says.
    ///
    /// `before`: as in [`WalWriter::checkpoint`].
    pub fn leave_wal(
        &self,
        mount: &dyn OwnMount,
        before: &dyn Fn() -> io::Result<()>,
        deadline: Instant,
    ) -> Result<(), ApplyError> {
        let mut state = self.lock_idle(mount, deadline)?;
        state.check_attached()?;
        let lock = Exclusive::acquire(mount, true, deadline)?;
        locks::acquire(mount, Lock::WalCkpt, LockKind::Exclusive, deadline)?;
        let copied = state.round_in_place(mount, before);
        locks::unlock(mount, Lock::WalCkpt);
        if let (_, Some(blocker)) = copied? {
            return Err(ApplyError::Blocked(blocker));
        }
        // Everything is in the database, durably; from here on a failure leaves files that say nothing.
        state.forget_frames(mount)?;
        mount.set_len(FileKind::Wal, 0).map_err(ApplyError::io("truncate the WAL"))?;
        remove(mount, FileKind::Wal).map_err(ApplyError::io("remove the WAL"))?;
        remove(mount, FileKind::Shm).map_err(ApplyError::io("remove the WAL index"))?;
        state.detached();
        lock.release_all();
        Ok(())
    }
}
