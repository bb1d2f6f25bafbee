//! Transaction ids.

use core::fmt;
use core::num::NonZeroU64;
use core::str::FromStr;

/// The number of a transaction within one database: 1, 2, 3, …
///
/// Text form: 16 lower-case hexadecimal digits. "No transaction yet" is `Option::None`, written as
/// zero on the wire (see [`crate::Pos`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(NonZeroU64);

impl Txid {
    /// The first transaction of every database.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The transaction with this number; `None` for zero.
    pub const fn new(value: u64) -> Option<Self> {
        match NonZeroU64::new(value) {
            Some(v) => Some(Self(v)),
            None => None,
        }
    }

    /// The number, never zero.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The transaction after this one.
    ///
    /// Saturates: at one transaction a nanosecond the last number is 584 years away.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The transaction before this one; `None` before the first.
    pub const fn prev(self) -> Option<Self> {
        Self::new(self.0.get() - 1)
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Txid({:x})", self.0)
    }
}

/// The text is not 16 hexadecimal digits, or is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTxid;

impl fmt::Display for InvalidTxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a transaction id is 16 hexadecimal digits, at least 1")
    }
}

impl core::error::Error for InvalidTxid {}

/// Exactly 16 hexadecimal digits of either case, as a number.
pub(crate) fn parse_hex16(s: &str) -> Option<u64> {
    if s.len() != 16 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(s, 16).ok()
}

impl FromStr for Txid {
    type Err = InvalidTxid;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        parse_hex16(s).and_then(Self::new).ok_or(InvalidTxid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let t = Txid::new(0x1f).unwrap();
        assert_eq!(t.to_string(), "000000000000001f");
        assert_eq!("000000000000001F".parse(), Ok(t));
        assert_eq!("000000000000000".parse::<Txid>(), Err(InvalidTxid));
        assert_eq!("0000000000000000".parse::<Txid>(), Err(InvalidTxid));
        assert_eq!("+00000000000001f".parse::<Txid>(), Err(InvalidTxid));
        assert_eq!(Txid::FIRST.prev(), None);
        assert_eq!(t.next().prev(), Some(t));
    }
}
