//! Which path and method goes where.
//!
//! Owns the table and what is common to all answers (headers, the log line); not the routes. Tested in
//! `tests/tests/http_port.rs`.

use std::sync::Arc;

use http::{Method, Request};
use hyper::body::Incoming;

use super::reply::{self, Body, Reply};
use super::{App, events_route, info, later, transfer, vars};

/// Answers one request.
pub(super) async fn route(app: Arc<App>, req: Request<Incoming>) -> Reply {
    let method = req.method().clone();
    let path = req.uri().path().to_owned();
    let get = method == Method::GET;
    let post = method == Method::POST;
    let mut reply = match path.as_str() {
        // These two carry no identity headers, and any method will do.
        "/metrics" => return crate::metrics::page(&app),
        "/debug/vars" => return vars::vars(&app),
        "/stream" if post => crate::primary::stream(&app, req).await,
        // Ours, beside a stream.
        "/ack" if post => crate::primary::ack(&app, req).await,
        "/info" if get => info::info(&app),
        "/events" if get => events_route::events(&app),
        "/import" if post => transfer::import(&app, req).await,
        "/export" if get => transfer::export(&app, req).await,
        "/halt" if post => later::halt(&app, &req),
        "/halt" if method == Method::DELETE => later::unhalt(&app, &req),
        "/tx" if post => later::tx(&app, &req),
        "/promote" if post => later::promote(&app),
        "/handoff" if post => later::handoff(&app, &req),
        "/stream" | "/ack" | "/info" | "/events" | "/import" | "/export" | "/halt" | "/tx" | "/promote"
        | "/handoff" => reply::method_not_allowed(),
        _ => reply::not_found("404 page not found"),
    };
    reply::identify(reply.headers_mut(), &app);
    if let (true, Body::Full(text)) = (reply.status().as_u16() >= 400, reply.body()) {
        let message = String::from_utf8_lossy(text);
        let message = message.trim_end();
        if reply.status().is_server_error() {
            tracing::warn!("http: {method} {path}: error: {message}");
        } else {
            tracing::debug!("http: {method} {path}: error: {message}");
        }
    }
    reply
}
