//! Responses: bodies, the error format, and the headers common to all routes.
//!
//! Owns how an answer looks on the wire; not which answer a route gives. Tested in
//! `tests/tests/http_port.rs` against recorded answers of the original.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use super::App;

/// A streamed response broke off: the connection (HTTP/1) or stream (HTTP/2) is reset, so that no client
/// takes what it has for complete.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("response aborted")]
pub struct Aborted;

/// What a streaming route sends into a [`Body`].
pub type Part = Result<Bytes, Aborted>;

/// A response body. Never compressed: Go clients ask for gzip by themselves, and it breaks flushing.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Known beforehand.
    Full(Bytes),
    /// Part by part, after one that is there already; the channel's capacity is the back-pressure.
    Stream(Option<Bytes>, mpsc::Receiver<Part>),
    /// Whole lines from the event hub.
    Lines(mpsc::Receiver<Bytes>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(b) => {
                let b = std::mem::take(b);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(b))))
            }
            Self::Stream(first, rx) => match first.take() {
                Some(b) => Poll::Ready(Some(Ok(Frame::data(b)))),
                None => rx.poll_recv(cx).map(|part| part.map(|p| p.map(Frame::data))),
            },
            Self::Lines(rx) => rx.poll_recv(cx).map(|line| line.map(|l| Ok(Frame::data(l)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(b) => b.is_empty(),
            Self::Stream(..) | Self::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(b) => SizeHint::with_exact(b.len() as u64),
            Self::Stream(..) | Self::Lines(_) => SizeHint::default(),
        }
    }
}

/// What a route answers.
pub type Reply = Response<Body>;
/// The answer that ends a request early. (Boxed: a response is large, and this is the rare case.)
pub(crate) type Refused = Box<Reply>;

/// 200 without a body.
pub(crate) fn ok() -> Reply {
    Response::new(Body::Empty)
}

/// 200 with a body of this type.
pub(crate) fn full(content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut r = Response::new(Body::Full(body.into()));
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    r
}

/// 200 with a body that comes in parts.
pub(crate) fn stream(content_type: Option<&'static str>, body: Body) -> Reply {
    let mut r = Response::new(body);
    if let Some(t) = content_type {
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(t));
    }
    r
}

/// An error as the original writes it (Go `http.Error`): plain text and a line end.
pub(crate) fn error(status: StatusCode, message: impl std::fmt::Display) -> Reply {
    let mut r = full("text/plain; charset=utf-8", format!("{message}\n"));
    *r.status_mut() = status;
    r.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    r
}

/// 400
pub(crate) fn bad_request(message: impl std::fmt::Display) -> Reply {
    error(StatusCode::BAD_REQUEST, message)
}

/// 404
pub(crate) fn not_found(message: impl std::fmt::Display) -> Reply {
    error(StatusCode::NOT_FOUND, message)
}

/// 500
pub(crate) fn internal(message: impl std::fmt::Display) -> Reply {
    error(StatusCode::INTERNAL_SERVER_ERROR, message)
}

/// 503
pub(crate) fn unavailable(message: impl std::fmt::Display) -> Reply {
    error(StatusCode::SERVICE_UNAVAILABLE, message)
}

/// 405, without an `Allow` header as in the original.
pub(crate) fn method_not_allowed() -> Reply {
    error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}

/// Request and response header with the node id.
pub const LITEFS_ID: &str = "litefs-id";
/// Request and response header with the cluster id.
pub const LITEFS_CLUSTER_ID: &str = "litefs-cluster-id";

/// Adds `Litefs-Id` and, if there is one, `Litefs-Cluster-Id`.
pub(super) fn identify(headers: &mut HeaderMap, app: &App) {
    if let Ok(v) = HeaderValue::from_str(&app.node.id.to_string()) {
        headers.insert(LITEFS_ID, v);
    }
    if let Some(v) = app.backend.cluster_id().and_then(|c| HeaderValue::from_str(c.as_str()).ok()) {
        headers.insert(LITEFS_CLUSTER_ID, v);
    }
}
