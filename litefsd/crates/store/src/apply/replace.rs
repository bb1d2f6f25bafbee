//! Replacing a whole database: a snapshot, perhaps of another page size.

use std::time::Instant;

use litefs_types::{PageNo, PageSize};

use super::locks::Exclusive;
use super::rollback_writer::{remove, write_image};
use super::wal_writer::{WalSync, WalWriter, Written};
use super::{ApplyError, PageSink, PageSource};
use crate::own_mount::{FileKind, OwnMount};

/// How a database was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// In the file. `wal_mode`: the image says WAL; a writer that was attached still is then, and is
    /// detached otherwise.
    InPlace {
        /// What bytes 18 and 19 of page 1 say.
        wal_mode: bool,
    },
    /// As one transaction of frames, because a reader did not leave.
    AsFrames(Written),
}

/// Writes a whole image of `commit` pages: in place under EXCLUSIVE; or, if that cannot be had until the
/// deadline, as frames, provided that `writer` is attached and the page size stays the same.
///
/// `source` holds every page but the lock page. After [`ApplyError::Torn`] the database stays locked;
/// call again with `redo` to repeat the write in place without waiting.
pub fn replace_all(
    mount: &dyn OwnMount,
    writer: Option<&WalWriter>,
    source: &mut dyn PageSource,
    page_size: PageSize,
    commit: u32,
    deadline: Instant,
    redo: bool,
) -> Result<Replaced, ApplyError> {
    mount.open(FileKind::Database, true).map_err(ApplyError::io("open the database"))?;
    let mut attached = writer.map(|w| w.lock_idle(mount, deadline)).transpose()?.filter(|s| s.attached);
    let have_shared = attached.is_some();
    let lock = if redo {
        Ok(Exclusive::still_held(mount, have_shared))
    } else {
        Exclusive::acquire(mount, have_shared, deadline)
    };
    let lock = match (lock, attached.as_deref_mut()) {
        (Ok(lock), _) => lock,
        (Err(ApplyError::Blocked(_)), Some(state)) if state.page_size == page_size => {
            return state.write_tx(mount, source, commit, WalSync::No).map(Replaced::AsFrames);
        }
        (Err(e), _) => return Err(e),
    };

    let mut wal_mode = false;
    let mut watched = Watched { source, wal_mode: &mut wal_mode };
    let written = (|| {
        remove(mount, FileKind::Journal).map_err(ApplyError::io("remove the journal"))?;
        // Frames of the old database must not shadow the new one, from the first write on.
        if let Some(state) = attached.as_deref_mut() {
            state.reset(mount, page_size, commit)?;
            mount.set_len(FileKind::Wal, 0).map_err(ApplyError::io("truncate the WAL"))?;
        } else {
            remove(mount, FileKind::Wal).map_err(ApplyError::io("remove the WAL"))?;
            remove(mount, FileKind::Shm).map_err(ApplyError::io("remove the WAL index"))?;
        }
        write_image(mount, &mut watched, page_size, commit)
    })();
    if let Err(e) = written {
        lock.keep();
        return Err(ApplyError::Torn(Box::new(e)));
    }
    let Some(mut state) = attached else { return Ok(Replaced::InPlace { wal_mode }) };
    if !wal_mode {
        // Empty both, so failing to remove them changes nothing for a reader.
        remove(mount, FileKind::Wal).map_err(ApplyError::io("remove the WAL"))?;
        remove(mount, FileKind::Shm).map_err(ApplyError::io("remove the WAL index"))?;
        state.detached();
        lock.release_all();
    }
    Ok(Replaced::InPlace { wal_mode })
}

/// Notes the journal mode in passing.
struct Watched<'a> {
    source: &'a mut dyn PageSource,
    wal_mode: &'a mut bool,
}

impl PageSource for Watched<'_> {
    fn for_each(&mut self, f: PageSink<'_>) -> Result<(), ApplyError> {
        let Self { source, wal_mode } = self;
        source.for_each(&mut |page, data| {
            if page == PageNo::FIRST {
                **wal_mode = data.get(18..20) == Some(&[2, 2]);
            }
            f(page, data)
        })
    }
}
