//! Bodies on their way: what is sent from a reader, what is received into a writer.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout};

use super::{ClientError, SILENCE};

/// Bytes read at once: large enough for the disk, small enough for a smooth progress bar.
const CHUNK: usize = 256 << 10;

/// Is told how far a transfer has come.
pub trait Progress: Send {
    /// `done` bytes of `total` (if known) have been handed on.
    fn advanced(&mut self, done: u64, total: Option<u64>);
}

/// Nobody wants to know.
impl Progress for () {
    fn advanced(&mut self, _done: u64, _total: Option<u64>) {}
}

/// What the sender of a request knows of its body's fate.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<State>>);

struct State {
    /// When the connection last took something.
    last: Instant,
    done: bool,
    error: Option<io::Error>,
}

impl Watch {
    fn new(done: bool) -> Self {
        Self(Arc::new(Mutex::new(State { last: Instant::now(), done, error: None })))
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When to give up: [`SILENCE`] after the last movement while sending, `answer` after the end of it.
    pub(super) fn deadline(&self, answer: Duration) -> (Instant, &'static str) {
        self.with(|s| {
            if s.done { (s.last + answer, "waiting for the answer") } else { (s.last + SILENCE, "sending") }
        })
    }

    /// Why the local file could not be read, if that was it.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        self.with(|s| s.error.take())
    }
}

/// The body of a request.
pub(super) struct Outgoing {
    from: Box<dyn Read + Send>,
    left: u64,
    total: u64,
    progress: Box<dyn Progress>,
    watch: Watch,
}

/// No body.
pub(super) fn empty() -> Outgoing {
    Outgoing {
        from: Box::new(io::empty()),
        left: 0,
        total: 0,
        progress: Box::new(()),
        watch: Watch::new(true),
    }
}

/// Exactly `len` bytes of `from`; fewer are an error.
pub(super) fn reader(
    from: impl Read + Send + 'static,
    len: u64,
    progress: impl Progress + 'static,
) -> Outgoing {
    let (from, progress) = (Box::new(from), Box::new(progress));
    Outgoing { from, left: len, total: len, progress, watch: Watch::new(len == 0) }
}

impl Outgoing {
    pub(super) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    fn next(&mut self) -> io::Result<Bytes> {
        let mut chunk = vec![0; self.left.min(CHUNK as u64) as usize];
        self.from.read_exact(&mut chunk).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other("the file became shorter while it was read"),
            _ => e,
        })?;
        self.left -= chunk.len() as u64;
        Ok(chunk.into())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let result = self.next();
        let (done, total) = (self.total - self.left, self.total);
        match result {
            Ok(chunk) => {
                self.watch.with(|s| {
                    s.last = Instant::now();
                    s.done = done == total;
                });
                self.progress.advanced(done, Some(total));
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Err(e) => {
                let told = io::Error::new(e.kind(), e.to_string());
                self.watch.with(|s| s.error = Some(e));
                Poll::Ready(Some(Err(told)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Writes a received body to `to` and returns its length.
pub(super) async fn copy(
    mut body: Incoming,
    to: &mut (impl Write + ?Sized),
    progress: &mut dyn Progress,
) -> Result<u64, ClientError> {
    let total = body.size_hint().exact();
    let mut done = 0;
    loop {
        match timeout(SILENCE, body.frame()).await {
            Err(_) => return Err(ClientError::Timeout { what: "receiving".to_owned(), limit: SILENCE }),
            Ok(None) => break,
            Ok(Some(Err(e))) => return Err(ClientError::broken(&e)),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    to.write_all(&data).map_err(ClientError::Local)?;
                    done += data.len() as u64;
                    progress.advanced(done, total);
                }
            }
        }
    }
    match total {
        Some(t) if t != done => Err(ClientError::Lost(format!("{done} of {t} bytes received"))),
        _ => Ok(done),
    }
}
