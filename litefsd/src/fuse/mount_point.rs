//! The directory to mount at: is it usable, is a dead mount in the way?
//!
//! Owns: checks and clean-up before mounting, reading mountinfo. Does not own: mounting. Tested below
//! and with a killed daemon in `tests/tests/fuse_adapter`.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::proc_scan::{command, fuse_daemons, holders};

/// A live mount answers `stat` in microseconds. One that is silent for so long is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Dead mounts can be stacked, one for each crash. More than this many: something else is wrong.
const MAX_STACKED: usize = 16;

/// Source of our mounts in mountinfo (`fsname`), as the original's.
pub const FS_NAME: &str = "litefs";

/// Why the directory cannot be mounted at.
#[derive(Debug, thiserror::Error)]
pub enum MountPointError {
    /// Mount point and data directory contain each other.
    #[error("the mount point {mount} and the data directory {data} must not contain each other")]
    Nested {
        /// Mount point.
        mount: PathBuf,
        /// Data directory.
        data: PathBuf,
    },
    /// A file system operation on a path failed.
    #[error("{path}: {what}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not a directory.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// Some FUSE file system is mounted there and answers.
    #[error(
        "{path} is already mounted by {daemon} (file system {fs}); stop it first, or use another fuse.dir"
    )]
    Alive {
        /// Where.
        path: PathBuf,
        /// Its daemon, as far as it can be told.
        daemon: String,
        /// Source in mountinfo.
        fs: String,
    },
    /// A mount is there that does not answer.
    #[error("{path} is mounted by {daemon}, which does not answer; end that process first")]
    Silent {
        /// Where.
        path: PathBuf,
        /// Its daemon, as far as it can be told.
        daemon: String,
    },
    /// Dead mounts came back again and again.
    #[error("{0} is still a dead mount after many clean-ups")]
    StillDead(PathBuf),
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// Minor device number: for FUSE, the number of the connection.
    pub minor: u64,
    /// Mount point.
    pub path: PathBuf,
    /// `fuse` or `fuse.<subtype>` for FUSE.
    pub fs_type: String,
    /// Source.
    pub source: String,
}

/// Makes the directory if it is missing, removes dead mounts. Returns the canonical path.
pub fn prepare(mount: &Path, data_dir: &Path) -> Result<PathBuf, MountPointError> {
    let mut cleaned = 0;
    while let Some(error) = dead(mount)? {
        if cleaned == MAX_STACKED {
            return Err(MountPointError::StillDead(mount.to_owned()));
        }
        tracing::warn!(path = %mount.display(), %error, "removing a mount whose daemon is gone");
        // Their reads of cached pages and their locks go on on the dead mount, their paths lead to the new one.
        for user in holders(&std::path::absolute(mount).unwrap_or_else(|_| mount.to_owned())) {
            tracing::warn!(%user, "still has files of the dead mount open: restart it");
        }
        detach(mount).map_err(io_error(mount, "cannot remove the dead mount (umount -l as root)"))?;
        cleaned += 1;
    }
    // Before anything is asked of the directory: a user may not even enter somebody else's mount.
    refuse_alive(&std::path::absolute(mount).unwrap_or_else(|_| mount.to_owned()))?;
    fs::create_dir_all(mount).map_err(io_error(mount, "cannot make the mount point"))?;
    let path = mount.canonicalize().map_err(io_error(mount, "cannot find the mount point"))?;
    let data = data_dir.canonicalize().map_err(io_error(data_dir, "cannot find the data directory"))?;
    if path.starts_with(&data) || data.starts_with(&path) {
        return Err(MountPointError::Nested { mount: path, data });
    }
    if !path.is_dir() {
        return Err(MountPointError::NotADirectory(path));
    }
    refuse_alive(&path)?;
    if fs::read_dir(&path).is_ok_and(|mut d| d.next().is_some()) {
        tracing::warn!(path = %path.display(), "the mount point is not empty: its files are hidden while mounted");
    }
    Ok(path)
}

/// Not ours to unmount: whatever FUSE file system answers there.
fn refuse_alive(path: &Path) -> Result<(), MountPointError> {
    match mounted_at(path) {
        Some(line) if line.fs_type == "fuse" || line.fs_type.starts_with("fuse.") => {
            Err(MountPointError::Alive { daemon: daemon(line.minor), fs: line.source, path: path.to_owned() })
        }
        _ => Ok(()),
    }
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> MountPointError {
    move |source| MountPointError::Io { path: path.to_owned(), what, source }
}

/// Asks for the directory's attributes; the error if its file system is dead.
fn dead(mount: &Path) -> Result<Option<io::Error>, MountPointError> {
    let (send, answer) = channel();
    let path = mount.to_owned();
    // In a thread of its own: this can block for ever, and then only that thread is lost.
    let asked = std::thread::Builder::new().name("mount-check".into()).spawn(move || {
        // A path inside, so that FUSE must ask its daemon: attributes of the root may be cached.
        let result = fs::metadata(&path).and_then(|_| fs::symlink_metadata(path.join(".lag")).map(drop));
        let _ = send.send(result);
    });
    asked.map_err(io_error(mount, "cannot check the mount point"))?;
    match answer.recv_timeout(ANSWER_WITHIN) {
        Ok(Err(e)) if matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => Ok(Some(e)),
        Ok(_) => Ok(None),
        Err(_) => {
            let minor = mounted_at(mount).map(|l| l.minor);
            let daemon = minor.map_or_else(|| "an unknown process".into(), daemon);
            Err(MountPointError::Silent { path: mount.to_owned(), daemon })
        }
    }
}

fn daemon(connection: u64) -> String {
    let me = std::process::id();
    let found: Vec<String> = fuse_daemons(Some(connection))
        .into_iter()
        .filter(|pid| *pid != me)
        .map(|pid| format!("process {pid} ({})", command(pid)))
        .collect();
    if found.is_empty() { "another process".into() } else { found.join(" or ") }
}

/// Takes the mount away at once, also if it is in use; who uses it keeps what is open.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => fusermount(&["-u", "-z"], path),
        Err(e) => Err(e.into()),
    }
}

/// Unmounts as a user: with the setuid helper.
pub(crate) fn fusermount(args: &[&str], path: &Path) -> io::Result<()> {
    let output = std::process::Command::new("fusermount3").args(args).arg("--").arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if text.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, text))
}

/// The topmost mount at exactly this path.
pub fn mounted_at(path: &Path) -> Option<MountLine> {
    // Of this thread: threads can be in different mount namespaces.
    let text = fs::read("/proc/thread-self/mountinfo").ok()?;
    text.split(|b| *b == b'\n').filter_map(parse_line).rfind(|l| l.path == path)
}

/// `130 27 0:60 / /mnt rw,… - fuse litefs rw,…` (proc(5)).
fn parse_line(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|b| *b == b' ');
    let minor = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?.1.parse().ok()?;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(fields.nth(1)?)));
    fields.by_ref().find(|f| *f == b"-")?;
    let text = |f: Option<&[u8]>| Some(String::from_utf8_lossy(&unescape(f?)).into_owned());
    Some(MountLine { minor, path, fs_type: text(fields.next())?, source: text(fields.next())? })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&b, tail)) = rest.split_first() {
        let octal = |d: &u8| (b'0'..=b'7').contains(d);
        if b == b'\\' && tail.len() >= 3 && tail[..3].iter().all(octal) {
            out.push(tail[..3].iter().fold(0u8, |v, d| v.wrapping_mul(8).wrapping_add(d - b'0')));
            rest = &tail[3..];
        } else {
            out.push(b);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_understood() {
        let line = parse_line(
            b"130 27 0:60 / /mnt/a\\040b rw,nosuid,nodev,relatime shared:1 - fuse litefs rw,user_id=0",
        );
        assert_eq!(
            line,
            Some(MountLine {
                minor: 60,
                path: "/mnt/a b".into(),
                fs_type: "fuse".into(),
                source: "litefs".into()
            })
        );
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"1 2 x / /mnt"), None);
        assert_eq!(unescape(br"a\134b\9"), br"a\b\9");
        assert!(mounted_at(Path::new("/proc")).is_some());
    }

    #[test]
    fn mount_point_and_data_must_not_contain_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (data, inside) = (dir.path().join("data"), dir.path().join("data/mnt"));
        fs::create_dir(&data).unwrap();
        for (mount, data) in [(&inside, &data), (&data, &data), (&dir.path().to_owned(), &data)] {
            assert!(
                matches!(prepare(mount, data), Err(MountPointError::Nested { .. })),
                "{mount:?} {data:?}"
            );
        }
        let beside = dir.path().join("data-mnt");
        assert_eq!(prepare(&beside, &data).unwrap(), beside.canonicalize().unwrap());
    }

    #[test]
    fn a_file_is_no_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        let (data, file) = (dir.path().join("data"), dir.path().join("file"));
        fs::create_dir(&data).unwrap();
        fs::write(&file, "x").unwrap();
        assert!(prepare(&file, &data).is_err());
    }
}
