//! `/metrics`: Prometheus text with the names, types, help texts and labels of the original.
//!
//! Owns the page and the counters of streams; the databases' numbers come from the backend. The `go_*`
//! series of the original are not there. Tested in `tests/tests/http_port.rs` against a recorded page.

mod process;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use http::{HeaderValue, Response, header};
use litefs_types::Timestamp;

use crate::http::backend::DbStats;
use crate::http::{App, Body, Reply};
use text::{Kind, Page};

/// Names with counters: an upper bound on what a peer can make us remember.
const MAX_COUNTED_NAMES: usize = 100_000;

/// Counters of the streams to replicas.
#[derive(Debug, Default)]
pub struct StreamMetrics {
    open: AtomicI64,
    /// (LTX, snapshot) frames by database.
    sent: Mutex<BTreeMap<String, (u64, u64)>>,
}

impl StreamMetrics {
    /// Counts an open stream until the guard is dropped.
    pub(crate) fn opened(&self) -> OpenStream<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenStream(self)
    }

    /// An LTX frame was sent.
    pub(crate) fn sent(&self, db: &str, snapshot: bool) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((ltx, snap)) = sent.get_mut(db) {
            *if snapshot { snap } else { ltx } += 1;
        } else if sent.len() < MAX_COUNTED_NAMES {
            sent.insert(db.to_owned(), (u64::from(!snapshot), u64::from(snapshot)));
        }
    }
}

/// All series as text.
pub fn render(app: &App) -> String {
    let mut page = Page::default();
    app_series(app, &mut page);
    process::series(&mut page);
    let scrapes = app.scrapes.fetch_add(1, Ordering::Relaxed);
    let name = "promhttp_metric_handler_requests_in_flight";
    page.family(name, Kind::Gauge, "Current number of scrapes being served.");
    page.value(name, &[], 1.0);
    let name = "promhttp_metric_handler_requests_total";
    page.family(name, Kind::Counter, "Total number of scrapes by HTTP status code.");
    page.value(name, &[("code", "200")], scrapes as f64);
    page.value(name, &[("code", "500")], 0.0);
    page.value(name, &[("code", "503")], 0.0);
    page.finish()
}

/// An open stream, as long as it lives.
pub(crate) struct OpenStream<'a>(&'a StreamMetrics);

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers a scrape.
pub(crate) fn page(app: &App) -> Reply {
    let mut reply = Response::new(Body::Full(render(app).into()));
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    reply
}

/// One series of a database: name, type, help, value, and whether it is shown while it is 0 (the
/// original's label values appear with the first event).
type DbSeries = (&'static str, Kind, &'static str, fn(&DbStats) -> f64, bool);

const DB_SERIES: [DbSeries; 10] = [
    ("litefs_db_commit_count", Kind::Counter, "Number of database commits.", |d| d.commits as f64, false),
    (
        "litefs_db_database_write_count",
        Kind::Counter,
        "Number of writes to the database file.",
        |d| d.database_writes as f64,
        false,
    ),
    (
        "litefs_db_journal_write_count",
        Kind::Counter,
        "Number of writes to the journal file.",
        |d| d.journal_writes as f64,
        false,
    ),
    (
        "litefs_db_lag_seconds",
        Kind::Gauge,
        "Latency between generating an LTX file and consuming it.",
        |d| d.lag_seconds,
        true,
    ),
    (
        "litefs_db_ltx_bytes",
        Kind::Gauge,
        "Number of bytes used by LTX files on disk.",
        |d| d.ltx_bytes as f64,
        true,
    ),
    ("litefs_db_ltx_count", Kind::Gauge, "Number of LTX files on disk.", |d| d.ltx_count as f64, true),
    (
        "litefs_db_ltx_reap_count",
        Kind::Gauge,
        "Number of LTX files removed by retention.",
        |d| d.ltx_reaped as f64,
        false,
    ),
    (
        "litefs_db_shm_write_count",
        Kind::Counter,
        "Number of writes to the shared memory file.",
        |d| d.shm_writes as f64,
        false,
    ),
    (
        "litefs_db_txid",
        Kind::Gauge,
        "Current transaction ID.",
        |d| d.pos.map_or(0.0, |p| p.txid_raw() as f64),
        true,
    ),
    (
        "litefs_db_wal_write_count",
        Kind::Counter,
        "Number of writes to the WAL file.",
        |d| d.wal_writes as f64,
        false,
    ),
];

fn app_series(app: &App, page: &mut Page) {
    let mut dbs = app.backend.databases_stats();
    dbs.sort_by(|a, b| a.name.cmp(&b.name));
    let count = dbs.len() as f64;
    for (name, kind, help, value, zero) in DB_SERIES {
        if name == "litefs_db_database_write_count" {
            page.family("litefs_db_count", Kind::Gauge, "Number of managed databases.");
            page.value("litefs_db_count", &[], count);
        }
        let shown = dbs.iter().filter(|d| zero || value(d) != 0.0);
        let mut first = true;
        for d in shown {
            if std::mem::take(&mut first) {
                page.family(name, kind, help);
            }
            page.value(name, &[("db", &d.name)], value(d));
        }
    }
    frames_sent(app, page);
    let gauge = |page: &mut Page, name, help, value| {
        page.family(name, Kind::Gauge, help);
        page.value(name, &[], value);
    };
    let open = app.stream_metrics.open.load(Ordering::Relaxed) as f64;
    gauge(page, "litefs_http_stream_count", "Number of streams currently connected.", open);
    let primary = f64::from(u8::from(app.node.is_primary()));
    gauge(page, "litefs_is_primary", "Primary status of the node.", primary);
    let lag = app.node.lag(Timestamp::from_system(SystemTime::now())).seconds();
    gauge(page, "litefs_lag_seconds", "Lag behind the primary node, in seconds", lag);
    let subscribers = app.changes.subscriber_count() as f64;
    gauge(page, "litefs_subscriber_count", "Number of connected subscribers", subscribers);
}

fn frames_sent(app: &App, page: &mut Page) {
    let sent = app.stream_metrics.sent.lock().unwrap_or_else(PoisonError::into_inner);
    if sent.is_empty() {
        return;
    }
    let name = "litefs_http_frame_send_count";
    page.family(name, Kind::Counter, "Number of frames sent.");
    for (db, (ltx, snapshots)) in sent.iter() {
        page.value(name, &[("db", db), ("type", "ltx")], *ltx as f64);
        page.value(name, &[("db", db), ("type", "ltx:snapshot")], *snapshots as f64);
    }
}
