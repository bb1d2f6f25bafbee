//! `proxy:` the HTTP proxy in front of the application.

use crate::GoDuration;
use crate::visit::{Section, Visit};

/// `proxy:` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Address to listen on.
    pub addr: String,
    /// `host:port` of the application; empty: no proxy.
    pub target: String,
    /// The database whose position is followed.
    pub db: String,
    /// Lag above which the health check fails; zero: never.
    pub max_lag: GoDuration,
    /// Log every request.
    pub debug: bool,
    /// Path patterns that are passed on untouched.
    pub passthrough: Vec<String>,
    /// Path patterns that count as writes.
    pub always_forward: Vec<String>,
    /// How long a write waits for a primary to be known.
    pub primary_redirect_timeout: GoDuration,
    /// Timeouts of the proxy's server.
    pub read_timeout: GoDuration,
    /// See `read_timeout`.
    pub read_header_timeout: GoDuration,
    /// See `read_timeout`.
    pub write_timeout: GoDuration,
    /// See `read_timeout`.
    pub idle_timeout: GoDuration,
    /// Ours: how writes reach the primary: `auto`, `fly-replay`, `forward`, `redirect`.
    pub forward: String,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            addr: String::new(),
            target: String::new(),
            db: String::new(),
            max_lag: GoDuration::secs(10),
            debug: false,
            passthrough: Vec::new(),
            always_forward: Vec::new(),
            primary_redirect_timeout: GoDuration::secs(5),
            read_timeout: GoDuration::default(),
            read_header_timeout: GoDuration::secs(10),
            write_timeout: GoDuration::default(),
            idle_timeout: GoDuration::secs(30),
            forward: "auto".to_owned(),
        }
    }
}

impl Section for Proxy {
    fn type_name(&self) -> &'static str {
        "main.ProxyConfig"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.string("addr", &mut self.addr);
        v.string("target", &mut self.target);
        v.string("db", &mut self.db);
        v.duration("max-lag", &mut self.max_lag);
        v.bool("debug", &mut self.debug);
        v.strings("passthrough", &mut self.passthrough);
        v.strings("always-forward", &mut self.always_forward);
        v.duration("primary-redirect-timeout", &mut self.primary_redirect_timeout);
        v.duration("read-timeout", &mut self.read_timeout);
        v.duration("read-header-timeout", &mut self.read_header_timeout);
        v.duration("write-timeout", &mut self.write_timeout);
        v.duration("idle-timeout", &mut self.idle_timeout);
        v.string("forward", &mut self.forward);
    }
}
