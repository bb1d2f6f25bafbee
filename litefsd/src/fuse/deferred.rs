//! Workers: threads that answer requests which a handler thread must not answer itself.
//!
//! Owns: one thread per database, started at the first job and ended after [`IDLE`]; a bounded queue.
//! Does not own: what a job does. Tested below and by the deferred replies in `tests/tests/fuse_adapter`.
//!
//! *Order.* Jobs of one database run in the order in which they were deferred. A request that is
//! answered inline may overtake a deferred one; that is harmless, because the kernel and SQLite keep
//! apart what must be: WRITE, SETATTR(size) and FSYNC of a file wait for each other on the inode's
//! lock, CREATE and UNLINK on the directory's, RELEASE comes after the last request of its handle,
//! and requests for different files of one transaction come from one thread, one after the other.
//! A killed process waits for the answers to its requests before its locks go.
//!
//! *What a worker must not do while a request of an application waits for it* (the kernel holds these
//! for the application until the answer):
//! - WRITE, FSYNC, SETATTR of a file: write, truncate or sync *that file* through the own mount; and
//!   during WRITE also read it there (a partly written page stays locked). Other files are free.
//! - CREATE, UNLINK: look up or create any name; during UNLINK also write to the unlinked file. Own
//!   opens are then done from the kernel's cache or not at all ([`super::own_mount`]).
//! - OPEN holds nothing.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use litefs_types::DbName;

/// Requests that may wait for one database. Each is a system call that some thread is blocked in, so
/// this many blocked threads on one database are a sign that nothing moves any more.
pub const MAX_QUEUED: usize = 1024;
/// A worker without work ends, so that thousands of idle databases do not hold thousands of threads.
pub const IDLE: Duration = Duration::from_secs(30);
/// Stack of a worker: a transaction's page lists are on the heap.
const STACK: usize = 1024 * 1024;

/// What a job is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// On the worker: do it.
    Run,
    /// At once, where it was handed in: the queue is full or no thread could be started. Answer
    /// the request with an error.
    Refuse,
}

/// A job. It answers its request itself, whatever its fate.
pub type Job = Box<dyn FnOnce(Fate) + Send>;

type Queues = Arc<Mutex<HashMap<DbName, SyncSender<Job>>>>;

/// The workers of all databases.
#[derive(Default)]
pub struct Workers {
    queues: Queues,
}

impl Workers {
    /// Runs the job on the database's worker, after those that are already waiting.
    pub fn run(&self, db: &DbName, job: Job) {
        if let Err(job) = self.hand_over(db, job) {
            job(Fate::Refuse);
        }
    }

    fn hand_over(&self, db: &DbName, job: Job) -> Result<(), Job> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let job = match queues.get(db) {
            None => job,
            Some(queue) => match queue.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(job)) => return Err(job),
                // Its thread died in a job.
                Err(TrySendError::Disconnected(job)) => job,
            },
        };
        let (queue, jobs) = sync_channel(MAX_QUEUED);
        let (of, all) = (db.clone(), self.queues.clone());
        let started = std::thread::Builder::new()
            .name(thread_name(db))
            .stack_size(STACK)
            .spawn(move || work(&of, &jobs, &all));
        if let Err(error) = started {
            tracing::error!(db = %db, %error, "cannot start the database's worker thread");
            return Err(job);
        }
        let sent = queue.try_send(job);
        queues.insert(db.clone(), queue);
        sent.map_err(|(TrySendError::Full(job) | TrySendError::Disconnected(job))| job)
    }

    /// How many workers are alive.
    pub fn len(&self) -> usize {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Linux shows 15 bytes of it.
fn thread_name(db: &DbName) -> String {
    let mut name = format!("db-{db}");
    let mut end = name.len().min(15);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}

fn work(db: &DbName, jobs: &Receiver<Job>, all: &Queues) {
    loop {
        match jobs.recv_timeout(IDLE) {
            Ok(job) => job(Fate::Run),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                // Jobs are sent under this lock, so none can slip in between the look and the end.
                let mut queues = all.lock().unwrap_or_else(PoisonError::into_inner);
                let Ok(job) = jobs.try_recv() else {
                    queues.remove(db);
                    return;
                };
                drop(queues);
                job(Fate::Run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn jobs_of_a_database_keep_their_order_and_do_not_stop_another_one() {
        let workers = Workers::default();
        let (a, b): (DbName, DbName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (go, gate) = channel::<()>();
        let (out, results) = channel();
        let say = |n: u32| {
            let out = out.clone();
            Box::new(move |fate| out.send((n, fate)).unwrap()) as Job
        };
        workers.run(&a, Box::new(move |_| gate.recv().unwrap()));
        for n in 0..10 {
            workers.run(&a, say(n));
        }
        workers.run(&b, say(100));
        assert_eq!(results.recv().unwrap(), (100, Fate::Run));
        go.send(()).unwrap();
        let order: Vec<_> = (0..10).map(|_| results.recv().unwrap()).collect();
        assert_eq!(order, (0..10).map(|n| (n, Fate::Run)).collect::<Vec<_>>());
        assert_eq!(workers.len(), 2);
    }

    #[test]
    fn a_job_that_finds_the_queue_full_is_told_so() {
        let workers = Workers::default();
        let db: DbName = "full".parse().unwrap();
        let (go, gate) = channel::<()>();
        let (entered, inside) = channel();
        workers.run(
            &db,
            Box::new(move |_| {
                entered.send(()).unwrap();
                gate.recv().unwrap();
            }),
        );
        inside.recv().unwrap();
        for _ in 0..MAX_QUEUED {
            workers.run(&db, Box::new(|fate| assert_eq!(fate, Fate::Run)));
        }
        let (out, result) = channel();
        workers.run(&db, Box::new(move |fate| out.send(fate).unwrap()));
        assert_eq!(result.recv().unwrap(), Fate::Refuse);
        go.send(()).unwrap();
    }

    #[test]
    fn thread_names_are_cut_between_characters() {
        assert_eq!(thread_name(&"äöüäöüäöü".parse().unwrap()), "db-äöüäöü");
    }
}
