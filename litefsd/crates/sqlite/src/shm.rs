//! The header of the WAL index, `-shm` (SQLite "WAL-mode File Format", sections 2.1 and 2.2).
//!
//! Owns: both copies of the 48-byte header, the checkpoint information behind them, and when a header
//! may be believed. Does not own: the hash tables (`wal_index`), locks (`lock_bytes`), or IO. Tested
//! below and in `tests/wal_index.rs` against files that SQLite wrote.
//!
//! Numbers are in the byte order of the machine: the file never leaves it. The salts alone are the raw
//! bytes of the WAL header, that is big-endian.

use litefs_types::PageSize;

use crate::wal_checksum::{ByteOrder, wal_checksum};

/// Bytes of one header copy.
pub const HEADER_LEN: usize = 48;
/// Offset of the second copy. It is written first, so that the first one appears last.
pub const SECOND_HEADER_OFFSET: u64 = HEADER_LEN as u64;
/// Offset of the checkpoint information.
pub const CHECKPOINT_OFFSET: u64 = 96;
/// Bytes of the checkpoint information, the 8 lock bytes in its middle included.
pub const CHECKPOINT_LEN: usize = 40;
/// Bytes before the first page number: both headers and the checkpoint information.
pub const PREFIX_LEN: usize = 136;
/// Offset of `nBackfill`.
pub const BACKFILL_OFFSET: u64 = CHECKPOINT_OFFSET;
/// Offset of `nBackfillAttempted`.
pub const BACKFILL_ATTEMPTED_OFFSET: u64 = 128;
/// Offset of the first read mark.
const READ_MARKS_OFFSET: u64 = 100;
/// A read mark that no reader uses.
pub const READ_MARK_UNUSED: u32 = 0xffff_ffff;
/// The only version of the format.
const VERSION: u32 = 3_007_000;

/// Offset of read mark `n` (0 to 4; more is taken for 4).
pub const fn read_mark_offset(n: u8) -> u64 {
    let n = if n > 4 { 4 } else { n };
    READ_MARKS_OFFSET + 4 * n as u64
}

/// What a valid header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexHeader {
    /// `iChange`: counts transactions, wraps around.
    pub change: u32,
    /// The checksums of this WAL read their input big-endian.
    pub big_endian: bool,
    /// Page size; `None` (stored as 0) as long as the WAL has no valid header.
    pub page_size: Option<PageSize>,
    /// Last frame that readers may use, counted from 1; 0: the WAL is empty.
    pub mx_frame: u32,
    /// Pages of the database after frame `mx_frame`; 0 in an index recovered from an empty WAL.
    pub n_pages: u32,
    /// Checksum of frame `mx_frame`.
    pub frame_checksum: [u32; 2],
    /// The salts of the WAL header as numbers.
    pub salt: [u32; 2],
}

impl IndexHeader {
    /// One copy of the header, with its checksum.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut b = [0; HEADER_LEN];
        put(&mut b, 0, VERSION);
        put(&mut b, 8, self.change);
        b[12] = 1;
        b[13] = u8::from(self.big_endian);
        b[14..16].copy_from_slice(&self.page_size.map_or(0, PageSize::to_header).to_ne_bytes());
        put(&mut b, 16, self.mx_frame);
        put(&mut b, 20, self.n_pages);
        put(&mut b, 24, self.frame_checksum[0]);
        put(&mut b, 28, self.frame_checksum[1]);
        b[32..36].copy_from_slice(&self.salt[0].to_be_bytes());
        b[36..40].copy_from_slice(&self.salt[1].to_be_bytes());
        let sum = native_checksum(&b[..40]);
        put(&mut b, 40, sum[0]);
        put(&mut b, 44, sum[1]);
        b
    }

    /// The header in the first 96 bytes of the index.
    ///
    /// `None` unless both copies are equal, initialised, of the known version, and their checksum is
    /// right: the index is being written or must be recovered.
    pub fn decode_pair(b: &[u8]) -> Option<Self> {
        let (first, second) = (b.get(..HEADER_LEN)?, b.get(HEADER_LEN..2 * HEADER_LEN)?);
        if first != second || first[12] == 0 || get(first, 0) != VERSION {
            return None;
        }
        if native_checksum(&first[..40]) != [get(first, 40), get(first, 44)] {
            return None;
        }
        let page_size = match u16::from_ne_bytes([first[14], first[15]]) {
            0 => None,
            raw => Some(PageSize::from_header(raw).ok()?),
        };
        Some(Self {
            change: get(first, 8),
            big_endian: first[13] != 0,
            page_size,
            mx_frame: get(first, 16),
            n_pages: get(first, 20),
            frame_checksum: [get(first, 24), get(first, 28)],
            salt: [get_be(first, 32), get_be(first, 36)],
        })
    }
}

/// How far the WAL is copied into the database, and what readers still need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointInfo {
    /// Frames that are in the database file, durably.
    pub backfill: u32,
    /// The snapshots that readers may use; 0 in the first one always.
    pub read_marks: [u32; 5],
    /// Frames that may be in the database file.
    pub backfill_attempted: u32,
}

impl CheckpointInfo {
    /// After a recovery or a restart of the WAL: `mx_frame` is 0 after a restart.
    pub const fn fresh(mx_frame: u32) -> Self {
        const U: u32 = READ_MARK_UNUSED;
        Self { backfill: 0, read_marks: [0, mx_frame, U, U, U], backfill_attempted: mx_frame }
    }

    /// From the first 136 bytes of the index; `None` if there are fewer.
    pub fn decode(index: &[u8]) -> Option<Self> {
        let b = index.get(CHECKPOINT_OFFSET as usize..PREFIX_LEN)?;
        Some(Self {
            backfill: get(b, 0),
            read_marks: [get(b, 4), get(b, 8), get(b, 12), get(b, 16), get(b, 20)],
            backfill_attempted: get(b, 32),
        })
    }
}

/// The byte order of this machine: that of the index, and of the checksums of WALs written here.
pub const NATIVE: ByteOrder = if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little };

fn native_checksum(b: &[u8]) -> [u32; 2] {
    wal_checksum(NATIVE, [0; 2], b)
}

fn get(b: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn get_be(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn put(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> IndexHeader {
        IndexHeader {
            change: 7,
            big_endian: false,
            page_size: Some(PageSize::MAX),
            mx_frame: 12,
            n_pages: 5,
            frame_checksum: [1, 2],
            salt: [0x0102_0304, 9],
        }
    }

    #[test]
    fn a_header_is_valid_only_if_both_copies_and_the_sum_are() {
        let mut b = [header().encode(), header().encode()].concat();
        assert_eq!(IndexHeader::decode_pair(&b), Some(header()));
        assert_eq!(b[32], 1, "salts are raw bytes of the WAL header");
        for at in 0..96 {
            b[at] ^= 1;
            assert_eq!(IndexHeader::decode_pair(&b), None, "byte {at}");
            b[at] ^= 1;
        }
        for at in 0..48 {
            b[at] ^= 1;
            b[48 + at] ^= 1;
            assert_eq!(IndexHeader::decode_pair(&b), None, "both copies, byte {at}");
            b[at] ^= 1;
            b[48 + at] ^= 1;
        }
        assert_eq!(IndexHeader::decode_pair(&b[..95]), None);
        assert_eq!(IndexHeader::decode_pair(&[0; 136]), None);
    }
}
