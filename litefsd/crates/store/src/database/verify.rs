//! Pages are checked when they are read from the disk: bit rot is noticed before it is served or
//! shipped. It costs one CRC a page that the kernel did not have in its cache.
//!
//! What cannot be known is not judged: pages that a rollback transaction is changing, pages whose newest
//! version may still be in the wal, and the moments in which the daemon itself writes.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use litefs_ltx::checksum::page_checksum;
use litefs_types::PageNo;

use super::files::OpenedFile;
use super::{Database, Inner};
use crate::error::StoreError;
use crate::own_mount::FileKind;

/// While it lives, the daemon itself changes the database file, and reads are not judged.
pub(super) struct Rewriting<'a>(&'a AtomicBool);

impl Drop for Rewriting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Database {
    /// To be held from before the first page is written until the page sums are those of the new content.
    /// One at a time: the caller holds `own_io`.
    pub(super) fn rewriting(&self) -> Rewriting<'_> {
        self.rewriting.store(true, Ordering::Release);
        Rewriting(&self.rewriting)
    }

    /// Checks the whole pages in `data`, which was read from the database file at `offset`; reads again
    /// what was changed between the read and the check.
    ///
    /// An error is logged with the page, and a replica asks for a snapshot.
    pub fn verify_read(&self, opened: &OpenedFile, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let g = self.lock();
        let Some(ps) = g.page_size else { return Ok(()) };
        if !self.judges_reads(&g) || !self.files.is_current(FileKind::Database, opened) {
            return Ok(());
        }
        let size = u64::from(ps.get());
        // The first whole page in the range.
        let skip = (size - offset % size) % size;
        let first = (offset + skip) / size + 1;
        let from = usize::try_from(skip).unwrap_or(usize::MAX).min(data.len());
        for (n, page) in data[from..].chunks_exact_mut(ps.bytes()).enumerate() {
            let Some(no) = u32::try_from(first + n as u64).ok().and_then(PageNo::new) else { break };
            if no.get() > g.sums.page_count() || no == ps.lock_page() || g.wal_versions.contains_key(&no) {
                continue;
            }
            if page_checksum(no, page) == g.sums.get(no) {
                continue;
            }
            // Written between the read and the lock: the file has the right one now.
            let n = opened.file.read_at(page, ps.offset(no))?;
            if n == page.len() && page_checksum(no, page) == g.sums.get(no) {
                continue;
            }
            // The daemon began to write after the first look; or nobody ever wrote the page (it was added
            // without a frame and counts as zeros), so whatever the file has in its place was not changed.
            if !self.judges_reads(&g) || g.sums.get(no) == page_checksum(no, &vec![0; ps.bytes()]) {
                continue;
            }
            drop(g);
            return Err(self.rotten(no));
        }
        Ok(())
    }

    /// Whether the database file is what the sums say, but for pages in the wal.
    fn judges_reads(&self, g: &Inner) -> bool {
        !self.rewriting.load(Ordering::Acquire)
            && !g.rollback.is_dirty()
            && g.prepared_rollback.is_none()
            && !g.journal.live
            && g.import.is_none()
    }

    fn rotten(&self, page: PageNo) -> io::Error {
        let e = StoreError::Corrupt {
            what: "the database file",
            reason: format!("page {page} is not what was committed: the disk has lost or changed data"),
        };
        if self.env.gate.permit().is_none() {
            self.ask_for_snapshot(&e);
        } else {
            tracing::error!(
                db = %self.name,
                "{e}. A replica's copy is good: export it there and import it here (`litefsctl export`, `litefsctl import --replace`)",
            );
        }
        io::Error::from_raw_os_error(libc::EIO)
    }
}
