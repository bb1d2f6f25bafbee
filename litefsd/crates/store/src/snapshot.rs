//! A consistent copy of a database at one position, while it goes on being written. Takes no SQLite
//! lock and stops nobody.
//!
//! A page of the copy is recognised by its checksum, so where it comes from does not matter. In order:
//! the database file; the copy that the write path saved ([`CopyOnWrite`]) before it overwrote the page;
//! the log, for pages that are newer than the file (a WAL that was not checkpointed); a received snapshot
//! that the log begins behind, while readers keep it out of the file ([`KeptHistory`]). A page that is
//! nowhere is an error that names it: this is also how bit rot comes to light.
//!
//! The owner of the database starts it under the lock that orders its writes: takes position, page sums
//! and file, makes the [`Snapshot`], and registers its [`CopyOnWrite`] with the write path. Inside a
//! rollback transaction, some pages of the position may be in the journal only; they must be given to
//! [`CopyOnWrite::preserve`] before that lock is released, or the start must wait for its end.
//!
//! Start with [`Snapshot::new`]; the output is an LTX file ([`Snapshot::into_ltx`]) or the SQLite file
//! ([`Snapshot::into_database`]). *Invariant:* what comes out has the position's checksum, or an error
//! comes out.
//!
//! Tests: `tests` (also with a writer at work), `tests/mount` for the whole.

mod cow;
mod history;
mod kept;
mod stream;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use litefs_core::page_sums::PageSums;
use litefs_ltx::checksum::page_checksum;
use litefs_ltx::{Compression, Encoder, Header, LtxError, Trailer};
use litefs_types::{Checksum, DbName, NodeId, PageNo, PageSize, Pos, Timestamp, Txid};

pub use self::cow::CopyOnWrite;
pub use self::history::{LogHistory, PageHistory};
pub use self::kept::KeptHistory;
pub use self::stream::{DatabaseStream, LtxStream};
use crate::disk::{Disk, DiskFile};

/// Bytes of the database file that are read at once.
const READ_AHEAD: usize = 256 * 1024;
/// How often a page that is nowhere is looked for again, ...
const ATTEMPTS: u32 = 6;
/// ... the first time after this; doubled each time, 63 ms in all. Only a write that is rolled back can
/// bring a page back, and no snapshot should stand on one page for long.
const RETRY: Duration = Duration::from_millis(1);

/// Why there is no snapshot, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Page sums and position do not belong together: a bug of the caller.
    #[error("snapshot of {db}: the page sums give {computed}, the position is {pos}")]
    Inconsistent {
        /// Which database.
        db: DbName,
        /// The position asked for.
        pos: Pos,
        /// What the page sums give.
        computed: Checksum,
    },
    /// A database that never had a transaction has nothing to copy.
    #[error("{0} has no transaction yet")]
    Nothing(DbName),
    /// A page is neither in the file, nor saved, nor in the log as it should be.
    #[error(
        "snapshot of {db} at {pos}: page {page} is not what its checksum says, neither in the file nor in the log"
    )]
    Page {
        /// Which database.
        db: DbName,
        /// The position of the snapshot.
        pos: Pos,
        /// The page.
        page: PageNo,
    },
    /// Somebody ended it.
    #[error("snapshot of {db} was ended: {reason}")]
    Aborted {
        /// Which database.
        db: DbName,
        /// Why.
        reason: String,
    },
    /// Reading the database failed.
    #[error("reading page {page} of {db} for a snapshot")]
    Read {
        /// Which database.
        db: DbName,
        /// The page.
        page: PageNo,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Writing the output failed.
    #[error("writing a snapshot")]
    Write(#[source] io::Error),
    /// The LTX writer refused.
    #[error("encoding a snapshot")]
    Ltx(#[source] LtxError),
}

/// What a snapshot is made of; see the module documentation for how to take it.
pub struct SnapshotInput {
    /// Which database, for messages.
    pub db: DbName,
    /// The position of the copy.
    pub pos: Pos,
    /// Page sums at that position; they name page size and page count.
    pub sums: PageSums,
    /// The database file.
    pub file: Arc<dyn DiskFile>,
    /// Pages that the file does not have yet.
    pub history: Box<dyn PageHistory>,
    /// For saved pages beyond what fits into memory.
    pub disk: Arc<dyn Disk>,
    /// Where on `disk`; swept at start.
    pub spool_dir: PathBuf,
}

/// A snapshot in progress. Dropping it ends it.
pub struct Snapshot {
    db: DbName,
    pos: Pos,
    txid: Txid,
    sums: Arc<PageSums>,
    file: Arc<dyn DiskFile>,
    history: Box<dyn PageHistory>,
    cow: Arc<CopyOnWrite>,
    /// The last page that was given out, 0 at the start.
    last: u32,
    block: Vec<u8>,
    /// First page in `block`.
    block_start: u32,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.cow.finish();
    }
}

impl Snapshot {
    /// Starts. Nothing is read yet.
    pub fn new(input: SnapshotInput) -> Result<Self, SnapshotError> {
        let SnapshotInput { db, pos, sums, file, history, disk, spool_dir } = input;
        let Some(txid) = pos.txid() else { return Err(SnapshotError::Nothing(db)) };
        if sums.checksum() != pos.checksum() {
            return Err(SnapshotError::Inconsistent { db, pos, computed: sums.checksum() });
        }
        let sums = Arc::new(sums);
        let cow = Arc::new(CopyOnWrite::new(Arc::clone(&sums), disk, spool_dir));
        Ok(Self { db, pos, txid, sums, file, history, cow, last: 0, block: Vec::new(), block_start: 0 })
    }

    /// What the write path must call before it changes the database file.
    pub fn copy_on_write(&self) -> &Arc<CopyOnWrite> {
        &self.cow
    }

    /// The position of the copy.
    pub fn pos(&self) -> Pos {
        self.pos
    }

    /// Page size of the database.
    pub fn page_size(&self) -> PageSize {
        self.sums.page_size()
    }

    /// Pages of the database, the lock page included.
    pub fn page_count(&self) -> u32 {
        self.sums.page_count()
    }

    /// Bytes of the SQLite file.
    pub fn database_len(&self) -> u64 {
        self.page_size().file_size(self.page_count())
    }

    /// The header of the LTX file.
    pub fn header(&self, node_id: NodeId, now: Timestamp) -> Header {
        Header {
            max_txid: self.txid,
            timestamp: now,
            node_id,
            ..Header::new(self.page_size(), self.page_count(), Txid::FIRST, Checksum::NONE)
        }
    }

    /// The copy as an LTX file, to be read.
    pub fn into_ltx(
        self,
        node_id: NodeId,
        now: Timestamp,
        compression: Compression,
    ) -> Result<LtxStream, SnapshotError> {
        LtxStream::new(self, node_id, now, compression)
    }

    /// The copy as a SQLite file, to be read. The lock page is zeros.
    pub fn into_database(self) -> DatabaseStream {
        DatabaseStream::new(self)
    }

    /// Writes the copy as an LTX file. After an error, what was written is worthless.
    pub fn write_ltx<W: Write>(
        mut self,
        out: W,
        node_id: NodeId,
        now: Timestamp,
        compression: Compression,
    ) -> Result<(Trailer, W), SnapshotError> {
        let mut encoder = Encoder::new(out, self.header(node_id, now), compression).map_err(encoding)?;
        let mut data = Vec::new();
        while let Some(page) = self.next_page(&mut data)? {
            encoder.page(page, &data).map_err(encoding)?;
        }
        encoder.finish(self.pos.checksum()).map_err(encoding)
    }

    /// The next page, in order and without the lock page; `None` after the last.
    pub fn next_page(&mut self, data: &mut Vec<u8>) -> Result<Option<PageNo>, SnapshotError> {
        let lock = self.page_size().lock_page();
        let after = |n: u32| n.checked_add(1).and_then(PageNo::new);
        let next = after(self.last).and_then(|p| if p == lock { after(p.get()) } else { Some(p) });
        let Some(page) = next.filter(|p| p.get() <= self.page_count()) else {
            self.cow.finish();
            return Ok(None);
        };
        if let Some(reason) = self.cow.aborted() {
            return Err(SnapshotError::Aborted { db: self.db.clone(), reason });
        }
        data.resize(self.page_size().bytes(), 0);
        if !self.read_ahead(page, data).map_err(|e| self.reading(page, e))? {
            self.search(page, data)?;
        }
        self.last = page.get();
        self.cow.pass(page);
        Ok(Some(page))
    }

    /// Takes the page from what was read ahead, reading ahead if need be; `false` if it has changed.
    fn read_ahead(&mut self, page: PageNo, data: &mut [u8]) -> io::Result<bool> {
        let ps = data.len();
        let at = |start: u32| (page.get() - start) as usize * ps;
        if self.block_start == 0 || at(self.block_start) >= self.block.len() {
            let pages = (READ_AHEAD / ps).max(1).min((self.page_count() - page.get()) as usize + 1);
            self.block.resize(pages * ps, 0);
            let offset = self.page_size().offset(page);
            let read = self.file.read_at(&mut self.block, offset)?;
            // The file may be shorter by now.
            self.block[read..].fill(0);
            self.block_start = page.get();
        }
        let start = at(self.block_start);
        data.copy_from_slice(&self.block[start..start + ps]);
        Ok(self.is_right(page, data))
    }

    /// Looks everywhere for a page that was not in the file.
    fn search(&mut self, page: PageNo, data: &mut [u8]) -> Result<(), SnapshotError> {
        // A page that was added without being written counts as zeros, whatever the file has in its place.
        data.fill(0);
        if self.is_right(page, data) {
            return Ok(());
        }
        for attempt in 0..=ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(RETRY * (1 << (attempt - 1)));
                if self.read_file(page, data).map_err(|e| self.reading(page, e))? {
                    return Ok(());
                }
            }
            // The write path saves before it writes: having missed the page in the file, it is there.
            if self.cow.take(page, data).map_err(|e| self.reading(page, e))? && self.is_right(page, data) {
                return Ok(());
            }
            let found = self.history.read(page, data).map_err(|e| self.reading(page, e))?;
            if found && self.is_right(page, data) {
                return Ok(());
            }
            if let Some(reason) = self.cow.aborted() {
                return Err(SnapshotError::Aborted { db: self.db.clone(), reason });
            }
        }
        Err(SnapshotError::Page { db: self.db.clone(), pos: self.pos, page })
    }

    fn read_file(&self, page: PageNo, data: &mut [u8]) -> io::Result<bool> {
        let full = self.file.read_at(data, self.page_size().offset(page))? == data.len();
        Ok(full && self.is_right(page, data))
    }

    fn is_right(&self, page: PageNo, data: &[u8]) -> bool {
        page_checksum(page, data) == self.sums.get(page)
    }

    fn reading(&self, page: PageNo, source: io::Error) -> SnapshotError {
        SnapshotError::Read { db: self.db.clone(), page, source }
    }
}

/// Sorts an error of the encoder.
fn encoding(e: LtxError) -> SnapshotError {
    match e {
        LtxError::Io(e) => SnapshotError::Write(e),
        e => SnapshotError::Ltx(e),
    }
}
