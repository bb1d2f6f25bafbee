//! Bodies in and out: import, export, LTX files.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use litefs_api::{ApiError, ErrorCode, Imported, POSITION_HEADER};
use litefs_types::{DbName, Txid};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::backend::ImportSink;
use super::reply::{self, Reply, blocking};
use super::server::App;
use crate::http::channel::{CHANNEL_PARTS, ChannelWriter};

/// A client that sends nothing for this long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes collected before a thread is asked to write them.
const BATCH: usize = 1 << 20;
/// How long a transfer waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// After a refusal this much of the body is still read, so that the client sees the answer and not a
/// broken pipe. A client that sends more has its connection cut.
const DRAIN: u64 = 256 << 20;
/// …and for this long.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A place among the transfers that run at a time.
async fn turn(app: &App) -> Result<OwnedSemaphorePermit, ApiError> {
    match timeout(TURN, Arc::clone(&app.transfers).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) => Err(ApiError::new(ErrorCode::NotReady, "the daemon is stopping")),
        Err(_) => Err(ApiError::new(ErrorCode::Busy, "too many transfers at once").hint("try again later")),
    }
}

pub(super) async fn import(
    app: &Arc<App>,
    name: DbName,
    replace: Option<String>,
    mut body: Incoming,
) -> Reply {
    match receive(app, name, replace, &mut body).await {
        Ok(done) => reply::result(Ok(done)),
        Err(e) => {
            let _ = timeout(DRAIN_TIME, drain(&mut body)).await;
            reply::error(&e)
        }
    }
}

async fn drain(body: &mut Incoming) {
    let mut left = DRAIN;
    while let Some(Ok(frame)) = body.frame().await {
        let n = frame.data_ref().map_or(0, Bytes::len) as u64;
        match left.checked_sub(n) {
            Some(l) => left = l,
            None => return,
        }
    }
}

async fn receive(
    app: &Arc<App>,
    name: DbName,
    replace: Option<String>,
    body: &mut Incoming,
) -> Result<Imported, ApiError> {
    let replace = match replace.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::new(ErrorCode::BadRequest, "replace: true or false")),
    };
    let _turn = turn(app).await?;
    let len = body.size_hint().exact();
    let b = Arc::clone(&app.backend);
    let mut sink = blocking(move || b.import(&name, len, replace)).await??;
    let mut batch = BytesMut::new();
    loop {
        let part = match timeout(SILENCE, body.frame()).await {
            Err(_) => Err(format!("the client sent nothing for {SILENCE:?}")),
            Ok(Some(Err(e))) => Err(format!("the client broke off: {e}")),
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
            Ok(None) => Ok(None),
        };
        match part {
            Err(why) => {
                // Its temporary file goes on a thread that may block.
                blocking(move || drop(sink)).await?;
                return Err(ApiError::new(ErrorCode::BadRequest, why));
            }
            Ok(Some(data)) => batch.extend_from_slice(&data),
            Ok(None) => break,
        }
        if batch.len() >= BATCH {
            sink = write(sink, batch.split().freeze()).await?;
        }
    }
    sink = write(sink, batch.freeze()).await?;
    blocking(move || sink.finish()).await?
}

async fn write(mut sink: Box<dyn ImportSink>, bytes: Bytes) -> Result<Box<dyn ImportSink>, ApiError> {
    blocking(move || sink.write(&bytes).map(|()| sink)).await?
}

pub(super) async fn export(app: &Arc<App>, name: DbName) -> Reply {
    let permit = match turn(app).await {
        Ok(p) => p,
        Err(e) => return reply::error(&e),
    };
    let b = Arc::clone(&app.backend);
    let export = match blocking(move || b.export(&name)).await.and_then(|r| r) {
        Ok(e) => e,
        Err(e) => return reply::error(&e),
    };
    let (pos, len) = (export.pos, export.len);
    let mut reply = send(app, permit, len, export.write);
    if let Ok(value) = HeaderValue::from_str(&pos.to_string()) {
        reply.headers_mut().insert(POSITION_HEADER, value);
    }
    reply
}

pub(super) async fn ltx(app: &Arc<App>, name: DbName, txid: Txid) -> Reply {
    let permit = match turn(app).await {
        Ok(p) => p,
        Err(e) => return reply::error(&e),
    };
    let b = Arc::clone(&app.backend);
    match blocking(move || b.ltx(&name, txid)).await.and_then(|r| r) {
        Ok(mut file) => {
            send(app, permit, file.len, move |w: &mut dyn Write| io::copy(&mut file.reader, w).map(drop))
        }
        Err(e) => reply::error(&e),
    }
}

/// Streams what `write` writes. Anything but exactly `len` bytes resets the connection.
fn send(
    app: &App,
    permit: OwnedSemaphorePermit,
    len: u64,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Reply {
    let (tx, rx) = mpsc::channel(CHANNEL_PARTS);
    let mut out = Exactly { out: ChannelWriter::new(tx, Handle::current(), app.stop.clone()), left: len };
    spawn_blocking(move || {
        let _permit = permit;
        let result = write(&mut out).and_then(|()| out.finish());
        if let Err(e) = result {
            tracing::warn!("control: a transfer broke off: {e}");
            out.out.abort();
        }
    });
    reply::stream(len, rx)
}

/// Counts what goes through.
struct Exactly {
    out: ChannelWriter,
    left: u64,
}

impl Exactly {
    fn finish(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other(format!("{} bytes are missing", self.left)));
        }
        self.out.flush()
    }
}

impl Write for Exactly {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("more bytes than announced"));
        }
        let n = self.out.write(bytes)?;
        self.left -= n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
