//! How far a long transfer is: a bar on a terminal, a line now and then elsewhere, nothing with `-q`.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use litefs_api::client::Progress;

use crate::units::bytes;

/// Redraw of the bar.
const BAR_EVERY: Duration = Duration::from_millis(100);
/// A transfer shorter than this shows nothing.
const SHORT: Duration = Duration::from_millis(300);
/// Plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Width of the bar in characters.
const WIDTH: usize = 30;

/// See the module documentation. The bar is removed when this is dropped.
pub(crate) struct Bar {
    label: String,
    kind: Kind,
    started: Instant,
    shown: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Silent,
    Lines,
    Terminal,
}

impl Bar {
    pub(crate) fn new(label: impl Into<String>, quiet: bool) -> Self {
        let kind = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Kind::Silent,
            (false, true) => Kind::Terminal,
            (false, false) => Kind::Lines,
        };
        Self { label: label.into(), kind, started: Instant::now(), shown: None }
    }
}

/// `12% 1.0 MiB of 8.0 MiB, 3.0 MiB/s, 2s left`
fn text(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let rate = bytes((done as f64 / elapsed.as_secs_f64().max(0.001)) as u64);
    match total.filter(|t| *t > 0) {
        Some(total) => {
            let percent = done.saturating_mul(100) / total;
            let left = elapsed.as_secs_f64() * (total - done.min(total)) as f64 / done.max(1) as f64;
            format!("{percent:3}% {} of {}, {rate}/s, {left:.0}s left", bytes(done), bytes(total))
        }
        None => format!("{}, {rate}/s", bytes(done)),
    }
}

impl Progress for Bar {
    fn advanced(&mut self, done: u64, total: Option<u64>) {
        if self.kind == Kind::Silent {
            return;
        }
        let now = Instant::now();
        let elapsed = now - self.started;
        let due = match (self.kind, self.shown) {
            (Kind::Terminal, None) => elapsed >= SHORT,
            (Kind::Terminal, Some(at)) => now - at >= BAR_EVERY,
            (_, None) => elapsed >= LINE_EVERY,
            (_, Some(at)) => now - at >= LINE_EVERY,
        };
        if !due {
            return;
        }
        self.shown = Some(now);
        let text = text(done, total, elapsed);
        let mut err = std::io::stderr().lock();
        // A progress line that cannot be written is no reason to stop.
        let _ = if self.kind == Kind::Terminal {
            let full =
                total.filter(|t| *t > 0).map_or(0, |t| (done.saturating_mul(WIDTH as u64) / t) as usize);
            let full = full.min(WIDTH);
            let bar = format!("[{}{}]", "#".repeat(full), " ".repeat(WIDTH - full));
            write!(err, "\r\x1b[K{} {bar} {text}", self.label).and_then(|()| err.flush())
        } else {
            writeln!(err, "{}: {}", self.label, text.trim_start())
        };
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.kind == Kind::Terminal && self.shown.is_some() {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }
}
