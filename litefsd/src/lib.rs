//! The daemon's own modules, as a library, so that they can be tested one by one.
//!
//! *Invariant:* nothing here ends the process; that is for the program in `main.rs`.

pub mod fuse;
pub mod events;
pub mod http;
pub mod metrics;
pub mod primary;
pub mod replica;
