//! Replacing a whole database: a snapshot, perhaps of another page size.

use std::time::{Duration, Instant};

use litefs_types::{PageNo, PageSize};

use super::locks::{Exclusive, NoWalReaders};
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

/// How long EXCLUSIVE is tried for where something else does: an idle connection in WAL mode keeps SHARED for
/// ever.
const FILE_WAIT: Duration = Duration::from_millis(200);

/// Writes a whole image of `commit` pages: in place under EXCLUSIVE. If that cannot be had and `writer` is
/// attached: as frames, if the page size stays the same; else in place while nobody reads, if the image is
/// in WAL mode too, so that connections that stay open go on rightly.
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
    let as_frames = attached.as_deref().is_some_and(|state| state.page_size == page_size);
    let beside_idle = have_shared && !as_frames && is_wal(source)?;
    let file_deadline =
        if as_frames || beside_idle { deadline.min(Instant::now() + FILE_WAIT) } else { deadline };
    let mut no_readers = (redo && have_shared).then(|| NoWalReaders::still_held(mount));
    let lock = if redo {
        Ok(Exclusive::still_held(mount, have_shared))
    } else {
        Exclusive::acquire(mount, have_shared, file_deadline)
    };
    let lock = match (lock, attached.as_deref_mut()) {
        (Ok(lock), _) => Some(lock),
        (Err(ApplyError::Blocked(_)), Some(state)) if as_frames => {
            return state.write_tx(mount, source, commit, WalSync::No).map(Replaced::AsFrames);
        }
        (Err(ApplyError::Blocked(_)), Some(_)) if beside_idle => {
            no_readers = Some(NoWalReaders::acquire(mount, deadline)?);
            None
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
        lock.into_iter().for_each(Exclusive::keep);
        no_readers.into_iter().for_each(NoWalReaders::keep);
        return Err(ApplyError::Torn(Box::new(e)));
    }
    let Some(mut state) = attached else { return Ok(Replaced::InPlace { wal_mode }) };
    if !wal_mode {
        // Empty both, so failing to remove them changes nothing for a reader.
        remove(mount, FileKind::Wal).map_err(ApplyError::io("remove the WAL"))?;
        remove(mount, FileKind::Shm).map_err(ApplyError::io("remove the WAL index"))?;
        state.detached();
        lock.into_iter().for_each(Exclusive::release_all);
    }
    Ok(Replaced::InPlace { wal_mode })
}

/// Whether page 1 says WAL.
fn is_wal(source: &mut dyn PageSource) -> Result<bool, ApplyError> {
    let mut wal_mode = false;
    let looked = Watched { source, wal_mode: &mut wal_mode }.for_each(&mut |_, _| Err(ApplyError::Cancelled));
    match looked {
        Ok(()) | Err(ApplyError::Cancelled) => Ok(wal_mode),
        Err(e) => Err(e),
    }
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
