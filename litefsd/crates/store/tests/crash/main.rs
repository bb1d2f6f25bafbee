//! The crash matrix: real SQLite on a simulated disk, stopped at every disk operation.
//!
//! Each script of statements is run once to learn its positions, then again while every changing disk
//! operation is looked at: the daemon killed before it and in the middle of a write, the power gone with
//! everything unsynced lost, or torn sector by sector and name by name. Whatever is left is recovered and
//! judged (`check`): what was acknowledged is there, nothing else is, bytes and checksums agree, a second
//! recovery changes nothing, and applications go on.
//!
//! `vfs` lets SQLite work on `world`, a store whose mount exists only in memory. `LITEFS_SOAK=1` looks at
//! more random crashes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code: failing is how it ends
#![allow(unreachable_pub)] // modules of one program

mod check;
mod faults;
mod killed;
mod leftover;
mod lies;
mod locks;
mod modes;
mod multi;
mod random;
mod replica;
mod rollback;
mod run;
mod vfs;
mod wal;
mod whole;
mod world;
