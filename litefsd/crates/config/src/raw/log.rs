//! `log:` what is logged, and how.

use crate::visit::{Section, Visit};

/// `log:` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `text` or `json`.
    pub format: String,
    /// Time in every line.
    pub timestamp: bool,
    /// Debug level.
    pub debug: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: "text".to_owned(), timestamp: false, debug: false }
    }
}

impl Section for Log {
    fn type_name(&self) -> &'static str {
        "main.LogConfig"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.string("format", &mut self.format);
        v.bool("timestamp", &mut self.timestamp);
        v.bool("debug", &mut self.debug);
    }
}
