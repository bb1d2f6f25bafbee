//! The kernel and what FUSE needs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use litefs_config::Settings;
use nix::unistd::Uid;

use super::Check;
use crate::check::reason;

/// First kernel with FUSE passthrough, which saves round trips.
const PASSTHROUGH: (u32, u32) = (6, 9);
/// Oldest kernel with what litefsd relies on (`FUSE_EXPLICIT_INVAL_DATA` and OFD locks).
const OLDEST: (u32, u32) = (5, 4);

pub(super) fn check(settings: Option<&Settings>, checks: &mut Vec<Check>) {
    kernel(checks);
    device(checks);
    let root = Uid::effective().is_root();
    fusermount(root, checks);
    if settings.is_some_and(|s| s.fuse.allow_other) {
        allow_other(root, checks);
    }
    clock(checks);
}

fn kernel(checks: &mut Vec<Check>) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    checks.push(if version < OLDEST {
        let fix = format!("use Linux {}.{} or newer", OLDEST.0, OLDEST.1);
        Check::fail("kernel", format!("Linux {release} is too old"), fix)
    } else if version < PASSTHROUGH {
        Check::ok("kernel", format!("Linux {release} (FUSE passthrough, a saving, needs 6.9)"))
    } else {
        Check::ok("kernel", format!("Linux {release}, FUSE passthrough possible"))
    });
}

fn device(checks: &mut Vec<Check>) {
    let path = "/dev/fuse";
    checks.push(match fs::metadata(path) {
        Err(_) => Check::fail(
            "/dev/fuse",
            "does not exist",
            "load the module with `modprobe fuse`; in a container add --device /dev/fuse",
        ),
        Ok(m) if !m.file_type().is_char_device() => Check::fail(
            "/dev/fuse",
            "is no device",
            "remove it and recreate it with `mknod -m 666 /dev/fuse c 10 229`",
        ),
        Ok(_) => match fs::OpenOptions::new().read(true).write(true).open(path) {
            Ok(_) => Check::ok("/dev/fuse", "can be opened"),
            Err(e) => Check::fail(
                "/dev/fuse",
                format!("cannot be opened: {}", reason(&e)),
                "give the daemon's user access (chmod 666); in a container add --device /dev/fuse --cap-add SYS_ADMIN",
            ),
        },
    });
}

fn fusermount(root: bool, checks: &mut Vec<Check>) {
    let found = std::env::var_os("PATH")
        .map(|p| std::env::split_paths(&p).map(|d| d.join("fusermount3")).collect::<Vec<PathBuf>>())
        .unwrap_or_default()
        .into_iter()
        .find(|p| p.is_file());
    let install = "install the package fuse3";
    checks.push(match found.as_deref().map(|p| (p, fs::metadata(p))) {
        None if root => Check::ok("fusermount3", "not installed; not needed as root"),
        None => Check::fail("fusermount3", "not found, and only root can mount without it", install),
        // Without the set-user-id bit it cannot mount for a user.
        Some((p, Ok(m))) if !root && (m.mode() & 0o4000 == 0 || m.uid() != 0) => Check::fail(
            "fusermount3",
            format!("{} is not set-user-id root", p.display()),
            format!("chown root {0} && chmod u+s {0}", p.display()),
        ),
        Some((p, _)) => Check::ok("fusermount3", p.display().to_string()),
    });
}

fn allow_other(root: bool, checks: &mut Vec<Check>) {
    if root {
        checks.push(Check::ok("fuse.conf", "allow-other as root needs nothing"));
        return;
    }
    let path = Path::new("/etc/fuse.conf");
    let text = fs::read_to_string(path).unwrap_or_default();
    let set = text.lines().any(|l| l.split('#').next().unwrap_or("").trim() == "user_allow_other");
    checks.push(if set {
        Check::ok("fuse.conf", "user_allow_other is set")
    } else {
        Check::fail(
            "fuse.conf",
            "fuse.allow-other needs user_allow_other when the daemon is not root",
            "add a line user_allow_other to /etc/fuse.conf",
        )
    });
}

fn clock(checks: &mut Vec<Check>) {
    // SAFETY: a zeroed timex asks for the state and changes nothing; the kernel fills the struct.
    #[allow(unsafe_code)]
    let (state, status) = unsafe {
        let mut t: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut t), t.status)
    };
    let unsynchronised = state == libc::TIME_ERROR || status & libc::STA_UNSYNC != 0;
    checks.push(if state >= 0 && unsynchronised {
        Check::warn(
            "clock",
            "the kernel does not know whether it is synchronised",
            "run chrony or systemd-timesyncd; lag and time stamps are wrong otherwise",
        )
    } else {
        Check::ok("clock", "synchronised")
    });
}
