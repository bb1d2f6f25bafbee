//! What the tests of the WAL tracker share: a file that records how it is written, a model of SQLite's
//! WAL writer, and a recorder of what the tracker says.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part
#![allow(clippy::unwrap_used, clippy::panic)] // the lints know `#[test]` functions, not their helpers

pub mod follower;
pub mod recorder;
pub mod writer;
