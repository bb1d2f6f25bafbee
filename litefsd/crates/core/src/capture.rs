//! What the writes to a database's files mean: which pages a transaction changed, and when it is there.
//!
//! Owns: following the WAL ([`wal`]) and a rollback-journal transaction ([`rollback`]). Does not own:
//! the files, the log, or the proof that a transaction became visible (the WAL index). Start with
//! [`wal::WalTracker`].

pub mod rollback;
pub mod wal;

pub use litefs_sqlite::source::{ReadAt, ReadFailed};
pub use litefs_sqlite::wal::{Transaction as FrameTx, frame_data_offset};
pub use rollback::RollbackCapture;
pub use wal::{Generation, RefusedTruncate, RefusedWrite, WalError, WalEvent, WalTracker};
