//! Why a transaction could not be applied.

use std::fmt;
use std::io;

use litefs_sqlite::lock_bytes::Lock;
use litefs_types::PageSize;

/// Who was in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocker {
    /// The lock that could not be had.
    pub lock: Lock,
    /// Who holds a conflicting one; `None` if it is an OFD lock, a process of a foreign pid namespace, or
    /// gone by the time of asking.
    pub pid: Option<u32>,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} holds {:?}", self.lock),
            None => write!(f, "an unknown process holds {:?}", self.lock),
        }
    }
}

/// Why a transaction could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A lock could not be had until the deadline. Nothing was written.
    #[error("blocked: {0}")]
    Blocked(Blocker),
    /// A system call failed. What readers see has not changed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Failed with the database half written. The locks are kept so that nobody reads it: apply again
    /// ([`crate::apply::rollback_writer::redo`], [`crate::apply::replace_all`]), or leave it to recovery.
    #[error("the database is half written and stays locked: {0}")]
    Torn(#[source] Box<ApplyError>),
    /// The page source failed.
    #[error("the source of the pages failed")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The source gave a page that no verified transaction holds.
    #[error("page {page} of the transaction: {why}")]
    BadPage {
        /// Its number.
        page: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Frames of another page size are in the WAL; only [`crate::apply::replace_all`] can change it.
    #[error("the WAL holds pages of {have} bytes, the transaction pages of {want} bytes")]
    PageSize {
        /// In the WAL.
        have: PageSize,
        /// In the transaction.
        want: PageSize,
    },
    /// WAL and index do not agree, which no SQLite leaves behind under the locks that were held.
    #[error("the WAL and its index do not agree: {0}")]
    Damaged(&'static str),
    /// A checkpoint gave way to a detach, a drop or a replacement.
    #[error("the checkpoint was cancelled")]
    Cancelled,
    /// The writer gave up its locks.
    #[error("the WAL writer is detached")]
    Detached,
}

impl ApplyError {
    /// For `map_err` of a system call.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// Who was in the way, if that is why.
    pub const fn blocker(&self) -> Option<Blocker> {
        match self {
            Self::Blocked(b) => Some(*b),
            _ => None,
        }
    }
}
