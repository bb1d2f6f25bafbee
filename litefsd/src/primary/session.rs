//! One replica's stream: feeds the core's session with changes and time, and waits.
//!
//! Owns the waiting and the end of the stream; what is sent next is decided by
//! `litefs_core::stream::Session` and done in `send.rs`. Ends when the replica goes, the role or the port
//! ends, or something fails; a failure resets the stream, so that no replica takes half a file for a whole
//! one. Tested in `tests/tests/replication_net.rs`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use litefs_core::stream::session::HEARTBEAT_MS;
use litefs_core::stream::{Filter, Frame, PosMap};
use litefs_types::NodeId;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::changes::Subscription;
use super::send::{Pumped, SendError, Sender};
use crate::events::RoleView;
use crate::http::channel::{ChannelWriter, STALL_LIMIT};
use crate::http::{Aborted, App, Part, until};

/// See the module documentation.
pub(super) struct Session {
    app: Arc<App>,
    peer: NodeId,
    subscription: Subscription,
    sender: Option<Sender>,
    tx: mpsc::Sender<Part>,
}

/// How a session ended.
enum End {
    /// Regularly, with the End frame still to be sent.
    Regular,
    /// Regularly, with nothing left to send.
    Closed,
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
        filter: Filter,
        tx: mpsc::Sender<Part>,
    ) -> Self {
        let progress = subscription.progress();
        for (db, pos) in &positions {
            progress.sent(db, *pos);
        }
        let session = litefs_core::stream::Session::new(positions, filter, app.backend.databases());
        let sender = Some(Sender::new(Arc::clone(&app), session, progress));
        Self { app, peer, subscription, sender, tx }
    }

    /// Streams until the end.
    pub(super) async fn run(mut self) {
        tracing::info!(replica = %self.peer, "replica connected");
        let app = Arc::clone(&self.app);
        let _open = app.stream_metrics.opened();
        // A vanished replica shows as a closed channel: hyper drops the response with the connection.
        let closed = self.tx.clone();
        let end = tokio::select! {
            end = self.frames() => end,
            () = closed.closed() => End::Gone,
        };
        let last = match end {
            End::Regular => Some(Ok(Bytes::from(Frame::End.to_bytes()))),
            End::Reset => Some(Err(Aborted)),
            End::Closed | End::Gone => None,
        };
        if let Some(part) = last {
            let _ = timeout(STALL_LIMIT, self.tx.send(part)).await;
        }
        tracing::info!(replica = %self.peer, "replica disconnected");
    }

    async fn frames(&mut self) -> End {
        let mut role = self.app.node.watch_role();
        let mut stopping = self.app.stopping();
        loop {
            if let Err(end) = self.pump(&mut role, &mut stopping).await {
                return end;
            }
            tokio::select! {
                biased;
                () = over(&mut role, &mut stopping) => return End::Regular,
                () = self.subscription.changed() => {}
                () = sleep(Duration::from_millis(HEARTBEAT_MS)) => {
                    if let Some(sender) = &mut self.sender {
                        sender.session.tick();
                    }
                }
            }
        }
    }

    /// Sends everything that is to be sent now, on a thread that may block.
    async fn pump(
        &mut self,
        role: &mut watch::Receiver<RoleView>,
        stopping: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        let Some(mut sender) = self.sender.take() else { return Err(End::Reset) };
        for db in self.subscription.take() {
            sender.session.changed(&db);
        }
        // A thread that waits for a slow replica must hear of the end of the role or of the port.
        let stop = watch::Sender::new(false);
        let out = ChannelWriter::new(self.tx.clone(), Handle::current(), stop.subscribe());
        let mut work = spawn_blocking(move || {
            let result = sender.pump(out);
            (sender, result)
        });
        let done = tokio::select! {
            biased;
            done = &mut work => done,
            () = over(role, stopping) => {
                stop.send_replace(true);
                work.await
            }
        };
        let Ok((sender, result)) = done else { return Err(End::Reset) };
        self.sender = Some(sender);
        match result {
            Ok(Pumped::Wait) => Ok(()),
            Ok(Pumped::Closed) => Err(End::Closed),
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

/// Waits until this node is not primary any more, or the port stops.
async fn over(role: &mut watch::Receiver<RoleView>, stopping: &mut watch::Receiver<bool>) {
    let demoted = async {
        let _ = role.wait_for(|r| !r.is_primary).await;
    };
    tokio::select! {
        () = demoted => {}
        () = until(stopping) => {}
    }
}
