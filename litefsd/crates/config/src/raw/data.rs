//! `data:` the data directory and what is kept in it.

use crate::visit::{Section, Visit};
use crate::{ByteSize, GoDuration};

/// `data:` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Where databases and logs are stored.
    pub dir: String,
    /// LZ4 for the LTX files that are created.
    pub compress: bool,
    /// How long transactions are kept; zero or less: for ever.
    pub retention: GoDuration,
    /// How often old ones are looked for; zero: never.
    pub retention_monitor_interval: GoDuration,
    /// Ours: largest log of one database; zero: no limit.
    pub max_log_size: ByteSize,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            dir: "/var/lib/litefs".to_owned(),
            compress: true,
            retention: GoDuration::secs(600),
            retention_monitor_interval: GoDuration::secs(60),
            max_log_size: ByteSize(1 << 30),
        }
    }
}

impl Section for Data {
    fn type_name(&self) -> &'static str {
        "main.DataConfig"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.string("dir", &mut self.dir);
        v.bool("compress", &mut self.compress);
        v.duration("retention", &mut self.retention);
        v.duration("retention-monitor-interval", &mut self.retention_monitor_interval);
        v.size("max-log-size", &mut self.max_log_size);
    }
}
