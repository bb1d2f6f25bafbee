//! `POST /ack`: how far a replica of ours is, told beside its stream.
//!
//! Owns the checks; what is told goes to [`super::changes`], for status pages. The body is that of
//! `litefs_core::stream::ack`, bounded; a stream that has ended is 404, so that the replica stops. Tested in
//! `tests/tests/replication_net_acks.rs`.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use litefs_core::stream::ack::{self, MAX_ACK_BYTES};
use tokio::time::timeout;

use crate::http::extensions::STREAM;
use crate::http::{App, Reply, bad_request, later, not_found, ok};

/// For the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers `POST /ack`.
pub(crate) async fn ack(app: &Arc<App>, req: Request<Incoming>) -> Reply {
    let stream = req.headers().get(STREAM).and_then(|v| v.to_str().ok());
    let Some(stream) = stream.and_then(|s| u64::from_str_radix(s, 16).ok()) else {
        return bad_request("invalid stream");
    };
    let peer = later::peer_id(&req);
    let body = match timeout(BODY_TIMEOUT, Limited::new(req.into_body(), MAX_ACK_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) => return bad_request(e),
        Err(_) => return bad_request("acknowledgement: timed out"),
    };
    // With a static lease there are no epochs to tell apart: the stream is proof enough.
    let (_epoch, rows) = match ack::decode(&body) {
        Ok(told) => told,
        Err(e) => return bad_request(e),
    };
    if app.changes.acknowledge(stream, peer, rows) { ok() } else { not_found("no such stream") }
}
