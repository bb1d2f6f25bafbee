//! One transaction: restart if nobody needs the old frames, frames, index, header.

use std::time::{Duration, Instant};

use litefs_sqlite::lock_bytes::Lock;
use litefs_sqlite::shm::{CheckpointInfo, IndexHeader, NATIVE, READ_MARK_UNUSED};
use litefs_sqlite::wal::{WalHeader, frame_data_offset};
use litefs_sqlite::wal_checksum::ByteOrder;
use litefs_sqlite::wal_index::{block_of, lookup};
use rand::Rng as _;

use super::checkpoint::RESTART_FRAMES;
use super::frames::FrameWriter;
use super::{State, WalPosition, WalSync, WalWriter, index};
use crate::apply::source::PageCheck;
use crate::apply::{ApplyError, PageSource, locks};
use crate::own_mount::{FileKind, LockKind, OwnMount};

/// A WAL file larger than this is truncated when it restarts: one large transaction must not hold its
/// disk space for ever. Smaller ones keep their blocks, which is faster.
const KEEP_WAL_BYTES: u64 = 64 << 20;

/// How long a repair of the index waits for a checkpoint of somebody else.
const RECOVER_WAIT: Duration = Duration::from_secs(1);

/// What a transaction became.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Its first frame.
    pub first_frame: u32,
    /// Its last frame, the commit frame.
    pub last_frame: u32,
    /// The WAL started over with it.
    pub restarted: bool,
    /// Where the WAL stands now.
    pub position: WalPosition,
}

impl WalWriter {
    /// Writes a transaction after which the database has `commit` pages, and shows it to all readers.
    ///
    /// All of it becomes visible with the last write, or nothing does: after an error the same
    /// transaction may be written again. `source` may be longer than memory; 4 bytes a page are kept.
    pub fn write_tx(
        &self,
        mount: &dyn OwnMount,
        source: &mut dyn PageSource,
        commit: u32,
        sync: WalSync,
    ) -> Result<Written, ApplyError> {
        let mut state = self.lock_state();
        state.check_attached()?;
        state.write_tx(mount, source, commit, sync)
    }

    /// Starts a completely checkpointed WAL over and empties its file: for a WAL from which SQLite's own
    /// recovery would read too little. `Ok(false)` while readers use it.
    pub fn reset(&self, mount: &dyn OwnMount) -> Result<bool, ApplyError> {
        let mut state = self.lock_state();
        state.check_attached()?;
        let info = state.refresh(mount)?;
        if state.header.mx_frame > 0 && !state.restart_if_unused(mount, info.backfill)? {
            return Ok(false);
        }
        // No frame is in the index any more, so nobody reads the file; left as it is, it would be
        // recovered by the next process that finds no index.
        mount.set_len(FileKind::Wal, 0).map_err(ApplyError::io("truncate the WAL"))?;
        state.chain_broken = false;
        Ok(true)
    }
}

impl State {
    pub(in crate::apply) fn write_tx(
        &mut self,
        mount: &dyn OwnMount,
        source: &mut dyn PageSource,
        commit: u32,
        sync: WalSync,
    ) -> Result<Written, ApplyError> {
        if commit == 0 {
            return Err(ApplyError::BadPage { page: 0, why: "a WAL cannot express an empty database" });
        }
        let info = self.refresh(mount)?;
        self.restart_if_unused(mount, info.backfill)?;
        let mx = self.header.mx_frame;
        if mx == 0 && mount.len(FileKind::Database).map_err(ApplyError::io("size the database"))? == 0 {
            return Err(ApplyError::Damaged("SQLite deletes the WAL of an empty database"));
        }
        let generation = match self.generation.filter(|_| mx > 0) {
            Some(g) => g,
            None => self.next_generation(),
        };

        let mut buf = std::mem::take(&mut self.buf);
        let chain = self.header.frame_checksum;
        let written = FrameWriter::new(mount, generation, mx, chain, &mut buf, sync).and_then(|mut w| {
            let mut check = PageCheck::new(self.page_size, commit);
            source.for_each(&mut |page, data| {
                check.check(page, data)?;
                w.add(page.get(), data)
            })?;
            if w.is_empty() {
                // A change of the size alone still needs a frame to carry it.
                w.add(1, &self.read_page_one(mount)?)?;
            }
            w.finish(commit, sync)
        });
        self.buf = buf;
        let (pages, chain) = written?;

        let header = IndexHeader {
            change: self.header.change.wrapping_add(1),
            big_endian: generation.big_endian,
            page_size: Some(self.page_size),
            mx_frame: mx + pages.len() as u32,
            n_pages: commit,
            frame_checksum: chain,
            salt: generation.salt,
        };
        if let Err(e) = self.add_entries(mount, mx, &pages).and_then(|()| index::write_header(mount, &header))
        {
            self.block = None;
            return Err(e);
        }
        if mx == 0 {
            self.chain_broken = false;
        }
        self.header = header;
        self.generation = Some(generation);
        self.sequence = generation.sequence;
        Ok(Written {
            first_frame: mx + 1,
            last_frame: header.mx_frame,
            restarted: mx == 0,
            position: self.position(),
        })
    }

    /// Compares the index with what we left there.
    pub(super) fn refresh(&mut self, mount: &dyn OwnMount) -> Result<CheckpointInfo, ApplyError> {
        match index::read_prefix(mount)? {
            (Some(header), info) if header == self.header => Ok(info),
            (Some(header), info) => {
                // Nobody else may write while WRITE is held. What is there is visible, so it counts.
                tracing::warn!(?header, ours = ?self.header, "the WAL index changed under the writer's lock");
                self.adopt(mount, header)?;
                Ok(info)
            }
            (None, info) => {
                self.block = None;
                if index::has_copy(mount, &self.header)? {
                    // One of our own header writes failed half way.
                    index::write_header(mount, &self.header)?;
                    return Ok(info);
                }
                // Somebody truncated or overwrote the file: the hash tables are gone too.
                tracing::warn!("the WAL index was destroyed under the writer's lock: rebuilding it");
                if self.checkpointing {
                    return Err(ApplyError::Damaged("the index was destroyed during a checkpoint"));
                }
                index::grow_to_first_block(mount)?;
                self.recover(mount, Instant::now() + RECOVER_WAIT)?;
                Ok(index::read_prefix(mount)?.1)
            }
        }
    }

    /// Starts the WAL over if all of it is in the database and no reader uses it.
    pub(super) fn restart_if_unused(
        &mut self,
        mount: &dyn OwnMount,
        backfill: u32,
    ) -> Result<bool, ApplyError> {
        if self.header.mx_frame == 0 || backfill != self.header.mx_frame || self.checkpointing {
            return Ok(false);
        }
        // Readers of mark 0 stay: they use the database file alone. Only tried, and held for microseconds:
        // a reader that finds all marks locked fails with SQLITE_PROTOCOL.
        let mut locked = 0;
        let mut result = Ok(true);
        for n in 1..5 {
            match locks::try_lock(mount, Lock::WalRead(n), LockKind::Exclusive) {
                Ok(true) => locked = n,
                Ok(false) => result = Ok(false),
                Err(e) => result = Err(e),
            }
            if locked != n {
                break;
            }
        }
        if locked == 4 {
            result = self.restart(mount).map(|()| true);
        }
        for n in 1..=locked {
            locks::unlock(mount, Lock::WalRead(n));
        }
        if matches!(result, Ok(true)) {
            self.shorten_wal(mount)?;
        }
        result
    }

    /// wal.c, `walRestartHdr`. Under WRITE and the marks 1 to 4.
    fn restart(&mut self, mount: &dyn OwnMount) -> Result<(), ApplyError> {
        let header = IndexHeader { mx_frame: 0, salt: next_salt(self.header.salt), ..self.header };
        index::write_header(mount, &header)?;
        self.header = header;
        self.wait_from = RESTART_FRAMES;
        index::put_backfill(mount, 0)?;
        index::put_backfill_attempted(mount, 0)?;
        index::put_read_mark(mount, 1, 0)?;
        for n in 2..5 {
            index::put_read_mark(mount, n, READ_MARK_UNUSED)?;
        }
        Ok(())
    }

    /// Empties the file after a restart where it pays or must be. With no frame in the index nobody reads it.
    fn shorten_wal(&mut self, mount: &dyn OwnMount) -> Result<(), ApplyError> {
        // What is valid of a broken chain is an older state, which a recovery must not find.
        if self.chain_broken
            || mount.len(FileKind::Wal).map_err(ApplyError::io("size the WAL"))? > KEEP_WAL_BYTES
        {
            mount.set_len(FileKind::Wal, 0).map_err(ApplyError::io("truncate the WAL"))?;
            self.chain_broken = false;
        }
        Ok(())
    }

    /// The header of a WAL that starts over. New salts each time, so that no frame of an earlier
    /// generation, or of a try that failed, can be valid in this one.
    fn next_generation(&self) -> WalHeader {
        let salt = next_salt(self.header.salt);
        WalHeader::new(self.page_size, NATIVE, self.sequence.wrapping_add(1), salt)
    }

    /// Forgets all frames, for a database that was written as a whole: `n_pages` pages of `page_size`.
    /// Under EXCLUSIVE.
    pub(in crate::apply) fn reset(
        &mut self,
        mount: &dyn OwnMount,
        page_size: litefs_types::PageSize,
        n_pages: u32,
    ) -> Result<(), ApplyError> {
        self.block = None;
        self.page_size = page_size;
        self.chain_broken = false;
        let header = IndexHeader {
            change: self.header.change.wrapping_add(1),
            big_endian: matches!(NATIVE, ByteOrder::Big),
            page_size: Some(page_size),
            n_pages,
            ..self.header
        };
        self.header = header;
        self.restart(mount)
    }

    /// Forgets all frames, which are in the database file. Under EXCLUSIVE.
    pub(in crate::apply) fn forget_frames(&mut self, mount: &dyn OwnMount) -> Result<(), ApplyError> {
        let (page_size, n_pages) = (self.page_size, self.header.n_pages);
        self.reset(mount, page_size, n_pages)
    }

    /// Page 1 as the newest snapshot has it.
    fn read_page_one(&self, mount: &dyn OwnMount) -> Result<Vec<u8>, ApplyError> {
        let mut page = vec![0; self.page_size.bytes()];
        let mx = self.header.mx_frame;
        let mut newest = None;
        for block in (0..=block_of(mx)).rev() {
            newest = newest.or(lookup(&index::read_block(mount, block)?, block, 1, mx));
        }
        let (file, offset) = match newest {
            Some(frame) => (FileKind::Wal, frame_data_offset(frame, self.page_size)),
            None => (FileKind::Database, 0),
        };
        let n = mount.read_at(file, &mut page, offset).map_err(ApplyError::io("read page 1"))?;
        if n < page.len() {
            return Err(ApplyError::Damaged("there is no page 1"));
        }
        Ok(page)
    }
}

fn next_salt(salt: [u32; 2]) -> [u32; 2] {
    [salt[0].wrapping_add(1), rand::rng().random()]
}
