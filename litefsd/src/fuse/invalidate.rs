//! Tells the kernel what changed behind its back.
//!
//! Owns: the notifications and the thread that sends those which must not be sent where they arise.
//! Does not own: knowing what changed. Tested below (merging) and in `tests/tests/fuse_adapter`.
//!
//! *Who may call.* INVAL_INODE of data waits for pages that are locked by a READ or a WRITE in flight;
//! INVAL_ENTRY waits for the directory's lock, which a CREATE or UNLINK in flight holds. So neither
//! may be sent by a thread that answers a request, nor by one that holds a lock which answering
//! needs. Calls from such a thread are queued for the thread `fuse-inval` (a worker is such a thread for
//! data while it answers a WRITE, for entries while it answers CREATE or UNLINK). Other threads send data notifications themselves (the call is over when the kernel's pages are gone), holding
//! **no lock that a READ or WRITE handler takes**; entries always go through the thread, and the
//! caller waits for them at most [`ENTRY_WAIT`], so that a caller with a lock is slow but never stuck.
//!
//! *No race with a LOOKUP in flight:* the kernel holds the directory's lock from before it sends LOOKUP
//! until it has stored the answer, and INVAL_ENTRY takes that lock. So an answer that was given
//! before the change is stored before the notification, as long as the change is made before the call.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use litefs_store::own_mount::{FileKind, Invalidator};
use litefs_types::DbName;

use super::model::DatabaseFiles;
use super::names::FileRef;
use super::nodes::{Nodes, ROOT};
use super::scope::Serving;
use super::stats::{Op, Stats};

/// How long [`Invalidator::entry`] waits for the kernel. An application that is inside CREATE or
/// UNLINK makes it wait, normally for well below a millisecond.
pub const ENTRY_WAIT: Duration = Duration::from_millis(250);

#[derive(Default)]
struct Pending {
    names: BTreeSet<String>,
    data: Vec<(u64, u64, u64)>,
    /// The root directory's listing is cached by the kernel.
    listing: bool,
    /// Modes changed with the role.
    modes: bool,
    asked: u64,
    done: u64,
    stop: bool,
}

/// The kernel's caches of one mount.
pub struct KernelCache<D: DatabaseFiles> {
    nodes: Arc<Nodes<D>>,
    stats: Arc<Stats>,
    notifier: OnceLock<Notifier>,
    pending: Mutex<Pending>,
    wake: Condvar,
    finished: Condvar,
    /// The listing that the kernel keeps leaves out a database because it has no pages yet.
    hidden: AtomicBool,
}

impl<D: DatabaseFiles> KernelCache<D> {
    /// Sends nothing before [`KernelCache::start`].
    pub fn new(nodes: Arc<Nodes<D>>, stats: Arc<Stats>) -> Arc<Self> {
        Arc::new(Self {
            nodes,
            stats,
            notifier: OnceLock::new(),
            pending: Mutex::default(),
            wake: Condvar::new(),
            finished: Condvar::new(),
            hidden: AtomicBool::new(false),
        })
    }

    /// The mount is there: starts the thread.
    pub fn start(self: &Arc<Self>, notifier: Notifier) -> std::io::Result<()> {
        if self.notifier.set(notifier).is_ok() {
            let this = self.clone();
            std::thread::Builder::new().name("fuse-inval".into()).spawn(move || this.work())?;
        }
        Ok(())
    }

    /// The mount is gone: ends the thread.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_all();
    }

    /// Several ranges `(offset, length)` of one file at once; neighbours become one notification.
    pub fn data_ranges(&self, db: &DbName, file: FileKind, ranges: &[(u64, u64)]) {
        let Some(id) = self.nodes.id_of(&FileRef::Kind(file).name_in_mount(db.as_str())) else { return };
        let ranges = merge(ranges.to_vec());
        if may_wait_for_pages() {
            for (offset, len) in ranges {
                self.send_data(id, offset, len);
            }
        } else {
            self.queue(|p| p.data.extend(ranges.iter().map(|&(offset, len)| (id, offset, len))));
        }
    }

    /// A name changed as a side effect of a request that is being answered.
    pub(crate) fn entry_later(&self, name: String) {
        self.queue(|p| {
            p.names.insert(name);
        });
    }

    /// A listing was made without some database, because it has no pages.
    pub(crate) fn hide(&self) {
        self.hidden.store(true, Ordering::Relaxed);
    }

    /// Something was done that may give a hidden database its first pages: no name appears in the
    /// kernel's eyes, so it would keep the old listing.
    pub(crate) fn changed(&self) {
        if self.hidden.load(Ordering::Relaxed) && self.hidden.swap(false, Ordering::Relaxed) {
            self.queue(|p| p.listing = true);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, add: impl FnOnce(&mut Pending)) -> u64 {
        let mut p = self.lock();
        add(&mut p);
        p.asked += 1;
        self.wake.notify_one();
        p.asked
    }

    fn wait_for(&self, ticket: u64) {
        if self.notifier.get().is_none() || !may_wait_for_entries() {
            return;
        }
        let (p, late) = self
            .finished
            .wait_timeout_while(self.lock(), ENTRY_WAIT, |p| p.done < ticket && !p.stop)
            .unwrap_or_else(PoisonError::into_inner);
        drop(p);
        if late.timed_out() {
            tracing::warn!(
                "the kernel holds a directory entry for long; its invalidation goes on in the background"
            );
        }
    }

    fn work(&self) {
        loop {
            let mut p = self.lock();
            while p.asked == p.done && !p.stop {
                p = self.wake.wait(p).unwrap_or_else(PoisonError::into_inner);
            }
            if p.stop {
                self.finished.notify_all();
                return;
            }
            let ticket = p.asked;
            let (names, data) = (std::mem::take(&mut p.names), std::mem::take(&mut p.data));
            let (listing, modes) = (std::mem::take(&mut p.listing), std::mem::take(&mut p.modes));
            drop(p);
            for (id, offset, len) in data {
                self.send_data(id, offset, len);
            }
            for name in &names {
                if let Some(id) = self.nodes.id_of(name) {
                    self.send_attr(id);
                }
                self.send_entry(name);
            }
            if modes {
                self.send_attr(ROOT);
                for node in self.nodes.linked_files() {
                    self.send_attr(node.id);
                }
            }
            if listing || !names.is_empty() {
                self.send_data(ROOT, 0, 0);
            }
            self.lock().done = ticket;
            self.finished.notify_all();
        }
    }

    fn send_data(&self, id: u64, offset: u64, len: u64) {
        self.stats.count(Op::InvalData);
        self.send(|n| n.inval_inode(INodeNo(id), offset as i64, len as i64));
    }

    fn send_attr(&self, id: u64) {
        // A negative offset: attributes only.
        self.send(|n| n.inval_inode(INodeNo(id), -1, 0));
    }

    fn send_entry(&self, name: &str) {
        self.stats.count(Op::InvalEntry);
        self.send(|n| n.inval_entry(INodeNo(ROOT), OsStr::new(name)));
    }

    fn send(&self, f: impl FnOnce(&Notifier) -> std::io::Result<()>) {
        // Without a mount there is no cache. What the kernel does not know (ENOENT) is no error.
        if let Some(Err(error)) = self.notifier.get().map(f) {
            tracing::debug!(%error, "the kernel did not take an invalidation");
        }
    }
}

impl<D: DatabaseFiles> Invalidator for KernelCache<D> {
    fn data(&self, db: &DbName, file: FileKind, offset: u64, len: u64) {
        self.data_ranges(db, file, &[(offset, len)]);
    }

    fn entry(&self, db: &DbName, file: FileKind) {
        let name = FileRef::Kind(file).name_in_mount(db.as_str());
        let ticket = self.queue(|p| {
            p.names.insert(name);
        });
        self.wait_for(ticket);
    }

    fn virtual_files(&self, db: Option<&DbName>) {
        // Their content is never cached. But a database that got its first page appears in the
        // listing, and modes and `.primary` change with the role.
        if db.is_some() {
            self.changed();
            return;
        }
        let ticket = self.queue(|p| {
            p.modes = true;
            p.listing = true;
        });
        self.wait_for(ticket);
    }
}

/// Whether the calling thread may wait until all requests on a file's pages are answered.
fn may_wait_for_pages() -> bool {
    match Serving::now() {
        Serving::Nothing => true,
        Serving::Inline => false,
        Serving::Deferred { page_locked, .. } => !page_locked,
    }
}

/// Whether the calling thread may wait until no CREATE or UNLINK is under way.
fn may_wait_for_entries() -> bool {
    match Serving::now() {
        Serving::Nothing => true,
        Serving::Inline => false,
        Serving::Deferred { directory_locked, .. } => !directory_locked,
    }
}

/// Sorts ranges and joins those that touch. A length of 0 reaches to the end of the file.
pub fn merge(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (offset, len) in ranges {
        match out.last_mut() {
            Some((_, 0)) => {}
            Some((start, l)) if offset <= start.saturating_add(*l) => {
                *l = if len == 0 { 0 } else { (*l).max(offset.saturating_add(len) - *start) };
            }
            _ => out.push((offset, len)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_range() {
        assert_eq!(merge(vec![(4096, 4096), (0, 4096), (16384, 4096)]), [(0, 8192), (16384, 4096)]);
        assert_eq!(merge(vec![(0, 100), (10, 20)]), [(0, 100)]);
        assert_eq!(merge(vec![(0, 4096), (4096, 0), (9000, 1)]), [(0, 0)]);
        assert_eq!(merge(vec![(100, 0), (0, 10)]), [(0, 10), (100, 0)]);
        assert_eq!(merge(vec![(u64::MAX - 1, 1), (u64::MAX - 1, 9)]), [(u64::MAX - 1, 1)]);
        assert!(merge(vec![]).is_empty());
    }
}
