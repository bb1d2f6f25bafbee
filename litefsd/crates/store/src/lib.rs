//! Everything that touches the data directory.

pub mod apply;
pub mod disk;
pub mod layout;
pub mod log;
pub mod notice;
pub mod os_disk;
pub mod own_mount;
pub mod plain_mount;
#[cfg(any(test, feature = "sim"))]
pub mod sim_disk;
pub mod spool;
