//! The 100-byte header, the same in all formats. Integers are big-endian.
//!
//! Owns the layout and the rules between its fields; which flags exist is up to the format.

use litefs_types::{Checksum, NodeId, PageSize, Pos, Timestamp, Txid};

use crate::error::{HeaderError, LtxError};
use crate::{FileName, Result};

/// Bytes of a header.
pub const HEADER_SIZE: usize = 100;
/// How every LTX file starts.
const MAGIC: [u8; 4] = *b"LTX1";
/// Header flag of format 1: the body is one LZ4 frame.
pub(crate) const FLAG_LZ4: u32 = 1;
/// Header flag of formats 2 and 3: no database checksums.
pub(crate) const FLAG_NO_CHECKSUM: u32 = 2;

/// Where in a write-ahead log the transaction was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSpan {
    /// Offset of the first frame in bytes, at least 32.
    pub offset: u64,
    /// Length of the frames in bytes.
    pub size: u64,
    /// The salts of the WAL header.
    pub salt: [u32; 2],
}

/// What an LTX file says about its transaction.
///
/// Compression is no part of it: the same header describes a compressed and a raw file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Page size of the database.
    pub page_size: PageSize,
    /// Pages of the database after the transaction; 0 = the database is deleted.
    pub commit: u32,
    /// First transaction in the file. [`Txid::FIRST`] makes the file a snapshot.
    pub min_txid: Txid,
    /// Last transaction in the file.
    pub max_txid: Txid,
    /// When the (last) transaction was made.
    pub timestamp: Timestamp,
    /// Database checksum before the transaction; `NONE` for snapshots.
    pub pre_apply: Checksum,
    /// Where it came from, if from a WAL.
    pub wal: Option<WalSpan>,
    /// The node that made the transaction; 0 if unknown.
    pub node_id: NodeId,
    /// The file carries no database checksums (formats 2 and 3 only; refused by the encoder).
    pub no_checksum: bool,
}

/// Which header rules apply: they became laxer in later formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    V1,
    V2OrLater,
}

impl Header {
    /// A header of one transaction, to be completed.
    pub fn new(page_size: PageSize, commit: u32, txid: Txid, pre_apply: Checksum) -> Self {
        Self {
            page_size,
            commit,
            min_txid: txid,
            max_txid: txid,
            timestamp: Timestamp::from_millis(0),
            pre_apply,
            wal: None,
            node_id: NodeId::new(0),
            no_checksum: false,
        }
    }

    /// Whether the file holds the whole database: there is no other mark than the first transaction.
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == Txid::FIRST
    }

    /// The position the database must have for the file to apply; [`Pos::ZERO`] for a snapshot.
    pub fn pre_apply_pos(&self) -> Pos {
        match self.min_txid.prev() {
            Some(t) => Pos::new(t, self.pre_apply),
            None => Pos::ZERO,
        }
    }

    /// The name of a file with this header.
    pub fn file_name(&self) -> FileName {
        FileName { min: self.min_txid, max: self.max_txid }
    }

    /// Checks the rules between the fields.
    pub(crate) fn check(&self, rules: Rules) -> std::result::Result<(), HeaderError> {
        if self.min_txid > self.max_txid {
            return Err(HeaderError::TxidRange(self.min_txid.get(), self.max_txid.get()));
        }
        if let Some(wal) = self.wal {
            let salted = wal.salt != [0, 0];
            let ok = match rules {
                Rules::V1 => {
                    (wal.offset != 0) == (wal.size != 0) && (!salted || (wal.offset != 0 && wal.size != 0))
                }
                Rules::V2OrLater => wal.offset != 0 || (!salted && wal.size == 0),
            };
            // Both are signed in the format.
            if !ok || wal.offset > i64::MAX as u64 || wal.size > i64::MAX as u64 {
                return Err(HeaderError::WalSpan);
            }
        }
        let no_pre_apply = self.is_snapshot() || self.no_checksum;
        if self.pre_apply.is_none() != no_pre_apply {
            return Err(HeaderError::PreApply(self.pre_apply.get()));
        }
        Ok(())
    }

    /// The bytes with these flags. The fields must have been checked.
    pub(crate) fn encode(&self, flags: u32) -> [u8; HEADER_SIZE] {
        let mut b = [0u8; HEADER_SIZE];
        let wal = self.wal.unwrap_or(WalSpan { offset: 0, size: 0, salt: [0, 0] });
        b[0..4].copy_from_slice(&MAGIC);
        b[4..8].copy_from_slice(&flags.to_be_bytes());
        b[8..12].copy_from_slice(&self.page_size.get().to_be_bytes());
        b[12..16].copy_from_slice(&self.commit.to_be_bytes());
        b[16..24].copy_from_slice(&self.min_txid.get().to_be_bytes());
        b[24..32].copy_from_slice(&self.max_txid.get().to_be_bytes());
        b[32..40].copy_from_slice(&self.timestamp.millis().to_be_bytes());
        b[40..48].copy_from_slice(&self.pre_apply.get().to_be_bytes());
        b[48..56].copy_from_slice(&wal.offset.to_be_bytes());
        b[56..64].copy_from_slice(&wal.size.to_be_bytes());
        b[64..68].copy_from_slice(&wal.salt[0].to_be_bytes());
        b[68..72].copy_from_slice(&wal.salt[1].to_be_bytes());
        b[72..80].copy_from_slice(&self.node_id.get().to_be_bytes());
        b
    }

    /// Reads the header of a format-1 file without the file: for indexes and stream peers.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self> {
        let flags = Self::flags(bytes)?;
        if flags & !FLAG_LZ4 != 0 {
            return Err(HeaderError::Flags(flags).into());
        }
        Self::parse_with(bytes, Rules::V1)
    }

    /// The flags of anything that starts like an LTX file.
    pub(crate) fn flags(b: &[u8; HEADER_SIZE]) -> Result<u32> {
        if b[..4] == MAGIC { Ok(u32_at(b, 4)) } else { Err(LtxError::Magic) }
    }

    /// Everything but the meaning of flag bit 0 and of unknown flags, which the caller has checked.
    pub(crate) fn parse_with(b: &[u8; HEADER_SIZE], rules: Rules) -> Result<Self> {
        let flags = Self::flags(b)?;
        let page_size = PageSize::new(u32_at(b, 8)).map_err(|e| HeaderError::PageSize(e.0))?;
        let (min, max) = (u64_at(b, 16), u64_at(b, 24));
        let (Some(min_txid), Some(max_txid)) = (Txid::new(min), Txid::new(max)) else {
            return Err(HeaderError::TxidRange(min, max).into());
        };
        let pre = u64_at(b, 40);
        let wal =
            WalSpan { offset: u64_at(b, 48), size: u64_at(b, 56), salt: [u32_at(b, 64), u32_at(b, 68)] };
        let header = Self {
            page_size,
            commit: u32_at(b, 12),
            min_txid,
            max_txid,
            timestamp: Timestamp::from_millis(u64_at(b, 32) as i64),
            pre_apply: Checksum::from_raw(pre).ok_or(HeaderError::PreApply(pre))?,
            wal: (wal != WalSpan { offset: 0, size: 0, salt: [0, 0] }).then_some(wal),
            node_id: NodeId::new(u64_at(b, 72)),
            no_checksum: rules == Rules::V2OrLater && flags & FLAG_NO_CHECKSUM != 0,
        };
        header.check(rules)?;
        Ok(header)
    }
}

fn u32_at(b: &[u8; HEADER_SIZE], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8; HEADER_SIZE], at: usize) -> u64 {
    u64::from(u32_at(b, at)) << 32 | u64::from(u32_at(b, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            timestamp: Timestamp::from_millis(-5),
            wal: Some(WalSpan { offset: 32, size: 536, salt: [1, 2] }),
            node_id: NodeId::new(0x1122_3344_5566_7788),
            ..Header::new(PageSize::MAX, 7, Txid::new(3).unwrap(), Checksum::new(9))
        }
    }

    #[test]
    fn round_trip() {
        let h = header();
        assert_eq!(Header::parse(&h.encode(FLAG_LZ4)).unwrap(), h);
        assert_eq!(h.pre_apply_pos().to_string(), "0000000000000002/8000000000000009");
    }

    #[test]
    fn rules() {
        let mut h = header();
        h.min_txid = Txid::new(4).unwrap();
        assert!(matches!(h.check(Rules::V1), Err(HeaderError::TxidRange(4, 3))));
        let mut h = header();
        h.pre_apply = Checksum::NONE;
        assert!(matches!(h.check(Rules::V1), Err(HeaderError::PreApply(0))));
        h.min_txid = Txid::FIRST;
        assert_eq!(h.check(Rules::V1), Ok(()));
        let mut h = header();
        h.wal = Some(WalSpan { offset: 32, size: 0, salt: [1, 2] });
        assert!(h.check(Rules::V1).is_err() && h.check(Rules::V2OrLater).is_ok());
        h.wal = Some(WalSpan { offset: 0, size: 0, salt: [1, 2] });
        assert!(h.check(Rules::V1).is_err() && h.check(Rules::V2OrLater).is_err());
        for flags in [2, 3, 4, 1 << 31] {
            assert!(matches!(
                Header::parse(&header().encode(flags)),
                Err(LtxError::Header(HeaderError::Flags(_)))
            ));
        }
        let mut b = header().encode(0);
        b[48] = 0x80;
        assert!(Header::parse(&b).is_err(), "negative WAL offset");
        b = header().encode(0);
        b[0] = b'X';
        assert!(matches!(Header::parse(&b), Err(LtxError::Magic)));
    }
}
