//! The client of the control socket.
//!
//! One HTTP/1.1 connection per request: a Unix socket costs microseconds, and nothing is left over
//! when a request is abandoned. Every wait has a limit. Tested against the real server in
//! `litefsd/tests/control.rs`, and by litefsctl's tests.

mod body;
pub mod cluster;
mod error;
mod http1;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use litefs_types::{DbName, Pos, Txid};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

pub use body::Progress;
pub use error::ClientError;

use crate::{ApiError, Dropped, Health, Imported, LtxList, MAX_JSON, Probe, Route, Status, Waited};
use crate::{DatabaseList, DatabaseStatus, ErrorCode, POSITION_HEADER};

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Time to the first byte of an answer that is made from memory.
const ANSWER: Duration = Duration::from_secs(30);
/// Time to the answer of an import or drop: the database is replaced on disk first.
const APPLY: Duration = Duration::from_secs(600);
/// Longest silence inside a body that is being sent or received.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// Asks one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the daemon at this socket. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The whole state of the node.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.json(&Route::Status, "", ANSWER).await
    }

    /// The status as the daemon wrote it, fields unknown to this client included.
    pub async fn status_text(&self) -> Result<String, ClientError> {
        self.text(&Route::Status, "", ANSWER).await
    }

    /// All databases.
    pub async fn databases(&self) -> Result<DatabaseList, ClientError> {
        self.json(&Route::Databases, "", ANSWER).await
    }

    /// One database.
    pub async fn database(&self, name: &DbName) -> Result<DatabaseStatus, ClientError> {
        self.json(&Route::Database(name.clone()), "", ANSWER).await
    }

    /// The metrics in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        self.text(&Route::Metrics, "", ANSWER).await
    }

    /// A health probe. "Not healthy" is an answer, not an error.
    pub async fn health(&self, probe: Probe) -> Result<Health, ClientError> {
        let route = Route::Health(probe);
        let response = self.send(&route, "", body::empty(), ANSWER).await?;
        let unavailable = response.status() == http::StatusCode::SERVICE_UNAVAILABLE;
        if !response.status().is_success() && !unavailable {
            return Err(api_error(response).await);
        }
        let bytes = collect(response, MAX_JSON).await?;
        // A 503 of a daemon that is going away may be an error instead of a health answer.
        serde_json::from_slice(&bytes).map_err(|e| match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(error) => ClientError::Api(error),
            Err(_) => ClientError::Protocol(format!("health answer: {e}")),
        })
    }

    /// Waits until the database has reached a transaction.
    pub async fn wait(&self, name: &DbName, txid: Txid, limit: Duration) -> Result<Waited, ClientError> {
        let query = format!("txid={txid}&timeout={}ms", limit.as_millis());
        self.json(&Route::Wait(name.clone()), &query, limit.saturating_add(ANSWER)).await
    }

    /// Puts `len` bytes of `from`, a SQLite database, in place of the database. Reads block the
    /// executor: for programs that do nothing else meanwhile.
    pub async fn import(
        &self,
        name: &DbName,
        from: impl Read + Send + 'static,
        len: u64,
        replace: bool,
        progress: impl Progress + 'static,
    ) -> Result<Imported, ClientError> {
        let route = Route::Import(name.clone());
        let body = body::reader(from, len, progress);
        json_of(self.send(&route, &format!("replace={replace}"), body, APPLY).await?).await
    }

    /// Writes a consistent copy of the database to `to`. Returns its position and length.
    pub async fn export(
        &self,
        name: &DbName,
        to: &mut (impl Write + ?Sized),
        progress: &mut dyn Progress,
    ) -> Result<(Option<Pos>, u64), ClientError> {
        let response = self.ok(&Route::Export(name.clone()), "", ANSWER).await?;
        let position = response.headers().get(POSITION_HEADER).and_then(|v| v.to_str().ok());
        let position = position.and_then(|p| p.parse().ok());
        let len = body::copy(response.into_body(), to, progress).await?;
        Ok((position, len))
    }

    /// Drops the database on all nodes.
    pub async fn drop_database(&self, name: &DbName) -> Result<Dropped, ClientError> {
        self.json(&Route::Drop(name.clone()), "", APPLY).await
    }

    /// The log of a database from a transaction on.
    pub async fn ltx_list(
        &self,
        name: &DbName,
        from: Option<Txid>,
        limit: usize,
    ) -> Result<LtxList, ClientError> {
        let from = from.map(|t| format!("from={t}&")).unwrap_or_default();
        self.json(&Route::LtxList(name.clone()), &format!("{from}limit={limit}"), ANSWER).await
    }

    /// Writes the LTX file of one transaction to `to`.
    pub async fn ltx(
        &self,
        name: &DbName,
        txid: Txid,
        to: &mut (impl Write + ?Sized),
    ) -> Result<u64, ClientError> {
        let response = self.ok(&Route::Ltx(name.clone(), txid), "", ANSWER).await?;
        body::copy(response.into_body(), to, &mut ()).await
    }

    /// The stream of events, one line of JSON each.
    pub async fn events(&self) -> Result<Events, ClientError> {
        let response = self.ok(&Route::Events, "", ANSWER).await?;
        Ok(Events { body: response.into_body(), buffer: Vec::new(), ended: false })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        route: &Route,
        query: &str,
        limit: Duration,
    ) -> Result<T, ClientError> {
        json_of(self.send(route, query, body::empty(), limit).await?).await
    }

    async fn text(&self, route: &Route, query: &str, limit: Duration) -> Result<String, ClientError> {
        let bytes = collect(self.ok(route, query, limit).await?, MAX_JSON).await?;
        String::from_utf8(bytes.into())
            .map_err(|_| ClientError::Protocol("the answer is not UTF-8".to_owned()))
    }

    async fn ok(
        &self,
        route: &Route,
        query: &str,
        limit: Duration,
    ) -> Result<http::Response<Incoming>, ClientError> {
        let response = self.send(route, query, body::empty(), limit).await?;
        if response.status().is_success() { Ok(response) } else { Err(api_error(response).await) }
    }

    async fn send(
        &self,
        route: &Route,
        query: &str,
        body: body::Outgoing,
        limit: Duration,
    ) -> Result<http::Response<Incoming>, ClientError> {
        let target = self.socket.display().to_string();
        let stream = match timeout(CONNECT, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(ClientError::Unreachable { target, source }),
            Err(_) => {
                return Err(ClientError::Timeout { what: format!("connecting to {target}"), limit: CONNECT });
            }
        };
        let path = if query.is_empty() { route.path() } else { format!("{}?{query}", route.path()) };
        http1::request(stream, "localhost", route.method(), &path, body, limit).await
    }
}

/// See [`Client::events`].
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
}

/// Longest line of the event stream.
const MAX_EVENT: usize = 1 << 20;

impl Events {
    /// The next line, without its end; `None` when the daemon ended the stream. Waits for as long as
    /// nothing happens. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.drain(..=end).take(end).collect();
                return String::from_utf8(line)
                    .map(Some)
                    .map_err(|_| ClientError::Protocol("an event is not UTF-8".to_owned()));
            }
            if self.ended {
                return Ok(None);
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(ClientError::Protocol(format!("an event is longer than {MAX_EVENT} bytes")));
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(e)) => return Err(ClientError::broken(&e)),
            }
        }
    }
}

async fn json_of<T: DeserializeOwned>(response: http::Response<Incoming>) -> Result<T, ClientError> {
    if !response.status().is_success() {
        return Err(api_error(response).await);
    }
    let bytes = collect(response, MAX_JSON).await?;
    serde_json::from_slice(&bytes).map_err(|e| ClientError::Protocol(format!("cannot read the answer: {e}")))
}

/// The error in an answer; whoever answers without our JSON is no litefsd.
async fn api_error(response: http::Response<Incoming>) -> ClientError {
    let status = response.status();
    match collect(response, 1 << 16).await {
        Ok(bytes) => ClientError::Api(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&bytes);
            ApiError::new(ErrorCode::Unknown, format!("HTTP status {status}: {}", text.trim()))
        })),
        Err(e) => e,
    }
}

async fn collect(response: http::Response<Incoming>, limit: usize) -> Result<Bytes, ClientError> {
    let body = http_body_util::Limited::new(response.into_body(), limit);
    match timeout(SILENCE, body.collect()).await {
        Ok(Ok(all)) => Ok(all.to_bytes()),
        Ok(Err(e)) => Err(ClientError::Protocol(format!("the answer broke off: {e}"))),
        Err(_) => Err(ClientError::Timeout { what: "reading the answer".to_owned(), limit: SILENCE }),
    }
}
