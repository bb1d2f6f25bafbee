//! The position map: what a replica has, sent as the body of its request.
//!
//! ```text
//! u32 count, count × { u32 length, name, u64 txid, u64 checksum }
//! ```

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use litefs_types::{DbName, Pos};

use super::fields::{Partial, number};
use super::frame::MAX_NAME;

/// Most entries that are accepted.
pub const MAX_ENTRIES: u32 = 1_000_000;

/// The positions of a node's databases, in the order of their names.
pub type PosMap = BTreeMap<DbName, Pos>;

/// The bytes of a map.
pub fn encode(map: &PosMap) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + map.len() * 48);
    out.extend((map.len() as u32).to_be_bytes());
    for (db, pos) in map {
        out.extend((db.as_str().len() as u32).to_be_bytes());
        out.extend(db.as_str().as_bytes());
        out.extend(pos.txid_raw().to_be_bytes());
        out.extend(pos.checksum().get().to_be_bytes());
    }
    out
}

/// What is wrong with a position map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PosMapError {
    /// More than [`MAX_ENTRIES`].
    #[error("position map of {0} entries")]
    TooMany(u32),
    /// A name beyond [`MAX_NAME`].
    #[error("name of {0} bytes in the position map")]
    NameTooLong(u32),
    /// A database appears twice.
    #[error("a database appears twice in the position map")]
    Duplicate,
    /// The input ended too early.
    #[error("position map is incomplete")]
    Truncated,
}

/// Reads a map from input that comes in any pieces.
#[derive(Debug, Default)]
pub struct PosMapDecoder {
    partial: Partial,
    /// Entries to come; `None` before the count.
    left: Option<u32>,
    /// The next entry's length of name.
    name_len: Option<usize>,
    map: PosMap,
}

impl PosMapDecoder {
    /// At the start of a map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from `input`; the map once it is complete, with what follows it left in `input`.
    ///
    /// Names that no database of ours can have are left out: we have nothing to send for them. A
    /// position that cannot be counts as none, which makes a snapshot of it.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<PosMap>, PosMapError> {
        loop {
            match (self.left, self.name_len) {
                (None, _) => {
                    let Some(count) = self.partial.take(input, 4) else { return Ok(None) };
                    let count = number(&count) as u32;
                    if count > MAX_ENTRIES {
                        return Err(PosMapError::TooMany(count));
                    }
                    self.left = Some(count);
                }
                (Some(0), _) => return Ok(Some(core::mem::take(self).map)),
                (Some(_), None) => {
                    let Some(len) = self.partial.take(input, 4) else { return Ok(None) };
                    let len = number(&len) as u32;
                    if len > MAX_NAME {
                        return Err(PosMapError::NameTooLong(len));
                    }
                    self.name_len = Some(len as usize);
                }
                (Some(left), Some(len)) => {
                    let Some(entry) = self.partial.take(input, len + 16) else { return Ok(None) };
                    let (name, rest) = entry.split_at(len);
                    let pos = Pos::from_raw(number(&rest[..8]), number(&rest[8..])).unwrap_or(Pos::ZERO);
                    if let Ok(db) = DbName::try_from(name)
                        && self.map.insert(db, pos).is_some()
                    {
                        return Err(PosMapError::Duplicate);
                    }
                    self.left = Some(left - 1);
                    self.name_len = None;
                }
            }
        }
    }

    /// Reads a map that is there as a whole; what follows it is ignored.
    pub fn decode(mut bytes: &[u8]) -> Result<PosMap, PosMapError> {
        Self::new().next(&mut bytes)?.ok_or(PosMapError::Truncated)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use litefs_types::{Checksum, Txid};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip_in_any_split(
            entries in proptest::collection::btree_map("[a-z]{1,9}", (0u64..9, any::<u64>()), 0..20),
            step in 1usize..50,
        ) {
            let map: PosMap = entries.into_iter().map(|(name, (t, c))| {
                (name.parse().unwrap(), Txid::new(t).map_or(Pos::ZERO, |t| Pos::new(t, Checksum::new(c))))
            }).collect();
            let mut wire = encode(&map);
            for len in 0..wire.len() {
                prop_assert_eq!(PosMapDecoder::decode(&wire[..len]), Err(PosMapError::Truncated));
            }
            wire.extend(b"rest");
            let mut d = PosMapDecoder::new();
            let mut got = None;
            for mut input in wire.chunks(step) {
                got = d.next(&mut input).unwrap();
                if got.is_some() {
                    break;
                }
            }
            prop_assert_eq!(got, Some(map));
        }
    }

    #[test]
    fn documented_example() {
        let wire = b"\0\0\0\x01\0\0\0\x04s.db\0\0\0\0\0\0\0\x01\xf9\xbf\xf5\x5b\x13\xa2\x96\x4f";
        let map = PosMapDecoder::decode(wire).unwrap();
        let (db, pos) = map.first_key_value().unwrap();
        assert_eq!((db.as_str(), pos.to_string().as_str()), ("s.db", "0000000000000001/f9bff55b13a2964f"));
        assert_eq!(encode(&map), wire);
    }

    #[test]
    fn hostile_maps() {
        let decode = PosMapDecoder::decode;
        assert_eq!(decode(&[0, 0x10, 0, 0]), Err(PosMapError::TooMany(1 << 20)));
        assert_eq!(decode(&[0, 0, 0, 1, 255, 0, 0, 0]), Err(PosMapError::NameTooLong(0xff00_0000)));
        let entry = |name: &[u8], txid: u8| {
            let mut e = vec![0, 0, 0, name.len() as u8];
            e.extend(name);
            e.extend([0, 0, 0, 0, 0, 0, 0, txid]);
            e.extend([0; 8]);
            e
        };
        let map = |entries: &[Vec<u8>]| [&[0, 0, 0, entries.len() as u8][..], &entries.concat()].concat();
        assert_eq!(decode(&map(&[entry(b"a", 0), entry(b"a", 0)])), Err(PosMapError::Duplicate));
        let got = decode(&map(&[entry(b"../x", 0), entry(b"\xff", 0), entry(b"ok", 7)])).unwrap();
        assert_eq!(got.into_iter().collect::<Vec<_>>(), [("ok".parse().unwrap(), Pos::ZERO)]);
    }
}
