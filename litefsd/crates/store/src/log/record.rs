//! The bytes of one log record: a fixed header, then the payload (a whole LTX file, format 1).
//!
//! ```text
//!   0  u32  magic            40  u64  pre checksum     72  u32  journal pages
//!   4  u8   kind             48  u64  post checksum    76  u32  zero
//!   5  [u8;3] zero           56  i64  append time, ms  80  u64  journal sector hash
//!   8  u64  prev             64  u32  nonce            88  u64  payload CRC
//!  16  u64  payload length   68  u32  journal nonce    96  u64  header CRC of [0,96)
//!  24  u64  min txid         32  u64  max txid         all little-endian
//! ```
//!
//! `prev` is the header CRC of the record before, for a segment's first record that of the segment's
//! head. Segments are recycled and tails are rewound, so whole valid records of an earlier life lie
//! behind the end; none of them follows the record that is last *now*, because the chain starts from a
//! head with a sequence number of its own and every header holds a random nonce.
//!
//! Tests: below, and the crash matrix of `log`.

use crc_fast::{CrcAlgorithm, Digest, checksum};
use litefs_types::{Checksum, Pos, Timestamp, Txid};

/// Bytes of a record header.
pub(crate) const HEADER_LEN: usize = 104;
const MAGIC: u32 = 0x3130_524c; // "LR01"

/// CRC of the log's own structures. Not the CRC of LTX: its sparse polynomial has no error-detection
/// guarantee for headers as short as these, and here nobody has to be compatible.
const CRC: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;

/// CRC-64/NVME of some bytes.
pub(crate) fn crc(bytes: &[u8]) -> u64 {
    checksum(CRC, bytes)
}

/// A CRC that is fed piece by piece.
pub(crate) fn crc_digest() -> Digest {
    Digest::new(CRC)
}

/// What identifies the rollback journal of a transaction: a journal found after a crash undoes a
/// record of the log iff it is that record's journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JournalId {
    /// The checksum nonce at offset 12, random for each journal.
    pub nonce: u32,
    /// The database's size before the transaction, offset 16.
    pub pages: u32,
    /// Hash of the first 512 bytes of the journal without magic and record count, which change.
    pub sector: u64,
}

impl JournalId {
    /// From the first bytes of a journal (at most 512 are used); `None` if there are fewer than the
    /// 28 bytes of a journal header. The magic is not looked at.
    pub fn of(head: &[u8]) -> Option<Self> {
        let head = &head[..head.len().min(512)];
        let be = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (nonce, pages) = (be(12)?, be(16)?);
        // SQLite fills magic and count in when it syncs the journal; PERSIST zeroes the first 28 bytes.
        let mut h = crc_digest();
        h.update(head.get(12..28)?);
        h.update(&head[28..]);
        Some(Self { nonce, pages, sector: h.finalize() })
    }
}

/// Where a transaction came from; decides what recovery makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// A local commit in WAL mode: the LTX header says where its frames are.
    Wal,
    /// A local commit with a rollback journal: in doubt until [`super::Log::mark_committed`].
    Rollback(JournalId),
    /// Received from the primary.
    Applied,
    /// Made by the daemon itself (import, drop, re-baseline): nothing but the log explains it.
    Plain,
}

/// What one header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// `None`: the marker "the rollback record `max` is committed".
    pub(crate) kind: Option<RecordKind>,
    pub(crate) prev: u64,
    pub(crate) payload_len: u64,
    pub(crate) min: Txid,
    pub(crate) max: Txid,
    pub(crate) pre: Checksum,
    pub(crate) post: Checksum,
    pub(crate) time: Timestamp,
    pub(crate) nonce: u32,
    pub(crate) payload_crc: u64,
    /// CRC of this header, set by [`Header::parse`] and [`Header::encode`].
    pub(crate) crc: u64,
}

impl Header {
    /// Bytes from this header to the next.
    pub(crate) fn stride(&self) -> Option<u64> {
        padded(self.payload_len)?.checked_add(HEADER_LEN as u64)
    }

    pub(crate) fn pos(&self) -> Pos {
        Pos::new(self.max, self.post)
    }

    pub(crate) fn encode(&mut self) -> [u8; HEADER_LEN] {
        let mut b = [0; HEADER_LEN];
        let (kind, id) = match self.kind {
            Some(RecordKind::Wal) => (1, JournalId::default()),
            Some(RecordKind::Rollback(id)) => (2, id),
            Some(RecordKind::Applied) => (3, JournalId::default()),
            Some(RecordKind::Plain) => (4, JournalId::default()),
            None => (5, JournalId::default()),
        };
        b[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        b[4] = kind;
        b[8..16].copy_from_slice(&self.prev.to_le_bytes());
        b[16..24].copy_from_slice(&self.payload_len.to_le_bytes());
        b[24..32].copy_from_slice(&self.min.get().to_le_bytes());
        b[32..40].copy_from_slice(&self.max.get().to_le_bytes());
        b[40..48].copy_from_slice(&self.pre.get().to_le_bytes());
        b[48..56].copy_from_slice(&self.post.get().to_le_bytes());
        b[56..64].copy_from_slice(&self.time.millis().to_le_bytes());
        b[64..68].copy_from_slice(&self.nonce.to_le_bytes());
        b[68..72].copy_from_slice(&id.nonce.to_le_bytes());
        b[72..76].copy_from_slice(&id.pages.to_le_bytes());
        b[80..88].copy_from_slice(&id.sector.to_le_bytes());
        b[88..96].copy_from_slice(&self.payload_crc.to_le_bytes());
        self.crc = crc(&b[..96]);
        b[96..].copy_from_slice(&self.crc.to_le_bytes());
        b
    }

    /// `None` for anything that is not a whole, intact header.
    pub(crate) fn parse(b: &[u8; HEADER_LEN]) -> Option<Self> {
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap_or_default());
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap_or_default());
        if u32_at(0) != MAGIC || crc(&b[..96]) != u64_at(96) {
            return None;
        }
        let kind = match b[4] {
            1 => Some(RecordKind::Wal),
            2 => Some(RecordKind::Rollback(JournalId {
                nonce: u32_at(68),
                pages: u32_at(72),
                sector: u64_at(80),
            })),
            3 => Some(RecordKind::Applied),
            4 => Some(RecordKind::Plain),
            5 => None,
            _ => return None,
        };
        let h = Self {
            kind,
            prev: u64_at(8),
            payload_len: u64_at(16),
            min: Txid::new(u64_at(24))?,
            max: Txid::new(u64_at(32))?,
            pre: Checksum::from_raw(u64_at(40))?,
            post: Checksum::from_raw(u64_at(48)).filter(|c| !c.is_none())?,
            time: Timestamp::from_millis(u64_at(56) as i64),
            nonce: u32_at(64),
            payload_crc: u64_at(88),
            crc: u64_at(96),
        };
        (h.min <= h.max && h.stride().is_some()).then_some(h)
    }
}

/// Payloads are padded to 8 bytes, so that no header's fields straddle more sectors than need be.
pub(crate) fn padded(len: u64) -> Option<u64> {
    len.checked_next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Some(RecordKind::Rollback(JournalId { nonce: 7, pages: 8, sector: 9 })),
            prev: 1,
            payload_len: 1001,
            min: Txid::new(3).unwrap(),
            max: Txid::new(4).unwrap(),
            pre: Checksum::new(5),
            post: Checksum::new(6),
            time: Timestamp::from_millis(-1),
            nonce: 11,
            payload_crc: 12,
            crc: 0,
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut h = header();
        let good = h.encode();
        assert_eq!(Header::parse(&good), Some(h));
        assert_eq!(h.stride(), Some(1008 + 104));
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&bad), None, "bit {bit}");
        }
        assert_eq!(Header::parse(&[0; HEADER_LEN]), None);
    }

    #[test]
    fn identity_survives_sync_and_ignores_short_journals() {
        let mut j = vec![0u8; 512];
        j[12..16].copy_from_slice(&[1, 2, 3, 4]);
        let before = JournalId::of(&j);
        j[..8].copy_from_slice(&[0xd9, 0xd5, 5, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
        j[11] = 9;
        assert_eq!(JournalId::of(&j), before);
        j[12] = 7;
        assert_ne!(JournalId::of(&j), before);
        assert_eq!(JournalId::of(&j[..27]), None);
    }
}
