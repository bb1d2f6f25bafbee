//! File systems on which a data directory does not survive.

use std::path::Path;

use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};

/// `Some("overlayfs")` or `Some("tmpfs")` if `dir`, or the nearest directory above it that exists, is
/// on one: inside a container that is the image's writable layer or memory, gone with the container.
pub fn volatile_file_system(dir: &Path) -> Option<&'static str> {
    dir.ancestors()
        .find_map(|d| statfs(if d.as_os_str().is_empty() { Path::new(".") } else { d }).ok())
        .and_then(|s| match s.filesystem_type() {
            FsType(t) if t == OVERLAYFS_SUPER_MAGIC.0 => Some("overlayfs"),
            FsType(t) if t == TMPFS_MAGIC.0 => Some("tmpfs"),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_named() {
        assert_eq!(volatile_file_system(Path::new("/dev/shm/not/there/yet")), Some("tmpfs"));
        assert_eq!(volatile_file_system(Path::new("/proc")), None);
    }
}
