//! Reading and writing the WAL index through the mount.
//!
//! Never a mapping: a killed process that maps a file of its own mount hangs in the kernel. Separate
//! writes give the order that SQLite gets from memory barriers.

use litefs_sqlite::shm::{BACKFILL_ATTEMPTED_OFFSET, BACKFILL_OFFSET};
use litefs_sqlite::shm::{
    CheckpointInfo, HEADER_LEN, IndexHeader, PREFIX_LEN, SECOND_HEADER_OFFSET, read_mark_offset,
};
use litefs_sqlite::wal_index::{
    BLOCK_LEN, Changed, block_of, block_offset, capacity, clean, entries_in, entries_offset, frames_before,
    insert, page_of,
};

use super::State;
use crate::apply::ApplyError;
use crate::own_mount::{FileKind, OwnMount};

/// Granularity in which the index grows: one byte in each makes the file that long without touching what
/// another process may have mapped.
const GROW_STEP: u64 = 4096;

/// Both headers and the checkpoint information, as they are now.
pub(super) fn read_prefix(mount: &dyn OwnMount) -> Result<(Option<IndexHeader>, CheckpointInfo), ApplyError> {
    let mut b = [0; PREFIX_LEN];
    // What a short file lacks reads as zeros: no valid header.
    mount.read_at(FileKind::Shm, &mut b, 0).map_err(ApplyError::io("read the WAL index"))?;
    let info = CheckpointInfo::decode(&b).unwrap_or(CheckpointInfo::fresh(0));
    Ok((IndexHeader::decode_pair(&b), info))
}

/// Whether at least one copy of the header in the file is `header`: then the index is the one it describes.
pub(super) fn has_copy(mount: &dyn OwnMount, header: &IndexHeader) -> Result<bool, ApplyError> {
    let mut b = [0; 2 * HEADER_LEN];
    let n = mount.read_at(FileKind::Shm, &mut b, 0).map_err(ApplyError::io("read the WAL index"))?;
    let want = header.encode();
    Ok(n == b.len() && (b[..HEADER_LEN] == want || b[HEADER_LEN..] == want))
}

/// Copy 2, then copy 1: a reader that sees two equal copies sees all of it.
pub(super) fn write_header(mount: &dyn OwnMount, header: &IndexHeader) -> Result<(), ApplyError> {
    let b = header.encode();
    put(mount, SECOND_HEADER_OFFSET, &b)?;
    put(mount, 0, &b)
}

pub(super) fn put(mount: &dyn OwnMount, offset: u64, b: &[u8]) -> Result<(), ApplyError> {
    mount.write_all_at(FileKind::Shm, b, offset).map_err(ApplyError::io("write the WAL index"))
}

pub(super) fn put_backfill(mount: &dyn OwnMount, frame: u32) -> Result<(), ApplyError> {
    put(mount, BACKFILL_OFFSET, &frame.to_ne_bytes())
}

pub(super) fn put_backfill_attempted(mount: &dyn OwnMount, frame: u32) -> Result<(), ApplyError> {
    put(mount, BACKFILL_ATTEMPTED_OFFSET, &frame.to_ne_bytes())
}

pub(super) fn put_read_mark(mount: &dyn OwnMount, n: u8, frame: u32) -> Result<(), ApplyError> {
    put(mount, read_mark_offset(n), &frame.to_ne_bytes())
}

/// Makes the index at least one block long. Under WRITE: SQLite grows it only there too, so no byte of
/// the steps can be another's.
pub(super) fn grow_to_first_block(mount: &dyn OwnMount) -> Result<(), ApplyError> {
    let len = mount.len(FileKind::Shm).map_err(ApplyError::io("size the WAL index"))?;
    for step in len / GROW_STEP..BLOCK_LEN as u64 / GROW_STEP {
        put(mount, step * GROW_STEP + GROW_STEP - 1, &[0])?;
    }
    Ok(())
}

/// A block as it is in the file; zeros where the file ends.
pub(super) fn read_block(mount: &dyn OwnMount, block: u32) -> Result<Box<[u8]>, ApplyError> {
    let mut b = vec![0; BLOCK_LEN].into_boxed_slice();
    mount
        .read_at(FileKind::Shm, &mut b, block_offset(block))
        .map_err(ApplyError::io("read the WAL index"))?;
    Ok(b)
}

/// The page numbers of frames `first..=last`.
pub(super) fn pages_of(mount: &dyn OwnMount, first: u32, last: u32) -> Result<Vec<u32>, ApplyError> {
    let mut pages = Vec::with_capacity(last.saturating_sub(first) as usize + 1);
    for block in block_of(first)..=block_of(last) {
        let b = read_block(mount, block)?;
        let from = entries_in(block, first - 1);
        pages.extend((from..entries_in(block, last)).map(|e| page_of(&b, block, e)));
    }
    Ok(pages)
}

impl State {
    /// Enters the pages of the frames after `mx`, which the index does not show yet. Readers do not look
    /// at entries beyond their header, so only the order "page numbers, hash, header" matters.
    pub(super) fn add_entries(
        &mut self,
        mount: &dyn OwnMount,
        mx: u32,
        pages: &[u32],
    ) -> Result<(), ApplyError> {
        let mut done = 0;
        while let Some(rest) = pages.get(done..).filter(|r| !r.is_empty()) {
            // The caller made sure that the last frame number does not overflow.
            let frame = mx + done as u32 + 1;
            let block = block_of(frame);
            let valid = frame - frames_before(block) - 1;
            let n = rest.len().min((capacity(block) - valid) as usize);

            let cached = self.block.take().filter(|(b, _)| *b == block);
            let (mut bytes, mut changed) = if let Some((_, bytes)) = cached {
                (bytes, Changed::default())
            } else if valid == 0 {
                // Nothing in it counts. All of it is written below, which also makes the file long enough.
                (vec![0; BLOCK_LEN].into_boxed_slice(), Changed::default())
            } else {
                let mut bytes = read_block(mount, block)?;
                let changed = clean(&mut bytes, block, valid);
                (bytes, changed)
            };
            if valid == 0 {
                // Also a cached block is started over: its entries are from before a restart.
                bytes.fill(0);
            }
            for (i, page) in rest[..n].iter().enumerate() {
                insert(&mut bytes, block, valid + i as u32, *page, &mut changed)
                    .map_err(|_| ApplyError::Damaged("the hash table of the index has no free slot"))?;
            }
            let base = block_offset(block);
            if valid == 0 {
                let from = entries_offset(block);
                put(mount, base + from as u64, &bytes[from..])?;
            } else {
                put(mount, base + changed.entries.start as u64, &bytes[changed.entries])?;
                put(mount, base + changed.slots.start as u64, &bytes[changed.slots])?;
            }
            self.block = Some((block, bytes));
            done += n;
        }
        Ok(())
    }
}
