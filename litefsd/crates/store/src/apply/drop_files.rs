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
/// mode cannot be dropped: [`ApplyError::Blocked`]. After [`ApplyError::Torn`] the database stays locked;
/// call again with `redo` to do the rest.
pub fn drop_files(
    mount: &dyn OwnMount,
    writer: Option<&WalWriter>,
    deadline: Instant,
    redo: bool,
) -> Result<(), ApplyError> {
    let mut attached = writer.map(|w| w.lock_idle(mount, deadline)).transpose()?.filter(|s| s.attached);
    if !mount.open(FileKind::Database, false).map_err(ApplyError::io("open the database"))? {
        return Ok(());
    }
    let lock = if redo {
        Exclusive::still_held(mount, attached.is_some())
    } else {
        Exclusive::acquire(mount, attached.is_some(), deadline)?
    };
    let dropped = (|| {
        // First: it would bring the old pages back.
        remove(mount, FileKind::Journal).map_err(ApplyError::io("remove the journal"))?;
        // A redo may find it empty, with the frames forgotten.
        if mount.len(FileKind::Database).map_err(ApplyError::io("size the database"))? > 0 {
            if let Some(state) = attached.as_deref_mut() {
                state.forget_frames(mount)?;
            }
            mount.set_len(FileKind::Database, 0).map_err(ApplyError::io("truncate the database"))?;
        }
        mount.sync(FileKind::Database).map_err(ApplyError::io("sync the database"))?;
        remove(mount, FileKind::Wal).map_err(ApplyError::io("remove the WAL"))?;
        remove(mount, FileKind::Shm).map_err(ApplyError::io("remove the WAL index"))
    })();
    if let Err(e) = dropped {
        // The frames are gone, or all pages are: not what the log said before the drop.
        lock.keep();
        return Err(ApplyError::Torn(Box::new(e)));
    }
    if let Some(mut state) = attached {
        state.detached();
    }
    lock.release_all();
    Ok(())
}
