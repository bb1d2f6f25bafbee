//! The write-ahead log (file format section 4 "The Write-Ahead Log", 4.1 "WAL File Format").
//!
//! A 32-byte header, then frames: 24 bytes of frame header and one page. Frames count from 1.
//!
//! Owns: both headers, where a frame lies, and what a committed transaction is ([`Transaction`]).
//! Reading a whole file is in [`reader`]; following a file while it is written is the core's. Tested
//! in `tests/wal.rs` against files of real SQLite.

use litefs_types::PageSize;
use thiserror::Error;

use crate::be;
use crate::wal_checksum::{ByteOrder, wal_checksum};

pub mod reader;
mod transaction;

pub use reader::WalReader;
pub use transaction::{Transaction, newest_versions};

/// Bytes of the header at the start of the file.
pub const WAL_HEADER_LEN: usize = 32;
/// Bytes in front of each frame's page.
pub const FRAME_HEADER_LEN: usize = 24;
/// How many of a frame header's bytes are part of the checksum: page number and commit size.
pub const FRAME_SUMMED_LEN: usize = 8;

/// Magic number; the lowest bit says whether checksums read big-endian words.
const MAGIC: u32 = 0x377f_0682;
/// The only file format version there is.
const VERSION: u32 = 3_007_000;

/// Bytes of a frame with its header.
pub const fn frame_len(page_size: PageSize) -> u64 {
    FRAME_HEADER_LEN as u64 + page_size.get() as u64
}

/// File offset of the header of `frame`, counted from 1. Frame 0 does not exist and counts as 1.
pub const fn frame_offset(frame: u32, page_size: PageSize) -> u64 {
    WAL_HEADER_LEN as u64 + (frame as u64).saturating_sub(1) * frame_len(page_size)
}

/// File offset of the page in `frame`, counted from 1.
pub const fn frame_data_offset(frame: u32, page_size: PageSize) -> u64 {
    frame_offset(frame, page_size) + FRAME_HEADER_LEN as u64
}

/// A valid WAL header. Every restart of the log writes a new one: it names a *generation* of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// Size of the pages in the frames.
    pub page_size: PageSize,
    /// Whether the checksums read big-endian words.
    pub big_endian: bool,
    /// Counts the restarts of the log.
    pub sequence: u32,
    /// Salts: frames with other ones are leftovers of an older generation. The first goes up by one
    /// with each restart, the second is random.
    pub salt: [u32; 2],
    /// The header's own checksum, from which that of frame 1 continues.
    pub header_checksum: [u32; 2],
}

/// Why 32 bytes are no WAL header. SQLite takes such a file for empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WalHeaderError {
    /// The first four bytes.
    #[error("a WAL starts with 377f0682 or 377f0683, not with {0:08x}")]
    Magic(u32),
    /// SQLite refuses to open a database with such a WAL.
    #[error("WAL format version {0} is not 3007000")]
    Version(u32),
    /// Not a power of two from 512 to 65536.
    #[error("WAL page size {0} is not a power of two from 512 to 65536")]
    PageSize(u32),
    /// The header is torn or damaged.
    #[error("the WAL header's checksum does not match")]
    Checksum,
}

impl WalHeader {
    /// The header of a new generation.
    pub fn new(page_size: PageSize, order: ByteOrder, sequence: u32, salt: [u32; 2]) -> Self {
        let big_endian = order == ByteOrder::Big;
        let mut header = Self { page_size, big_endian, sequence, salt, header_checksum: [0; 2] };
        header.header_checksum = wal_checksum(order, [0; 2], &header.encode()[..24]);
        header
    }

    /// The byte order of the checksums.
    pub const fn order(&self) -> ByteOrder {
        if self.big_endian { ByteOrder::Big } else { ByteOrder::Little }
    }

    /// Reads and checks a header.
    pub fn parse(b: &[u8; WAL_HEADER_LEN]) -> Result<Self, WalHeaderError> {
        let magic = be::u32_at(b, 0);
        if magic & !1 != MAGIC {
            return Err(WalHeaderError::Magic(magic));
        }
        let raw_size = be::u32_at(b, 8);
        let page_size = PageSize::new(raw_size).map_err(|_| WalHeaderError::PageSize(raw_size))?;
        let header = Self {
            page_size,
            big_endian: magic & 1 == 1,
            sequence: be::u32_at(b, 12),
            salt: be::pair_at(b, 16),
            header_checksum: be::pair_at(b, 24),
        };
        if wal_checksum(header.order(), [0; 2], &b[..24]) != header.header_checksum {
            return Err(WalHeaderError::Checksum);
        }
        let version = be::u32_at(b, 4);
        if version != VERSION {
            return Err(WalHeaderError::Version(version));
        }
        Ok(header)
    }

    /// The header as it is stored.
    pub fn encode(&self) -> [u8; WAL_HEADER_LEN] {
        let mut b = [0; WAL_HEADER_LEN];
        be::put_u32(&mut b, 0, MAGIC | u32::from(self.big_endian));
        be::put_u32(&mut b, 4, VERSION);
        be::put_u32(&mut b, 8, self.page_size.get());
        be::put_u32(&mut b, 12, self.sequence);
        be::put_u32(&mut b, 16, self.salt[0]);
        be::put_u32(&mut b, 20, self.salt[1]);
        be::put_u32(&mut b, 24, self.header_checksum[0]);
        be::put_u32(&mut b, 28, self.header_checksum[1]);
        b
    }
}

/// A frame header as stored; only the checksum chain tells whether it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Page number. Zero in a frame that is none.
    pub page: u32,
    /// In the last frame of a transaction the database size in pages after it, else zero.
    pub commit: u32,
    /// The salts of the frame's generation.
    pub salt: [u32; 2],
    /// The chain's value after this frame.
    pub checksum: [u32; 2],
}

impl FrameHeader {
    /// Reads a frame header.
    pub const fn parse(b: &[u8; FRAME_HEADER_LEN]) -> Self {
        Self {
            page: be::u32_at(b, 0),
            commit: be::u32_at(b, 4),
            salt: be::pair_at(b, 8),
            checksum: be::pair_at(b, 16),
        }
    }

    /// The frame header as it is stored.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut b = [0; FRAME_HEADER_LEN];
        be::put_u32(&mut b, 0, self.page);
        be::put_u32(&mut b, 4, self.commit);
        be::put_u32(&mut b, 8, self.salt[0]);
        be::put_u32(&mut b, 12, self.salt[1]);
        be::put_u32(&mut b, 16, self.checksum[0]);
        be::put_u32(&mut b, 20, self.checksum[1]);
        b
    }

    /// The header of a new frame in `generation`, where the chain before it has the value `chain`.
    /// `data` is the whole page.
    pub fn chained(generation: &WalHeader, chain: [u32; 2], page: u32, commit: u32, data: &[u8]) -> Self {
        let mut header = Self { page, commit, salt: generation.salt, checksum: [0; 2] };
        let sum = wal_checksum(generation.order(), chain, &header.encode()[..FRAME_SUMMED_LEN]);
        header.checksum = wal_checksum(generation.order(), sum, data);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_where_sqlite_puts_them() {
        let ps = PageSize::DEFAULT;
        assert_eq!((frame_offset(1, ps), frame_data_offset(1, ps)), (32, 56));
        assert_eq!(frame_offset(3, ps), 32 + 2 * 4120);
        assert_eq!(frame_offset(u32::MAX, PageSize::MAX), 32 + (u64::from(u32::MAX) - 1) * 65560);
    }

    #[test]
    fn a_damaged_header_is_refused_with_the_reason() {
        let good = WalHeader::new(PageSize::DEFAULT, ByteOrder::Big, 7, [1, 2]);
        assert_eq!(WalHeader::parse(&good.encode()), Ok(good));
        for bit in 0..WAL_HEADER_LEN * 8 {
            let mut b = good.encode();
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(WalHeader::parse(&b).is_err(), "bit {bit}");
        }
        assert_eq!(WalHeader::parse(&[0; 32]), Err(WalHeaderError::Magic(0)));
    }
}
