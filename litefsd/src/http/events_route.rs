//! `GET /events`.
//!
//! Owns the response; the events are made in [`crate::events`]. Tested in `tests/tests/http_port.rs`.

use super::App;
use super::reply::{self, Body, Reply};

pub(super) fn events(app: &App) -> Reply {
    match app.node.subscribe_events() {
        Some(rx) => reply::stream(Some("application/json"), Body::Lines(rx)),
        None => reply::unavailable("too many event subscribers"),
    }
}
