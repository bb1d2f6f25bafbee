//! Applying a transaction to a database with a rollback journal, under EXCLUSIVE.
//!
//! Owns: the bounded way to EXCLUSIVE, the pages, the size. Does not own: databases whose `-wal` is in
//! use ([`super::wal_writer`]). Tested in `tests/apply/rollback.rs`.
//!
//! No journal is written: the transaction is in the log, recovery repeats it. That is right only as long
//! as EXCLUSIVE is held from the first write to the last, so a failure in between keeps the lock.

use std::io;
use std::time::{Duration, Instant};

use litefs_types::PageSize;

use super::image::ImageWriter;
use super::locks::Exclusive;
use super::source::PageCheck;
use super::{ApplyError, PageSource};
use crate::own_mount::{FileKind, OwnMount};

/// What an apply cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// How long it took to get the lock.
    pub waited: Duration,
    /// Pages written.
    pub pages: u32,
}

/// Writes the transaction's pages and sets the size to `commit` pages, under EXCLUSIVE, durably.
///
/// Creates the database file if it is missing. [`ApplyError::Blocked`] at the deadline says who reads;
/// nothing was written then, and nothing stays locked.
pub fn apply(
    mount: &dyn OwnMount,
    source: &mut dyn PageSource,
    page_size: PageSize,
    commit: u32,
    deadline: Instant,
) -> Result<Applied, ApplyError> {
    mount.open(FileKind::Database, true).map_err(ApplyError::io("open the database"))?;
    let start = Instant::now();
    let lock = Exclusive::acquire(mount, false, deadline)?;
    finish(mount, lock, source, page_size, commit, start.elapsed())
}

/// Repeats an [`apply`] that ended in [`ApplyError::Torn`], under the lock that it kept.
pub fn redo(
    mount: &dyn OwnMount,
    source: &mut dyn PageSource,
    page_size: PageSize,
    commit: u32,
) -> Result<Applied, ApplyError> {
    finish(mount, Exclusive::still_held(mount, false), source, page_size, commit, Duration::ZERO)
}

fn finish(
    mount: &dyn OwnMount,
    lock: Exclusive<'_>,
    source: &mut dyn PageSource,
    page_size: PageSize,
    commit: u32,
    waited: Duration,
) -> Result<Applied, ApplyError> {
    // A journal here is stale: whoever wrote it would hold the lock. Left in place, the next reader would
    // play it back over what is written now.
    remove(mount, FileKind::Journal).map_err(ApplyError::io("remove a stale journal"))?;
    match write_image(mount, source, page_size, commit) {
        Ok(pages) => Ok(Applied { waited, pages }),
        Err(e) => {
            lock.keep();
            Err(ApplyError::Torn(Box::new(e)))
        }
    }
}

/// Writes pages, size, and makes them durable. Under EXCLUSIVE.
pub(super) fn write_image(
    mount: &dyn OwnMount,
    source: &mut dyn PageSource,
    page_size: PageSize,
    commit: u32,
) -> Result<u32, ApplyError> {
    let mut check = PageCheck::new(page_size, commit);
    let mut image = ImageWriter::new(mount);
    let mut pages = 0;
    source.for_each(&mut |page, data| {
        check.check(page, data)?;
        pages += 1;
        image.put(page_size.offset(page), data).map_err(ApplyError::io("write the database"))
    })?;
    image.flush().map_err(ApplyError::io("write the database"))?;
    let size = page_size.file_size(commit);
    if mount.len(FileKind::Database).map_err(ApplyError::io("size the database"))? != size {
        mount.set_len(FileKind::Database, size).map_err(ApplyError::io("truncate the database"))?;
    }
    mount.sync(FileKind::Database).map_err(ApplyError::io("sync the database"))?;
    Ok(pages)
}

/// Unlinks a file that may not be there, and lets go of the own descriptor.
pub(super) fn remove(mount: &dyn OwnMount, file: FileKind) -> io::Result<()> {
    match mount.unlink(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => {
            mount.close(file);
            Ok(())
        }
    }
}
