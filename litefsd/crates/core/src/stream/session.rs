//! One replica's stream, seen from the primary: what to send next.
//!
//! The caller's part:
//! 1. subscribe to change notices, *then* make the [`Session`] (a change in between must not be lost);
//! 2. call [`Session::next`] and do what it says, reporting files with [`Session::sent`],
//!    [`Session::unavailable`] or [`Session::hold`], until it says [`Action::Wait`];
//! 3. flush, then wait for the first of: a change ([`Session::changed`]), [`HEARTBEAT_MS`] since the
//!    last wait began ([`Session::tick`]), a handoff, the end of the primary role ([`Session::close`]).
//!
//! A round is: everything that is dirty, then `Ready` if it is the first, a heartbeat if one is due,
//! then the handoff if there is one. A heartbeat therefore says "you have all that I had".

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use core::ops::Bound;

use litefs_types::{DbName, Pos, Timestamp, Txid};

use super::catch_up::{LogFacts, SnapshotReason, Step, next_step};
use super::frame::Frame;
use super::pos_map::PosMap;

/// A heartbeat is due when the stream was idle this long, in milliseconds.
pub const HEARTBEAT_MS: u64 = 1000;

/// What a session asks about this node's databases.
pub trait Source {
    /// How far replicas may see a database; `None` if it is not here.
    fn pos(&self, db: &DbName) -> Option<Pos>;
    /// The log entry that begins with a transaction.
    fn log(&self, db: &DbName, txid: Txid) -> Option<LogFacts>;
    /// The last transaction in the backup.
    fn hwm(&self, db: &DbName) -> Option<Txid>;
}

/// Which databases a replica wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Every one.
    All,
    /// These.
    Only(BTreeSet<DbName>),
}

impl Filter {
    /// From the decoded query parameter: names between commas, none at all for every database.
    /// Names that no database can have match none.
    pub fn parse(list: &str) -> Self {
        if list.is_empty() {
            return Self::All;
        }
        Self::Only(list.split(',').filter_map(|n| n.parse().ok()).collect())
    }

    /// Whether a database passes.
    pub fn admits(&self, db: &DbName) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(db),
        }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this frame.
    Frame(Frame),
    /// Send [`Frame::Ltx`] and the log entry that begins with this transaction, in chunks. Then call
    /// [`Session::sent`]; or [`Session::unavailable`] if it is gone and nothing was sent.
    Entry {
        /// Which database.
        db: DbName,
        /// First transaction of the entry.
        txid: Txid,
    },
    /// Send [`Frame::Ltx`] and a snapshot, in chunks. Then call [`Session::sent`] with its position.
    Snapshot {
        /// Which database.
        db: DbName,
        /// Why.
        reason: SnapshotReason,
    },
    /// Flush and wait.
    Wait,
    /// Flush and end the stream.
    Close,
}

/// One replica's stream. See the module documentation.
#[derive(Debug)]
pub struct Session {
    filter: Filter,
    /// Where the replica is, as far as we sent and it told.
    client: BTreeMap<DbName, Pos>,
    /// Databases of this round, with the transaction that ends it for them once it is known. Without
    /// such an end, a database that is written to all the time would keep the others from `Ready`.
    round: BTreeMap<DbName, Option<Txid>>,
    /// Changed since the round began.
    dirty: BTreeSet<DbName>,
    /// The database that was served last: the others come first, one file each.
    cursor: Option<DbName>,
    in_flight: Option<Action>,
    outbox: VecDeque<Frame>,
    state: State,
    ready_sent: bool,
    heartbeat_due: bool,
    handoff: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Round,
    Waiting,
    Closing,
    Closed,
}

impl Session {
    /// For a replica at `client`; `local` are the databases that exist here.
    pub fn new(client: PosMap, filter: Filter, local: impl IntoIterator<Item = DbName>) -> Self {
        let names = client.keys().cloned().chain(local);
        let round = names.filter(|n| filter.admits(n)).map(|n| (n, None)).collect();
        Self {
            filter,
            client,
            round,
            dirty: BTreeSet::new(),
            cursor: None,
            in_flight: None,
            outbox: VecDeque::new(),
            state: State::Round,
            ready_sent: false,
            heartbeat_due: true,
            handoff: None,
        }
    }

    /// A database has a new position.
    pub fn changed(&mut self, db: &DbName) {
        if self.filter.admits(db) && !self.dirty.contains(db) {
            self.dirty.insert(db.clone());
        }
    }

    /// A heartbeat interval has passed.
    pub fn tick(&mut self) {
        self.heartbeat_due = true;
    }

    /// The replica is to take over this lease once it has everything; ends the stream.
    pub fn hand_off(&mut self, lease_id: String) {
        self.handoff = Some(lease_id);
    }

    /// The stream is to end, without sending more files.
    pub fn close(&mut self) {
        if self.state != State::Closed {
            self.state = State::Closing;
        }
    }

    /// Where the replica is, as far as is known here.
    pub fn client_pos(&self, db: &DbName) -> Pos {
        self.client.get(db).copied().unwrap_or(Pos::ZERO)
    }

    /// Whether everything that was here at the start was sent.
    pub fn is_ready(&self) -> bool {
        self.ready_sent
    }

    /// What to do now. The same until it is reported done, where it asks for a report.
    pub fn next(&mut self, now: Timestamp, source: &impl Source) -> Action {
        loop {
            match self.state {
                State::Closed => return Action::Close,
                State::Closing => {
                    self.state = State::Closed;
                    return Action::Frame(Frame::End);
                }
                State::Waiting => {
                    if self.dirty.is_empty() && !self.heartbeat_due && self.handoff.is_none() {
                        return Action::Wait;
                    }
                    self.round = core::mem::take(&mut self.dirty).into_iter().map(|n| (n, None)).collect();
                    self.state = State::Round;
                }
                State::Round => {
                    if let Some(action) = &self.in_flight {
                        return action.clone();
                    }
                    if let Some(frame) = self.outbox.pop_front() {
                        return Action::Frame(frame);
                    }
                    if let Some(db) = self.pick() {
                        self.in_flight = self.look_at(db, source);
                    } else if !self.ready_sent {
                        self.ready_sent = true;
                        self.outbox.push_back(Frame::Ready);
                    } else if self.heartbeat_due {
                        self.heartbeat_due = false;
                        self.outbox.push_back(Frame::Heartbeat(now));
                    } else if let Some(lease_id) = self.handoff.take() {
                        self.state = State::Closing;
                        return Action::Frame(Frame::Handoff { lease_id });
                    } else {
                        // Not to wait yet: what changed during the round begins the next one.
                        self.state = State::Waiting;
                    }
                }
            }
        }
    }

    /// The file that was asked for is sent; the replica will be at `pos`.
    pub fn sent(&mut self, pos: Pos, source: &impl Source) {
        let Some(action) = self.in_flight.take() else { return };
        let db = match action {
            Action::Entry { db, .. } => {
                // As the original: a mark behind every transaction, none behind snapshots.
                self.outbox.push_back(Frame::Hwm { txid: source.hwm(&db), db: db.clone() });
                db
            }
            Action::Snapshot { db, .. } => db,
            Action::Frame(_) | Action::Wait | Action::Close => return,
        };
        if self.round.get(&db).is_some_and(|end| *end <= pos.txid()) {
            self.round.remove(&db);
        }
        self.client.insert(db, pos);
    }

    /// The log entry that was asked for is gone: a snapshot comes in its place.
    pub fn unavailable(&mut self) {
        if let Some(Action::Entry { db, .. }) = self.in_flight.take() {
            self.client.remove(&db);
        }
    }

    /// The replica could not take the file that was asked for, and it is not sent: the other databases go on.
    /// This one is looked at again when it changes.
    pub fn hold(&mut self) {
        if let Some(Action::Entry { db, .. } | Action::Snapshot { db, .. }) = self.in_flight.take() {
            self.round.remove(&db);
        }
    }

    /// The next database of the round, in turn.
    fn pick(&mut self) -> Option<DbName> {
        let after = self.cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self
            .round
            .range::<DbName, _>((after, Bound::Unbounded))
            .next()
            .or_else(|| self.round.iter().next());
        let db = next.map(|(name, _)| name.clone());
        self.cursor.clone_from(&db);
        db
    }

    /// Decides for one database; takes it out of the round if there is nothing to send.
    fn look_at(&mut self, db: DbName, source: &impl Source) -> Option<Action> {
        let server = source.pos(&db);
        let step = next_step(self.client_pos(&db), server, |txid| source.log(&db, txid));
        if let (Some(end @ None), Some(pos)) = (self.round.get_mut(&db), server) {
            *end = pos.txid();
        }
        match step {
            Step::Entry { txid, .. } => return Some(Action::Entry { db, txid }),
            Step::Snapshot(reason) => return Some(Action::Snapshot { db, reason }),
            Step::UpToDate => {}
            Step::DropDb => {
                self.client.remove(&db);
                self.outbox.push_back(Frame::DropDb { db: db.clone() });
            }
        }
        self.round.remove(&db);
        None
    }
}

#[cfg(test)]
mod tests;
