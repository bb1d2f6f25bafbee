//! The rollback journal (file format section 3 "The Rollback Journal").
//!
//! Segments, each a header padded to a sector and then records of page number, page and checksum; at
//! the end maybe the name of a super-journal. A journal whose first bytes are the magic is *live*:
//! whoever opens the database next rolls it back.
//!
//! Owns: the header, a record's checksum and a journal's identity. Playback is in [`reader`], the
//! super-journal's name in [`super_journal`]. Tested in `tests/journal.rs` with hot journals of real
//! SQLite.

use litefs_types::PageSize;
use thiserror::Error;

use crate::be;

pub mod reader;
pub mod super_journal;

pub use reader::JournalReader;

/// How a live journal and each of its segments start.
pub const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Bytes of a header that carry meaning; the rest of its sector does not. A journal that is shorter
/// is not live.
pub const JOURNAL_HEADER_LEN: usize = 28;
/// The smallest sector that SQLite uses for a journal, in bytes. A shorter journal holds nothing: its
/// header was not yet written in full.
pub const MIN_JOURNAL_SECTOR: u64 = 512;

/// Smallest and largest sector size that playback accepts (pager.c `readJournalHdr`).
const SECTOR_SIZES: core::ops::RangeInclusive<u32> = 32..=65536;
/// Every 200th byte of a page, counted from its end, is part of a record's checksum.
const CHECKSUM_STRIDE: usize = 200;

/// How many records follow a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordCount {
    /// This many. Zero also stands in a segment that was not synced yet, whose records do not count.
    Exactly(u32),
    /// As many as the file holds (`synchronous=OFF` never comes back to fill in the number).
    ToEnd,
}

/// The header of a journal's first segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// Records in the first segment.
    pub records: RecordCount,
    /// Random, the start value of the record checksums.
    pub nonce: u32,
    /// Database size in pages before the transaction.
    pub original_pages: u32,
    /// Each header takes this many bytes.
    pub sector_size: u32,
    /// Size of the pages; `None` where SQLite before 3.5.8 left it out.
    pub page_size: Option<PageSize>,
}

/// Why a journal is not live. SQLite removes such a one without playback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JournalHeaderError {
    /// Overwritten with zeros at commit (PERSIST), or not yet synced.
    #[error("the journal does not start with its magic: it is not live")]
    Magic,
    /// The writer died before the header was synced.
    #[error("journal sector size {0} is not a power of two from 32 to 65536")]
    SectorSize(u32),
    /// The writer died before the header was synced.
    #[error("journal page size {0} is not a power of two from 512 to 65536")]
    PageSize(u32),
}

impl JournalHeader {
    /// Reads and checks the header at the start of the file.
    pub fn parse(b: &[u8; JOURNAL_HEADER_LEN]) -> Result<Self, JournalHeaderError> {
        if !is_live(b) {
            return Err(JournalHeaderError::Magic);
        }
        let sector_size = be::u32_at(b, 20);
        if !sector_size.is_power_of_two() || !SECTOR_SIZES.contains(&sector_size) {
            return Err(JournalHeaderError::SectorSize(sector_size));
        }
        let page_size = match be::u32_at(b, 24) {
            0 => None,
            raw => Some(PageSize::new(raw).map_err(|_| JournalHeaderError::PageSize(raw))?),
        };
        let records = match be::u32_at(b, 8) {
            u32::MAX => RecordCount::ToEnd,
            n => RecordCount::Exactly(n),
        };
        Ok(Self {
            records,
            nonce: be::u32_at(b, 12),
            original_pages: be::u32_at(b, 16),
            sector_size,
            page_size,
        })
    }
}

/// Whether a file with these first bytes is a live journal.
pub fn is_live(start: &[u8]) -> bool {
    start.starts_with(&JOURNAL_MAGIC)
}

/// The checksum of a record: the nonce plus every 200th byte of the page, counted from its end (its
/// first byte never).
pub fn record_checksum(nonce: u32, page: &[u8]) -> u32 {
    let mut sum = nonce;
    let mut at = page.len();
    while at > CHECKSUM_STRIDE {
        at -= CHECKSUM_STRIDE;
        sum = sum.wrapping_add(u32::from(page[at]));
    }
    sum
}

/// What tells one journal from all others: recovery compares it with the identity in a log record to
/// know whether the journal belongs to a transaction that is already committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JournalIdentity {
    /// The first header's nonce.
    pub nonce: u32,
    /// Database size in pages before the transaction.
    pub original_pages: u32,
    /// FNV-1a 64 of the first sector, the record count (bytes 8 to 11) taken as zero: that one is
    /// filled in later, and the identity must be the same before and after.
    pub sector_hash: u64,
}

impl JournalIdentity {
    /// Stored length in bytes.
    pub const LEN: usize = 16;

    /// The identity of a live journal, from its first sector. `None` if it is not live, or the sector
    /// is shorter than the header says.
    pub fn of_first_sector(sector: &[u8]) -> Option<Self> {
        let header = JournalHeader::parse(sector.first_chunk()?).ok()?;
        let sector = sector.get(..usize::try_from(header.sector_size).ok()?.max(JOURNAL_HEADER_LEN))?;
        let sector_hash = sector.iter().enumerate().fold(0xcbf2_9ce4_8422_2325, |hash: u64, (i, b)| {
            let b = if (8..12).contains(&i) { 0 } else { *b };
            (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        Some(Self { nonce: header.nonce, original_pages: header.original_pages, sector_hash })
    }

    /// The stored form, big-endian.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        be::put_u32(&mut b, 0, self.nonce);
        be::put_u32(&mut b, 4, self.original_pages);
        b[8..].copy_from_slice(&self.sector_hash.to_be_bytes());
        b
    }

    /// From the stored form.
    pub const fn decode(b: &[u8; Self::LEN]) -> Self {
        let [hi, lo] = be::pair_at(b, 8);
        Self {
            nonce: be::u32_at(b, 0),
            original_pages: be::u32_at(b, 4),
            sector_hash: (hi as u64) << 32 | lo as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector() -> [u8; 512] {
        let mut b = [0; 512];
        b[..8].copy_from_slice(&JOURNAL_MAGIC);
        b[12..28].copy_from_slice(&[1, 2, 3, 4, 0, 0, 0, 9, 0, 0, 2, 0, 0, 0, 16, 0]);
        b
    }

    #[test]
    fn identity_ignores_the_record_count_and_nothing_else() {
        let id = JournalIdentity::of_first_sector(&sector()).unwrap();
        assert_eq!((id.nonce, id.original_pages), (0x0102_0304, 9));
        assert_eq!(JournalIdentity::decode(&id.encode()), id);
        for at in 0..512 {
            let mut b = sector();
            b[at] ^= 0x40;
            let other = JournalIdentity::of_first_sector(&b);
            assert_eq!(other == Some(id), (8..12).contains(&at), "byte {at}");
        }
        assert_eq!(JournalIdentity::of_first_sector(&sector()[..511]), None);
        assert_eq!(JournalIdentity::of_first_sector(&[0; 512]), None);
    }

    #[test]
    fn headers_are_checked() {
        let parse = |at: usize, v: u8| {
            let mut b = sector();
            b[at] = v;
            JournalHeader::parse(b.first_chunk().unwrap())
        };
        assert_eq!(parse(0, 0), Err(JournalHeaderError::Magic));
        assert_eq!(parse(23, 1), Err(JournalHeaderError::SectorSize(513)));
        assert_eq!(parse(27, 1), Err(JournalHeaderError::PageSize(4097)));
        assert_eq!(parse(26, 0).unwrap().page_size, None);
        assert_eq!(parse(11, 3).unwrap().records, RecordCount::Exactly(3));
    }

    #[test]
    fn the_checksum_takes_every_200th_byte_from_the_end() {
        let mut page = [0u8; 512];
        page[312] = 1;
        page[112] = 2;
        page[0] = 100;
        assert_eq!(record_checksum(10, &page), 13);
    }
}
