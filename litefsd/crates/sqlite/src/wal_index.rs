//! The hash tables of the WAL index, `-shm` (SQLite "WAL-mode File Format", sections 2.2 and 2.3).
//!
//! Owns: which frame is in which 32 KiB block, the page-number array and the hash table of a block,
//! lookup, insertion, and the removal of what a dead writer left. Does not own: the header in front of
//! block 0 (`shm`) and IO. Tested below against a model, and in `tests/wal_index.rs` against files that
//! SQLite wrote.
//!
//! A block is handed in as a slice of [`BLOCK_LEN`] bytes. A shorter one reads as if zeros followed.

use core::ops::Range;

use crate::shm::PREFIX_LEN;

/// Bytes of a block. The file grows by whole blocks.
pub const BLOCK_LEN: usize = 32768;
/// Offset of the hash table in a block.
const HASH_OFFSET: usize = 16384;
/// Slots of a hash table: two bytes each, the 1-based entry number or 0.
const SLOTS: u32 = 8192;
/// Multiplier of the hash function.
const HASH_FACTOR: u32 = 383;
/// Entries of a block behind the first.
const ENTRIES: u32 = 4096;
/// Entries of the first block, which starts with the header.
pub const ENTRIES_FIRST: u32 = ENTRIES - PREFIX_LEN as u32 / 4;

/// Block that frame `frame` (from 1) is in.
pub const fn block_of(frame: u32) -> u32 {
    // In 64 bits: a frame number from a damaged file may be near the limit.
    ((frame as u64 + (ENTRIES - ENTRIES_FIRST) as u64).saturating_sub(1) / ENTRIES as u64) as u32
}

/// Frames in the blocks before `block`.
pub const fn frames_before(block: u32) -> u32 {
    if block == 0 { 0 } else { (block - 1).saturating_mul(ENTRIES).saturating_add(ENTRIES_FIRST) }
}

/// Frames that fit into a block.
pub const fn capacity(block: u32) -> u32 {
    if block == 0 { ENTRIES_FIRST } else { ENTRIES }
}

/// How many of the first `frames` frames are in `block`.
pub const fn entries_in(block: u32, frames: u32) -> u32 {
    let n = frames.saturating_sub(frames_before(block));
    if n > capacity(block) { capacity(block) } else { n }
}

/// File offset of a block.
pub const fn block_offset(block: u32) -> u64 {
    block as u64 * BLOCK_LEN as u64
}

/// Where the page numbers start in a block: in block 0 behind the header, which is written apart.
pub const fn entries_offset(block: u32) -> usize {
    if block == 0 { PREFIX_LEN } else { 0 }
}

/// The bytes of a block that an update changed: to be written in this order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Changed {
    /// Within the page-number array.
    pub entries: Range<usize>,
    /// Within the hash table.
    pub slots: Range<usize>,
}

impl Changed {
    fn add(range: &mut Range<usize>, at: usize, len: usize) {
        *range = if range.start >= range.end {
            at..at + len
        } else {
            range.start.min(at)..range.end.max(at + len)
        };
    }
}

/// The hash table is full, or a chain does not end: the index is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedIndex;

impl core::fmt::Display for DamagedIndex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the hash table of the WAL index has no free slot")
    }
}

impl core::error::Error for DamagedIndex {}

/// Page number of entry `entry` (from 0) of a block; 0 if there is none.
pub fn page_of(bytes: &[u8], block: u32, entry: u32) -> u32 {
    if entry >= capacity(block) {
        return 0;
    }
    let at = entries_offset(block) + 4 * entry as usize;
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

const fn first_slot(page: u32) -> u32 {
    page.wrapping_mul(HASH_FACTOR) & (SLOTS - 1)
}

const fn slot_offset(slot: u32) -> usize {
    HASH_OFFSET + 2 * slot as usize
}

fn slot(bytes: &[u8], n: u32) -> u16 {
    let at = slot_offset(n);
    bytes.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]))
}

/// The newest frame of `page` in this block that is not beyond `mx_frame`.
///
/// Search the blocks from that of `mx_frame` down to the first; the first hit is the answer.
pub fn lookup(bytes: &[u8], block: u32, page: u32, mx_frame: u32) -> Option<u32> {
    let valid = entries_in(block, mx_frame);
    let mut best = None;
    let mut at = first_slot(page);
    for _ in 0..SLOTS {
        let entry = u32::from(slot(bytes, at));
        if entry == 0 {
            break;
        }
        if entry <= valid && page_of(bytes, block, entry - 1) == page {
            best = best.max(Some(frames_before(block) + entry));
        }
        at = (at + 1) & (SLOTS - 1);
    }
    best
}

/// Removes everything but the first `valid` entries: what a writer left that died within a transaction,
/// or an earlier generation. What it removes is behind every reader's snapshot.
pub fn clean(bytes: &mut [u8], block: u32, valid: u32) -> Changed {
    let mut changed = Changed::default();
    let valid = valid.min(capacity(block));
    let start = entries_offset(block);
    let Some(entries) = bytes.get_mut(start + 4 * valid as usize..HASH_OFFSET) else { return changed };
    if let (Some(a), Some(b)) = (entries.iter().position(|x| *x != 0), entries.iter().rposition(|x| *x != 0))
    {
        entries[a..=b].fill(0);
        let at = start + 4 * valid as usize;
        Changed::add(&mut changed.entries, at + a, b - a + 1);
    }
    for n in 0..SLOTS {
        if u32::from(slot(bytes, n)) > valid {
            let at = slot_offset(n);
            if let Some(b) = bytes.get_mut(at..at + 2) {
                b.fill(0);
                Changed::add(&mut changed.slots, at, 2);
            }
        }
    }
    changed
}

/// Adds page `page` as entry `entry` (from 0), which must be the first free one, to a clean block.
pub fn insert(
    bytes: &mut [u8],
    block: u32,
    entry: u32,
    page: u32,
    changed: &mut Changed,
) -> Result<(), DamagedIndex> {
    if entry >= capacity(block) || bytes.len() < BLOCK_LEN {
        return Err(DamagedIndex);
    }
    let mut at = first_slot(page);
    // Every valid entry occupies one slot; more collisions than entries mean a damaged table.
    let mut collisions = entry;
    while slot(bytes, at) != 0 {
        collisions = collisions.checked_sub(1).ok_or(DamagedIndex)?;
        at = (at + 1) & (SLOTS - 1);
    }
    let e = entries_offset(block) + 4 * entry as usize;
    bytes[e..e + 4].copy_from_slice(&page.to_ne_bytes());
    Changed::add(&mut changed.entries, e, 4);
    let s = slot_offset(at);
    bytes[s..s + 2].copy_from_slice(&(entry as u16 + 1).to_ne_bytes());
    Changed::add(&mut changed.slots, s, 2);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_fall_into_blocks_as_documented() {
        assert_eq!(ENTRIES_FIRST, 4062);
        for (frame, block) in [(1, 0), (4062, 0), (4063, 1), (8158, 1), (8159, 2)] {
            assert_eq!(block_of(frame), block, "frame {frame}");
            assert!(frame > frames_before(block) && frame <= frames_before(block) + capacity(block));
        }
        assert_eq!(block_of(0), 0);
        assert_eq!(entries_in(1, 4062), 0);
        assert_eq!(entries_in(1, 4070), 8);
        assert_eq!(entries_in(1, u32::MAX), 4096);
        let _ = (block_of(u32::MAX), frames_before(u32::MAX));
    }

    #[test]
    fn damage_ends_in_an_answer() {
        let full = vec![0xff; BLOCK_LEN];
        assert_eq!(lookup(&full, 1, 5, u32::MAX), None);
        assert_eq!(lookup(&[], 0, 5, 10), None);
        let mut b = full.clone();
        assert_eq!(insert(&mut b, 1, 3, 5, &mut Changed::default()), Err(DamagedIndex));
        assert_eq!(insert(&mut b[..10], 1, 3, 5, &mut Changed::default()), Err(DamagedIndex));
        clean(&mut b, 1, 0);
        assert!(b.iter().all(|x| *x == 0));
        assert_eq!(clean(&mut [0; 7], 0, 3), Changed::default());
    }

    proptest! {
        /// Entries added, some of them abandoned and cleaned away, then others added: lookup answers like
        /// a linear search, for every snapshot; and the reported ranges cover every changed byte.
        #[test]
        fn lookup_is_a_linear_search(
            block in 0u32..2,
            first in prop::collection::vec(1u32..40, 0..60),
            abandoned in prop::collection::vec(1u32..40, 0..60),
            second in prop::collection::vec(1u32..40, 0..60),
            factor in prop::sample::select(vec![1u32, 8192, 1 << 20]),
        ) {
            let mut b = vec![0u8; BLOCK_LEN];
            let mut shadow = b.clone();
            let mut frames: Vec<u32> = Vec::new();
            let add = |b: &mut Vec<u8>, shadow: &mut Vec<u8>, frames: &mut Vec<u32>, pages: &[u32]| {
                let mut ch = clean(b, block, frames.len() as u32);
                for p in pages {
                    insert(b, block, frames.len() as u32, p * factor, &mut ch).unwrap();
                    frames.push(p * factor);
                }
                shadow[ch.entries.clone()].copy_from_slice(&b[ch.entries]);
                shadow[ch.slots.clone()].copy_from_slice(&b[ch.slots]);
                assert_eq!(b, shadow);
            };
            add(&mut b, &mut shadow, &mut frames, &first);
            let keep = frames.len();
            add(&mut b, &mut shadow, &mut frames, &abandoned);
            frames.truncate(keep);
            add(&mut b, &mut shadow, &mut frames, &second);
            let base = frames_before(block);
            for mx in 0..=frames.len() {
                for page in (1..40).map(|p| p * factor) {
                    let want = frames[..mx].iter().rposition(|p| *p == page).map(|i| base + i as u32 + 1);
                    prop_assert_eq!(lookup(&b, block, page, base + mx as u32), want);
                }
            }
        }
    }
}
