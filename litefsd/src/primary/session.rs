//! One replica's stream: when to send what is new, Ready, heartbeats and the End frame.
//!
//! Owns the order of frames and the waiting; not their content (`send.rs`). Ends when the replica goes,
//! the role or the port ends, or something fails; a failure resets the stream, so that no replica takes
//! half a file for a whole one. Tested in `tests/tests/replication_net.rs`.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use litefs_core::stream::{Frame, PosMap};
use litefs_types::{DbName, NodeId, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::changes::Subscription;
use super::send::{SendError, Sender};
use crate::events::RoleView;
use crate::http::channel::ChannelWriter;
use crate::http::{Aborted, App, Part, until};

/// Silence after which a heartbeat is sent; the original's number, and the resolution of its lag.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// For a single frame between files: a replica that does not take it for so long is cut off.
const FRAME_TIMEOUT: Duration = Duration::from_secs(120);

/// See the module documentation.
pub(super) struct Session {
    app: Arc<App>,
    peer: NodeId,
    subscription: Subscription,
    positions: PosMap,
    dirty: BTreeSet<DbName>,
    tx: mpsc::Sender<Part>,
}

/// How a session ended.
enum End {
    /// Regularly: the End frame follows.
    Regular,
    /// The replica has gone.
    Gone,
    /// In the middle of a file, or for a reason that the replica must not miss: reset.
    Reset,
}

impl Session {
    /// A session that begins with everything either side has.
    pub(super) fn new(
        app: Arc<App>,
        peer: NodeId,
        subscription: Subscription,
        positions: PosMap,
        filter: Option<&HashSet<DbName>>,
        tx: mpsc::Sender<Part>,
    ) -> Self {
        let wanted = |db: &DbName| filter.is_none_or(|f| f.contains(db));
        let mut dirty: BTreeSet<DbName> = positions.keys().filter(|d| wanted(d)).cloned().collect();
        dirty.extend(app.backend.databases().into_iter().filter(wanted));
        Self { app, peer, subscription, positions, dirty, tx }
    }

    /// Streams until the end.
    pub(super) async fn run(mut self) {
        tracing::info!(replica = %self.peer, "replica connected");
        self.app.stream_metrics.opened();
        // A vanished replica shows as a closed channel: hyper drops the response with the connection.
        let closed = self.tx.clone();
        let end = tokio::select! {
            end = self.frames() => end,
            () = closed.closed() => End::Gone,
        };
        let last = match end {
            End::Regular => Some(Ok(Bytes::from(Frame::End.to_bytes()))),
            End::Reset => Some(Err(Aborted)),
            End::Gone => None,
        };
        if let Some(part) = last {
            let _ = timeout(FRAME_TIMEOUT, self.tx.send(part)).await;
        }
        self.app.stream_metrics.closed();
        tracing::info!(replica = %self.peer, "replica disconnected");
    }

    async fn frames(&mut self) -> End {
        let mut role = self.app.node.watch_role();
        let mut stopping = self.app.stopping();
        let mut ready_sent = false;
        loop {
            let idle = self.dirty.is_empty();
            if !idle && let Err(end) = self.sync(&mut role, &mut stopping).await {
                return end;
            }
            let mut frames = Vec::new();
            if !ready_sent {
                Frame::Ready.encode(&mut frames);
            }
            if !ready_sent || idle {
                Frame::Heartbeat(Timestamp::from_system(SystemTime::now())).encode(&mut frames);
            }
            ready_sent = true;
            if !frames.is_empty() {
                match timeout(FRAME_TIMEOUT, self.tx.send(Ok(frames.into()))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return End::Gone,
                    Err(_) => return End::Reset,
                }
            }
            tokio::select! {
                biased;
                () = until(&mut stopping) => return End::Regular,
                () = demoted(&mut role) => return End::Regular,
                () = self.subscription.changed() => self.dirty = self.subscription.take(),
                () = sleep(HEARTBEAT) => {}
            }
        }
    }

    /// Sends what the dirty databases have new, on a thread that may block.
    async fn sync(
        &mut self,
        role: &mut watch::Receiver<RoleView>,
        stopping: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        // A sender that waits for a slow replica must hear of the end of the role or of the port.
        let stop = watch::Sender::new(false);
        let mut sender = Sender::new(
            Arc::clone(&self.app),
            std::mem::take(&mut self.positions),
            ChannelWriter::new(self.tx.clone(), Handle::current(), stop.subscribe()),
        );
        let dirty = std::mem::take(&mut self.dirty);
        let mut work = spawn_blocking(move || {
            let result = sender.sync(&dirty);
            (sender.into_positions(), result)
        });
        let done = tokio::select! {
            biased;
            done = &mut work => done,
            () = over(role, stopping) => {
                stop.send_replace(true);
                work.await
            }
        };
        let Ok((positions, result)) = done else { return Err(End::Reset) };
        self.positions = positions;
        match result {
            Ok(()) => Ok(()),
            Err(SendError::Stopped { within_file: false }) => Err(End::Regular),
            Err(SendError::Stopped { within_file: true }) => Err(End::Reset),
            Err(SendError::Gone) => Err(End::Gone),
            Err(e) => {
                tracing::warn!(replica = %self.peer, "stream: {e}");
                Err(End::Reset)
            }
        }
    }
}

async fn over(role: &mut watch::Receiver<RoleView>, stopping: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = demoted(role) => {}
        () = until(stopping) => {}
    }
}

async fn demoted(role: &mut watch::Receiver<RoleView>) {
    let _ = role.wait_for(|r| !r.is_primary).await;
}
