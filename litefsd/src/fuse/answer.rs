//! Exactly one answer for each request, now or from a worker.
//!
//! Owns: trying an action inline and repeating it on the database's worker when the model wants that;
//! errors to errnos. Does not own: the workers ([`super::deferred`]). Tested on a real mount.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuser::Errno;
use litefs_types::DbName;

use super::adapter::Adapter;
use super::deferred::Fate;
use super::model::{FileSystemModel, ModelError, ModelResult};
use super::mount::HANDLER_THREADS;
use super::ops::Core;
use super::scope::Serving;
use super::stats::Op;

/// What `deferrable` needs to know about a request.
pub(crate) struct Job {
    pub(crate) op: Op,
    /// Whose worker answers if it must wait.
    pub(crate) db: Option<DbName>,
    /// The kernel holds the directory's lock until the answer.
    pub(crate) directory_locked: bool,
    /// Made by the daemon itself: somebody of us waits for it, perhaps a worker.
    pub(crate) own: bool,
}

/// Handler threads that are inside something that may take long.
///
/// An fsync of each of four databases must not occupy all threads: other databases' readers, and the
/// daemon's own reads of its mount, would wait. What finds too many threads busy goes to its
/// database's worker, a hand-over of 5 to 10 µs.
#[derive(Default)]
pub(crate) struct Busy(AtomicUsize);

/// Frees the place when dropped.
pub(crate) struct BusyGuard<'a>(&'a AtomicUsize);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Busy {
    /// How many threads may be busy when a request of this kind starts.
    const fn limit(op: Op) -> usize {
        match op {
            // These wait for a disk.
            Op::Fsync | Op::Flush | Op::Release | Op::Unlink | Op::Create | Op::Setattr | Op::Rename => {
                HANDLER_THREADS - 2
            }
            // These normally do not, but may wait for a lock: one thread stays free of them.
            Op::Write | Op::Open => HANDLER_THREADS - 1,
            _ => usize::MAX,
        }
    }

    /// A place for this request on its handler thread, if there is one.
    pub(crate) fn enter(&self, op: Op, own: bool) -> Option<BusyGuard<'_>> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let guard = BusyGuard(&self.0);
        (own || before < Self::limit(op)).then_some(guard)
    }
}

impl<M: FileSystemModel> Adapter<M> {
    /// Does `action` here, or on the database's worker if the model wants that or too many handler
    /// threads are busy; then answers.
    pub(crate) fn deferrable<R, T, A>(
        &self,
        job: Job,
        reply: R,
        action: impl Fn(&Core<M>, bool) -> ModelResult<T> + Send + 'static,
        answer: A,
    ) where
        R: Send + 'static,
        A: FnOnce(&Core<M>, R, Result<T, Errno>) + Send + 'static,
    {
        let core = &self.0;
        let place = core.busy.enter(job.op, job.own);
        if place.is_some() || job.db.is_none() {
            let first = {
                let _serving = Serving::Inline.enter();
                action(core, false)
            };
            match first {
                Ok(done) => return answer(core, reply, Ok(done)),
                Err(ModelError::Errno(e)) => return answer(core, reply, Err(refused(core, job.op, e))),
                Err(ModelError::NeedsWorker) => {}
            }
        }
        drop(place);
        self.defer(job, reply, action, answer);
    }

    /// Does `action` on the database's worker, then answers.
    pub(crate) fn defer<R, T, A>(
        &self,
        job: Job,
        reply: R,
        action: impl Fn(&Core<M>, bool) -> ModelResult<T> + Send + 'static,
        answer: A,
    ) where
        R: Send + 'static,
        A: FnOnce(&Core<M>, R, Result<T, Errno>) + Send + 'static,
    {
        let core = &self.0;
        let Some(db) = job.db else {
            tracing::error!(op = job.op.label(), "the model wants a worker where there is none");
            return answer(core, reply, Err(refused(core, job.op, libc::EIO)));
        };
        core.stats.count(Op::Deferred);
        let core = core.clone();
        let later = core.clone();
        core.workers.run(
            &db,
            Box::new(move |fate| {
                let core = later;
                let done = match fate {
                    Fate::Run => {
                        let directory_locked = job.directory_locked;
                        let page_locked = job.op == Op::Write;
                        let _serving = Serving::Deferred { directory_locked, page_locked }.enter();
                        action(&core, true)
                    }
                    Fate::Refuse => Err(ModelError::Errno(libc::EBUSY)),
                };
                let done = done.map_err(|e| {
                    let ModelError::Errno(e) = e else {
                        tracing::error!(op = job.op.label(), "a worker was told that it needs a worker");
                        return refused(&core, job.op, libc::EIO);
                    };
                    refused(&core, job.op, e)
                });
                answer(&core, reply, done);
            }),
        );
    }
}

/// Counts and logs a refusal.
fn refused<M: FileSystemModel>(core: &Core<M>, op: Op, errno: i32) -> Errno {
    core.stats.count(Op::Refused);
    tracing::debug!(op = op.label(), error = %io::Error::from_raw_os_error(errno), "request refused");
    Errno::from_i32(errno)
}

/// The errno of a request that is never deferred.
pub(crate) fn plain<M: FileSystemModel>(core: &Core<M>, op: Op, e: ModelError) -> Errno {
    match e {
        ModelError::Errno(libc::ENOENT) => Errno::ENOENT,
        ModelError::Errno(e) => refused(core, op, e),
        ModelError::NeedsWorker => {
            tracing::error!(op = op.label(), "the model wants a worker where there is none");
            refused(core, op, libc::EIO)
        }
    }
}
