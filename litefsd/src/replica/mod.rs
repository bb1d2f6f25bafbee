//! The receiving side of replication: follows a primary and hands what it sends to the store.
//!
//! Owns the connection to the primary, reconnecting, and the queues between network and databases; it
//! decides no role and writes no database. Start with [`start`]. Tested by
//! `tests/tests/replication_net.rs`.

mod ack;
mod backoff;
pub(crate) mod connect;
mod inbox;
mod receive;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use litefs_types::DbName;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::http::addr::HostPort;
use crate::http::backend::Backend;
use crate::http::node::NodeState;
use crate::http::until;
use backoff::Backoff;
use inbox::Inbox;
use stream::{Ended, Follow};

/// Whom to follow, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the primary is (`lease.advertise-url`).
    pub primary: HostPort,
    /// Its host name, for `.primary`, `/info` and events (`lease.hostname`).
    pub hostname: String,
    /// Only these databases (`lease.databases`); empty: all.
    pub databases: Vec<DbName>,
    /// Wait before connecting again (`lease.reconnect-delay`).
    pub reconnect_delay: Duration,
}

/// A running replica. Dropping it stops it too, but waits for nothing; see [`Replica::stop`].
#[derive(Debug)]
pub struct Replica {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Follows the primary until [`Replica::stop`]. Must be called inside a tokio runtime, on which each
/// database with something to apply takes a blocking thread for as long as that lasts.
pub fn start(options: Options, node: Arc<NodeState>, backend: Arc<dyn Backend>) -> Replica {
    let stop = watch::Sender::new(false);
    let task = tokio::spawn(run(options, node, backend, stop.subscribe()));
    Replica { stop, task }
}

impl Replica {
    /// Disconnects, drops what is queued, and waits for the transactions being applied.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

async fn run(
    options: Options,
    node: Arc<NodeState>,
    backend: Arc<dyn Backend>,
    mut stop: watch::Receiver<bool>,
) {
    let inbox = Inbox::new(Arc::clone(&backend), Arc::clone(&node));
    let mut backoff = Backoff::new(options.reconnect_delay);
    let follow = Follow { options: &options, node: &node, backend: &backend, inbox: &inbox };
    loop {
        let mut caught_up = false;
        let ended = tokio::select! {
            ended = follow.once(&mut caught_up) => ended,
            () = until(&mut stop) => break,
        };
        if caught_up {
            backoff.reset();
        }
        match ended {
            // The primary stays: ask for what a database missed, at once.
            Ok(Ended::AskAgain) => continue,
            Ok(Ended::Closed) => tracing::info!(primary = %options.primary, "primary closed the stream"),
            Err(e) => {
                let why = with_causes(&e);
                tracing::warn!(primary = %options.primary, "disconnected from primary with error: {why}");
            }
        }
        node.follow_nobody();
        let delay = backoff.next(rand::random());
        tokio::select! {
            () = sleep(delay) => {}
            () = until(&mut stop) => break,
        }
    }
    inbox.stop().await;
    node.follow_nobody();
}

/// An error and what caused it: HTTP errors say little themselves, e.g. that a PING was not answered.
fn with_causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
