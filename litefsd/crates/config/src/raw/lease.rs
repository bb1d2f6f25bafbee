//! `lease:` who may be primary, and where that is recorded.

use crate::GoDuration;
use crate::visit::{Section, Visit};

/// `lease:` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// `consul`, `static` or ours. Required.
    pub kind: String,
    /// consul: this node's name; static: the primary's, on every node.
    pub hostname: String,
    /// consul: this node's URL; static: the primary's.
    pub advertise_url: String,
    /// May become primary; with static: is the primary.
    pub candidate: bool,
    /// Take over as primary when caught up.
    pub promote: bool,
    /// Pause before a replica reconnects.
    pub reconnect_delay: GoDuration,
    /// Pause after a demotion before the lease is tried again.
    pub demote_delay: GoDuration,
    /// Databases to replicate; empty: all.
    pub databases: Vec<String>,
    /// Ours: a node may become primary although others had more.
    pub allow_stale: bool,
    /// `lease.consul:`
    pub consul: Consul,
    /// Ours: `lease.etcd:`
    pub etcd: Etcd,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            kind: String::new(),
            hostname: String::new(),
            advertise_url: String::new(),
            candidate: true,
            promote: false,
            reconnect_delay: GoDuration::secs(1),
            demote_delay: GoDuration::secs(10),
            databases: Vec::new(),
            allow_stale: false,
            consul: Consul::default(),
            etcd: Etcd::default(),
        }
    }
}

impl Section for Lease {
    fn type_name(&self) -> &'static str {
        "main.LeaseConfig"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.string("type", &mut self.kind);
        v.string("hostname", &mut self.hostname);
        v.string("advertise-url", &mut self.advertise_url);
        v.bool("candidate", &mut self.candidate);
        v.bool("promote", &mut self.promote);
        v.duration("reconnect-delay", &mut self.reconnect_delay);
        v.duration("demote-delay", &mut self.demote_delay);
        v.strings("databases", &mut self.databases);
        v.bool("allow-stale", &mut self.allow_stale);
        v.section("consul", &mut self.consul);
        v.section("etcd", &mut self.etcd);
    }
}

/// `lease.consul:` as written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Consul {
    /// URL of the agent; may hold a token.
    pub url: String,
    /// Key of the cluster.
    pub key: String,
    /// Time to live of the session; zero: 10 s.
    pub ttl: GoDuration,
    /// How long the key stays locked after a session died; zero: 1 s.
    pub lock_delay: GoDuration,
}

impl Section for Consul {
    fn type_name(&self) -> &'static str {
        "struct { URL string; Key string; TTL time.Duration; LockDelay time.Duration }"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.string("url", &mut self.url);
        v.string("key", &mut self.key);
        v.duration("ttl", &mut self.ttl);
        v.duration("lock-delay", &mut self.lock_delay);
    }
}

/// `lease.etcd:` as written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Etcd {
    /// URLs of the members.
    pub endpoints: Vec<String>,
    /// Key of the cluster.
    pub key: String,
    /// Time to live of the lease; zero: the backend's default.
    pub ttl: GoDuration,
}

impl Section for Etcd {
    fn type_name(&self) -> &'static str {
        "lease.etcd"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.strings("endpoints", &mut self.endpoints);
        v.string("key", &mut self.key);
        v.duration("ttl", &mut self.ttl);
    }
}
