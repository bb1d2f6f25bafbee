//! What the programs use: the values of [`Raw`] checked and turned into types that cannot be wrong.
//!
//! Messages of the original are kept where it has one, and its first five checks come first, in its
//! order. Tested by `tests/settings.rs`.

mod backup;
mod data;
mod fuse;
mod http;
mod lease;
mod log;
mod proxy;
mod tracing;

use std::path::PathBuf;
use std::time::Duration;

pub use backup::{BackupKind, BackupSettings};
pub use data::DataSettings;
pub use fuse::{FuseSettings, ReplicaWrites};
pub use http::HttpSettings;
pub use lease::{ConsulSettings, EtcdSettings, LeaseKind, LeaseSettings};
pub use log::{LogFormat, LogSettings};
pub use proxy::{Forward, ProxySettings};
pub use tracing::TracingSettings;

use crate::{Env, ExecItem, GoDuration, Problem, Raw};

/// The checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// End when the start fails; otherwise stay up for inspection.
    pub exit_on_error: bool,
    /// Do not wait for the cluster before the application starts.
    pub skip_sync: bool,
    /// Full checksum after each transaction.
    pub strict_verify: bool,
    /// What the container entrypoint runs.
    pub exec: Vec<ExecItem>,
    /// The data directory.
    pub data: DataSettings,
    /// The mount.
    pub fuse: FuseSettings,
    /// The cluster port.
    pub http: HttpSettings,
    /// The proxy, if there is one.
    pub proxy: Option<ProxySettings>,
    /// Roles.
    pub lease: LeaseSettings,
    /// Where copies go; empty: nowhere.
    pub backup: Vec<BackupSettings>,
    /// Logging.
    pub log: LogSettings,
    /// The trace file, if there is one.
    pub tracing: Option<TracingSettings>,
    /// Path of the control socket. `LITEFS_SOCKET` wins over the file.
    pub socket: PathBuf,
}

impl Settings {
    /// Checks a file. All problems are returned together, the one the original would report first.
    pub fn from_raw(raw: &Raw, env: &Env) -> Result<Self, Vec<Problem>> {
        let mut c = Checker { raw, problems: Vec::new() };
        c.require(!raw.fuse.dir.is_empty(), "fuse.dir", "fuse directory required");
        c.require(!raw.data.dir.is_empty(), "data.dir", "data directory required");
        c.require(
            raw.fuse.dir.is_empty() || raw.fuse.dir != raw.data.dir,
            "fuse.dir",
            "fuse directory and data directory cannot be the same path",
        );
        let lease = lease::check(&raw.lease, &mut c);
        let data = data::check(&raw.data);
        let settings = Self {
            exit_on_error: raw.exit_on_error,
            skip_sync: raw.skip_sync,
            strict_verify: raw.strict_verify,
            exec: raw.exec.clone(),
            http: http::check(&raw.http, &data, &mut c),
            data,
            fuse: fuse::check(&raw.fuse, &mut c),
            proxy: proxy::check(&raw.proxy, &mut c),
            backup: backup::check(&raw.backup, env, &mut c),
            log: log::check(&raw.log, &mut c),
            tracing: tracing::check(&raw.tracing, &mut c),
            socket: {
                let named = env.get("LITEFS_SOCKET").filter(|s| !s.is_empty()).unwrap_or(&raw.api.socket);
                c.require(!named.is_empty(), "api.socket", "api socket path required");
                named.into()
            },
            // A lease that could not be read has reported itself above.
            lease: match lease {
                Some(lease) => lease,
                None => return Err(c.problems),
            },
        };
        if c.problems.is_empty() { Ok(settings) } else { Err(c.problems) }
    }
}

/// Collects problems with the lines of their keys.
struct Checker<'a> {
    raw: &'a Raw,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn problem(&mut self, key: &str, message: impl Into<String>) -> &mut Problem {
        let p = Problem::at(key, self.raw.line_of(key), message);
        self.problems.push(p);
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    fn require(&mut self, ok: bool, key: &str, message: &str) {
        if !ok {
            self.problem(key, message);
        }
    }

    /// A value that parses, or a problem and `None`.
    fn parse<T: std::str::FromStr>(&mut self, key: &str, text: &str) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        match text.parse() {
            Ok(v) => Some(v),
            Err(e) => {
                self.problem(key, e.to_string());
                None
            }
        }
    }

    /// Zero or more; a negative duration is a problem.
    fn span(&mut self, key: &str, value: GoDuration) -> Duration {
        value.non_negative().unwrap_or_else(|| {
            self.problem(key, format!("must not be negative: {value}"));
            Duration::ZERO
        })
    }

    /// `None` if zero.
    fn some_span(&mut self, key: &str, value: GoDuration) -> Option<Duration> {
        Some(self.span(key, value)).filter(|d| !d.is_zero())
    }
}

/// `None` if empty.
fn non_empty(s: &str) -> Option<String> {
    (!s.is_empty()).then(|| s.to_owned())
}
