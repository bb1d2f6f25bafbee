//! What a file name in the mount stands for.
//!
//! Owns: parsing at the edge; behind it nobody looks at a suffix again. Does not own: whether the
//! file exists. Tested below; the table of names is in the original's `-pos`, `-lock`, … scheme.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use litefs_store::own_mount::FileKind;
use litefs_types::{DbName, InvalidDbName};

/// Longest file name in bytes (`NAME_MAX`, what `statfs` reports).
pub const MAX_NAME_LEN: usize = 255;
/// Host name of the primary, on a connected replica.
pub const PRIMARY: &str = ".primary";
/// How far this node is behind the primary.
pub const LAG: &str = ".lag";

const POS_SUFFIX: &str = "-pos";
const LOCK_SUFFIX: &str = "-lock";
/// In the original's order; `-pos` and `-lock` come after them.
const KINDS: [FileKind; 3] = [FileKind::Journal, FileKind::Wal, FileKind::Shm];

/// The nine characters that SQLite puts behind `-mj` (pager.c: `%06X9%02X`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SuperSuffix([u8; 9]);

impl SuperSuffix {
    /// The characters.
    pub fn as_str(&self) -> &str {
        // ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for SuperSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A file of a database.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileRef {
    /// The database, its journal, wal or wal-index.
    Kind(FileKind),
    /// The super-journal of a transaction over several files, named after its first database.
    SuperJournal(SuperSuffix),
}

impl FileRef {
    /// The database file itself.
    pub const DATABASE: Self = Self::Kind(FileKind::Database);

    /// The file's name in the mount.
    pub fn name_in_mount(&self, db: &str) -> String {
        match self {
            Self::Kind(k) => format!("{db}{}", k.suffix()),
            Self::SuperJournal(s) => format!("{db}-mj{}", s.as_str()),
        }
    }
}

/// A parsed file name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Name {
    /// `.primary`
    Primary,
    /// `.lag`
    Lag,
    /// `db-pos`
    Pos(DbName),
    /// `db-lock`
    Lock(DbName),
    /// A file with content on disk.
    File(DbName, FileRef),
}

/// Why a name stands for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadName {
    /// Too long for a file or for a database with its companions: `ENAMETOOLONG`.
    TooLong,
    /// No text, or with control characters: cannot exist; creating it is `EINVAL`.
    Unprintable,
    /// A suffix without a database in front of it; creating it is `ENOENT` as in the original.
    NoDatabase,
}

impl BadName {
    /// Answer to a LOOKUP or UNLINK.
    pub const fn lookup_errno(self) -> i32 {
        match self {
            Self::TooLong => libc::ENAMETOOLONG,
            Self::Unprintable | Self::NoDatabase => libc::ENOENT,
        }
    }

    /// Answer to a CREATE. Never `ENOSYS`: the kernel would stop sending CREATE altogether.
    pub const fn create_errno(self) -> i32 {
        match self {
            Self::TooLong => libc::ENAMETOOLONG,
            Self::Unprintable => libc::EINVAL,
            Self::NoDatabase => libc::ENOENT,
        }
    }
}

impl From<InvalidDbName> for BadName {
    fn from(e: InvalidDbName) -> Self {
        match e {
            InvalidDbName::TooLong => Self::TooLong,
            InvalidDbName::Forbidden => Self::Unprintable,
            // `x-wal-wal`: the companion of something that can be no database.
            InvalidDbName::Empty | InvalidDbName::ReservedSuffix => Self::NoDatabase,
        }
    }
}

impl Name {
    /// Parses a directory entry's name.
    pub fn parse(name: &OsStr) -> Result<Self, BadName> {
        if name.len() > MAX_NAME_LEN {
            return Err(BadName::TooLong);
        }
        let s = std::str::from_utf8(name.as_bytes()).map_err(|_| BadName::Unprintable)?;
        match s {
            PRIMARY => return Ok(Self::Primary),
            LAG => return Ok(Self::Lag),
            _ => {}
        }
        for kind in KINDS {
            if let Some(db) = s.strip_suffix(kind.suffix()) {
                return Ok(Self::File(db.parse()?, FileRef::Kind(kind)));
            }
        }
        if let Some(db) = s.strip_suffix(POS_SUFFIX) {
            return Ok(Self::Pos(db.parse()?));
        }
        if let Some(db) = s.strip_suffix(LOCK_SUFFIX) {
            return Ok(Self::Lock(db.parse()?));
        }
        if DbName::is_super_journal(s)
            && let Some((db, tail)) = s.rsplit_once("-mj")
            && let Ok(tail) = tail.as_bytes().try_into()
        {
            return Ok(Self::File(db.parse()?, FileRef::SuperJournal(SuperSuffix(tail))));
        }
        Ok(Self::File(s.parse()?, FileRef::DATABASE))
    }

    /// The database it belongs to.
    pub fn database(&self) -> Option<&DbName> {
        match self {
            Self::Primary | Self::Lag => None,
            Self::Pos(db) | Self::Lock(db) | Self::File(db, _) => Some(db),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(s: &str) -> Result<Name, BadName> {
        Name::parse(OsStr::new(s))
    }

    #[test]
    fn every_suffix_is_known() {
        let db: DbName = "my.db".parse().unwrap();
        assert_eq!(parse("my.db"), Ok(Name::File(db.clone(), FileRef::DATABASE)));
        for k in KINDS {
            let name = format!("my.db{}", k.suffix());
            assert_eq!(parse(&name), Ok(Name::File(db.clone(), FileRef::Kind(k))));
            assert_eq!(FileRef::Kind(k).name_in_mount("my.db"), name);
        }
        assert_eq!(parse("my.db-pos"), Ok(Name::Pos(db.clone())));
        assert_eq!(parse("my.db-lock"), Ok(Name::Lock(db.clone())));
        assert_eq!(parse(".lag"), Ok(Name::Lag));
        assert_eq!(parse(".primary"), Ok(Name::Primary));
        let Ok(Name::File(of, r @ FileRef::SuperJournal(_))) = parse("my.db-mj0A1B2C9FF") else {
            panic!("no super-journal")
        };
        assert_eq!((of, r.name_in_mount("my.db").as_str()), (db, "my.db-mj0A1B2C9FF"));
        assert!(matches!(parse("my.db-mj0A1B2C8FF"), Ok(Name::File(_, FileRef::DATABASE))));
    }

    #[test]
    fn bad_names_have_an_errno_that_is_never_enosys() {
        assert_eq!(parse(&"x".repeat(256)), Err(BadName::TooLong));
        assert_eq!(parse(&"x".repeat(241)), Err(BadName::TooLong));
        assert_eq!(parse("-journal"), Err(BadName::NoDatabase));
        assert_eq!(parse("x-wal-wal"), Err(BadName::NoDatabase));
        assert_eq!(parse("a\nb"), Err(BadName::Unprintable));
        assert_eq!(Name::parse(OsStr::from_bytes(b"\xff")), Err(BadName::Unprintable));
        for bad in [BadName::TooLong, BadName::Unprintable, BadName::NoDatabase] {
            assert_ne!(bad.create_errno(), libc::ENOSYS);
        }
    }
}
