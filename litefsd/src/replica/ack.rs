//! Tells the primary how far this replica is, if it wants to know (`crate::http::extensions`).
//!
//! Owns what is told when: a batch at most every [`INTERVAL`] while something changes, of at most
//! [`MAX_ACKS`] databases, on the connection of the stream. Nothing waits for it and nothing is lost with it:
//! a connection begins by telling everything. Tested in `tests/tests/replication_net_acks.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use litefs_core::stream::ack::{self, Ack, MAX_ACKS};
use litefs_types::DbName;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::http::LITEFS_ID;
use crate::http::backend::Backend;
use crate::http::extensions::STREAM;
use crate::http::node::NodeState;

/// Shortest time between two acknowledgements.
const INTERVAL: Duration = Duration::from_millis(100);
/// Pause between two looks whether what is applied is durable by now: nobody tells.
const DURABLE_LOOK: Duration = Duration::from_secs(1);
/// A primary that does not answer is told nothing more on this connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Databases whose position changed since the primary was told.
#[derive(Default)]
pub(super) struct Acks {
    changed: Mutex<BTreeSet<DbName>>,
    wake: Notify,
}

impl Acks {
    /// These databases are elsewhere than the primary may think.
    pub(super) fn mark(&self, dbs: impl IntoIterator<Item = DbName>) {
        self.lock().extend(dbs);
        // Keeps a permit while a batch is on its way.
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<DbName>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch.
    fn take(&self) -> BTreeSet<DbName> {
        let mut all = self.lock();
        let rest = all.iter().nth(MAX_ACKS).cloned();
        let rest = rest.map(|first| all.split_off(&first)).unwrap_or_default();
        let batch = std::mem::replace(&mut *all, rest);
        if !all.is_empty() {
            self.wake.notify_one();
        }
        batch
    }
}

/// Where and as what to acknowledge.
pub(super) struct Acknowledge<'a> {
    pub(super) acks: &'a Acks,
    pub(super) backend: &'a Arc<dyn Backend>,
    pub(super) node: &'a NodeState,
    pub(super) uri: String,
    pub(super) stream: HeaderValue,
}

impl Acknowledge<'_> {
    /// Tells until the connection, or the primary's interest, ends.
    pub(super) async fn run(self, mut requests: SendRequest<Full<Bytes>>) {
        let mut told: BTreeMap<DbName, Ack> = BTreeMap::new();
        let mut not_durable = BTreeSet::new();
        loop {
            tokio::select! {
                () = self.acks.wake.notified() => {}
                () = sleep(DURABLE_LOOK), if !not_durable.is_empty() => {
                    self.acks.mark(std::mem::take(&mut not_durable));
                    continue;
                }
            }
            let mut rows = Vec::new();
            for db in self.acks.take() {
                let ack = self.backend.progress(&db);
                if ack.durable.txid_raw() < ack.applied.txid_raw() {
                    not_durable.insert(db.clone());
                }
                if told.get(&db) != Some(&ack) {
                    rows.push((db, ack));
                }
            }
            if rows.is_empty() {
                continue;
            }
            if let Err(why) = self.tell(&mut requests, &rows).await {
                tracing::debug!("no acknowledgements any more: {why}");
                return;
            }
            told.extend(rows);
            sleep(INTERVAL).await;
        }
    }

    async fn tell(
        &self,
        requests: &mut SendRequest<Full<Bytes>>,
        rows: &[(DbName, Ack)],
    ) -> Result<(), String> {
        let request = Request::post(&self.uri)
            .header(LITEFS_ID, self.node.id.to_string())
            .header(STREAM, self.stream.clone())
            .body(Full::new(Bytes::from(ack::encode(0, rows))))
            .map_err(|e| e.to_string())?;
        let answer = async {
            let response = requests.send_request(request).await?;
            let status = response.status();
            // An unread body would hold the connection's window.
            response.into_body().collect().await?;
            Ok::<_, hyper::Error>(status)
        };
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(StatusCode::OK)) => Ok(()),
            Ok(Ok(status)) => Err(format!("the primary answers {status}")),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("the primary does not answer".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_are_bounded_and_nothing_is_left() {
        let acks = Acks::default();
        let name = |n: usize| format!("db{n}").parse::<DbName>().unwrap();
        acks.mark((0..=MAX_ACKS * 2).map(name));
        for expected in [MAX_ACKS, MAX_ACKS, 1] {
            // There is a permit for each.
            timeout(Duration::from_secs(5), acks.wake.notified()).await.unwrap();
            assert_eq!(acks.take().len(), expected);
        }
        assert!(acks.take().is_empty());
    }
}
