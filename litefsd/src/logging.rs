//! Log lines on stderr in the original's two forms: `level=INFO msg="…" key=value`, or one JSON object.
//!
//! Owns the form of a line; what is said is everybody's own. Tested below.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use litefs_config::settings::{LogFormat, LogSettings};
use litefs_types::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::events::rfc3339;

/// Sets the process's subscriber up. `RUST_LOG` overrides the level.
pub fn init(settings: &LogSettings) {
    // Libraries below us (HTTP/2 frames alone fill a disk) speak up only when something is wrong.
    let own = if settings.debug { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,litefsd={own},litefs_store={own}")));
    let line = Line { json: settings.format == LogFormat::Json, time: settings.timestamp };
    // A second call (tests in one process) leaves the first subscriber in place.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .event_format(line)
        .try_init();
}

/// How a line looks.
struct Line {
    json: bool,
    time: bool,
}

/// Message and attributes of an event, in order.
#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Collected {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

impl Collected {
    fn take(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.push((field.name(), text));
        }
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut w: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut c = Collected::default();
        event.record(&mut c);
        let time = self.time.then(|| rfc3339(Timestamp::from_system(SystemTime::now())));
        let level = event.metadata().level().as_str();
        let line = if self.json { json(time, level, &c) } else { text(time, level, &c) };
        writeln!(w, "{line}")
    }
}

fn json(time: Option<String>, level: &str, c: &Collected) -> String {
    let mut map = serde_json::Map::new();
    if let Some(t) = time {
        map.insert("time".into(), t.into());
    }
    map.insert("level".into(), level.into());
    map.insert("msg".into(), c.message.as_str().into());
    for (k, v) in &c.fields {
        map.insert((*k).into(), v.as_str().into());
    }
    serde_json::Value::Object(map).to_string()
}

fn text(time: Option<String>, level: &str, c: &Collected) -> String {
    let mut line = String::new();
    if let Some(t) = time {
        line.push_str("time=");
        line.push_str(&t);
        line.push(' ');
    }
    // Writing to a String cannot fail.
    let _ = write!(line, "level={level} msg={}", quoted(&c.message));
    for (k, v) in &c.fields {
        let _ = write!(line, " {k}={}", quoted(v));
    }
    line
}

/// In quotes where a reader of key=value pairs needs them. Control characters never reach a terminal.
fn quoted(s: &str) -> String {
    let plain =
        !s.is_empty() && s.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=');
    if plain { s.to_owned() } else { format!("{s:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_the_originals() {
        let c = Collected {
            message: "http server listening on: http://x:1".into(),
            fields: vec![("db", "my db".into()), ("pid", "7".into())],
        };
        assert_eq!(
            text(None, "INFO", &c),
            r#"level=INFO msg="http server listening on: http://x:1" db="my db" pid=7"#
        );
        let t = Some("2026-01-02T03:04:05Z".to_owned());
        assert_eq!(
            text(t.clone(), "WARN", &Collected { message: "ok".into(), fields: vec![] }),
            "time=2026-01-02T03:04:05Z level=WARN msg=ok"
        );
        assert_eq!(
            json(t, "INFO", &c),
            r#"{"db":"my db","level":"INFO","msg":"http server listening on: http://x:1","pid":"7","time":"2026-01-02T03:04:05Z"}"#
        );
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
    }
}
