//! `http:` the cluster port.

use crate::GoDuration;
use crate::visit::{Section, Visit};

/// `http:` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Address to listen on.
    pub addr: String,
    /// Longest time to send one snapshot; zero: as long as transactions are kept.
    pub snapshot_timeout: GoDuration,
}

impl Default for Http {
    fn default() -> Self {
        Self { addr: ":20202".to_owned(), snapshot_timeout: GoDuration::default() }
    }
}

impl Section for Http {
    fn type_name(&self) -> &'static str {
        "main.HTTPConfig"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.string("addr", &mut self.addr);
        v.duration("snapshot-timeout", &mut self.snapshot_timeout);
    }
}
