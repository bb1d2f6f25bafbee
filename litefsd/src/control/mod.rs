//! The control socket: HTTP/1.1 and JSON for litefsctl, litefs-proxy and scripts.
//!
//! Owns the Unix socket, limits and deadlines, and the translation between the contract
//! ([`litefs_api`]) and what the daemon knows ([`ControlBackend`]). It decides nothing: roles, imports
//! and drops are the backend's. Start with [`serve`]. Tested by `litefsd/tests/control.rs` over a
//! backend in memory, with the real client.

mod backend;
mod handlers;
mod reply;
mod server;
mod socket;
mod transfer;

pub use backend::{ControlBackend, Export, ImportSink, LtxFile, WriteExport};
pub use server::serve;
pub use socket::{BindError, ControlSocket};
