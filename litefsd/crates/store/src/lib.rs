//! Everything that touches the data directory.

pub mod notice;
pub mod own_mount;
