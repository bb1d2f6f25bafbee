//! Faults: system calls that fail or kill (`strace --inject`), full disks, flipped bits.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::node::Node;
use crate::proc::{Proc, run};
use crate::rng::Rng;
use crate::scratch::force_unmount;
use crate::watch::eventually;

/// Puts a daemon under `strace` at its next start, with one injection.
///
/// `call` is a system call's name, `what` e.g. `error=EIO:when=3` or `signal=KILL:when=7`; counts are
/// per thread. `-D` makes the tracer the grandchild, so that the process id is the daemon's own, and
/// the BPF filter lets all other calls run at full speed.
pub fn inject(node: &mut Node, call: &str, what: &str) {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{what}"));
    let words = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "signal=none"];
    let mut all = words.to_vec();
    all.extend(["-e", &trace, "-e", &inject]);
    node.wrap(&all);
}

/// No injection any more, from the next start on.
pub fn no_injection(node: &mut Node) {
    node.wrap(&[]);
}

/// Puts an injection on a daemon that runs, until the value goes: for delays, which would make its start
/// take long.
pub fn attach(node: &Node, call: &str, what: &str) -> Proc {
    attach_with(node, call, what, &[])
}

/// The same for calls on one file only.
pub fn attach_to_file(node: &Node, call: &str, what: &str, file: &Path) -> Proc {
    attach_with(node, call, what, &["-P", &file.to_string_lossy()])
}

fn attach_with(node: &Node, call: &str, what: &str, more: &[&str]) -> Proc {
    let pid = node.pid();
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{what}"));
    let tracer =
        Proc::spawn(
            Command::new("strace")
                .args(["-f", "-qq", "-o", "/dev/null", "-e", "signal=none"])
                .args(more)
                .args(["-e", &trace, "-e", &inject, "-p", &pid.to_string()]),
        );
    eventually(Duration::from_secs(10), "strace is attached to every thread", || {
        let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        tasks
            .all(|t| {
                let status = std::fs::read_to_string(t.path().join("status")).unwrap_or_default();
                !status.lines().any(|l| l.starts_with("TracerPid") && l.ends_with("\t0"))
            })
            .then_some(())
    });
    tracer
}

/// A small file system in memory: what a full disk looks like, without filling one.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts `megabytes` at `path`.
    pub fn mount(path: &Path, megabytes: u32) -> Self {
        std::fs::create_dir_all(path).expect("create the mount point");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(path));
        Self { path: path.to_owned() }
    }

    /// Fills what is left with a file; removing that file frees it again.
    pub fn fill(&self, leave_kb: u64) -> PathBuf {
        let stat = nix::sys::statvfs::statvfs(&self.path).expect("statvfs");
        let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
        let file = self.path.join("ballast");
        let mut size = free.saturating_sub(leave_kb * 1024).max(4096);
        // The daemon may take some of it at the same moment.
        while size > 4096 {
            let out = Command::new("fallocate").arg("-l").arg(size.to_string()).arg(&file).output();
            if out.is_ok_and(|o| o.status.success()) {
                break;
            }
            let _ = std::fs::remove_file(&file);
            size -= size / 50;
        }
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        force_unmount(&self.path);
    }
}

/// Flips one bit of a file at a random place in `from..to` (of its size if `to` is 0); where.
pub fn flip_bit(path: &Path, from: u64, to: u64, rng: &mut Rng) -> u64 {
    let file = File::options().read(true).write(true).open(path).expect("open the file to damage");
    let size = file.metadata().expect("its size").len();
    let at = rng.range(from, if to == 0 { size } else { to.min(size) });
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read a byte");
    byte[0] ^= 1 << rng.range(0, 8);
    file.write_all_at(&byte, at).expect("write a byte");
    at
}

/// Overwrites a part of a file with one byte, again and again.
pub fn overwrite(path: &Path, part: std::ops::Range<usize>, byte: u8) {
    let file = File::options().write(true).open(path).expect("open the file to damage");
    assert!(file.metadata().expect("its size").len() >= part.end as u64, "{} is shorter", path.display());
    file.write_all_at(&vec![byte; part.len()], part.start as u64).expect("damage it");
}

/// All regular files beneath a directory, with their size.
pub fn files_below(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            all.extend(files_below(&entry.path()));
        } else if meta.is_file() {
            all.push((entry.path(), meta.len()));
        }
    }
    all.sort();
    all
}

/// Gives a stopped node the data directory that was saved with [`copy_tree`].
pub fn restore(node: &Node, saved: &Path) {
    std::fs::remove_dir_all(&node.data).expect("remove the data directory");
    copy_tree(saved, &node.data);
}

/// The files of a data directory in which a flipped bit has a meaning, relative to it, with their size. Not
/// among them: the node's own identity and its lock.
pub fn files_to_damage(data: &Path) -> Vec<(PathBuf, u64)> {
    let inside = |(path, size): (PathBuf, u64)| {
        let name = path.strip_prefix(data).expect("a file beneath it").to_owned();
        (size > 0 && !name.ends_with("clusterid") && !name.ends_with("lock")).then_some((name, size))
    };
    files_below(data).into_iter().filter_map(inside).collect()
}

/// Copies a directory tree (of a stopped daemon).
pub fn copy_tree(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}
