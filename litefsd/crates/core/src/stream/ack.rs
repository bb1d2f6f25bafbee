//! Acknowledgements: how far a replica is, told to the primary while a stream is open.
//!
//! An extension of ours: body of `POST /ack`. Big-endian like the rest of the protocol.
//!
//! ```text
//! u32 version (1), u64 epoch, u32 count,
//! count × { u32 length, name, u64 txid, u64 checksum applied, u64 txid, u64 checksum durable }
//! ```
//!
//! *Applied*: readers on the replica see it. *Durable*: it survives a power loss there. The epoch is that of
//! the primary's reign, 0 where there are none (a static lease): an acknowledgement counts only within it.

use alloc::vec::Vec;

use litefs_types::{DbName, Pos};

use super::fields::number;
use litefs_types::MAX_DB_NAME_LEN;

/// Most databases in one acknowledgement.
pub const MAX_ACKS: usize = 1000;
/// Most bytes of one acknowledgement, names included.
pub const MAX_ACK_BYTES: usize = HEAD + MAX_ACKS * (4 + MAX_DB_NAME_LEN + 32);

const VERSION: u64 = 1;
const HEAD: usize = 16;

/// How far a replica has one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Readers there see it.
    pub applied: Pos,
    /// It survives a power loss there; at most `applied`.
    pub durable: Pos,
}

/// What is wrong with an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// Of a version that this one does not know.
    #[error("acknowledgement of version {0}")]
    Version(u64),
    /// More than [`MAX_ACKS`].
    #[error("acknowledgement of {0} databases")]
    TooMany(usize),
    /// A name that no database can have.
    #[error("invalid name in an acknowledgement")]
    Name,
    /// A position that cannot be.
    #[error("invalid position in an acknowledgement")]
    Position,
    /// The input is not as long as it says.
    #[error("acknowledgement of the wrong length")]
    Length,
}

/// The bytes of an acknowledgement of at most [`MAX_ACKS`] databases.
pub fn encode(epoch: u64, rows: &[(DbName, Ack)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + rows.len() * 64);
    out.extend((VERSION as u32).to_be_bytes());
    out.extend(epoch.to_be_bytes());
    out.extend((rows.len() as u32).to_be_bytes());
    for (db, ack) in rows {
        out.extend((db.as_str().len() as u32).to_be_bytes());
        out.extend(db.as_str().as_bytes());
        for pos in [ack.applied, ack.durable] {
            out.extend(pos.txid_raw().to_be_bytes());
            out.extend(pos.checksum().get().to_be_bytes());
        }
    }
    out
}

/// The epoch, and how far which database is.
pub fn decode(bytes: &[u8]) -> Result<(u64, Vec<(DbName, Ack)>), AckError> {
    let mut input = bytes;
    let version = number(take(&mut input, 4)?);
    if version != VERSION {
        return Err(AckError::Version(version));
    }
    let epoch = number(take(&mut input, 8)?);
    let count = number(take(&mut input, 4)?) as usize;
    if count > MAX_ACKS {
        return Err(AckError::TooMany(count));
    }
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let len = number(take(&mut input, 4)?) as usize;
        let db = DbName::try_from(take(&mut input, len)?).map_err(|_| AckError::Name)?;
        let mut pos = || -> Result<Pos, AckError> {
            let (txid, sum) = (number(take(&mut input, 8)?), number(take(&mut input, 8)?));
            Pos::from_raw(txid, sum).ok_or(AckError::Position)
        };
        let (applied, durable) = (pos()?, pos()?);
        rows.push((db, Ack { applied, durable }));
    }
    if input.is_empty() { Ok((epoch, rows)) } else { Err(AckError::Length) }
}

fn take<'a>(input: &mut &'a [u8], n: usize) -> Result<&'a [u8], AckError> {
    let (head, rest) = input.split_at_checked(n).ok_or(AckError::Length)?;
    *input = rest;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use litefs_types::{Checksum, Txid};
    use proptest::prelude::*;

    use super::*;

    fn pos(n: u64) -> Pos {
        Txid::new(n).map_or(Pos::ZERO, |t| Pos::new(t, Checksum::new(n)))
    }

    proptest! {
        #[test]
        fn round_trip(
            epoch in any::<u64>(),
            rows in proptest::collection::vec(("[a-z]{1,9}", 0u64..9, 0u64..9), 0..20),
            junk in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(n, a, d)| (n.parse().unwrap(), Ack { applied: pos(a), durable: pos(d) }))
                .collect();
            let mut wire = encode(epoch, &rows);
            prop_assert_eq!(decode(&wire), Ok((epoch, rows)));
            for len in 0..wire.len() {
                prop_assert_eq!(decode(&wire[..len]), Err(AckError::Length));
            }
            wire.push(0);
            prop_assert_eq!(decode(&wire), Err(AckError::Length));
            let _ = decode(&junk);
        }
    }

    #[test]
    fn hostile_input() {
        let head = |version: u8, count: u32| {
            let mut b = vec![0, 0, 0, version, 0, 0, 0, 0, 0, 0, 0, 0];
            b.extend(count.to_be_bytes());
            b
        };
        assert_eq!(decode(&head(2, 0)), Err(AckError::Version(2)));
        assert_eq!(decode(&head(1, u32::MAX)), Err(AckError::TooMany(u32::MAX as usize)));
        let row = |name: &[u8], txid: u8, sum: u8| {
            let mut b = head(1, 1);
            b.extend((name.len() as u32).to_be_bytes());
            b.extend(name);
            b.extend([0, 0, 0, 0, 0, 0, 0, txid, sum, 0, 0, 0, 0, 0, 0, 0]);
            b.extend([0; 16]);
            b
        };
        assert!(decode(&row(b"a", 1, 0x80)).is_ok());
        assert_eq!(decode(&row(b"../x", 1, 0x80)), Err(AckError::Name));
        let mut long = head(1, 1);
        long.extend([255; 4]);
        assert_eq!(decode(&long), Err(AckError::Length));
    }
}
