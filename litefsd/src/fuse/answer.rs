//! Exactly one answer for each request, now or from a worker.
//!
//! Owns: trying an action inline and repeating it on the database's worker when the model wants that;
//! errors to errnos. Does not own: the workers ([`super::deferred`]). Tested on a real mount.

use std::io;

use fuser::Errno;
use litefs_types::DbName;

use super::adapter::Adapter;
use super::deferred::Fate;
use super::model::{FileSystemModel, ModelError, ModelResult};
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
}

impl<M: FileSystemModel> Adapter<M> {
    /// Does `action` here, or on the database's worker if the model wants that; then answers.
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
        let first = {
            let _serving = Serving::Inline.enter();
            action(core, false)
        };
        let (ModelError::NeedsWorker, Some(db)) = (match first {
            Ok(done) => return answer(core, reply, Ok(done)),
            Err(ModelError::Errno(e)) => return answer(core, reply, Err(refused(core, job.op, e))),
            Err(needs_worker @ ModelError::NeedsWorker) => (needs_worker, job.db),
        }) else {
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
                        let serving = Serving::Deferred { directory_locked: job.directory_locked };
                        let _serving = serving.enter();
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
