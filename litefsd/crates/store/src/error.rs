//! The store's errors, and what FUSE answers for each.
//!
//! A refusal carries its reason: it is logged where it is handled, because the application sees only
//! the errno. Which errno SQLite turns into which result code is table C of the capture rules; the
//! constructors here name the SQLite result they aim at.

use std::borrow::Cow;
use std::io;

use litefs_types::{DbName, Pos};

/// Why an operation on the store did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operation needs own-mount IO: repeat it on the database's worker thread. Nothing happened yet.
    #[error("must run on a worker thread")]
    NeedsWorker,

    /// There is no such database or file.
    #[error("no such file or database")]
    NotFound,

    /// It exists already.
    #[error("exists already")]
    Exists,

    /// Refused before anything was written.
    #[error("refused: {reason}")]
    Refused {
        /// Answered to the application.
        errno: i32,
        /// For the log: what, why, what to do.
        reason: Cow<'static, str>,
    },

    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },

    /// Disk and log can no longer be trusted to agree; only recovery (a restart) is safe.
    #[error("database {db} stopped accepting transactions: {reason}")]
    Poisoned {
        /// Which.
        db: DbName,
        /// What happened first.
        reason: String,
    },

    /// A received transaction does not continue this database.
    #[error("position mismatch on db {db:?}: have {have}, transaction continues {want}", db = .db.as_str())]
    PositionMismatch {
        /// Which.
        db: DbName,
        /// The local position.
        have: Pos,
        /// What the transaction wants to follow.
        want: Pos,
    },

    /// The log refused.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),

    /// The files could not be changed through the mount.
    #[error(transparent)]
    Apply(#[from] crate::apply::ApplyError),

    /// Data from outside, or from the disk, is not what it claims to be.
    #[error("{what}: {reason}")]
    Corrupt {
        /// What was looked at.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// Somebody holds locks past the deadline.
    #[error("{what}: {holder} holds a lock on the database")]
    Busy {
        /// What waited.
        what: &'static str,
        /// Who is in the way, as far as it is known.
        holder: String,
    },
}

/// Results of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// An error and what caused it, in one line: "invalid LTX page" alone does not say which.
pub(crate) fn with_causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl StoreError {
    /// A failed step, for `map_err`.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// Refused with EACCES: `SQLITE_READONLY_DIRECTORY` at a journal's creation, `SQLITE_IOERR_*` elsewhere.
    pub fn denied(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused { errno: libc::EACCES, reason: reason.into() }
    }

    /// Refused with EIO: the client does what a correct SQLite never does.
    pub fn broken(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused { errno: libc::EIO, reason: reason.into() }
    }

    /// Refused with this errno.
    pub fn refused(errno: i32, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused { errno, reason: reason.into() }
    }

    /// What FUSE answers. System errors pass through: a full disk is `ENOSPC`, so SQLite says FULL.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NeedsWorker => libc::EAGAIN,
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::Refused { errno, .. } => *errno,
            Self::Io { source, .. } | Self::Log(crate::log::LogError::Io { source, .. }) => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            Self::Apply(crate::apply::ApplyError::Blocked(_)) | Self::Busy { .. } => libc::EBUSY,
            Self::Log(_)
            | Self::Apply(_)
            | Self::Poisoned { .. }
            | Self::PositionMismatch { .. }
            | Self::Corrupt { .. } => libc::EIO,
        }
    }
}
