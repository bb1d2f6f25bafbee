//! The database header (file format section 1.3 "The Database Header"): the first 100 bytes of page 1.
//!
//! Owns: the fields that replication, import and recovery need, and changing those that import must
//! change. Does not own: page 1's b-tree. Tested here and in `tests/db_header.rs` against real SQLite.

use litefs_types::PageSize;
use thiserror::Error;

use crate::be;

/// Bytes of the header.
pub const DB_HEADER_LEN: usize = 100;

/// The header string.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// SQLite needs at least this many bytes of each page for itself.
const MIN_USABLE: u32 = 480;

const PAGE_SIZE: usize = 16;
const WRITE_VERSION: usize = 18;
const READ_VERSION: usize = 19;
const RESERVED: usize = 20;
const FRACTIONS: usize = 21;
const CHANGE_COUNTER: usize = 24;
const PAGE_COUNT: usize = 28;
const SCHEMA_COOKIE: usize = 40;
const SCHEMA_FORMAT: usize = 44;
const TEXT_ENCODING: usize = 56;
const USER_VERSION: usize = 60;
const APPLICATION_ID: usize = 68;
const VERSION_VALID_FOR: usize = 92;
const SQLITE_VERSION: usize = 96;

/// How a database keeps its transactions atomic, as page 1 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JournalMode {
    /// A rollback journal: DELETE, TRUNCATE, PERSIST. Which of them is not stored.
    Rollback,
    /// A write-ahead log.
    Wal,
}

/// The encoding of all text in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextEncoding {
    /// 0: no table was created yet.
    Unset,
    /// 1
    Utf8,
    /// 2
    Utf16Le,
    /// 3
    Utf16Be,
}

/// Why bytes are not the header of a database that SQLite can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DbHeaderError {
    /// Fewer than 100 bytes.
    #[error("a database header has 100 bytes, the file only {0}")]
    TooShort(usize),
    /// Some other kind of file, or an encrypted database.
    #[error("the file does not start with \"SQLite format 3\": not a SQLite database, or an encrypted one")]
    Magic,
    /// Bytes 16 and 17.
    #[error("page size field {0} is neither 1 nor a power of two from 512 to 32768")]
    PageSize(u16),
    /// Byte 18 or 19.
    #[error("file format versions {write} (write) and {read} (read): only 1 and 2 are known")]
    FormatVersion {
        /// Byte 18.
        write: u8,
        /// Byte 19.
        read: u8,
    },
    /// Byte 20.
    #[error("{reserved} reserved bytes leave fewer than 480 of a page of {page_size} bytes")]
    Reserved {
        /// Byte 20.
        reserved: u8,
        /// The page size.
        page_size: u32,
    },
    /// Bytes 21 to 23.
    #[error("payload fractions {0:?} are not [64, 32, 32]")]
    Fractions([u8; 3]),
    /// Bytes 44 to 47.
    #[error("schema format {0} is not one of 0 to 4")]
    SchemaFormat(u32),
    /// Bytes 56 to 59.
    #[error("text encoding {0} is not one of 0 to 3")]
    TextEncoding(u32),
}

/// A checked database header. Setters change the bytes; [`DbHeader::as_bytes`] gives them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DbHeader {
    bytes: [u8; DB_HEADER_LEN],
    page_size: PageSize,
    encoding: TextEncoding,
}

impl DbHeader {
    /// Reads and checks the header at the start of page 1; bytes behind it are not looked at.
    pub fn parse(page1: &[u8]) -> Result<Self, DbHeaderError> {
        let Some(b) = page1.first_chunk::<DB_HEADER_LEN>() else {
            return Err(DbHeaderError::TooShort(page1.len()));
        };
        if !b.starts_with(MAGIC) {
            return Err(DbHeaderError::Magic);
        }
        let raw = be::u16_at(b, PAGE_SIZE);
        let page_size = PageSize::from_header(raw).map_err(|_| DbHeaderError::PageSize(raw))?;
        let (write, read) = (b[WRITE_VERSION], b[READ_VERSION]);
        if !matches!(write, 1 | 2) || !matches!(read, 1 | 2) {
            return Err(DbHeaderError::FormatVersion { write, read });
        }
        let reserved = b[RESERVED];
        if page_size.get() - u32::from(reserved) < MIN_USABLE {
            return Err(DbHeaderError::Reserved { reserved, page_size: page_size.get() });
        }
        let fractions = [b[FRACTIONS], b[FRACTIONS + 1], b[FRACTIONS + 2]];
        if fractions != [64, 32, 32] {
            return Err(DbHeaderError::Fractions(fractions));
        }
        let format = be::u32_at(b, SCHEMA_FORMAT);
        if format > 4 {
            return Err(DbHeaderError::SchemaFormat(format));
        }
        let encoding = match be::u32_at(b, TEXT_ENCODING) {
            0 => TextEncoding::Unset,
            1 => TextEncoding::Utf8,
            2 => TextEncoding::Utf16Le,
            3 => TextEncoding::Utf16Be,
            other => return Err(DbHeaderError::TextEncoding(other)),
        };
        Ok(Self { bytes: *b, page_size, encoding })
    }

    /// Size of all pages.
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Byte 18: 1 for rollback journals, 2 for WAL.
    pub const fn write_version(&self) -> u8 {
        self.bytes[WRITE_VERSION]
    }

    /// Byte 19: 1 for rollback journals, 2 for WAL.
    pub const fn read_version(&self) -> u8 {
        self.bytes[READ_VERSION]
    }

    /// The journal mode that SQLite opens the database in: the read version decides.
    pub const fn journal_mode(&self) -> JournalMode {
        if self.read_version() == 2 { JournalMode::Wal } else { JournalMode::Rollback }
    }

    /// Bytes at the end of each page that SQLite leaves to extensions.
    pub const fn reserved(&self) -> u8 {
        self.bytes[RESERVED]
    }

    /// Goes up with every transaction in a rollback mode; readers know by it that their cache is old.
    pub const fn change_counter(&self) -> u32 {
        be::u32_at(&self.bytes, CHANGE_COUNTER)
    }

    /// The change counter for which the page count and the SQLite version hold.
    pub const fn version_valid_for(&self) -> u32 {
        be::u32_at(&self.bytes, VERSION_VALID_FOR)
    }

    /// The page count field if it can be trusted: not zero, and the change counter is the one for
    /// which it was written (SQLite before 3.7.0 changes one without the other).
    pub const fn page_count_field(&self) -> Option<u32> {
        let n = be::u32_at(&self.bytes, PAGE_COUNT);
        if n != 0 && self.change_counter() == self.version_valid_for() { Some(n) } else { None }
    }

    /// Pages of a database in a file of `file_size` bytes: the field if it can be trusted, else what
    /// the file holds (a part of a page counts as none).
    ///
    /// The file may be longer than that in the midst of a transaction, and shorter while the newest
    /// pages are only in the WAL.
    pub fn page_count(&self, file_size: u64) -> u32 {
        self.page_count_field()
            .unwrap_or_else(|| u32::try_from(file_size / u64::from(self.page_size.get())).unwrap_or(u32::MAX))
    }

    /// Changes with every change of the schema; prepared statements depend on it.
    pub const fn schema_cookie(&self) -> u32 {
        be::u32_at(&self.bytes, SCHEMA_COOKIE)
    }

    /// Encoding of all text.
    pub const fn text_encoding(&self) -> TextEncoding {
        self.encoding
    }

    /// `PRAGMA user_version`.
    pub const fn user_version(&self) -> u32 {
        be::u32_at(&self.bytes, USER_VERSION)
    }

    /// `PRAGMA application_id`.
    pub const fn application_id(&self) -> u32 {
        be::u32_at(&self.bytes, APPLICATION_ID)
    }

    /// The SQLite that wrote the header last, for example 3054001.
    pub const fn sqlite_version(&self) -> u32 {
        be::u32_at(&self.bytes, SQLITE_VERSION)
    }

    /// Makes SQLite open the database in this mode.
    pub fn set_journal_mode(&mut self, mode: JournalMode) {
        let v = if mode == JournalMode::Wal { 2 } else { 1 };
        self.bytes[WRITE_VERSION] = v;
        self.bytes[READ_VERSION] = v;
    }

    /// Sets the page count and makes it valid for the present change counter.
    pub fn set_page_count(&mut self, pages: u32) {
        be::put_u32(&mut self.bytes, PAGE_COUNT, pages);
        let counter = self.change_counter();
        be::put_u32(&mut self.bytes, VERSION_VALID_FOR, counter);
    }

    /// Sets the change counter. The page count stays as trustworthy as it was.
    pub fn set_change_counter(&mut self, counter: u32) {
        let trusted = self.page_count_field().is_some();
        be::put_u32(&mut self.bytes, CHANGE_COUNTER, counter);
        // An untrusted count must not become trusted because the new counter happens to match.
        be::put_u32(&mut self.bytes, VERSION_VALID_FOR, if trusted { counter } else { !counter });
    }

    /// Sets the schema cookie.
    pub fn set_schema_cookie(&mut self, cookie: u32) {
        be::put_u32(&mut self.bytes, SCHEMA_COOKIE, cookie);
    }

    /// The header as it is stored.
    pub const fn as_bytes(&self) -> &[u8; DB_HEADER_LEN] {
        &self.bytes
    }

    /// Puts the header at the start of `page1`; does nothing if that is shorter than a header.
    pub fn write_to(&self, page1: &mut [u8]) {
        if let Some(head) = page1.first_chunk_mut::<DB_HEADER_LEN>() {
            *head = self.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> [u8; 100] {
        let mut b = [0u8; 100];
        b[..16].copy_from_slice(MAGIC);
        b[16..24].copy_from_slice(&[16, 0, 1, 1, 0, 64, 32, 32]);
        b[27] = 9; // change counter
        b[31] = 5; // pages
        b[47] = 4;
        b[59] = 1;
        b[95] = 9;
        b
    }

    #[test]
    fn the_page_count_is_trusted_only_for_its_change_counter() {
        let mut b = sample();
        assert_eq!(DbHeader::parse(&b).unwrap().page_count(4096 * 7), 5);
        b[95] = 8;
        let mut h = DbHeader::parse(&b).unwrap();
        assert_eq!(h.page_count(4096 * 7 + 1), 7);
        h.set_change_counter(8);
        assert_eq!(h.page_count_field(), None, "must not become valid by chance");
        h.set_page_count(6);
        assert_eq!(h.page_count(0), 6);
        h.set_change_counter(77);
        assert_eq!((h.page_count(0), h.change_counter()), (6, 77));
        b[95] = 9;
        b[31] = 0;
        assert_eq!(DbHeader::parse(&b).unwrap().page_count(4096), 1, "zero means unknown");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let with = |at: usize, v: u8| {
            let mut b = sample();
            b[at] = v;
            DbHeader::parse(&b).unwrap_err()
        };
        assert_eq!(DbHeader::parse(&[1; 99]), Err(DbHeaderError::TooShort(99)));
        assert_eq!(with(0, 0), DbHeaderError::Magic);
        assert_eq!(with(16, 3), DbHeaderError::PageSize(768));
        assert_eq!(with(19, 3), DbHeaderError::FormatVersion { write: 1, read: 3 });
        assert_eq!(with(21, 0), DbHeaderError::Fractions([0, 32, 32]));
        assert_eq!(with(47, 5), DbHeaderError::SchemaFormat(5));
        assert_eq!(with(59, 4), DbHeaderError::TextEncoding(4));
        let mut b = sample();
        b[16..18].copy_from_slice(&[2, 0]);
        b[20] = 33;
        assert_eq!(DbHeader::parse(&b), Err(DbHeaderError::Reserved { reserved: 33, page_size: 512 }));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(b in proptest::collection::vec(any::<u8>(), 0..140), keep in any::<bool>()) {
            let mut b = b;
            if keep && b.len() >= 16 {
                b[..16].copy_from_slice(MAGIC);
            }
            if let Ok(h) = DbHeader::parse(&b) {
                prop_assert_eq!(&h.as_bytes()[..], &b[..100]);
            }
        }
    }
}
