//! The FUSE adapter: a thin translator between the kernel and a file-system model.
//!
//! Owns: the mount and its end, file names, node and handle numbers, attributes and cache rules,
//! permission checks, threads that answer requests late. Does not own: what a request means for a
//! database (that is the model, see [`model::FileSystemModel`]); it knows no SQLite format.
//!
//! Start at [`adapter`] (what the kernel calls), then [`ops`] (what is done), [`model`] (what is
//! asked of the store) and [`mount`]. Tested by `tests/tests/fuse_adapter` on a real mount over a
//! plain directory, and by unit tests in the modules.
//!
//! *Locks.* `FUSE_POSIX_LOCKS` is never negotiated: the kernel keeps SQLite's byte-range locks
//! itself, and the daemon takes part in them through its own mount ([`own_mount`]).
//!
//! *Threads.* [`mount::HANDLER_THREADS`] threads read requests and answer them inline. One of them
//! never waits for another one's request: an operation that needs the own mount is refused by the
//! model with [`model::ModelError::NeedsWorker`] and repeated on the database's worker ([`deferred`]).
//!
//! *Invariant:* a handler thread makes no request to its own mount, and no file of the own mount is
//! ever mapped into memory.

pub mod access;
pub mod adapter;
pub mod deferred;
pub mod handles;
pub mod invalidate;
pub mod low_latency;
pub mod model;
pub mod mount;
pub mod mount_point;
pub mod names;
pub mod nodes;
pub mod ops;
pub mod own_mount;
pub mod proc_scan;
pub mod scope;
pub mod stats;
pub mod virtual_files;

mod answer;
mod attrs;
mod guard;
mod listing;
