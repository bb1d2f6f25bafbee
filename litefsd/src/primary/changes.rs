//! From the store's notices to the streams: which database has something new for which replica.
//!
//! Owns the subscribers and their dirty sets; not what is sent for a dirty database (`session.rs`). It is
//! the store's `ChangeNotice`, so nothing here blocks. Tested here and in `tests/tests/replication_net.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use http::HeaderValue;
use litefs_core::stream::{Ack, Filter};
use litefs_store::notice::{Change, ChangeNotice};
use litefs_types::{DbName, NodeId, PageSize, Pos, Txid};
use tokio::sync::Notify;

use crate::http::extensions::Extensions;
use crate::http::node::NodeState;

/// Peers and databases of which something is said once.
const MAX_SAID: usize = 10_000;

/// Hears of every change, wakes the streams, and feeds the events.
pub struct ChangeHub {
    node: Arc<NodeState>,
    subscribers: Mutex<Vec<Arc<Subscriber>>>,
    page_sizes: Mutex<HashMap<DbName, KnownSize>>,
    /// Whom what was said of which database: a peer that connects again is no news.
    said: Mutex<BTreeSet<(NodeId, DbName)>>,
}

/// The page size of a database, as far as this process knows.
struct KnownSize {
    now: PageSize,
    /// With which transaction it came, and what was before.
    changed: Option<(Txid, PageSize)>,
}

/// What a connected replica has not been sent yet.
struct Subscriber {
    info: ReplicaInfo,
    /// Which stream, for acknowledgements.
    number: u64,
    filter: Filter,
    dirty: Mutex<BTreeSet<DbName>>,
    /// How far the replica is, as far as it was sent.
    sent: Mutex<BTreeMap<DbName, Pos>>,
    /// How far it says it is.
    acked: Mutex<BTreeMap<DbName, Ack>>,
    /// What it is not sent, and why.
    held: Mutex<BTreeMap<DbName, String>>,
    wake: Notify,
}

/// A connected replica, for status pages.
#[derive(Clone, Debug)]
pub struct ReplicaInfo {
    /// Its stream id, 0 if it did not say.
    pub node_id: NodeId,
    /// Where it connects from.
    pub peer: Option<SocketAddr>,
    /// Since when.
    pub since: SystemTime,
    /// How far it has been sent each database; it may not have applied all of it yet.
    pub sent: BTreeMap<DbName, Pos>,
    /// How far it says it is; of a node of the original nothing is known.
    pub acked: BTreeMap<DbName, Ack>,
    /// What it is not sent, and why.
    pub held: BTreeMap<DbName, String>,
    /// What it knows beyond the original.
    pub extensions: Extensions,
}

/// A stream's end of the hub; unsubscribes when dropped.
pub struct Subscription {
    hub: Arc<ChangeHub>,
    subscriber: Arc<Subscriber>,
}

impl ChangeHub {
    /// A hub without subscribers.
    pub fn new(node: Arc<NodeState>) -> Arc<Self> {
        Arc::new(Self {
            node,
            subscribers: Mutex::default(),
            page_sizes: Mutex::default(),
            said: Mutex::default(),
        })
    }

    /// Subscribes a replica that wants these databases.
    pub fn subscribe(
        self: &Arc<Self>,
        node_id: NodeId,
        peer: Option<SocketAddr>,
        extensions: Extensions,
        filter: Filter,
    ) -> Subscription {
        let subscriber = Arc::new(Subscriber {
            info: ReplicaInfo {
                node_id,
                peer,
                since: SystemTime::now(),
                sent: BTreeMap::new(),
                acked: BTreeMap::new(),
                held: BTreeMap::new(),
                extensions,
            },
            number: rand::random(),
            filter,
            dirty: Mutex::default(),
            sent: Mutex::default(),
            acked: Mutex::default(),
            held: Mutex::default(),
            wake: Notify::new(),
        });
        self.lock().push(Arc::clone(&subscriber));
        Subscription { hub: Arc::clone(self), subscriber }
    }

    /// How many replicas are connected.
    pub fn subscriber_count(&self) -> usize {
        self.lock().len()
    }

    /// Who is connected.
    pub fn replicas(&self) -> Vec<ReplicaInfo> {
        let info = |s: &Arc<Subscriber>| ReplicaInfo {
            sent: s.sent().clone(),
            acked: s.acked().clone(),
            held: s.held().clone(),
            ..s.info.clone()
        };
        self.lock().iter().map(info).collect()
    }

    /// Notes how far the replica of a stream says it is; `false` if there is no such stream of this node.
    pub(super) fn acknowledge(&self, stream: u64, node_id: NodeId, rows: Vec<(DbName, Ack)>) -> bool {
        let all = self.lock();
        let Some(s) = all.iter().find(|s| s.number == stream && s.info.node_id == node_id) else {
            return false;
        };
        let (sent, mut acked) = (s.sent(), s.acked());
        // Of nothing else there is anything to compare with; and a peer must not fill the memory.
        acked.extend(rows.into_iter().filter(|(db, _)| sent.contains_key(db)));
        true
    }

    /// Whether the node with this stream id is connected.
    pub fn is_connected(&self, node_id: NodeId) -> bool {
        self.lock().iter().any(|s| s.info.node_id == node_id)
    }

    /// The page size that a database had at an earlier transaction, if it has changed since.
    pub(super) fn page_size_at(&self, db: &DbName, txid: Txid) -> Option<PageSize> {
        let (at, before) = self.page_sizes().get(db)?.changed?;
        (txid < at).then_some(before)
    }

    /// A transaction changed the page size, as its place in the log shows.
    pub(super) fn page_size_changed(&self, db: &DbName, txid: Txid, from: PageSize, to: PageSize) {
        let mut all = self.page_sizes();
        let known = all.entry(db.clone()).or_insert(KnownSize { now: to, changed: None });
        if known.changed.is_none_or(|(at, _)| at < txid) {
            known.changed = Some((txid, from));
        }
    }

    fn page_sizes(&self) -> std::sync::MutexGuard<'_, HashMap<DbName, KnownSize>> {
        self.page_sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is to be said of a peer and a database: once.
    fn says(&self, peer: NodeId, db: &DbName) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < MAX_SAID && said.insert((peer, db.clone()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Subscriber>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChangeNotice for ChangeHub {
    fn changed(&self, change: Change) {
        if let (1.., Some(txid)) = (change.commit, change.pos.txid()) {
            let mut all = self.page_sizes();
            match all.get_mut(&change.db) {
                Some(known) if known.now == change.page_size => {}
                Some(known) => {
                    known.changed = Some((txid, known.now));
                    known.now = change.page_size;
                }
                None => {
                    all.insert(change.db.clone(), KnownSize { now: change.page_size, changed: None });
                }
            }
        }
        for s in self.lock().iter() {
            s.mark(&change.db);
        }
        self.node.events.tx(&change);
    }
}

impl std::fmt::Debug for ChangeHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangeHub").field("replicas", &self.replicas()).finish_non_exhaustive()
    }
}

impl Subscriber {
    fn sent(&self) -> std::sync::MutexGuard<'_, BTreeMap<DbName, Pos>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<DbName, String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acked(&self) -> std::sync::MutexGuard<'_, BTreeMap<DbName, Ack>> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, db: &DbName) {
        if self.filter.admits(db) {
            self.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(db.clone());
            // Keeps a permit if the stream is busy: no change is missed between two waits.
            self.wake.notify_one();
        }
    }
}

/// Notes what a replica was sent, for status pages.
#[derive(Clone)]
pub struct Progress {
    hub: Arc<ChangeHub>,
    subscriber: Arc<Subscriber>,
}

impl Progress {
    /// The replica has, or was sent, this database up to `pos`.
    pub fn sent(&self, db: &DbName, pos: Pos) {
        self.subscriber.sent().insert(db.clone(), pos);
        self.subscriber.held().remove(db);
    }

    /// The replica is not sent this database, for this reason.
    pub(super) fn held(&self, db: &DbName, why: String) {
        let info = &self.subscriber.info;
        if self.hub.says(info.node_id, db) {
            let peer = info.peer.map_or_else(|| "an unknown address".to_owned(), |p| p.to_string());
            tracing::warn!(replica = %info.node_id, %peer, "{db} is not sent to this replica any more: {why}");
        }
        self.subscriber.held().insert(db.clone(), why);
    }

    /// What the replica knows beyond the original.
    pub(super) fn extensions(&self) -> Extensions {
        self.subscriber.info.extensions
    }
}

impl Subscription {
    /// The number of this stream, as header value.
    pub(super) fn number(&self) -> HeaderValue {
        // Hexadecimal digits are always a valid value.
        HeaderValue::from_str(&format!("{:016x}", self.subscriber.number))
            .unwrap_or_else(|_| HeaderValue::from_static("0"))
    }

    /// Where to note what was sent.
    pub fn progress(&self) -> Progress {
        Progress { hub: Arc::clone(&self.hub), subscriber: Arc::clone(&self.subscriber) }
    }

    /// Waits until there is something to take.
    pub async fn changed(&self) {
        self.subscriber.wake.notified().await;
    }

    /// Takes the set of changed databases.
    pub fn take(&self) -> BTreeSet<DbName> {
        std::mem::take(&mut *self.subscriber.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.lock().retain(|s| !Arc::ptr_eq(s, &self.subscriber));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use litefs_types::Timestamp;

    fn change(db: &str) -> Change {
        Change {
            db: db.parse().unwrap(),
            pos: Pos::ZERO,
            page_size: PageSize::DEFAULT,
            commit: 1,
            timestamp: Timestamp::from_millis(0),
            local: true,
        }
    }

    #[tokio::test]
    async fn changes_reach_the_filter_and_nobody_after_a_drop() {
        let node = Arc::new(NodeState::new(NodeId::new(1), true, "me".into(), "/".into()));
        let hub = ChangeHub::new(node);
        let all = hub.subscribe(NodeId::new(2), None, Extensions::default(), Filter::All);
        let only = hub.subscribe(NodeId::new(3), None, Extensions::default(), Filter::parse("b"));
        hub.changed(change("a"));
        hub.changed(change("b"));
        hub.changed(change("b"));
        all.changed().await;
        let names = |s: &Subscription| s.take().iter().map(|d| d.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&all), ["a", "b"]);
        assert_eq!(names(&only), ["b"]);
        assert!(hub.is_connected(NodeId::new(3)));
        drop(only);
        assert!(!hub.is_connected(NodeId::new(3)) && hub.subscriber_count() == 1);
    }
}
