//! Checked `tracing:`.

use std::path::PathBuf;

use super::Checker;
use crate::raw::Tracing;

/// The rolling trace file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracingSettings {
    /// The file.
    pub path: PathBuf,
    /// Bytes at which it is rotated.
    pub max_size: u64,
    /// Rotated files that are kept.
    pub max_count: u32,
    /// gzip rotated files.
    pub compress: bool,
}

pub(super) fn check(raw: &Tracing, c: &mut Checker<'_>) -> Option<TracingSettings> {
    let max_size = u64::try_from(raw.max_size).ok().filter(|n| *n > 0).and_then(|n| n.checked_mul(1 << 20));
    c.require(max_size.is_some(), "tracing.max-size", "must be a number of MB, at least 1");
    let max_count = u32::try_from(raw.max_count);
    c.require(max_count.is_ok(), "tracing.max-count", "must be a number of files, at least 0");
    if !raw.enabled || raw.path.is_empty() {
        return None;
    }
    Some(TracingSettings {
        path: raw.path.clone().into(),
        max_size: max_size?,
        max_count: max_count.ok()?,
        compress: raw.compress,
    })
}
