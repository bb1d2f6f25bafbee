//! Received transactions on their way to the databases: one queue and at most one worker a database.
//!
//! Owns order, limits and what is asked again; not the network (`stream.rs`) nor the apply (the backend).
//! A database whose readers block its apply fills its own queue and stalls no other. Queues outlive a
//! connection: what was received whole is applied, and the next position map counts it as here.
//! Tested here with a backend that blocks, and in `tests/tests/replication_net.rs`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use litefs_store::spool::Spooled;
use litefs_types::{DbName, Pos, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ack::Acks;
use super::backoff::Backoff;
use crate::http::backend::{Backend, SinkError};
use crate::http::node::NodeState;

/// Bytes of queued LTX files in memory, for one database and for all.
const DB_MEMORY: usize = 4 << 20;
/// See above; a quarter of what the daemon may use.
const TOTAL_MEMORY: usize = 16 << 20;
/// Queued LTX files in memory for one database.
const DB_ITEMS: usize = 4096;
/// Queued LTX files on disk for one database (each too large for memory).
const DB_FILES: usize = 64;
/// First wait after an LTX file could not be applied.
const RETRY_BASE: Duration = Duration::from_secs(1);

/// An LTX file that was received whole.
pub(super) struct Item {
    /// The bytes.
    pub(super) ltx: Spooled,
    /// Position after it, as its trailer says (not verified yet).
    pub(super) post: Pos,
    /// Time stamp in its header.
    pub(super) timestamp: Timestamp,
    /// It carries this node's id: made here, therefore verified and dropped.
    pub(super) own: bool,
}

/// What to do with the frames of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admit {
    /// Receive it.
    Take,
    /// Skip it: it will be asked for again later.
    Skip,
}

/// Cheap to clone; all clones are one inbox.
#[derive(Clone)]
pub(super) struct Inbox(Arc<Shared>);

struct Shared {
    backend: Arc<dyn Backend>,
    node: Arc<NodeState>,
    state: Mutex<State>,
    /// Some database wants to be asked for again, or a worker ended.
    wake: Notify,
    acks: Acks,
}

#[derive(Default)]
struct State {
    dbs: HashMap<DbName, Queue>,
    /// Databases whose frames are skipped: few, mostly none.
    holds: HashMap<DbName, Hold>,
    /// Numbers of the items that are not applied yet.
    outstanding: BTreeSet<u64>,
    next_seq: u64,
    memory: usize,
    /// Items before this number must be applied before the node is ready.
    ready_at: Option<u64>,
    /// The same for the newest heartbeat.
    heartbeat: Option<(u64, Timestamp)>,
    stopped: bool,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<(u64, Item)>,
    running: bool,
    memory: usize,
    files: usize,
    /// Position after the last queued item.
    tail: Option<Pos>,
    retry: Option<Backoff>,
}

/// Why the frames of a database are skipped.
enum Hold {
    /// Its queue was full; over when it is empty.
    Full,
    /// An apply failed; over at this time.
    Failed(Instant),
}

impl Inbox {
    pub(super) fn new(backend: Arc<dyn Backend>, node: Arc<NodeState>) -> Self {
        Self(Arc::new(Shared {
            backend,
            node,
            state: Mutex::default(),
            wake: Notify::new(),
            acks: Acks::default(),
        }))
    }

    /// What the primary is to be told.
    pub(super) fn acks(&self) -> &Acks {
        &self.0.acks
    }

    /// Begins a new connection: the positions to tell the primary, what is queued counted as here.
    pub(super) fn begin(&self) -> Vec<(DbName, Pos)> {
        let mut positions: HashMap<DbName, Pos> = self.0.backend.positions().into_iter().collect();
        let mut state = self.lock();
        state.ready_at = None;
        state.heartbeat = None;
        let now = Instant::now();
        state.holds.retain(|_, hold| matches!(hold, Hold::Failed(until) if *until > now));
        for (db, queue) in &state.dbs {
            if let Some(tail) = queue.tail {
                positions.insert(db.clone(), tail);
            }
        }
        let mut positions: Vec<_> = positions.into_iter().collect();
        positions.sort_by(|a, b| a.0.cmp(&b.0));
        positions
    }

    /// The position that the next LTX file of this database must continue.
    pub(super) fn position(&self, db: &DbName) -> Pos {
        let tail = self.lock().dbs.get(db).and_then(|q| q.tail);
        tail.unwrap_or_else(|| self.0.backend.position(db))
    }

    /// Decides about an LTX frame that begins.
    pub(super) fn admit(&self, db: &DbName) -> Admit {
        let mut state = self.lock();
        if state.holds.contains_key(db) {
            return Admit::Skip;
        }
        let total_full = state.memory >= TOTAL_MEMORY;
        let Some(queue) = state.dbs.get(db) else { return Admit::Take };
        let full = queue.memory >= DB_MEMORY
            || queue.items.len() >= DB_ITEMS
            || queue.files >= DB_FILES
            || (total_full && !queue.items.is_empty());
        if !full {
            return Admit::Take;
        }
        // The primary's log holds them better than a file here would: asking again costs one request.
        let waiting = queue.items.len();
        tracing::info!("{db}: {waiting} transactions wait to be applied; the next are asked for later");
        state.holds.insert(db.clone(), Hold::Full);
        Admit::Skip
    }

    /// Queues an LTX file that was received whole.
    pub(super) fn push(&self, db: &DbName, item: Item) {
        let mut state = self.lock();
        // While it was received, the one before it may have failed.
        if state.stopped || matches!(state.holds.get(db), Some(Hold::Failed(_))) {
            return;
        }
        let seq = state.next_seq;
        state.next_seq += 1;
        state.outstanding.insert(seq);
        let memory = memory_of(&item.ltx);
        state.memory += memory;
        let queue = state.dbs.entry(db.clone()).or_default();
        queue.memory += memory;
        queue.files += usize::from(!item.ltx.in_memory());
        if !item.own {
            queue.tail = Some(item.post);
        }
        queue.items.push_back((seq, item));
        if !std::mem::replace(&mut queue.running, true) {
            let (inbox, db) = (self.clone(), db.clone());
            tokio::task::spawn_blocking(move || inbox.work(&db));
        }
    }

    /// Something about this database failed outside the queue (its spool file): ask again later.
    pub(super) fn fail(&self, db: &DbName, why: &str) {
        tracing::warn!("{db}: {why}");
        let mut state = self.lock();
        state.hold_failed(db);
        drop(state);
        self.0.wake.notify_one();
    }

    /// The primary has sent everything it had: the node is ready when that is applied.
    pub(super) fn mark_ready(&self) {
        let mut state = self.lock();
        state.ready_at = Some(state.next_seq);
        self.settle(&mut state);
    }

    /// The primary told its time.
    pub(super) fn mark_heartbeat(&self, t: Timestamp) {
        let mut state = self.lock();
        // With a database left behind, the node is not where the primary is.
        if state.holds.is_empty() {
            state.heartbeat = Some((state.next_seq, t));
            self.settle(&mut state);
        }
    }

    /// Waits until some database should be asked for again.
    pub(super) async fn ask_again(&self) {
        loop {
            let woken = self.0.wake.notified();
            let mut next = None;
            {
                let state = self.lock();
                for (db, hold) in &state.holds {
                    match hold {
                        Hold::Full if state.dbs.get(db).is_none_or(|q| !q.running) => return,
                        Hold::Full => {}
                        Hold::Failed(until) => {
                            next = Some(next.map_or(*until, |n: Instant| n.min(*until)));
                        }
                    }
                }
            }
            match next {
                Some(until) if until <= Instant::now() => return,
                Some(until) => {
                    let _ = tokio::time::timeout_at(until, woken).await;
                }
                None => woken.await,
            }
        }
    }

    /// Drops what is queued and waits until no worker runs.
    pub(super) async fn stop(&self) {
        loop {
            let woken = self.0.wake.notified();
            {
                let mut state = self.lock();
                state.stopped = true;
                let names: Vec<_> = state.dbs.keys().cloned().collect();
                for db in names {
                    state.clear(&db);
                }
                if state.dbs.values().all(|q| !q.running) {
                    return;
                }
            }
            woken.await;
        }
    }

    /// Applies the queue of one database until it is empty. On a blocking thread.
    fn work(&self, db: &DbName) {
        loop {
            let (seq, item) = {
                let mut state = self.lock();
                let Some(next) = state.pop(db) else {
                    drop(state);
                    self.0.wake.notify_one();
                    return;
                };
                next
            };
            let result = self.apply(db, item.ltx, item.own);
            if result.is_ok() {
                self.0.acks.mark([db.clone()]);
            }
            let mut state = self.lock();
            state.outstanding.remove(&seq);
            match result {
                Ok(()) => {
                    if let Some(q) = state.dbs.get_mut(db) {
                        q.retry = None;
                    }
                    // Under load there are no heartbeats: the transactions' own time tells the lag, unless
                    // an older one still waits.
                    let oldest = state.outstanding.first().is_none_or(|first| *first > seq);
                    let ready = *self.0.node.watch_ready().borrow();
                    if oldest && ready && self.0.node.last_signal().is_none_or(|t| t < item.timestamp) {
                        self.0.node.primary_signal(item.timestamp);
                    }
                    self.settle(&mut state);
                }
                Err(e) => {
                    tracing::warn!("{db}: cannot apply transaction from primary: {e}");
                    state.hold_failed(db);
                }
            }
        }
    }

    fn apply(&self, db: &DbName, ltx: Spooled, own: bool) -> Result<(), SinkError> {
        if own {
            return match litefs_ltx::verify(std::io::BufReader::new(ltx.reader())) {
                Ok(_) => Ok(()),
                Err(e) => Err(SinkError::Invalid(e.to_string())),
            };
        }
        self.0.backend.receive(db, ltx).map(|_| ())
    }

    /// Makes marks effective whose items are all applied.
    fn settle(&self, state: &mut State) {
        let reached = |seq: u64, s: &State| s.outstanding.first().is_none_or(|first| *first >= seq);
        if state.ready_at.is_some_and(|seq| reached(seq, state)) && state.holds.is_empty() {
            state.ready_at = None;
            self.0.node.set_ready();
        }
        if let Some((seq, t)) = state.heartbeat
            && reached(seq, state)
        {
            state.heartbeat = None;
            self.0.node.primary_signal(t);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next item of a database; without one its worker ends.
    fn pop(&mut self, db: &DbName) -> Option<(u64, Item)> {
        let queue = self.dbs.get_mut(db)?;
        let Some((seq, item)) = queue.items.pop_front() else {
            queue.running = false;
            queue.tail = None;
            return None;
        };
        let memory = memory_of(&item.ltx);
        queue.memory -= memory;
        queue.files -= usize::from(!item.ltx.in_memory());
        self.memory -= memory;
        Some((seq, item))
    }

    /// Forgets what is queued for a database.
    fn clear(&mut self, db: &DbName) {
        let Some(queue) = self.dbs.get_mut(db) else { return };
        for (seq, _) in queue.items.drain(..) {
            self.outstanding.remove(&seq);
        }
        self.memory -= std::mem::take(&mut queue.memory);
        queue.files = 0;
        queue.tail = None;
    }

    /// What follows a transaction that could not be applied cannot be applied either.
    fn hold_failed(&mut self, db: &DbName) {
        self.clear(db);
        self.ready_at = None;
        self.heartbeat = None;
        let queue = self.dbs.entry(db.clone()).or_default();
        let wait = queue.retry.get_or_insert_with(|| Backoff::new(RETRY_BASE)).next(rand::random());
        self.holds.insert(db.clone(), Hold::Failed(Instant::now() + wait));
    }
}

fn memory_of(ltx: &Spooled) -> usize {
    if ltx.in_memory() { ltx.len() as usize } else { 0 }
}
