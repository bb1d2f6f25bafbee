//! Applying transactions through [`PlainMount`](litefs_store::plain_mount::PlainMount) while real SQLite,
//! of two versions and in other processes, has the same files open.

// Helpers of tests are no tests themselves, and every module of a test binary is private.
#![allow(clippy::unwrap_used, clippy::panic, clippy::many_single_char_names, unreachable_pub)]

mod client;
mod modes;
mod primary;
mod rollback;
mod wal;
mod wal_cost;
mod wal_load;
