//! The daemon's own modules, as a library, so that they can be tested one by one.
//!
//! *Invariant:* nothing here ends the process; that is for the program in `main.rs`.

pub mod args;
pub mod control;
pub mod control_backend;
pub mod daemon;
pub mod events;
pub mod fuse;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod node_view;
pub mod primary;
pub mod replica;
pub mod store_backend;
pub mod store_model;
