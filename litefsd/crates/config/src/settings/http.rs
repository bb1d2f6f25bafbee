//! Checked `http:`.

use std::time::Duration;

use super::{Checker, DataSettings};
use crate::ListenAddr;
use crate::raw::Http;

/// Where the cluster port listens if the file's address could not be read.
const FALLBACK: ListenAddr = ListenAddr { host: None, port: 20202 };

/// The cluster port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Address to listen on.
    pub addr: ListenAddr,
    /// Longest time to send one snapshot; `None`: no limit (transactions are kept for ever).
    pub snapshot_timeout: Option<Duration>,
}

pub(super) fn check(raw: &Http, data: &DataSettings, c: &mut Checker<'_>) -> HttpSettings {
    HttpSettings {
        addr: c.parse("http.addr", &raw.addr).unwrap_or(FALLBACK),
        snapshot_timeout: c.some_span("http.snapshot-timeout", raw.snapshot_timeout).or(data.retention),
    }
}
