//! Emptying the files of a database that was dropped elsewhere.

use std::time::Instant;

use super::ApplyError;
use super::locks::Exclusive;
use super::rollback_writer::remove;
use super::wal_writer::WalWriter;
use crate::own_mount::{FileKind, OwnMount};

/// Under EXCLUSIVE: truncates the database to nothing, removes journal, WAL and index. Every lock is
/// released then, those of `writer` too, which is detached.
///
/// `writer` is the database's WAL writer if there is one. A file in the mount that SQLite has open in WAL
/// mode cannot be dropped: [`ApplyError::Blocked`].
pub fn drop_files(
    mount: &dyn OwnMount,
    writer: Option<&WalWriter>,
    deadline: Instant,
) -> Result<(), ApplyError> {
    let mut attached = writer.map(|w| w.lock_idle(mount, deadline)).transpose()?.filter(|s| s.attached);
    if !mount.open(FileKind::Database, false).map_err(ApplyError::io("open the database"))? {
        return Ok(());
    }
    let lock = Exclusive::acquire(mount, attached.is_some(), deadline)?;
    // Each step alone may be repeated, and an empty database has nothing that could be read wrongly, so
    // a failure releases the lock. The journal first: it would bring the old pages back.
    remove(mount, FileKind::Journal).map_err(ApplyError::io("remove the journal"))?;
    if let Some(state) = attached.as_deref_mut() {
        state.forget_frames(mount)?;
    }
    mount.set_len(FileKind::Database, 0).map_err(ApplyError::io("truncate the database"))?;
    mount.sync(FileKind::Database).map_err(ApplyError::io("sync the database"))?;
    remove(mount, FileKind::Wal).map_err(ApplyError::io("remove the WAL"))?;
    remove(mount, FileKind::Shm).map_err(ApplyError::io("remove the WAL index"))?;
    if let Some(mut state) = attached {
        state.detached();
    }
    lock.release_all();
    Ok(())
}
