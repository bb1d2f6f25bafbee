//! Log lines on stderr, in the original's two forms, with priorities for journald when systemd reads them.

use litefs_config::settings::{LogFormat, LogSettings};
use tracing::Level;
use tracing_subscriber::EnvFilter;

/// Sets the process's subscriber up. `RUST_LOG` overrides the level.
pub fn init(settings: &LogSettings) {
    let level = if settings.debug { Level::DEBUG } else { Level::INFO };
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.as_str().to_lowercase()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call (tests in one process) leaves the first subscriber in place.
    let _ = match (settings.format, settings.timestamp) {
        (LogFormat::Text, true) => builder.with_ansi(false).with_target(false).try_init(),
        (LogFormat::Text, false) => builder.with_ansi(false).with_target(false).without_time().try_init(),
        (LogFormat::Json, true) => builder.json().flatten_event(true).with_target(false).try_init(),
        (LogFormat::Json, false) => {
            builder.json().flatten_event(true).with_target(false).without_time().try_init()
        }
    };
}
