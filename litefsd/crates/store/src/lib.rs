//! Everything that touches the data directory.
//!
//! *Invariant:* a transaction is announced only when it is durable and SQLite shows it, and whatever a crash
//! leaves on the disk leads back to the last state that was announced, or to a later one.

pub mod apply;
pub mod database;
pub mod disk;
mod env;
pub mod error;
mod go_import;
pub mod layout;
pub mod log;
pub mod notice;
pub mod os_disk;
pub mod own_mount;
pub mod plain_mount;
pub mod quarantine;
#[cfg(any(test, feature = "sim"))]
pub mod sim_disk;
pub mod snapshot;
pub mod spool;
pub mod store;

pub use env::{MountFactory, ReplicaWrites, StoreSettings};
pub use error::{Result, StoreError};
pub use store::{Store, StoreOptions};

pub mod recover;
pub mod sums_file;
