//! Checked `proxy:`.

use std::time::Duration;

use litefs_types::DbName;

use super::Checker;
use crate::ListenAddr;
use crate::raw::Proxy;

/// How a write that arrives on a replica reaches the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forward {
    /// `fly-replay` on Fly, otherwise forwarding.
    Auto,
    /// Answer with Fly's replay header.
    FlyReplay,
    /// Send it to the primary's proxy and pass the answer on.
    Forward,
    /// Answer with a redirect to the primary.
    Redirect,
}

/// The HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Address to listen on.
    pub addr: ListenAddr,
    /// `host:port` of the application.
    pub target: String,
    /// The database whose position is followed.
    pub db: DbName,
    /// Lag above which the health check fails; `None`: never.
    pub max_lag: Option<Duration>,
    /// Log every request.
    pub debug: bool,
    /// Path patterns that are passed on untouched. `*` stands for any text.
    pub passthrough: Vec<String>,
    /// Path patterns that count as writes.
    pub always_forward: Vec<String>,
    /// How long a write waits for a primary to be known.
    pub primary_redirect_timeout: Duration,
    /// Time to read a request; `None`: no limit.
    pub read_timeout: Option<Duration>,
    /// Time to read a request's headers; `None`: no limit.
    pub read_header_timeout: Option<Duration>,
    /// Time to write an answer; `None`: no limit.
    pub write_timeout: Option<Duration>,
    /// How long an idle connection is kept; `None`: no limit.
    pub idle_timeout: Option<Duration>,
    /// How writes reach the primary.
    pub forward: Forward,
}

/// `None` without a target: the proxy is off, whatever else the section says.
pub(super) fn check(raw: &Proxy, c: &mut Checker<'_>) -> Option<ProxySettings> {
    if raw.target.is_empty() {
        return None;
    }
    c.require(!raw.db.is_empty(), "proxy.db", "proxy database name required");
    c.require(!raw.addr.is_empty(), "proxy.addr", "proxy bind address required");
    let forward = match raw.forward.as_str() {
        "auto" => Forward::Auto,
        "fly-replay" => Forward::FlyReplay,
        "forward" => Forward::Forward,
        "redirect" => Forward::Redirect,
        other => {
            let message = format!("must be auto, fly-replay, forward or redirect, got: {other:?}");
            c.problem("proxy.forward", message);
            Forward::Auto
        }
    };
    let target = c.parse::<ListenAddr>("proxy.target", &raw.target)?;
    let max_lag = c.some_span("proxy.max-lag", raw.max_lag);
    let primary_redirect_timeout = c.span("proxy.primary-redirect-timeout", raw.primary_redirect_timeout);
    let read_timeout = c.some_span("proxy.read-timeout", raw.read_timeout);
    let read_header_timeout = c.some_span("proxy.read-header-timeout", raw.read_header_timeout);
    let write_timeout = c.some_span("proxy.write-timeout", raw.write_timeout);
    let idle_timeout = c.some_span("proxy.idle-timeout", raw.idle_timeout);
    if raw.db.is_empty() || raw.addr.is_empty() {
        return None;
    }
    let db = c.parse("proxy.db", &raw.db);
    let addr = c.parse("proxy.addr", &raw.addr);
    Some(ProxySettings {
        addr: addr?,
        target: match &target.host {
            Some(_) => target.to_string(),
            None => format!("localhost{target}"),
        },
        db: db?,
        max_lag,
        debug: raw.debug,
        passthrough: raw.passthrough.clone(),
        always_forward: raw.always_forward.clone(),
        primary_redirect_timeout,
        read_timeout,
        read_header_timeout,
        write_timeout,
        idle_timeout,
        forward,
    })
}
