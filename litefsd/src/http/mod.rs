//! The cluster port: HTTP/1.1 and cleartext HTTP/2 on one socket, wire-compatible with LiteFS 0.5.14.
//!
//! Owns listening, serving, routes and limits. Start with [`server::Server::start`]; what the daemon has to
//! provide is in [`backend`]; `/stream` is in [`crate::primary`]. It decides nothing about roles or data.
//! Tested by `tests/tests/http_port.rs` (also against recorded answers of the original).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

pub mod addr;
pub mod backend;
pub mod channel;
mod events_route;
pub mod extensions;
mod info;
pub mod later;
pub mod listen;
pub mod node;
mod query;
mod reply;
mod routes;
pub mod server;
mod sniff;
pub mod spool;
mod transfer;
mod vars;

pub(crate) use query::encode as encode_query;
pub(crate) use query::param as query_param;
pub use reply::{Aborted, Body, LITEFS_CLUSTER_ID, LITEFS_ID, Part, Reply};
pub(crate) use reply::{
    bad_request, error as error_reply, not_found, ok, stream as stream_reply, unavailable,
};

use crate::metrics::StreamMetrics;
use crate::primary::Damage;
use crate::primary::changes::ChangeHub;
use backend::Backend;
use node::NodeState;

/// Imports and exports at a time; each holds a blocking thread, and an export SQLite read locks.
const MAX_TRANSFERS: usize = 8;
/// Replicas at a time. Each costs a task and, while it catches up, a blocking thread.
const MAX_STREAMS: usize = 256;
/// Position maps being read at a time: each may take tens of MiB before it is known to be good.
const MAX_MAP_READS: usize = 4;
/// A snapshot may hold its read view for this long when the configuration says nothing; the original
/// takes the retention period, 10 minutes by default.
const DEFAULT_SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// What configuration decides about the port.
#[derive(Clone, Debug)]
pub struct Options {
    /// Send LZ4-compressed LTX files (`data.compress`).
    pub compress: bool,
    /// Longest time for one snapshot to a replica (`http.snapshot-timeout`, else the retention period). Zero
    /// (retention switched off) means the default: with the original, no snapshot ever succeeds then.
    pub snapshot_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { compress: true, snapshot_timeout: DEFAULT_SNAPSHOT_TIMEOUT }
    }
}

/// What every route works with.
pub struct App {
    /// This node.
    pub node: Arc<NodeState>,
    /// The store.
    pub backend: Arc<dyn Backend>,
    /// Which replicas are connected and what they have not been sent.
    pub changes: Arc<ChangeHub>,
    /// Configuration.
    pub options: Options,
    /// Counters of the streams.
    pub stream_metrics: StreamMetrics,
    pub(crate) damage: Damage,
    pub(crate) scrapes: AtomicU64,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) map_reads: Semaphore,
    transfers: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
}

impl App {
    /// Everything the port needs. `changes` must be the store's `ChangeNotice`.
    pub fn new(
        node: Arc<NodeState>,
        backend: Arc<dyn Backend>,
        changes: Arc<ChangeHub>,
        mut options: Options,
    ) -> Arc<Self> {
        if options.snapshot_timeout.is_zero() {
            options.snapshot_timeout = DEFAULT_SNAPSHOT_TIMEOUT;
        }
        Arc::new(Self {
            node,
            backend,
            changes,
            options,
            stream_metrics: StreamMetrics::default(),
            damage: Damage::default(),
            scrapes: AtomicU64::new(0),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            map_reads: Semaphore::new(MAX_MAP_READS),
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
            stopping: watch::Sender::new(false),
        })
    }

    /// Tells streams and event subscriptions to end.
    pub(crate) fn begin_shutdown(&self) {
        self.stopping.send_replace(true);
        self.node.events.close();
    }

    /// Becomes true when the port shuts down.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Waits until the value is true, or its sender is gone. (A `wait_for` inside `select!` would keep a lock
/// guard in the future.)
pub(crate) async fn until(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}
