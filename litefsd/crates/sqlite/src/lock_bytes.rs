//! The bytes that SQLite locks (os.h "Locks"; WAL-index format section 2.3; os_unix.c `UNIX_SHM_BASE`).
//!
//! Owns: which byte range stands for which lock, in which of a database's two locked files. Does not
//! own: taking them, their order, or asking who holds them (that is the store). Tested below against
//! the numbers of the SQLite documentation.

/// The file that a lock's bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockFile {
    /// The database file itself. The bytes lie in the lock page, which holds no data.
    Database,
    /// The `-shm` file (the WAL index).
    Shm,
}

/// One of SQLite's byte-range locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lock {
    /// Database: a writer waits for the readers to leave; no new reader may enter.
    Pending,
    /// Database: a writer in a rollback-journal mode prepares its transaction.
    Reserved,
    /// Database: 510 bytes, read-locked by readers, write-locked (EXCLUSIVE) to write the file.
    Shared,
    /// WAL index: the one writer of the WAL.
    WalWrite,
    /// WAL index: the one checkpointer.
    WalCkpt,
    /// WAL index: whoever rebuilds the index from the WAL.
    WalRecover,
    /// WAL index: the readers of read mark `n`, 0 to 4.
    WalRead(u8),
    /// WAL index: the "dead man switch", read-locked by everybody who has the index open.
    Dms,
}

/// First locked byte of a database file: the pending byte, 1 GiB.
const PENDING_BYTE: u64 = 0x4000_0000;
/// Bytes in the shared range.
const SHARED_SIZE: u64 = 510;
/// First locked byte of the `-shm` file.
const SHM_BASE: u64 = 120;
/// Read marks in the WAL index.
pub const READ_MARKS: u8 = 5;

impl Lock {
    /// The file that the bytes are in.
    pub const fn file(self) -> LockFile {
        match self {
            Self::Pending | Self::Reserved | Self::Shared => LockFile::Database,
            _ => LockFile::Shm,
        }
    }

    /// File offset of the first byte.
    ///
    /// A read mark above 4 does not exist; it is taken for mark 4, so that no value can reach into
    /// the bytes of another lock.
    pub const fn start(self) -> u64 {
        match self {
            Self::Pending => PENDING_BYTE,
            Self::Reserved => PENDING_BYTE + 1,
            Self::Shared => PENDING_BYTE + 2,
            Self::WalWrite => SHM_BASE,
            Self::WalCkpt => SHM_BASE + 1,
            Self::WalRecover => SHM_BASE + 2,
            Self::WalRead(n) => {
                let n = if n < READ_MARKS { n } else { READ_MARKS - 1 };
                SHM_BASE + 3 + n as u64
            }
            Self::Dms => SHM_BASE + 8,
        }
    }

    /// Length of the range in bytes.
    #[allow(clippy::len_without_is_empty)] // a lock range is never empty
    pub const fn len(self) -> u64 {
        match self {
            Self::Shared => SHARED_SIZE,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_numbers() {
        let at = |l: Lock| (l.file(), l.start(), l.len());
        assert_eq!(at(Lock::Pending), (LockFile::Database, 0x4000_0000, 1));
        assert_eq!(at(Lock::Reserved), (LockFile::Database, 0x4000_0001, 1));
        assert_eq!(at(Lock::Shared), (LockFile::Database, 0x4000_0002, 510));
        assert_eq!(at(Lock::WalWrite), (LockFile::Shm, 120, 1));
        assert_eq!(at(Lock::WalCkpt), (LockFile::Shm, 121, 1));
        assert_eq!(at(Lock::WalRecover), (LockFile::Shm, 122, 1));
        for n in 0..READ_MARKS {
            assert_eq!(at(Lock::WalRead(n)), (LockFile::Shm, 123 + u64::from(n), 1));
        }
        assert_eq!(at(Lock::Dms), (LockFile::Shm, 128, 1));
        assert!(Lock::WalRead(200).start() < Lock::Dms.start());
    }
}
