//! SQLite's files as bytes: structs over byte slices, each module opening with the section of the
//! SQLite file format it implements.
//!
//! *Invariant:* nothing here does IO or decides policy, and no input, however damaged, makes it panic.

pub mod lock_bytes;
pub mod shm;
pub mod wal_index;
