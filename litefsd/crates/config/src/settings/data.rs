//! Checked `data:`.

use std::path::PathBuf;
use std::time::Duration;

use crate::raw::Data;

/// The data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSettings {
    /// Its path.
    pub dir: PathBuf,
    /// LZ4 for the LTX files that are created.
    pub compress: bool,
    /// How long transactions are kept; `None`: for ever.
    pub retention: Option<Duration>,
    /// How often old ones are looked for; `None`: never.
    pub retention_monitor_interval: Option<Duration>,
    /// Largest log of one database in bytes; `None`: no limit.
    pub max_log_size: Option<u64>,
}

pub(super) fn check(raw: &Data) -> DataSettings {
    DataSettings {
        dir: raw.dir.clone().into(),
        compress: raw.compress,
        retention: raw.retention.positive(),
        retention_monitor_interval: raw.retention_monitor_interval.positive(),
        max_log_size: (raw.max_log_size.0 > 0).then_some(raw.max_log_size.0),
    }
}
