//! Database names.

use core::borrow::Borrow;
use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

/// Longest database name in bytes: with `-journal` and SQLite's super-journal suffix behind it, it
/// must still fit into a directory entry of 255 bytes.
pub const MAX_DB_NAME_LEN: usize = 240;

/// Endings that belong to a database's companion files in the mount.
const RESERVED_SUFFIXES: [&str; 5] = ["-journal", "-wal", "-shm", "-pos", "-lock"];
/// Files of the mount's root that are no databases.
const RESERVED_NAMES: [&str; 4] = [".", "..", ".primary", ".lag"];

/// The name of a database: one path component, safe to use as a directory name.
///
/// Checked here once; everything that takes a `DbName` may join it to a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DbName(Arc<str>);

impl DbName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is how SQLite names the super-journal of a transaction over several files:
    /// `<db>-mjXXXXXX9XX` with hexadecimal digits (pager.c, `sqlite3PagerCommitPhaseOne`).
    pub fn is_super_journal(s: &str) -> bool {
        let Some((base, tail)) = s.rsplit_once("-mj") else { return false };
        !base.is_empty()
            && tail.len() == 9
            && tail.as_bytes()[6] == b'9'
            && tail.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    }
}

impl fmt::Display for DbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DbName({:?})", &*self.0)
    }
}

impl Borrow<str> for DbName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for DbName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Why a text is no database name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidDbName {
    /// Empty.
    Empty,
    /// Longer than [`MAX_DB_NAME_LEN`].
    TooLong,
    /// Holds `/`, a control character, or is `.`, `..` or a file of the mount's root.
    Forbidden,
    /// Ends like a companion file (`-journal`, `-wal`, `-shm`, `-pos`, `-lock`, `-mj…`).
    ReservedSuffix,
}

impl fmt::Display for InvalidDbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a database name must not be empty"),
            Self::TooLong => write!(f, "a database name has at most {MAX_DB_NAME_LEN} bytes"),
            Self::Forbidden => f.write_str(
                "a database name is one path component without '/' or control characters, not '.', '..', '.primary' or '.lag'",
            ),
            Self::ReservedSuffix => f.write_str(
                "a database name must not end in -journal, -wal, -shm, -pos, -lock or like a super-journal",
            ),
        }
    }
}

impl core::error::Error for InvalidDbName {}

impl FromStr for DbName {
    type Err = InvalidDbName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.is_empty() {
            return Err(InvalidDbName::Empty);
        }
        if s.len() > MAX_DB_NAME_LEN {
            return Err(InvalidDbName::TooLong);
        }
        if RESERVED_NAMES.contains(&s) || s.chars().any(|c| c == '/' || c.is_control()) {
            return Err(InvalidDbName::Forbidden);
        }
        if RESERVED_SUFFIXES.iter().any(|x| s.ends_with(x)) || Self::is_super_journal(s) {
            return Err(InvalidDbName::ReservedSuffix);
        }
        Ok(Self(Arc::from(s)))
    }
}

impl TryFrom<&[u8]> for DbName {
    type Error = InvalidDbName;

    fn try_from(b: &[u8]) -> Result<Self, Self::Error> {
        core::str::from_utf8(b).map_err(|_| InvalidDbName::Forbidden)?.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for bad in ["", ".", "..", "a/b", "../../evil", "x\0y", "x\ny", ".lag", "db-wal", "db-mj0123459AB"] {
            assert!(bad.parse::<DbName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(241).parse::<DbName>().is_err());
        assert!(DbName::try_from(&b"\xff"[..]).is_err());
        for good in ["db", "my db.sqlite3", "wal", ".hidden", "db-mjx", "ä"] {
            assert!(good.parse::<DbName>().is_ok(), "{good:?}");
        }
    }
}
