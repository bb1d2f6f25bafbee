//! `litefs.yml` as written: every key of the original and ours, with the original's defaults.
//!
//! Absent and null values keep the default, unknown keys are errors (inside `exec` items they are
//! ignored, as the original does). What a value may be is decided here by its type; whether it makes
//! sense is [`crate::settings`]' question. Tested by `tests/raw.rs`.

mod api;
mod backup;
mod data;
mod decode;
mod fuse;
mod http;
mod lease;
mod log;
mod places;
mod proxy;
mod tracing;

use std::collections::BTreeMap;

pub use api::{Api, DEFAULT_SOCKET};
pub use backup::{Backup, BackupTarget};
pub use data::Data;
pub use fuse::Fuse;
pub use http::Http;
pub use lease::{Consul, Etcd, Lease};
pub use log::Log;
pub use proxy::Proxy;
pub use tracing::Tracing;

use crate::env::{self, Env, Expanded};
use crate::visit::{Section, Visit};
use crate::{ExecItem, Problem, yaml};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// End when the start fails; otherwise stay up for inspection.
    pub exit_on_error: bool,
    /// Do not wait for the cluster before the application starts.
    pub skip_sync: bool,
    /// Full checksum after each transaction.
    pub strict_verify: bool,
    /// What the container entrypoint runs.
    pub exec: Vec<ExecItem>,
    /// `data:`
    pub data: Data,
    /// `fuse:`
    pub fuse: Fuse,
    /// `http:`
    pub http: Http,
    /// `proxy:`
    pub proxy: Proxy,
    /// `lease:`
    pub lease: Lease,
    /// `backup:`
    pub backup: Backup,
    /// `log:`
    pub log: Log,
    /// `tracing:`
    pub tracing: Tracing,
    /// `api:`
    pub api: Api,
    /// Line of every key that is in the file, by its path.
    lines: BTreeMap<String, u32>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            exit_on_error: true,
            skip_sync: false,
            strict_verify: false,
            exec: Vec::new(),
            data: Data::default(),
            fuse: Fuse::default(),
            http: Http::default(),
            proxy: Proxy::default(),
            lease: Lease::default(),
            backup: Backup::default(),
            log: Log::default(),
            tracing: Tracing::default(),
            api: Api::default(),
            lines: BTreeMap::new(),
        }
    }
}

impl Section for Raw {
    fn type_name(&self) -> &'static str {
        "main.Config"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.bool("exit-on-error", &mut self.exit_on_error);
        v.bool("skip-sync", &mut self.skip_sync);
        v.bool("strict-verify", &mut self.strict_verify);
        v.section("fuse", &mut self.fuse);
        v.section("data", &mut self.data);
        v.exec("exec", &mut self.exec);
        v.section("http", &mut self.http);
        v.section("proxy", &mut self.proxy);
        v.section("lease", &mut self.lease);
        v.section("backup", &mut self.backup);
        v.section("log", &mut self.log);
        v.section("tracing", &mut self.tracing);
        v.section("api", &mut self.api);
    }
}

impl Raw {
    /// Reads the text of a file. Also returns what is suspicious; all errors that were found are
    /// returned together, in the order of the file.
    pub fn parse(text: &str, expand: bool, env: &Env) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let expanded = if expand {
            env::expand(text, env)
        } else {
            Expanded { text: text.to_owned(), places: Vec::new() }
        };
        let root = yaml::parse(&expanded.text).map_err(|p| vec![p])?.ok_or_else(|| {
            vec![Problem::at("", None, "EOF").hint("the file is empty or holds only comments")]
        })?;
        let mut raw = Self::default();
        let (lines, mut problems) = decode::decode(&root, &mut raw);
        raw.lines = lines;
        let mut warnings = Vec::new();
        places::check(&expanded, &root, &mut problems, &mut warnings);
        if problems.is_empty() {
            return Ok((raw, warnings));
        }
        problems.sort_by_key(|p| p.line);
        Err(problems)
    }

    /// The line of the key at this path, e.g. `lease.consul.url`; `None` if the file does not have it.
    pub fn line_of(&self, path: &str) -> Option<u32> {
        self.lines.get(path).copied()
    }
}
