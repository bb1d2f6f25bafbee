//! Checked `log:`.

use super::Checker;
use crate::raw::Log;

/// Form of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// `level=INFO msg="…"`
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Form of a line.
    pub format: LogFormat,
    /// Time in every line.
    pub timestamp: bool,
    /// Debug level.
    pub debug: bool,
}

pub(super) fn check(raw: &Log, c: &mut Checker<'_>) -> LogSettings {
    let format = match raw.format.as_str() {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => {
            c.problem("log.format", format!("init logger: invalid log format: {other:?}"));
            LogFormat::Text
        }
    };
    LogSettings { format, timestamp: raw.timestamp, debug: raw.debug }
}
