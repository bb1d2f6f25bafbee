//! Everything that touches the data directory.

pub mod disk;
pub mod notice;
pub mod os_disk;
pub mod own_mount;
pub mod plain_mount;
