//! The sending side of replication: `POST /stream`.
//!
//! Owns the checks of a request and the start of its session; what is sent is in `session.rs` and
//! `send.rs`, who is told of changes in [`changes`]. It decides no role and writes no database. Tested by
//! `tests/tests/replication_net.rs` and, against recorded requests, `http_port.rs`.

mod ack;
pub mod changes;
mod damage;
mod page_size;
mod send;
mod session;

pub(crate) use ack::ack;
pub(crate) use damage::Damage;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use litefs_core::stream::{Filter, PosMap, PosMapDecoder};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::http::extensions::{Extensions, STREAM};
use crate::http::{
    App, Body, Part, Reply, bad_request, error_reply, later, query_param, stream_reply, unavailable,
};

/// For the whole position map.
const MAP_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a position map: a million databases with names of 44 bytes.
const MAX_MAP_BYTES: usize = 64 << 20;
/// Parts of the stream between the session and the connection. Few, so that a replica that does not read
/// is noticed and a database that is dropped meanwhile is not sent in vain.
const STREAM_PARTS: usize = 16;

/// The address a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddr(pub(crate) SocketAddr);

/// Answers `POST /stream`: the checks in the order of the original, then the stream.
pub(crate) async fn stream(app: &Arc<App>, req: Request<Incoming>) -> Reply {
    if req.version() < Version::HTTP_2 {
        return error_reply(StatusCode::UPGRADE_REQUIRED, "Upgrade to HTTP/2 required");
    }
    let peer_id = later::peer_id(&req);
    if peer_id == app.node.id {
        return bad_request("cannot connect to self");
    }
    if !app.node.is_primary() {
        return unavailable("lease expired");
    }
    let peer = req.extensions().get::<PeerAddr>().map(|p| p.0);
    let extensions = Extensions::of(req.headers());
    let filter = Filter::parse(&query_param(req.uri().query(), "filter").unwrap_or_default());
    let positions = match read_map(app, req.into_body()).await {
        Ok(map) => map,
        Err(why) => return bad_request(why),
    };
    let Ok(permit) = Arc::clone(&app.streams).try_acquire_owned() else {
        return unavailable("too many replicas");
    };
    let (tx, rx) = mpsc::channel::<Part>(STREAM_PARTS);
    // Subscribed before the first look at the databases: no change falls between the two.
    let subscription = app.changes.subscribe(peer_id, peer, extensions, filter.clone());
    let stream = subscription.number();
    let session = session::Session::new(Arc::clone(app), peer_id, subscription, positions, filter, tx);
    tokio::spawn(async move {
        session.run().await;
        drop(permit);
    });
    let mut reply = stream_reply(None, Body::Stream(None, rx));
    if extensions.ack {
        reply.headers_mut().insert(STREAM, stream);
    }
    reply
}

async fn read_map(app: &App, mut body: Incoming) -> Result<PosMap, String> {
    let read = async {
        let _permit = app.map_reads.acquire().await;
        let mut decoder = PosMapDecoder::new();
        let mut total = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| "unexpected EOF".to_owned())?;
            let Ok(data) = frame.into_data() else { continue };
            total += data.len();
            if total > MAX_MAP_BYTES {
                return Err(format!("position map of more than {MAX_MAP_BYTES} bytes"));
            }
            if let Some(map) = decoder.next(&mut &data[..]).map_err(|e| e.to_string())? {
                return Ok(map);
            }
        }
        Err(if total == 0 { "EOF" } else { "unexpected EOF" }.to_owned())
    };
    timeout(MAP_TIMEOUT, read).await.unwrap_or_else(|_| Err("position map: timed out".to_owned()))
}
