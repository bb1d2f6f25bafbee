//! Counters for `/metrics`. Relaxed: they order nothing.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::Database;
use crate::own_mount::FileKind;

/// Since the daemon started.
#[derive(Default)]
pub struct Counters {
    writes: [AtomicU64; 4],
    commits: AtomicU64,
    reaped: AtomicU64,
    /// Milliseconds from a transaction's time stamp to its apply here.
    lag_ms: AtomicI64,
}

impl Counters {
    /// WRITE requests on a file.
    pub fn writes(&self, kind: FileKind) -> u64 {
        self.writes[kind as usize].load(Ordering::Relaxed)
    }

    /// Local commits.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Transactions that retention removed.
    pub fn reaped(&self) -> u64 {
        self.reaped.load(Ordering::Relaxed)
    }

    /// Seconds from the time stamp of the last applied transaction to its apply; 0 on the primary.
    pub fn lag_seconds(&self) -> f64 {
        self.lag_ms.load(Ordering::Relaxed) as f64 / 1000.0
    }

    pub(super) fn wrote(&self, kind: FileKind) {
        self.writes[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn committed(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_reaped(&self, n: u64) {
        self.reaped.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn applied_after(&self, ms: i64) {
        self.lag_ms.store(ms, Ordering::Relaxed);
    }
}

impl Database {
    /// Counters of this database.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
