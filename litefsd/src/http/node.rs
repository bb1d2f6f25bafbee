//! What this node is to others right now: id, role, readiness, and how far behind the primary it is.
//!
//! Owns the shared view that every route, the replica task and the mount's virtual files read; not the
//! decisions (the cluster task or, with a static lease, the daemon's start makes them). Tested here.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use litefs_types::{NodeId, Timestamp};
use tokio::sync::watch;

use crate::events::{EventHub, RoleView};

/// No signal from a primary was ever seen, or this node was just demoted.
const NEVER: i64 = i64::MIN;

/// How far this node is behind the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// This node is the primary.
    Primary,
    /// A replica that has not caught up with a primary since it became one: no statement is possible.
    NeverSynced,
    /// Milliseconds since the primary's last signal that was fully applied here. The two nodes' clocks
    /// are compared, so it can be negative.
    Millis(i64),
}

impl Lag {
    /// As the original's `litefs_lag_seconds` has it, where "never synced" cannot be told from 0.
    pub fn seconds(self) -> f64 {
        match self {
            Self::Primary | Self::NeverSynced => 0.0,
            Self::Millis(ms) => ms as f64 / 1000.0,
        }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct NodeState {
    /// The stream id: random at every start.
    pub id: NodeId,
    /// Whether this node may become primary.
    pub candidate: bool,
    /// Host name under which this node is known when it is primary (`lease.hostname`).
    pub hostname: String,
    /// The data directory, for `/info`.
    pub data_dir: PathBuf,
    /// Where `/events` subscribes.
    pub events: EventHub,
    role: watch::Sender<RoleView>,
    ready: watch::Sender<bool>,
    primary_signal: AtomicI64,
}

impl NodeState {
    /// A node that is nothing yet: not primary, no primary known, not ready.
    pub fn new(id: NodeId, candidate: bool, hostname: String, data_dir: PathBuf) -> Self {
        Self {
            id,
            candidate,
            hostname,
            data_dir,
            events: EventHub::default(),
            role: watch::Sender::new(RoleView::default()),
            ready: watch::Sender::new(false),
            primary_signal: AtomicI64::new(NEVER),
        }
    }

    /// This node holds the lease (and is therefore ready).
    pub fn become_primary(&self) {
        self.set_role(RoleView { is_primary: true, hostname: String::new() });
        self.set_ready();
    }

    /// This node follows, or tries to follow, the primary with this host name.
    pub fn follow(&self, hostname: &str) {
        self.set_role(RoleView { is_primary: false, hostname: hostname.to_owned() });
    }

    /// No lease and no primary.
    pub fn follow_nobody(&self) {
        self.set_role(RoleView::default());
    }

    fn set_role(&self, new: RoleView) {
        self.role.send_if_modified(|role| {
            if *role == new {
                return false;
            }
            if role.is_primary {
                // What was known of the previous primary says nothing about the next one.
                self.primary_signal.store(NEVER, Ordering::Release);
            }
            // Inside the lock of `role`: events must not overtake each other.
            self.events.primary_change(&new);
            *role = new;
            true
        });
    }

    /// The role now.
    pub fn role(&self) -> RoleView {
        self.role.borrow().clone()
    }

    /// Events from now on, with the role now as the first. (No change of role falls between the two: that
    /// needs the lock which is held here.)
    pub fn subscribe_events(&self) -> Option<tokio::sync::mpsc::Receiver<bytes::Bytes>> {
        let role = self.role.borrow();
        self.events.subscribe(&role)
    }

    /// Whether this node is the primary now.
    pub fn is_primary(&self) -> bool {
        self.role.borrow().is_primary
    }

    /// Wakes when the role changes.
    pub fn watch_role(&self) -> watch::Receiver<RoleView> {
        self.role.subscribe()
    }

    /// The node is primary, or has caught up with one once. Never taken back.
    pub fn set_ready(&self) {
        self.ready.send_if_modified(|r| !std::mem::replace(r, true));
    }

    /// Wakes when the node becomes ready.
    pub fn watch_ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The primary told its time, and everything it sent before is applied.
    pub fn primary_signal(&self, t: Timestamp) {
        self.primary_signal.store(t.millis(), Ordering::Release);
    }

    /// The primary's time at its last fully applied signal (mtime of `.lag`). `None`: primary or never synced.
    pub fn last_signal(&self) -> Option<Timestamp> {
        match self.primary_signal.load(Ordering::Acquire) {
            _ if self.is_primary() => None,
            NEVER => None,
            ms => Some(Timestamp::from_millis(ms)),
        }
    }

    /// How far behind this node is at the local time `now`.
    pub fn lag(&self, now: Timestamp) -> Lag {
        if self.is_primary() {
            return Lag::Primary;
        }
        match self.primary_signal.load(Ordering::Acquire) {
            NEVER => Lag::NeverSynced,
            ms => Lag::Millis(now.millis().saturating_sub(ms)),
        }
    }

    /// Who is primary, by name: the own host name on the primary. (`primary.hostname` of `/info`.)
    pub fn primary_hostname(&self) -> String {
        let role = self.role.borrow();
        if role.is_primary { self.hostname.clone() } else { role.hostname.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_tells_never_synced_from_in_sync() {
        let at = Timestamp::from_millis;
        let n = NodeState::new(NodeId::new(1), true, "me".into(), "/data".into());
        assert_eq!(n.lag(at(5)), Lag::NeverSynced);
        n.follow("other");
        n.primary_signal(at(100));
        assert_eq!(n.lag(at(130)), Lag::Millis(30));
        assert_eq!(n.lag(at(90)), Lag::Millis(-10));
        assert_eq!(n.primary_hostname(), "other");
        assert!(!*n.watch_ready().borrow());
        n.become_primary();
        assert_eq!((n.lag(at(1)), n.primary_hostname().as_str()), (Lag::Primary, "me"));
        assert!(*n.watch_ready().borrow());
        n.follow_nobody();
        assert_eq!(n.lag(at(500)), Lag::NeverSynced);
    }

    #[test]
    fn an_unchanged_role_is_no_event() {
        let n = NodeState::new(NodeId::new(1), true, "me".into(), "/data".into());
        let mut rx = n.events.subscribe(&n.role()).unwrap();
        rx.try_recv().unwrap();
        n.follow("a");
        n.follow("a");
        n.follow_nobody();
        let mut lines = 0;
        while rx.try_recv().is_ok() {
            lines += 1;
        }
        assert_eq!(lines, 2);
    }
}
