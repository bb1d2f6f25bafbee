//! Which thread is doing what: own threads of the daemon, handler threads, directory locks.
//!
//! Owns: the set of threads that are making a request to the own mount right now, and a mark on each
//! thread that answers a request. Does not own: any decision. Tested below and by the own-mount tests.
//!
//! The kernel names the *thread* that makes a request (`fuse_in_header.pid` is a thread id in the
//! mounter's pid namespace), so own OPEN, CREATE, UNLINK and SETATTR requests are recognised by it.
//! A thread is in the set only while the guard lives, so its id cannot mean another thread.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Threads that may be inside an own-mount call at the same time. More wait their turn.
const MAX_OWN_THREADS: usize = 128;

/// See the module documentation.
#[derive(Debug, Clone)]
pub struct OwnThreads(Arc<[AtomicU32; MAX_OWN_THREADS]>);

impl Default for OwnThreads {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| AtomicU32::new(0))))
    }
}

impl OwnThreads {
    /// Marks the calling thread until the guard is dropped. May be nested.
    pub fn enter(&self) -> OwnGuard<'_> {
        let tid = nix::unistd::gettid().as_raw().unsigned_abs();
        loop {
            for slot in self.0.iter() {
                // Release: whoever sees a request of this thread also sees the mark (the kernel's
                // own ordering between our system call and the handler's read would do as well).
                if slot.load(Ordering::Relaxed) == 0
                    && slot.compare_exchange(0, tid, Ordering::Release, Ordering::Relaxed).is_ok()
                {
                    return OwnGuard { slot };
                }
            }
            std::thread::yield_now();
        }
    }

    /// Whether `tid`, as the kernel reports it, is one of ours. 0 (another pid namespace) never is.
    pub fn contains(&self, tid: u32) -> bool {
        tid != 0 && self.0.iter().any(|slot| slot.load(Ordering::Acquire) == tid)
    }
}

/// Ends the mark when dropped.
#[derive(Debug)]
pub struct OwnGuard<'a> {
    slot: &'a AtomicU32,
}

impl Drop for OwnGuard<'_> {
    fn drop(&mut self) {
        self.slot.store(0, Ordering::Release);
    }
}

/// What a thread of the daemon is answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Serving {
    /// Nothing: an ordinary thread.
    #[default]
    Nothing,
    /// A request, on a handler thread: no request to the own mount.
    Inline,
    /// A deferred request, on a worker.
    Deferred {
        /// The kernel holds the directory's lock until the answer (CREATE, UNLINK): nothing that looks
        /// up a name.
        directory_locked: bool,
        /// The kernel holds a page of the file until the answer (WRITE): nothing that reads or
        /// invalidates that page.
        page_locked: bool,
    },
}

thread_local! {
    static SERVING: Cell<Serving> = const { Cell::new(Serving::Nothing) };
}

impl Serving {
    /// What the calling thread is answering.
    pub fn now() -> Self {
        SERVING.get()
    }

    /// Marks the calling thread until the guard is dropped.
    pub fn enter(self) -> ServingGuard {
        ServingGuard { before: SERVING.replace(self) }
    }
}

/// Ends the mark when dropped.
#[derive(Debug)]
pub struct ServingGuard {
    before: Serving,
}

impl Drop for ServingGuard {
    fn drop(&mut self) {
        SERVING.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_own_only_inside_its_guard() {
        let set = OwnThreads::default();
        let tid = nix::unistd::gettid().as_raw().unsigned_abs();
        assert!(!set.contains(tid));
        {
            let _outer = set.enter();
            {
                let _inner = set.enter();
            }
            assert!(set.contains(tid), "the inner guard ended the outer mark");
            assert!(!set.contains(tid + 1) && !set.contains(0));
        }
        assert!(!set.contains(tid));
    }

    #[test]
    fn marks_nest() {
        assert_eq!(Serving::now(), Serving::Nothing);
        let _a = Serving::Inline.enter();
        {
            let _b = Serving::Deferred { directory_locked: true, page_locked: false }.enter();
            assert_eq!(Serving::now(), Serving::Deferred { directory_locked: true, page_locked: false });
        }
        assert_eq!(Serving::now(), Serving::Inline);
    }
}
