//! `fuse:` the mount.

use crate::visit::{Section, Visit};

/// `fuse:` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fuse {
    /// Mount point.
    pub dir: String,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// Log every FUSE request.
    pub debug: bool,
    /// Ours: what a write on a replica gets, `busy` or `readonly`.
    pub replica_writes: String,
    /// Ours: keep processors awake while requests come in quick succession.
    pub low_latency: bool,
    /// Ours: owner of the files; the daemon's own if absent.
    pub uid: Option<u32>,
    /// Ours: group of the files; the daemon's own if absent.
    pub gid: Option<u32>,
    /// Ours: permission bits of new databases in octal; empty: as the application asks.
    pub mode: String,
}

impl Default for Fuse {
    fn default() -> Self {
        Self {
            dir: "/litefs".to_owned(),
            allow_other: false,
            debug: false,
            replica_writes: "busy".to_owned(),
            low_latency: true,
            uid: None,
            gid: None,
            mode: String::new(),
        }
    }
}

impl Section for Fuse {
    fn type_name(&self) -> &'static str {
        "main.FUSEConfig"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.string("dir", &mut self.dir);
        v.bool("allow-other", &mut self.allow_other);
        v.bool("debug", &mut self.debug);
        v.string("replica-writes", &mut self.replica_writes);
        v.bool("low-latency", &mut self.low_latency);
        v.id("uid", &mut self.uid);
        v.id("gid", &mut self.gid);
        v.string("mode", &mut self.mode);
    }
}
