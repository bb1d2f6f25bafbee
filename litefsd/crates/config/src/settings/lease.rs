//! Checked `lease:`.

use std::time::Duration;

use litefs_types::DbName;

use super::{Checker, non_empty};
use crate::HttpUrl;
use crate::raw::{Consul, Etcd, Lease};

/// The original's default for `lease.consul.ttl`, also ours for etcd.
const DEFAULT_TTL: Duration = Duration::from_secs(10);
/// The original's default for `lease.consul.lock-delay`.
const DEFAULT_LOCK_DELAY: Duration = Duration::from_secs(1);

/// Where the lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseKind {
    /// Nowhere: the file says who is primary.
    Static,
    /// In Consul.
    Consul(ConsulSettings),
    /// In etcd.
    Etcd(EtcdSettings),
}

impl LeaseKind {
    /// The word in the file.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Consul(_) => "consul",
            Self::Etcd(_) => "etcd",
        }
    }
}

/// Roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Where the lease is.
    pub kind: LeaseKind,
    /// static: the primary's name; otherwise this node's, `None`: the host name.
    pub hostname: Option<String>,
    /// static: the primary's URL; otherwise this node's, `None`: from host name and port.
    pub advertise_url: Option<HttpUrl>,
    /// May become primary; with static: is the primary.
    pub candidate: bool,
    /// Take over as primary when caught up.
    pub promote: bool,
    /// Pause before a replica reconnects.
    pub reconnect_delay: Duration,
    /// Pause after a demotion before the lease is tried again.
    pub demote_delay: Duration,
    /// Databases to replicate; empty: all. Only on nodes that are no candidates.
    pub databases: Vec<DbName>,
    /// This node may become primary although others had more.
    pub allow_stale: bool,
}

/// `lease.consul:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulSettings {
    /// URL of the agent, `None`: Consul's own default. May hold a token: never log it.
    pub url: Option<String>,
    /// Key of the cluster.
    pub key: String,
    /// Time to live of the session.
    pub ttl: Duration,
    /// How long the key stays locked after a session died.
    pub lock_delay: Duration,
}

/// `lease.etcd:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// URLs of the members, at least one.
    pub endpoints: Vec<HttpUrl>,
    /// Key of the cluster.
    pub key: String,
    /// Time to live of the lease.
    pub ttl: Duration,
}

/// `None` after a problem without which the rest cannot be read.
pub(super) fn check(raw: &Lease, c: &mut Checker<'_>) -> Option<LeaseSettings> {
    let kind = kind(raw, c);
    c.require(
        raw.databases.is_empty() || !raw.candidate,
        "lease.databases",
        "cannot specify a database replication filter on candidate nodes",
    );
    let advertise_url = match raw.advertise_url.as_str() {
        "" => None,
        url => c.parse("lease.advertise-url", url),
    };
    if kind == Some(LeaseKind::Static) && !raw.candidate && raw.advertise_url.is_empty() {
        let p = c.problem("lease.advertise-url", "a static replica needs the primary's URL");
        p.hint = Some("write http://HOST:20202, or candidate: true on the primary".to_owned());
    }
    let databases = raw.databases.iter().filter_map(|db| c.parse("lease.databases", db)).collect();
    let reconnect_delay = c.span("lease.reconnect-delay", raw.reconnect_delay);
    let demote_delay = c.span("lease.demote-delay", raw.demote_delay);
    Some(LeaseSettings {
        kind: kind?,
        hostname: non_empty(&raw.hostname),
        advertise_url,
        candidate: raw.candidate,
        promote: raw.promote,
        reconnect_delay,
        demote_delay,
        databases,
        allow_stale: raw.allow_stale,
    })
}

fn kind(raw: &Lease, c: &mut Checker<'_>) -> Option<LeaseKind> {
    match raw.kind.as_str() {
        "static" => Some(LeaseKind::Static),
        "consul" => Some(LeaseKind::Consul(consul(&raw.consul, c))),
        "etcd" => Some(LeaseKind::Etcd(etcd(&raw.etcd, c))),
        other => {
            let message = format!("invalid lease type, must be either 'consul' or 'static', got: '{other}'");
            c.problem("lease.type", message);
            None
        }
    }
}

fn consul(raw: &Consul, c: &mut Checker<'_>) -> ConsulSettings {
    c.require(
        !raw.key.is_empty(),
        "lease.consul.key",
        "cannot init consul: cannot connect to consul: must specify a consul key",
    );
    ConsulSettings {
        url: non_empty(&raw.url),
        key: raw.key.clone(),
        ttl: c.some_span("lease.consul.ttl", raw.ttl).unwrap_or(DEFAULT_TTL),
        lock_delay: c.some_span("lease.consul.lock-delay", raw.lock_delay).unwrap_or(DEFAULT_LOCK_DELAY),
    }
}

fn etcd(raw: &Etcd, c: &mut Checker<'_>) -> EtcdSettings {
    c.require(!raw.endpoints.is_empty(), "lease.etcd.endpoints", "at least one endpoint is required");
    c.require(!raw.key.is_empty(), "lease.etcd.key", "a key is required");
    EtcdSettings {
        endpoints: raw.endpoints.iter().filter_map(|url| c.parse("lease.etcd.endpoints", url)).collect(),
        key: raw.key.clone(),
        ttl: c.some_span("lease.etcd.ttl", raw.ttl).unwrap_or(DEFAULT_TTL),
    }
}
