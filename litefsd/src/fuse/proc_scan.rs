//! Who uses a mount: looks through `/proc`.
//!
//! Owns: finding processes. Does not own: what is done about them. Tested below.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A report names at most this many processes; the rest is a number to nobody.
const MAX_HOLDERS: usize = 32;

/// A process that keeps a mount busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its name (`/proc/<pid>/comm`).
    pub command: String,
    /// What of the mount it holds: a file, or its working directory.
    pub path: PathBuf,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.pid, self.command, self.path.display())
    }
}

/// All process ids.
fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// Name of a process, empty if it is gone.
pub fn command(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Processes with an open file, working directory or root below `mount`. Only links are read: a
/// mount whose daemon does not answer cannot block this.
pub fn holders(mount: &Path) -> Vec<Holder> {
    let mut found = Vec::new();
    for pid in pids() {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let fds = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten().map(|e| e.path());
        let path = [proc.join("cwd"), proc.join("root")]
            .into_iter()
            .chain(fds)
            .filter_map(|link| fs::read_link(link).ok())
            .find(|target| target.starts_with(mount));
        if let Some(path) = path {
            found.push(Holder { pid, command: command(pid), path });
            if found.len() == MAX_HOLDERS {
                break;
            }
        }
    }
    found
}

/// Processes that have `/dev/fuse` open: daemons of FUSE mounts. With `connection` (the minor device
/// number of a mount) only that mount's daemon, where the kernel tells.
pub fn fuse_daemons(connection: Option<u64>) -> Vec<u32> {
    let mut found = Vec::new();
    for pid in pids() {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for fd in fds {
            if fs::read_link(fd.path()).is_ok_and(|t| t == Path::new("/dev/fuse")) {
                let info = format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_string_lossy());
                let of = fs::read_to_string(info).ok().and_then(|text| {
                    text.lines().find_map(|l| l.strip_prefix("fuse_connection:")?.trim().parse::<u64>().ok())
                });
                if of.is_none() || connection.is_none() || of == connection {
                    found.push(pid);
                    break;
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_this_process_by_its_open_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let me = std::process::id();
        assert!(!holders(&dir).iter().any(|h| h.pid == me));
        let _file = fs::File::create(dir.join("x")).unwrap();
        let found = holders(&dir);
        let holder = found.iter().find(|h| h.pid == me).unwrap();
        assert_eq!(holder.path, dir.join("x"));
        assert_eq!(holder.command, command(me));
    }
}
