//! Rolling checksums of pages and databases.

use core::fmt;

/// Bit 63, set in every checksum that is present.
pub const CHECKSUM_FLAG: u64 = 1 << 63;

/// A page, database or file checksum: 63 bits of a CRC-64 with bit 63 set, or [`Checksum::NONE`].
///
/// The database checksum is the XOR of its pages' checksums with the flag set, so it can be carried
/// forward from the changed pages alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum(u64);

impl Checksum {
    /// "No checksum": zero on the wire. Also the value of a page that is not there.
    pub const NONE: Self = Self(0);
    /// The checksum of a database without pages.
    pub const EMPTY: Self = Self(CHECKSUM_FLAG);

    /// A present checksum from the low 63 bits of `crc`.
    pub const fn new(crc: u64) -> Self {
        Self(crc | CHECKSUM_FLAG)
    }

    /// The value as it was stored; `None` if it is neither zero nor has the flag.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw == 0 || raw & CHECKSUM_FLAG != 0 { Some(Self(raw)) } else { None }
    }

    /// The value as it is stored.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is [`Checksum::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The database checksum after a page changed from checksum `old` to `new`.
    /// Either may be `NONE` for a page that did not, or does no longer, exist.
    pub const fn replace(self, old: Self, new: Self) -> Self {
        Self::new(self.0 ^ old.0 ^ new.0)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:016x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_is_its_own_inverse() {
        let (a, b) = (Checksum::new(0x1234), Checksum::new(0x9999));
        let db = Checksum::EMPTY.replace(Checksum::NONE, a);
        assert_eq!(db.replace(a, b).replace(b, Checksum::NONE), Checksum::EMPTY);
        assert_eq!(Checksum::from_raw(5), None);
    }
}
