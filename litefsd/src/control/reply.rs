//! Answers: JSON, errors, and work on threads that may block.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use litefs_api::{ApiError, ErrorCode};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::http::{Body, Part};

/// An answer.
pub(super) type Reply = Response<Body>;

pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Reply {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            full(status, "application/json", text.into())
        }
        Err(e) => error(&ApiError::new(ErrorCode::Internal, format!("cannot write the answer: {e}"))),
    }
}

pub(super) fn error(e: &ApiError) -> Reply {
    if e.code == ErrorCode::Internal {
        tracing::error!("control: {}", e.message);
    }
    // An error has only strings: writing it cannot fail.
    let mut text = serde_json::to_vec(e).unwrap_or_default();
    text.push(b'\n');
    full(e.code.status(), "application/json", text.into())
}

pub(super) fn result<T: Serialize>(r: Result<T, ApiError>) -> Reply {
    match r {
        Ok(v) => json(StatusCode::OK, &v),
        Err(e) => error(&e),
    }
}

pub(super) fn full(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    with_type(status, content_type, Body::Full(body))
}

pub(super) fn lines(rx: mpsc::Receiver<Bytes>) -> Reply {
    with_type(StatusCode::OK, "application/json", Body::Lines(rx))
}

/// A body of exactly `len` bytes: a client notices when it breaks off.
pub(super) fn stream(len: u64, rx: mpsc::Receiver<Part>) -> Reply {
    let mut reply = with_type(StatusCode::OK, "application/octet-stream", Body::Stream(None, rx));
    reply.headers_mut().insert(CONTENT_LENGTH, len.into());
    reply
}

fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// Runs `f` on a thread that may block. Its panic is an internal error, not the end of the server.
pub(super) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    spawn_blocking(f).await.map_err(|e| ApiError::new(ErrorCode::Internal, format!("a task failed: {e}")))
}

/// The same with a limit; the work itself is not stopped by it.
pub(super) async fn blocking_within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    match timeout(limit, blocking(f)).await {
        Ok(r) => r,
        Err(_) => Err(ApiError::new(ErrorCode::Timeout, format!("{what} took longer than {limit:?}"))
            .hint("the daemon's log may say what it waits for")),
    }
}
