//! The mount, the data directory, and mounts that nobody serves any more.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use litefs_config::Settings;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::Check;
use crate::check::reason;
use crate::units::bytes;

/// A mount that does not answer within this time is dead: a served one answers in microseconds.
const ALIVE: Duration = Duration::from_secs(3);
/// Less free space than this is a warning.
const LOW_SPACE: u64 = 1 << 30;

pub(super) fn check(settings: &Settings, running: bool, checks: &mut Vec<Check>) {
    mount(&settings.fuse.dir, running, checks);
    data(&settings.data.dir, checks);
    let fuse_in_data = settings.fuse.dir.starts_with(&settings.data.dir);
    if fuse_in_data || settings.data.dir.starts_with(&settings.fuse.dir) {
        checks.push(Check::fail(
            "directories",
            "fuse.dir and data.dir contain one another: the mount would hide the data",
            "use two separate directories",
        ));
    }
}

/// One line of /proc/self/mountinfo.
struct Mount {
    path: PathBuf,
    kind: String,
    source: String,
}

fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(parse_mount).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw` (proc(5)).
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let path = unescape(left.split(' ').nth(4)?);
    let mut right = right.split(' ');
    Some(Mount { path, kind: right.next()?.to_owned(), source: right.next().unwrap_or("").to_owned() })
}

/// Blanks in paths are written as octal escapes.
fn unescape(s: &str) -> PathBuf {
    let b = s.as_bytes();
    let mut out = Vec::with_capacity(b.len());
    let mut i = 0;
    while i < b.len() {
        let octal = s.get(i + 1..i + 4).filter(|_| b[i] == b'\\').and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(octal.unwrap_or(b[i]));
        i += if octal.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&out))
}

/// Asks the file system for its root's attributes, with a limit: a dead mount can hang for ever.
fn alive(path: &Path) -> Result<(), String> {
    let (tx, rx) = mpsc::channel();
    let path = path.to_owned();
    // Left behind if it hangs; the process ends soon.
    std::thread::spawn(move || {
        let _ = tx.send(fs::metadata(&path).map(drop));
    });
    match rx.recv_timeout(ALIVE) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(reason(&e)),
        Err(_) => Err(format!("no answer within {ALIVE:?}")),
    }
}

/// The path as mountinfo shows it. Only the directory above is resolved: a dead mount would hang.
fn resolved(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    match (dir.parent().map(fs::canonicalize), dir.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => dir,
    }
}

fn mount(dir: &Path, running: bool, checks: &mut Vec<Check>) {
    let dir = resolved(dir);
    let dir = dir.as_path();
    let shown = dir.display();
    let unmount = format!("fusermount3 -u {shown}, or umount -l {shown}");
    let mounted = mounts().into_iter().rfind(|m| m.path == dir);
    checks.push(match mounted {
        Some(m) if m.kind.starts_with("fuse") => match alive(dir) {
            Ok(()) if running => Check::ok("mount", format!("{shown} is served")),
            Ok(()) => Check::warn(
                "mount",
                format!("{shown} is served, but the daemon did not answer"),
                "check --socket",
            ),
            Err(why) => Check::fail("mount", format!("{shown} is dead: {why}"), unmount),
        },
        Some(m) => Check::fail(
            "mount",
            format!("something else ({}) is mounted on {shown}", m.kind),
            "unmount it, or choose another fuse.dir",
        ),
        None if running => {
            Check::fail("mount", format!("{shown} is not mounted"), "see the daemon's log, and restart it")
        }
        None => match fs::read_dir(dir) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    Check::warn(
                        "mount",
                        format!("{shown} is not mounted and not empty: the mount will hide its content"),
                        "move the files away; databases are brought in with `litefsctl import`",
                    )
                } else {
                    Check::ok("mount", format!("{shown} is there, not mounted yet"))
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Check::ok("mount", format!("{shown} will be made at the first start"))
            }
            Err(e) => Check::fail(
                "mount",
                format!("{shown}: {}", reason(&e)),
                "give the daemon's user access to it",
            ),
        },
    });
}

fn data(dir: &Path, checks: &mut Vec<Check>) {
    let shown = dir.display();
    let Some(existing) = dir.ancestors().find(|d| d.exists()) else { return };
    let writable = access(existing, AccessFlags::W_OK | AccessFlags::X_OK);
    let made = if existing == dir { "" } else { " (to be made)" };
    checks.push(match writable {
        Ok(()) => Check::ok("data", format!("{shown} is writable{made}")),
        Err(e) => Check::fail(
            "data",
            format!("{} is not writable for this user: {}", existing.display(), e.desc().to_lowercase()),
            format!("chown it to the daemon's user, or run doctor as that user: chown -R litefs {shown}"),
        ),
    });
    if let Ok(s) = statvfs(existing) {
        let unit = s.fragment_size();
        let (free, total) = (s.blocks_available() * unit, s.blocks() * unit);
        let detail = format!("{} of {} free", bytes(free), bytes(total));
        checks.push(if free < LOW_SPACE || free < total / 20 {
            Check::warn("disk space", detail, "make room, or lower data.retention or data.max-log-size")
        } else {
            Check::ok("disk space", detail)
        });
    }
    let own =
        mounts().into_iter().filter(|m| dir.starts_with(&m.path)).max_by_key(|m| m.path.as_os_str().len());
    let kind = own.map(|m| m.kind).unwrap_or_default();
    checks.push(match kind.as_str() {
        "overlay" | "tmpfs" | "ramfs" => Check::warn(
            "data file system",
            format!("{kind}: its content does not survive"),
            "put data.dir on a persistent volume",
        ),
        "nfs" | "nfs4" | "cifs" | "9p" | "fuse.sshfs" => Check::warn(
            "data file system",
            format!("{kind} is a network file system: slow, and its fsync may not be one"),
            "put data.dir on a local disk",
        ),
        kind => Check::ok("data file system", kind),
    });
}

/// FUSE mounts of LiteFS, here or elsewhere, whose daemon is gone.
pub(super) fn stale_mounts(checks: &mut Vec<Check>) {
    let ours =
        |m: &Mount| m.kind.starts_with("fuse") && (m.kind.contains("litefs") || m.source.contains("litefs"));
    let mut stale = 0;
    for m in mounts().iter().filter(|m| ours(m)) {
        if let Err(why) = alive(&m.path) {
            stale += 1;
            let shown = m.path.display();
            let fix = format!("fusermount3 -u {shown}, or umount -l {shown}");
            checks.push(Check::fail("stale mount", format!("{shown}: {why}"), fix));
        }
    }
    if stale == 0 {
        checks.push(Check::ok("stale mounts", "none"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo() {
        let m = parse_mount("36 35 98:0 / /a\\040b rw,noatime master:1 - fuse.litefs litefs rw").unwrap();
        assert_eq!(
            (m.path.to_str(), m.kind.as_str(), m.source.as_str()),
            (Some("/a b"), "fuse.litefs", "litefs")
        );
        assert_eq!(unescape("\\x\\04"), PathBuf::from("\\x\\04"));
        assert!(parse_mount("nonsense").is_none());
        assert!(mounts().iter().any(|m| m.path == Path::new("/")));
    }

    #[test]
    fn what_is_alive() {
        assert_eq!(alive(Path::new("/")), Ok(()));
        assert_eq!(alive(Path::new("/none")), Err("no such file or directory".to_owned()));
    }
}
