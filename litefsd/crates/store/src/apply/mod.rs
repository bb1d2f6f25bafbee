//! Bringing transactions that were made elsewhere into the files, as one more SQLite client.
//!
//! Owns: the locks that a write needs ([`locks`]), WAL databases ([`wal_writer`]), rollback databases
//! ([`rollback_writer`]), whole images ([`replace_all`]) and drops ([`drop_files`]). Does not own: what is
//! applied, in which order, and whether it is right; whoever calls has verified it and has it durably in
//! the log, so that everything here may be repeated after a crash. Tested in `tests/apply/` with real
//! SQLite in other processes.
//!
//! Everything goes through [`OwnMount`](crate::own_mount::OwnMount), so page caches and mappings of
//! applications stay right without a notification. One descriptor a file means one owner of its locks:
//! two tasks using the same `OwnMount` do not exclude each other. Whoever calls holds a mutex of the
//! database; [`wal_writer::WalWriter`] has its own for what may run beside each other.

mod drop_files;
mod error;
mod image;
pub mod locks;
mod replace;
pub mod rollback_writer;
mod source;
pub mod wal_writer;

pub use drop_files::drop_files;
pub use error::{ApplyError, Blocker};
pub use replace::{Replaced, replace_all};
pub use source::{PageSink, PageSource};
