//! A small process that ends the connection when the daemon is killed.
//!
//! Owns: forking it, and what it does. Tested by killing a daemon with own requests in flight in
//! `tests/tests/fuse_adapter`.
//!
//! A daemon that dies closes `/dev/fuse`, and the kernel ends the connection: normally. But a thread of
//! the daemon that waits for an answer from its own mount cannot be killed when the request has been
//! read already, and the thread that read it is gone. It keeps the table of descriptors alive, so
//! `/dev/fuse` stays open, so nobody ever answers: the daemon hangs as a zombie and all applications
//! with it. The guard is told by the kernel (`PR_SET_PDEATHSIG`) that the thread which started it is
//! gone, and aborts the connection; then everything ends within a millisecond.
//!
//! It aborts by the file in fusectl, opened beforehand, or by a forced unmount where fusectl is not
//! mounted (containers). Neither can hit another mount: an opened file belongs to its connection, and
//! the device number is compared before unmounting.
//!
//! *Invariant:* between `fork` and `_exit` the guard makes system calls only, on memory prepared before,
//! and holds no descriptor but the abort file.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::mount_point::mounted_at;

/// Sent by the kernel when the thread that forked is gone, and by [`Guard::dismiss`].
const WAKE: libc::c_int = libc::SIGUSR1;

/// The guard of one mount.
#[derive(Debug)]
pub(crate) struct Guard {
    pid: libc::pid_t,
}

impl Guard {
    /// Forks. The guard acts when the **calling thread** ends, so that thread must live as long as the
    /// mount.
    pub(crate) fn start(dir: &Path) -> io::Result<Self> {
        let minor = mounted_at(dir).ok_or(io::ErrorKind::NotFound)?.minor;
        let path = CString::new(dir.as_os_str().as_bytes())?;
        let abort = File::options().write(true).open(format!("/sys/fs/fuse/connections/{minor}/abort")).ok();
        let abort = abort.as_ref().map(AsRawFd::as_raw_fd);
        // SAFETY: the child of a process with threads may only make async-signal-safe calls; `child`
        // keeps to system calls and never returns. `getpid` cannot fail.
        #[allow(unsafe_code)]
        let pid = unsafe {
            let daemon = libc::getpid();
            let pid = libc::fork();
            if pid == 0 {
                child(daemon, &path, minor, abort);
            }
            pid
        };
        if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { pid }) }
    }

    /// The connection is dead: ends the guard.
    pub(crate) fn dismiss(self) {
        // SAFETY: plain system calls on our own child, which has not been waited for, so the id is its.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(self.pid, WAKE);
            while libc::waitpid(self.pid, std::ptr::null_mut(), 0) < 0
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
        }
    }
}

/// The guard's whole life.
///
/// # Safety
/// Only in a freshly forked child.
#[allow(unsafe_code)]
unsafe fn child(daemon: libc::pid_t, path: &CString, minor: u64, abort: Option<libc::c_int>) -> ! {
    // SAFETY: system calls on local, initialised memory; see the invariant of the module.
    unsafe {
        // Signals for the daemon's process group or control group (Ctrl-C, stop) are not for the guard.
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, c"litefs-guard".as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, WAKE);
        // A working directory or a descriptor of ours must not keep anything of the daemon's alive,
        // least of all /dev/fuse.
        libc::chdir(c"/".as_ptr());
        let first = match abort {
            Some(fd) if libc::dup2(fd, 0) == 0 => 1,
            _ => 0,
        };
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
        // The daemon died before PR_SET_PDEATHSIG: nobody will send the signal.
        if libc::getppid() == daemon {
            let mut wake: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut wake);
            libc::sigaddset(&raw mut wake, WAKE);
            while libc::sigwaitinfo(&raw const wake, std::ptr::null_mut()) != WAKE {}
        }
        if first == 1 && libc::write(0, c"1".as_ptr().cast(), 1) == 1 {
            libc::_exit(0);
        }
        let mut stat: libc::statx = std::mem::zeroed();
        let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
        let found = libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_TYPE, &raw mut stat) == 0;
        if found && stat.stx_dev_major == 0 && u64::from(stat.stx_dev_minor) == minor {
            libc::umount2(path.as_ptr(), libc::MNT_FORCE);
        }
        libc::_exit(0)
    }
}
