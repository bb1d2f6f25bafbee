//! SQLite's files as bytes: structs over byte slices, each module opening with the section of the
//! SQLite file format (<https://sqlite.org/fileformat2.html>) that it implements.
//!
//! *Invariant:* nothing here does IO or decides policy, and no input, however damaged, makes it panic.

extern crate alloc;

mod be;
pub mod db_header;
pub mod journal;
pub mod lock_bytes;
pub mod shm;
pub mod source;
pub mod wal;
pub mod wal_checksum;
pub mod wal_index;
