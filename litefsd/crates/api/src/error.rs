//! Errors as the socket tells them.

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// Stable words for what went wrong. Programs test these, never messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The request makes no sense.
    BadRequest,
    /// No such route, database or transaction.
    NotFound,
    /// The route exists, not for this method.
    MethodNotAllowed,
    /// This node is not the primary, and the request needs it.
    NotPrimary,
    /// Nobody is primary at the moment.
    NoPrimary,
    /// A database of this name exists.
    Exists,
    /// The bytes are no database, or one that cannot be taken.
    InvalidDatabase,
    /// The daemon refuses, and the message says why.
    Refused,
    /// Too many requests of this kind at once.
    Busy,
    /// The body or a name is too large.
    TooLarge,
    /// It did not happen in time.
    Timeout,
    /// Starting, or stopping.
    NotReady,
    /// The disk is full.
    DiskFull,
    /// Something failed inside the daemon; its log says more.
    Internal,
    /// A code of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotPrimary | Self::Exists | Self::Refused => StatusCode::CONFLICT,
            Self::NoPrimary | Self::Busy | Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Self::InvalidDatabase => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::Internal | Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The word itself.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::NotPrimary => "not-primary",
            Self::NoPrimary => "no-primary",
            Self::Exists => "exists",
            Self::InvalidDatabase => "invalid-database",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::TooLarge => "too-large",
            Self::Timeout => "timeout",
            Self::NotReady => "not-ready",
            Self::DiskFull => "disk-full",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }
}

/// The body of every error answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// What failed and why, one line.
    pub message: String,
    /// What to do about it; empty if there is nothing to say.
    #[serde(default)]
    pub hint: String,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new() }
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// There is no database of this name.
    pub fn no_database(name: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("database {name:?} not found"))
            .hint("`litefsctl databases` lists them")
    }
}
