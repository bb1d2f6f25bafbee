//! One connection to the primary: request, checks, frames.
//!
//! Owns the protocol of `/stream` from the replica's side; files are put together in `receive.rs`.
//! Tested in `tests/tests/replication_net.rs`, also with streams recorded from the original.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use litefs_core::stream::{Event, Frame, FrameDecoder, FrameError, pos_map};
use litefs_types::{ClusterId, Pos};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Options;
use super::ack::Acknowledge;
use super::connect::{ConnectError, connect};
use super::inbox::Inbox;
use super::receive::{Receiver, RejectedFile};
use crate::http::backend::Backend;
use crate::http::extensions::{EXTENSIONS, OURS, STREAM};
use crate::http::node::NodeState;
use crate::http::{LITEFS_CLUSTER_ID, LITEFS_ID, encode_query};

/// From the request to the response headers, which the original sends before any work.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Most databases of which a connection reports what it reports once for each.
const MAX_REPORTED: usize = 1000;

/// Everything a connection needs.
pub(super) struct Follow<'a> {
    pub(super) options: &'a Options,
    pub(super) node: &'a Arc<NodeState>,
    pub(super) backend: &'a Arc<dyn Backend>,
    pub(super) inbox: &'a Inbox,
}

/// How a stream ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The primary ended it.
    Closed,
    /// We did: some database must be asked for again.
    AskAgain,
}

/// How a stream ended with one.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("connect to primary: {0}")]
    Connect(#[from] ConnectError),
    #[error("request to primary")]
    Request(#[source] hyper::Error),
    #[error("invalid address of primary: {0}")]
    Address(#[source] http::Error),
    #[error("no response")]
    NoResponse,
    #[error("invalid response: code={0}")]
    Status(u16),
    #[error("primary sent an invalid cluster id")]
    InvalidClusterId,
    #[error("cannot stream from primary with a different cluster id: {local} <> {primary}")]
    ClusterId { local: String, primary: String },
    #[error("save cluster id: {0}")]
    SaveClusterId(String),
    #[error("read from primary")]
    Read(#[source] hyper::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    File(#[from] RejectedFile),
}

impl Follow<'_> {
    /// Connects and streams until something ends it. `caught_up` tells whether it was of any use.
    pub(super) async fn once(&self, caught_up: &mut bool) -> Result<Ended, StreamError> {
        let mut connection = connect(&self.options.primary).await?;
        let wishes = self.backend.resync_wishes();
        let positions = self.inbox.begin();
        tracing::debug!(primary = %self.options.primary, databases = positions.len(), "connected");
        let positions = positions.into_iter().collect();
        let body = pos_map::encode(&positions);
        let request = self.request(body)?;
        let response = match timeout(RESPONSE_TIMEOUT, connection.requests.send_request(request)).await {
            Ok(Ok(r)) => r,
            Ok(Err(e)) => return Err(StreamError::Request(e)),
            Err(_) => return Err(StreamError::NoResponse),
        };
        if response.status() != StatusCode::OK {
            return Err(StreamError::Status(response.status().as_u16()));
        }
        let header = response.headers().get(LITEFS_CLUSTER_ID).map(|v| v.to_str().unwrap_or("?").to_owned());
        self.check_cluster_id(header).await?;
        self.node.follow(&self.options.hostname);
        let stream = response.headers().get(STREAM).cloned();
        let frames = self.frames(response.into_body(), wishes, caught_up);
        let Some(stream) = stream else { return frames.await };
        let acks = self.inbox.acks();
        acks.mark(positions.into_keys());
        let uri = format!("http://{}/ack", self.authority());
        let told = Acknowledge { acks, backend: self.backend, node: self.node, uri, stream };
        let requests = connection.requests.clone();
        let telling = async {
            told.run(requests).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = frames => ended,
            () = telling => Ok(Ended::Closed),
        }
    }

    fn authority(&self) -> String {
        // A zone (`fe80::1%eth0`) means nothing to the peer and is not allowed here.
        let host = self.options.primary.host();
        let host = host.split_once('%').map_or(host, |(ip, _)| ip);
        match host {
            "" => format!("localhost:{}", self.options.primary.port()),
            h if h.contains(':') => format!("[{h}]:{}", self.options.primary.port()),
            h => format!("{h}:{}", self.options.primary.port()),
        }
    }

    fn request(&self, body: Vec<u8>) -> Result<Request<Full<Bytes>>, StreamError> {
        let mut uri = format!("http://{}/stream", self.authority());
        if !self.options.databases.is_empty() {
            let names: Vec<&str> = self.options.databases.iter().map(AsRef::as_ref).collect();
            uri.push_str("?filter=");
            uri.push_str(&encode_query(&names.join(",")));
        }
        Request::post(uri)
            .header(LITEFS_ID, self.node.id.to_string())
            .header(EXTENSIONS, OURS)
            .body(Full::new(Bytes::from(body)))
            .map_err(StreamError::Address)
    }

    /// A node without an id takes the primary's; one with an id follows no other, nor one without.
    async fn check_cluster_id(&self, header: Option<String>) -> Result<(), StreamError> {
        if let (None, Some(text)) = (self.backend.cluster_id(), &header) {
            let id: ClusterId = text.parse().map_err(|_| StreamError::InvalidClusterId)?;
            let backend = Arc::clone(self.backend);
            let saved = spawn_blocking(move || backend.set_cluster_id(&id)).await;
            match saved {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return Err(StreamError::SaveClusterId(e.to_string())),
                Err(e) => return Err(StreamError::SaveClusterId(e.to_string())),
            }
        }
        let local = self.backend.cluster_id().map_or_else(String::new, |c| c.as_str().to_owned());
        let primary = header.unwrap_or_default();
        if local == primary { Ok(()) } else { Err(StreamError::ClusterId { local, primary }) }
    }

    async fn frames(
        &self,
        mut body: Incoming,
        wishes: u64,
        caught_up: &mut bool,
    ) -> Result<Ended, StreamError> {
        let mut decoder = FrameDecoder::new();
        let mut receiver = Receiver::new(self.node.id, Arc::clone(self.backend), self.inbox.clone());
        // A primary that repeats itself must not fill the disk with log lines.
        let mut reported = BTreeSet::new();
        let mut handoff_reported = false;
        loop {
            let part = tokio::select! {
                part = body.frame() => part,
                () = self.inbox.ask_again(), if receiver.is_idle() => return Ok(Ended::AskAgain),
            };
            let data = match part {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_trailers) => continue,
                },
                Some(Err(e)) => return Err(StreamError::Read(e)),
                None => {
                    decoder.finish()?;
                    return Ok(Ended::Closed);
                }
            };
            let mut input = &data[..];
            while let Some(event) = decoder.next(&mut input)? {
                match event {
                    Event::Data(bytes) => receiver.data(bytes).await?,
                    Event::LtxEnd => receiver.end().await?,
                    Event::Frame(frame) => match frame {
                        Frame::Ltx { db } => {
                            let wanted = &self.options.databases;
                            receiver.begin(&db, wanted.is_empty() || wanted.contains(&db));
                        }
                        Frame::Ready => {
                            *caught_up = true;
                            self.inbox.mark_ready();
                        }
                        Frame::End => return Ok(Ended::Closed),
                        Frame::DropDb { db } => {
                            if reported.len() < MAX_REPORTED && reported.insert(db.clone()) {
                                tracing::info!(
                                    "{db}: the primary does not have this database; it is kept here"
                                );
                            }
                        }
                        // Asked for by nobody: a static lease cannot be handed over.
                        Frame::Handoff { .. } => {
                            if !std::mem::replace(&mut handoff_reported, true) {
                                tracing::warn!("handoff of a lease that this node cannot take");
                            }
                        }
                        Frame::Hwm { db, txid } => {
                            self.backend.set_high_water_mark(&db, txid.map_or(0, litefs_types::Txid::get));
                        }
                        Frame::Heartbeat(t) => {
                            self.inbox.mark_heartbeat(t);
                            if self.backend.resync_wishes() != wishes {
                                tracing::info!("connecting again: a local database needs a snapshot");
                                return Ok(Ended::AskAgain);
                            }
                        }
                    },
                }
            }
        }
    }
}

/// `Pos` before a file with this header.
pub(super) fn pre_pos(header: &litefs_ltx::Header) -> Pos {
    header.min_txid.prev().map_or(Pos::ZERO, |t| Pos::new(t, header.pre_apply))
}
