//! Scratch directories on a real disk, and their end: nothing stays behind, mounts included.
//!
//! A test that is killed cannot tidy up; the next one that starts does it for it ([`Scratch::new`]
//! sweeps what belongs to processes that are gone).

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, umount2};

const PREFIX: &str = "litefs-test-";
static COUNT: AtomicU32 = AtomicU32::new(0);
static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A directory that is removed, with every mount beneath it, when this value goes.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new directory beneath `LITEFS_TEST_DIR`, or `/var/tmp`, or cargo's target directory: the
    /// first that is not in memory. Not `/tmp`: it often is, and an fsync there proves nothing.
    pub fn new(name: &str) -> Self {
        let base = base_dir();
        sweep(&base);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: Unix sockets live in here, and their path may have 107 bytes.
        let path = base.join(format!("{PREFIX}{}-{n}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("create the scratch directory");
        LIVE.lock().expect("list of scratch directories").push(path.clone());
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A directory in it, created.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.join(name);
        std::fs::create_dir_all(&dir).expect("create a directory");
        dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("LITEFS_KEEP").is_some() {
            eprintln!("kept: {}", self.path.display());
            return;
        }
        remove(&self.path);
        if let Ok(mut live) = LIVE.lock() {
            live.retain(|p| p != &self.path);
        }
    }
}

/// Removes every scratch directory of this process: for the watchdog, before it ends the process.
pub fn remove_all() {
    let live = LIVE.lock().map(|l| l.clone()).unwrap_or_default();
    for path in live {
        remove(&path);
    }
}

fn base_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("LITEFS_TEST_DIR") {
        return PathBuf::from(dir);
    }
    let var_tmp = PathBuf::from("/var/tmp");
    if is_on_disk(&var_tmp) {
        return var_tmp;
    }
    let exe = std::env::current_exe().expect("the path of this program");
    exe.ancestors().nth(3).expect("cargo's target directory").to_owned()
}

/// Whether files in `dir` reach a disk (it is neither tmpfs nor ramfs).
pub fn is_on_disk(dir: &Path) -> bool {
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    nix::sys::statfs::statfs(dir).is_ok_and(|s| {
        let kind = s.filesystem_type();
        kind != nix::sys::statfs::TMPFS_MAGIC && kind.0 != RAMFS_MAGIC
    })
}

/// Removes a database with its companions, as far as they are there; on a mount that drops it.
pub fn remove_database(path: &Path) {
    for end in ["-wal", "-shm", "-journal", ""] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
}

/// The mount points beneath `dir`, deepest first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = info
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(p.replace("\\040", " ")))
        .filter(|p| p.starts_with(dir))
        .collect();
    found.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    found
}

/// Takes a mount away whatever holds it: `MNT_FORCE` aborts a FUSE connection, so that no process
/// stays asleep in a request that nobody will answer.
pub fn force_unmount(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_FORCE);
    let _ = umount2(path, MntFlags::MNT_DETACH);
}

fn remove(path: &Path) {
    for mount in mounts_below(path) {
        force_unmount(&mount);
    }
    // With a mount left the removal below would delete the databases *in* it; then better leave it.
    if mounts_below(path).is_empty() {
        let _ = std::fs::remove_dir_all(path);
    } else {
        eprintln!("cannot unmount what is beneath {}", path.display());
    }
}

fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.split('-').next());
        if let Some(pid) = owner.and_then(|p| p.parse::<u32>().ok())
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_on_a_disk_and_goes_away() {
        let path = {
            let scratch = Scratch::new("self");
            assert!(is_on_disk(scratch.path()));
            std::fs::write(scratch.join("file"), b"x").unwrap();
            scratch.path().to_owned()
        };
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_swept() {
        let left = base_dir().join(format!("{PREFIX}999999999-0-left"));
        std::fs::create_dir_all(&left).unwrap();
        let _scratch = Scratch::new("sweeper");
        assert!(!left.exists());
    }
}
