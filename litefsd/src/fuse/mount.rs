//! Mounting and unmounting.
//!
//! Owns: options, the session's threads, the end of the mount. Does not own: requests. Tested by
//! `tests/tests/fuse_adapter`.
//!
//! As root the kernel is asked directly; as a user the setuid helper `fusermount3` is (package
//! `fuse3`). libfuse is not linked.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::adapter::{Adapter, MAX_IO};
use super::guard::Guard;
use super::invalidate::KernelCache;
use super::low_latency::LowLatency;
use super::model::{FileSystemModel, NodeView};
use super::mount_point::{FS_NAME, MountPointError, detach, fusermount, mounted_at, prepare};
use super::ops::{Core, Options};
use super::own_mount::OwnMounts;
use super::proc_scan::{Holder, holders};

/// Threads that read and answer requests. One lets every reader wait behind an fsync (p99 5.8 ms
/// measured); two to four keep that below 0.2 ms, more only wake each other. At least two are
/// needed, because a worker's request to the own mount is answered by another thread.
pub const HANDLER_THREADS: usize = 4;

/// How often a busy mount is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// After the mount is gone, the session's threads end at once unless a detached mount is still in use.
const END_WITHIN: Duration = Duration::from_secs(1);

const FUSE_CONF: &str = "/etc/fuse.conf";
const DEVICE: &str = "/dev/fuse";

/// What is wanted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Mount point (`fuse.dir`).
    pub dir: PathBuf,
    /// Data directory, for checks and `statfs`.
    pub data_dir: PathBuf,
    /// Other users than the daemon's may use the mount (`fuse.allow-other`).
    pub allow_other: bool,
    /// Owner, group, mode.
    pub ownership: super::access::Ownership,
    /// Keep processors awake during bursts of requests (`fuse.low-latency`).
    pub low_latency: bool,
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory cannot be used.
    #[error(transparent)]
    MountPoint(#[from] MountPointError),
    /// No FUSE in this kernel or container.
    #[error(
        "{DEVICE} is missing or closed to this user: load the module (modprobe fuse) or give the container the device (--device {DEVICE})"
    )]
    NoDevice(#[source] io::Error),
    /// A user needs the setuid helper.
    #[error("mounting as a user needs the setuid helper fusermount3 (package fuse3), or run as root: {0}")]
    NoHelper(String),
    /// A user needs permission for `allow-other`.
    #[error("fuse.allow-other as a user needs the line user_allow_other in {FUSE_CONF}")]
    AllowOtherForbidden,
    /// The mount itself failed.
    #[error("cannot mount at {path}")]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// How the mount ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used it.
    Clean,
    /// Somebody had taken it away already.
    Gone,
    /// It was in use until the deadline and was detached: these processes still have files of it.
    Detached(Vec<Holder>),
}

/// A live mount.
pub struct Mounted<M: FileSystemModel> {
    core: Arc<Core<M>>,
    dir: PathBuf,
    own_mounts: Arc<OwnMounts>,
    session: Option<JoinHandle<io::Result<()>>>,
}

/// Mounts. The mount serves requests when this returns.
pub fn mount<M: FileSystemModel>(
    model: Arc<M>,
    view: Arc<dyn NodeView>,
    options: &MountOptions,
) -> Result<Mounted<M>, MountError> {
    mount_with(model, view, options, |_, _| ())
}

/// Like [`mount`]; `ready` is called when the mount is there but no request is answered yet: the place
/// to tell the store about its own mount. It must not touch the mount.
pub fn mount_with<M: FileSystemModel>(
    model: Arc<M>,
    view: Arc<dyn NodeView>,
    options: &MountOptions,
    ready: impl FnOnce(&Arc<OwnMounts>, &Arc<KernelCache<M::Db>>),
) -> Result<Mounted<M>, MountError> {
    let dir = prepare(&options.dir, &options.data_dir)?;
    if !nix::unistd::geteuid().is_root() {
        check_user_mount(options.allow_other)?;
    }
    let low_latency = options.low_latency.then(low_latency).flatten();
    let core = Core::new(
        model,
        view,
        Options { ownership: options.ownership, data_dir: options.data_dir.clone() },
        low_latency,
    );
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName(FS_NAME.into()), MountOption::Subtype(FS_NAME.into())];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(HANDLER_THREADS);
    // A descriptor per thread is not faster (measured), and closing one fails its requests in flight.
    config.clone_fd = false;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied if std::fs::File::open(DEVICE).is_err() => {
            MountError::NoDevice(source)
        }
        _ => MountError::Mount { path: dir.clone(), source },
    };
    let session = Session::new(Adapter(core.clone()), &dir, &config).map_err(failed)?;
    core.cache.start(session.notifier()).map_err(failed)?;
    let nodes = core.nodes.clone();
    let known = Arc::new(move |name: &str| nodes.id_of(name));
    let own_mounts = Arc::new(OwnMounts::new(dir.clone(), core.own.clone(), known));
    ready(&own_mounts, &core.cache);
    let guarded = dir.clone();
    let serve = move || {
        // In this thread: its end is what the guard waits for.
        let guard = Guard::start(&guarded).inspect_err(|error| {
            tracing::warn!(%error, "no guard process: a killed daemon may hang with its applications");
        });
        let end = session.run();
        if let Ok(guard) = guard {
            guard.dismiss();
        }
        end
    };
    let session = std::thread::Builder::new().name("fuse".into()).spawn(serve).map_err(failed)?;
    set_readahead(&dir);
    tracing::info!(dir = %dir.display(), allow_other = options.allow_other, "mounted");
    Ok(Mounted { core, dir, own_mounts, session: Some(session) })
}

fn low_latency() -> Option<LowLatency> {
    match LowLatency::start() {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(%error, "idle processors stay as they are: writes are slower on a virtual machine");
            None
        }
    }
}

fn check_user_mount(allow_other: bool) -> Result<(), MountError> {
    std::process::Command::new("fusermount3")
        .arg("-V")
        .output()
        .map_err(|e| MountError::NoHelper(e.to_string()))?;
    if allow_other {
        let conf = std::fs::read_to_string(FUSE_CONF).unwrap_or_default();
        if !allows_other(&conf) {
            return Err(MountError::AllowOtherForbidden);
        }
    }
    Ok(())
}

fn allows_other(fuse_conf: &str) -> bool {
    fuse_conf.lines().any(|l| l.trim() == "user_allow_other")
}

/// INIT can only lower the kernel's default of 128 KiB; more is a setting of the mount's device, which
/// only root may change. A scan is up to three times faster with it, nothing depends on it.
fn set_readahead(dir: &Path) {
    let Ok(meta) = std::fs::metadata(dir) else { return };
    let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&file, (MAX_IO / 1024).to_string()) {
        tracing::debug!(file, %error, "read-ahead stays at the kernel's default");
    }
}

impl<M: FileSystemModel> Mounted<M> {
    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Counters, caches.
    pub fn core(&self) -> &Arc<Core<M>> {
        &self.core
    }

    /// Makes own descriptors.
    pub fn own_mounts(&self) -> &Arc<OwnMounts> {
        &self.own_mounts
    }

    /// Whether requests are still served. `false`: somebody unmounted it, or a handler thread died.
    pub fn is_alive(&self) -> bool {
        self.session.as_ref().is_some_and(|s| !s.is_finished())
    }

    /// Ends the mount: waits until no other process uses it, and after `deadline` detaches it (a detached
    /// mount is served until its last user is gone or this process ends). Own descriptors are kept as
    /// long as applications are served, then closed for good, and locks held on them go.
    pub fn unmount(mut self, deadline: Duration) -> Unmounted {
        let end = Instant::now() + deadline;
        let me = std::process::id();
        let mut told = false;
        let how = loop {
            let in_time = Instant::now() < end;
            let used = in_time && holders(&self.dir).iter().any(|h| h.pid != me);
            let result = if used {
                Err(io::ErrorKind::ResourceBusy.into())
            } else {
                self.own_mounts.close_all();
                self.try_unmount()
            };
            match result {
                Ok(()) => break Unmounted::Clean,
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break Unmounted::Gone,
                Err(e) if in_time && e.kind() == io::ErrorKind::ResourceBusy => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(dir = %self.dir.display(), "the mount is in use, waiting for its users");
                    }
                    std::thread::sleep(RETRY);
                }
                Err(error) => break self.detach_now(&error),
            }
        };
        let patience = if matches!(how, Unmounted::Detached(_)) { Duration::ZERO } else { END_WITHIN };
        self.join(patience);
        how
    }

    fn try_unmount(&self) -> io::Result<()> {
        match umount2(&self.dir, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(()),
            Err(Errno::EPERM) if mounted_at(&self.dir).is_none() => {
                Err(io::Error::from_raw_os_error(libc::EINVAL))
            }
            Err(Errno::EPERM) => fusermount(&["-u"], &self.dir),
            Err(e) => Err(e.into()),
        }
    }

    fn detach_now(&self, error: &io::Error) -> Unmounted {
        let users = holders(&self.dir);
        for user in &users {
            tracing::warn!(%user, "still uses the mount");
        }
        tracing::warn!(dir = %self.dir.display(), %error, users = users.len(), "detaching the mount");
        match detach(&self.dir) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Unmounted::Gone,
            Err(error) => tracing::error!(dir = %self.dir.display(), %error, "cannot detach the mount"),
        }
        Unmounted::Detached(users)
    }

    fn join(&mut self, patience: Duration) {
        let Some(session) = self.session.take() else { return };
        let end = Instant::now() + patience;
        while !session.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        if session.is_finished() {
            self.core.cache.stop();
            match session.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the FUSE session ended with an error"),
                Err(_) => tracing::error!("the FUSE session ended with a panic"),
            }
        }
    }
}

impl<M: FileSystemModel> Drop for Mounted<M> {
    /// Without [`Mounted::unmount`]: takes the mount away at once.
    fn drop(&mut self) {
        if self.session.is_some() {
            self.own_mounts.close_all();
            if let Err(error) = detach(&self.dir) {
                tracing::debug!(%error, "the mount was gone already");
            }
            self.join(END_WITHIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_conf_is_read_line_by_line() {
        assert!(allows_other("# x\nuser_allow_other\n"));
        assert!(!allows_other("#user_allow_other\n"));
        assert!(!allows_other(""));
    }
}
