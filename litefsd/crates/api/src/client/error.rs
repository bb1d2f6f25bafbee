//! Why a request did not work.

use std::io;
use std::time::Duration;

use crate::ApiError;

/// See the variants: they differ in what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("cannot connect to {target}: {source}")]
    Unreachable {
        /// Socket path or address.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// A limit passed.
    #[error("timed out {what} after {limit:?}")]
    Timeout {
        /// While doing what.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The daemon said no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// What came is no answer of ours.
    #[error("{0}")]
    Protocol(String),
    /// The connection broke off.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The local file that is sent or received.
    #[error("{0}")]
    Local(io::Error),
}

impl ClientError {
    /// From an error of the connection, with its cause, which hyper keeps apart.
    pub(crate) fn broken(e: &hyper::Error) -> Self {
        let mut text = e.to_string();
        let mut cause = std::error::Error::source(e);
        while let Some(c) = cause {
            text = format!("{text}: {c}");
            cause = c.source();
        }
        Self::Lost(text)
    }
}
