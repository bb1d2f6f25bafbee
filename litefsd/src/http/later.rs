//! `/halt`, `/tx`, `/promote` and `/handoff`: what is fixed about them with a static lease.
//!
//! Requests that would need a halt lock, a forwarded transaction or a movable lease are refused with
//! [`NOT_SUPPORTED`], never accepted; checks that come before that answer as the original does. Tested
//! in `tests/tests/http_port.rs`.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use litefs_types::NodeId;

use super::App;
use super::query::param;
use super::reply::{self, LITEFS_ID, Refused, Reply};

/// Answer (501) to what this version does not do.
pub const NOT_SUPPORTED: &str = "not supported by this version";

/// The node that sends this request; 0 if it does not say or the header is garbled, as in the original.
pub(crate) fn peer_id<B>(req: &Request<B>) -> NodeId {
    req.headers()
        .get(LITEFS_ID)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok())
        .unwrap_or(NodeId::new(0))
}

fn not_supported() -> Reply {
    reply::error(StatusCode::NOT_IMPLEMENTED, NOT_SUPPORTED)
}

/// The lock id, a signed decimal.
fn lock_id(req: &Request<Incoming>) -> Result<i64, Refused> {
    let text = param(req.uri().query(), "id").unwrap_or_default();
    text.parse().map_err(|_| Box::new(reply::bad_request(format_args!("invalid id: {text:?}"))))
}

pub(super) fn halt(app: &App, req: &Request<Incoming>) -> Reply {
    match lock_id(req) {
        Err(r) => *r,
        Ok(_) if peer_id(req) == app.node.id => reply::bad_request("cannot remotely halt self"),
        Ok(_) => not_supported(),
    }
}

pub(super) fn unhalt(app: &App, req: &Request<Incoming>) -> Reply {
    let name = param(req.uri().query(), "name").unwrap_or_default();
    match lock_id(req) {
        Err(r) => *r,
        Ok(_) if peer_id(req) == app.node.id => reply::bad_request("cannot remotely unhalt self"),
        // No lock was ever granted, so none of this id is held: releasing it is no operation.
        Ok(_) if app.backend.exists(&name) => reply::ok(),
        Ok(_) => reply::not_found(format_args!("database not found: {name:?}")),
    }
}

pub(super) fn tx(app: &App, req: &Request<Incoming>) -> Reply {
    let name = param(req.uri().query(), "name").unwrap_or_default();
    if app.backend.exists(&name) {
        not_supported()
    } else {
        reply::not_found(format_args!("database not found: {name:?}"))
    }
}

pub(super) fn promote(app: &App) -> Reply {
    if !app.node.candidate {
        reply::error(StatusCode::CONFLICT, "not eligible to become primary")
    } else if app.node.is_primary() {
        reply::ok()
    } else {
        not_supported()
    }
}

pub(super) fn handoff(app: &App, req: &Request<Incoming>) -> Reply {
    let text = param(req.uri().query(), "nodeID").unwrap_or_default();
    let Ok(target) = text.parse::<NodeId>() else { return reply::bad_request("invalid node id") };
    let reason = if !app.node.is_primary() {
        "node is not currently primary"
    } else if !app.changes.is_connected(target) {
        "target node is not currently connected"
    } else {
        "static lease does not support handoff"
    };
    reply::internal(format_args!("cannot handoff: {reason}"))
}
