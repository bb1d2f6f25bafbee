//! Applying transactions through [`PlainMount`](litefs_store::plain_mount::PlainMount) while real SQLite,
//! of two versions and in other processes, has the same files open.

#![allow(unreachable_pub)] // every module of a test binary is private

mod client;
mod modes;
mod primary;
mod rollback;
mod wal;
mod wal_load;
