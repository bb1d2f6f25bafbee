//! `tracing:` the rolling trace file.

use crate::visit::{Section, Visit};

/// `tracing:` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// Effective only with a path.
    pub enabled: bool,
    /// The file.
    pub path: String,
    /// Size in MB at which it is rotated.
    pub max_size: i64,
    /// Rotated files that are kept.
    pub max_count: i64,
    /// gzip rotated files.
    pub compress: bool,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { enabled: true, path: String::new(), max_size: 64, max_count: 8, compress: true }
    }
}

impl Section for Tracing {
    fn type_name(&self) -> &'static str {
        "main.TracingConfig"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.bool("enabled", &mut self.enabled);
        v.string("path", &mut self.path);
        v.int("max-size", &mut self.max_size);
        v.int("max-count", &mut self.max_count);
        v.bool("compress", &mut self.compress);
    }
}
