//! What every database of a store shares: disk, identity, policy.
//!
//! Owns no database state.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use litefs_core::write_gate::WriteGate;
use litefs_types::{DbName, NodeId, Timestamp};

use crate::disk::Disk;
use crate::notice::ChangeNotice;
use crate::own_mount::{Invalidator, OwnMount};

/// What a local write is answered on a replica (`fuse.replica-writes`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplicaWrites {
    /// BUSY in WAL mode, READONLY in rollback modes; a connection can write after a promotion.
    #[default]
    Busy,
    /// Opening for writing fails with EACCES, so SQLite opens read-only and says READONLY at once.
    ReadOnly,
}

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The data directory.
    pub dir: PathBuf,
    /// `fuse.replica-writes`.
    pub replica_writes: ReplicaWrites,
    /// Age beyond which transactions leave the log; `None` keeps them until the size limit.
    pub max_log_age: Option<Duration>,
    /// Bytes beyond which the oldest transactions of a database leave its log; `None`: no limit.
    pub max_log_size: Option<u64>,
}

/// Gives out own-mount clients, one a database.
pub trait MountFactory: Send + Sync {
    /// The client for this database. Opens nothing yet.
    fn own_mount(&self, db: &DbName) -> Arc<dyn OwnMount>;
}

/// The mount, once it is there.
#[derive(Clone)]
pub(crate) struct Mounted {
    pub(crate) factory: Arc<dyn MountFactory>,
    pub(crate) invalidator: Arc<dyn Invalidator>,
}

/// Shared by every database of a store.
pub(crate) struct Env {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) settings: StoreSettings,
    pub(crate) node_id: NodeId,
    pub(crate) gate: Arc<dyn WriteGate>,
    pub(crate) notice: Arc<dyn ChangeNotice>,
    pub(crate) mounted: OnceLock<Mounted>,
    /// No threads: somebody calls what they would do.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) by_hand: std::sync::atomic::AtomicBool,
    next_node: AtomicU64,
    /// Counts databases that began to ask for a snapshot.
    pub(crate) snapshot_wishes: AtomicU64,
}

impl Env {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        settings: StoreSettings,
        node_id: NodeId,
        gate: Arc<dyn WriteGate>,
        notice: Arc<dyn ChangeNotice>,
    ) -> Self {
        Self {
            disk,
            settings,
            node_id,
            gate,
            notice,
            mounted: OnceLock::new(),
            #[cfg(any(test, feature = "sim"))]
            by_hand: std::sync::atomic::AtomicBool::new(false),
            next_node: AtomicU64::new(1),
            snapshot_wishes: AtomicU64::new(0),
        }
    }

    /// A number that no other backing file of this process ever had: inode numbers of the disk are
    /// reused, while the kernel may still know the old file.
    pub(crate) fn next_node(&self) -> u64 {
        self.next_node.fetch_add(1, Ordering::Relaxed)
    }

    /// Wall-clock time for LTX headers.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_system(SystemTime::now())
    }
}
