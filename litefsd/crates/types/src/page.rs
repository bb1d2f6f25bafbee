//! Page numbers and page sizes (SQLite file format, section 1.3.2).

use core::fmt;
use core::num::NonZeroU32;

/// A page of a database, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(NonZeroU32);

impl PageNo {
    /// The page that holds the database header.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The page with this number; `None` for zero.
    pub const fn new(n: u32) -> Option<Self> {
        match NonZeroU32::new(n) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The number, never zero.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Position in an array that starts with page 1.
    pub const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageNo({})", self.0)
    }
}

/// A database page size in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

/// SQLite keeps its lock bytes from this file offset on; the page there holds no data.
const PENDING_BYTE: u32 = 0x4000_0000;

impl PageSize {
    /// SQLite's default.
    pub const DEFAULT: Self = Self(4096);
    /// The largest page.
    pub const MAX: Self = Self(65536);

    /// A page size in bytes.
    pub const fn new(bytes: u32) -> Result<Self, InvalidPageSize> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 65536 {
            Ok(Self(bytes))
        } else {
            Err(InvalidPageSize(bytes))
        }
    }

    /// From the 16-bit form of the database header, in which 1 stands for 65536.
    pub const fn from_header(raw: u16) -> Result<Self, InvalidPageSize> {
        if raw == 1 { Ok(Self(65536)) } else { Self::new(raw as u32) }
    }

    /// The 16-bit form of the database header.
    pub const fn to_header(self) -> u16 {
        if self.0 == 65536 { 1 } else { self.0 as u16 }
    }

    /// Bytes in a page.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Bytes in a page, as a length.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The page that holds SQLite's lock bytes: never stored, never replicated, not in any checksum.
    pub const fn lock_page(self) -> PageNo {
        match PageNo::new(PENDING_BYTE / self.0 + 1) {
            Some(p) => p,
            None => PageNo::FIRST,
        }
    }

    /// File offset of a page.
    pub const fn offset(self, page: PageNo) -> u64 {
        (page.get() as u64 - 1) * self.0 as u64
    }

    /// File size of this many pages.
    pub const fn file_size(self, pages: u32) -> u64 {
        pages as u64 * self.0 as u64
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({})", self.0)
    }
}

/// Not a power of two from 512 to 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPageSize(pub u32);

impl fmt::Display for InvalidPageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page size {} is not a power of two from 512 to 65536", self.0)
    }
}

impl core::error::Error for InvalidPageSize {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_page_follows_the_page_size() {
        let lock = |n| PageSize::new(n).unwrap().lock_page().get();
        assert_eq!((lock(512), lock(4096), lock(65536)), (2_097_153, 262_145, 16_385));
        assert_eq!(PageSize::from_header(1), Ok(PageSize::MAX));
        assert_eq!(PageSize::MAX.to_header(), 1);
        assert!(PageSize::new(1000).is_err() && PageSize::new(256).is_err());
    }
}
