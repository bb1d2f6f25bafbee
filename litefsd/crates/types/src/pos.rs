//! Positions: how far a database has come.

use core::fmt;
use core::str::FromStr;

use crate::txid::parse_hex16;
use crate::{Checksum, Txid};

/// A transaction and the database checksum after it.
///
/// Equal positions mean equal pages. [`Pos::ZERO`] is a database that never had a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pos {
    txid: Option<Txid>,
    checksum: Checksum,
}

impl Pos {
    /// Before the first transaction.
    pub const ZERO: Self = Self { txid: None, checksum: Checksum::NONE };

    /// The position after `txid`.
    pub const fn new(txid: Txid, checksum: Checksum) -> Self {
        Self { txid: Some(txid), checksum }
    }

    /// From the two wire numbers; `None` if exactly one of them is zero or the checksum lacks its flag.
    pub const fn from_raw(txid: u64, checksum: u64) -> Option<Self> {
        match (Txid::new(txid), Checksum::from_raw(checksum)) {
            (None, Some(Checksum::NONE)) => Some(Self::ZERO),
            (Some(t), Some(c)) if !c.is_none() => Some(Self::new(t, c)),
            _ => None,
        }
    }

    /// The last transaction.
    pub const fn txid(self) -> Option<Txid> {
        self.txid
    }

    /// The last transaction's number, 0 if there is none.
    pub const fn txid_raw(self) -> u64 {
        match self.txid {
            Some(t) => t.get(),
            None => 0,
        }
    }

    /// The database checksum after it, `NONE` at [`Pos::ZERO`].
    pub const fn checksum(self) -> Checksum {
        self.checksum
    }

    /// The number of the transaction that comes next.
    pub const fn next_txid(self) -> Txid {
        match self.txid {
            Some(t) => t.next(),
            None => Txid::FIRST,
        }
    }

    /// Whether there was no transaction yet.
    pub const fn is_zero(self) -> bool {
        self.txid.is_none()
    }
}

/// `txid/checksum`, 33 characters, as in the file `db-pos`.
impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{}", self.txid_raw(), self.checksum)
    }
}

/// The text is not `txid/checksum` in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPos;

impl fmt::Display for InvalidPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position is TXID/CHECKSUM, 16 hexadecimal digits each")
    }
}

impl core::error::Error for InvalidPos {}

impl FromStr for Pos {
    type Err = InvalidPos;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (t, c) = s.split_once('/').ok_or(InvalidPos)?;
        let (t, c) = (parse_hex16(t).ok_or(InvalidPos)?, parse_hex16(c).ok_or(InvalidPos)?);
        Self::from_raw(t, c).ok_or(InvalidPos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let p: Pos = "0000000000000003/96951701e0698edb".parse().unwrap();
        assert_eq!(p.to_string(), "0000000000000003/96951701e0698edb");
        assert_eq!(Pos::ZERO.to_string().parse(), Ok(Pos::ZERO));
        assert!("0000000000000003/0000000000000000".parse::<Pos>().is_err());
        assert!("0000000000000003-96951701e0698edb".parse::<Pos>().is_err());
    }
}
