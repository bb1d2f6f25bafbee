//! What every database of a store shares: disk, identity, policy, and the threads that sync in parallel.
//!
//! Owns no database state.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc};
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
    pub(crate) syncers: SyncPool,
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
            syncers: SyncPool::default(),
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

type Job = Box<dyn FnOnce() + Send>;

/// A few threads that run one fsync while the caller runs another.
///
/// Two files synced one after the other cost twice the time of one; in parallel they cost about 10 %
/// more. Threads start when they are first needed.
#[derive(Default)]
pub(crate) struct SyncPool {
    queue: OnceLock<Option<Arc<Queue>>>,
    /// No threads: one after the other on the caller's thread, `true`: the one beside first.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) serial: OnceLock<bool>,
}

/// Jobs, and a bell that wakes exactly one thread for each: every wake-up of another processor costs as
/// much as a small fsync.
#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    bell: Condvar,
}

impl Queue {
    /// `false` if it is full.
    fn push(&self, job: Job) -> bool {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= SYNC_QUEUE {
            return false;
        }
        jobs.push_back(job);
        drop(jobs);
        self.bell.notify_one();
        true
    }

    fn work(&self) {
        loop {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let mut jobs =
                self.bell.wait_while(jobs, |j| j.is_empty()).unwrap_or_else(PoisonError::into_inner);
            let job = jobs.pop_front();
            drop(jobs);
            if let Some(job) = job {
                job();
            }
        }
    }
}

/// Threads of the pool: more concurrent fsyncs than this only queue up inside the disk.
const SYNC_THREADS: usize = 4;
/// Waiting jobs; a caller that finds the queue full syncs by itself, in series.
const SYNC_QUEUE: usize = 64;

impl SyncPool {
    fn queue(&self) -> Option<&Arc<Queue>> {
        self.queue
            .get_or_init(|| {
                let queue = Arc::new(Queue::default());
                let mut started = 0;
                for n in 0..SYNC_THREADS {
                    let theirs = Arc::clone(&queue);
                    let thread = std::thread::Builder::new().name(format!("sync-{n}"));
                    started += usize::from(thread.spawn(move || theirs.work()).is_ok());
                }
                (started > 0).then_some(queue)
            })
            .as_ref()
    }

    /// Runs `beside` on another thread and `here` on this one, and returns both results.
    pub(crate) fn join<A, B>(&self, beside: A, here: impl FnOnce() -> B) -> (A::Output, B)
    where
        A: Beside + Send + 'static,
        A::Output: Send + 'static,
    {
        #[cfg(any(test, feature = "sim"))]
        if let Some(beside_first) = self.serial.get() {
            return if *beside_first {
                let theirs = beside.run();
                (theirs, here())
            } else {
                let mine = here();
                (beside.run(), mine)
            };
        }
        let (tx, rx) = mpsc::sync_channel(1);
        let slot = Arc::new(Mutex::new(Some(beside)));
        let theirs = Arc::clone(&slot);
        let job: Job = Box::new(move || {
            let taken = theirs.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(job) = taken {
                // The receiver lives until the result is there.
                let _ = tx.send(job.run());
            }
        });
        let queued = self.queue().is_some_and(|q| q.push(job));
        let mine = here();
        // Not started yet (or never queued): take it back and run it here.
        let back = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (back, queued) {
            (Some(job), _) => (job.run(), mine),
            (None, _) => match rx.recv() {
                Ok(theirs) => (theirs, mine),
                // A job cannot vanish: it is taken only to be run, and a panic aborts the process.
                Err(_) => std::process::abort(),
            },
        }
    }
}

/// Work for [`SyncPool::join`].
pub(crate) trait Beside {
    type Output;
    fn run(self) -> Self::Output;
}

impl<T, F: FnOnce() -> T> Beside for F {
    type Output = T;
    fn run(self) -> T {
        self()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_of_a_join_run() {
        let pool = SyncPool::default();
        for n in 0..100 {
            assert_eq!(pool.join(move || n, || n + 1), (n, n + 1));
        }
    }
}
