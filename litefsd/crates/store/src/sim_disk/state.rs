//! What a simulated disk consists of: contents and directory, each durable and as it is now, with the
//! changes in between; faults, and what they do to an operation.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::{At, Fault, Moment, SECTOR, SimDisk, Watcher, errno};
use crate::disk::{FileMeta, Op};

#[derive(Clone)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Clone, Default)]
pub(super) struct Inode {
    pub(super) durable: Vec<u8>,
    pub(super) now: Vec<u8>,
    pub(super) unsynced: Vec<Change>,
    pub(super) mode: u32,
    pub(super) mtime: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(usize),
}

#[derive(Clone)]
pub(super) enum DirChange {
    Make(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl DirChange {
    pub(super) fn concerns(&self, dir: &Path) -> bool {
        match self {
            Self::Make(p, _) | Self::Remove(p) => p.parent() == Some(dir),
            Self::Rename(a, b) => a.parent() == Some(dir) || b.parent() == Some(dir),
        }
    }

    pub(super) fn apply(&self, tree: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Make(p, n) => {
                // Without its directory (lost in a crash) a file is lost too.
                if p.parent().is_none_or(|d| d == Path::new("") || tree.get(d) == Some(&Node::Dir)) {
                    tree.insert(p.clone(), *n);
                }
            }
            Self::Remove(p) => {
                tree.retain(|k, _| !k.starts_with(p));
            }
            Self::Rename(a, b) => {
                if !tree.contains_key(a) {
                    return;
                }
                let moved: Vec<_> =
                    tree.iter().filter(|(k, _)| k.starts_with(a)).map(|(k, n)| (k.clone(), *n)).collect();
                tree.retain(|k, _| !k.starts_with(a) && !k.starts_with(b));
                for (k, n) in moved {
                    let rest = k.strip_prefix(a).map(Path::to_path_buf).unwrap_or_default();
                    tree.insert(if rest == Path::new("") { b.clone() } else { b.join(rest) }, n);
                }
            }
        }
    }
}

pub(super) struct State {
    pub(super) inodes: Vec<Inode>,
    pub(super) tree: BTreeMap<PathBuf, Node>,
    pub(super) durable_tree: BTreeMap<PathBuf, Node>,
    pub(super) unsynced: Vec<DirChange>,
    pub(super) clock: u64,
    pub(super) faults: Vec<(At, Fault)>,
    pub(super) trace: Vec<Op>,
    pub(super) stopped: bool,
    pub(super) watcher: Option<Watcher>,
    /// Syncs of these names say that they succeeded and do nothing.
    pub(super) lies: Vec<Op>,
}

/// What is left to do after the faults were looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    All,
    Half(i32),
    AllThenFail,
    /// The sync fails for good.
    Lost(i32),
}

impl State {
    /// Counts an operation and lets faults hit it.
    pub(super) fn begin(&mut self, op: Op) -> io::Result<Go> {
        if self.stopped {
            return Err(errno(libc::EIO));
        }
        if let Some(w) = self.watcher.clone() {
            w(&self.fork(), op, Moment::Before);
        }
        self.trace.push(op);
        self.clock += 1;
        let mut hit = None;
        self.faults.retain_mut(|(at, fault)| {
            let n = match at {
                At::Nth(n) => n,
                At::NthOf(o, n) if *o == op => n,
                At::NthOf(..) => return true,
            };
            if *n == 0 {
                hit = Some(*fault);
                return false;
            }
            *n -= 1;
            true
        });
        match hit {
            None => Ok(Go::All),
            Some(Fault::Error(e)) => Err(errno(e)),
            Some(Fault::Short(e)) => Ok(Go::Half(e)),
            Some(Fault::LostSync(e)) => Ok(Go::Lost(e)),
            Some(Fault::Stop) => {
                self.stopped = true;
                Err(errno(libc::EIO))
            }
            Some(Fault::TornStop) => {
                self.stopped = true;
                Ok(Go::Half(libc::EIO))
            }
            Some(Fault::StopAfter) => {
                self.stopped = true;
                Ok(Go::AllThenFail)
            }
        }
    }

    /// The same disk once more, as it is at this moment.
    pub(super) fn fork(&self) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            inodes: self.inodes.clone(),
            tree: self.tree.clone(),
            durable_tree: self.durable_tree.clone(),
            unsynced: self.unsynced.clone(),
            clock: self.clock,
            faults: Vec::new(),
            trace: Vec::new(),
            stopped: false,
            watcher: None,
            lies: Vec::new(),
        })))
    }

    pub(super) fn read_ok(&self) -> io::Result<()> {
        if self.stopped { Err(errno(libc::EIO)) } else { Ok(()) }
    }

    pub(super) fn dir_change(&mut self, go: Go, change: DirChange) -> io::Result<()> {
        if let Go::Half(e) = go {
            return Err(errno(e));
        }
        change.apply(&mut self.tree);
        self.unsynced.push(change);
        finish(go)
    }

    pub(super) fn file_change(&mut self, ino: usize, change: Change) {
        let clock = self.clock;
        let f = &mut self.inodes[ino];
        f.mtime = clock;
        change.apply(&mut f.now);
        f.unsynced.push(change);
    }

    pub(super) fn meta(&self, node: Node) -> FileMeta {
        let (len, mode, mtime, ino) = match node {
            Node::Dir => (0, 0o777, 0, 0),
            Node::File(i) => {
                let f = &self.inodes[i];
                (f.now.len() as u64, f.mode, f.mtime, i as u64 + 1)
            }
        };
        FileMeta {
            len,
            mtime: SystemTime::UNIX_EPOCH + Duration::from_millis(mtime),
            ino,
            mode,
            uid: 0,
            gid: 0,
            blocks: len.div_ceil(SECTOR),
            is_dir: node == Node::Dir,
        }
    }
}

pub(super) fn finish(go: Go) -> io::Result<()> {
    match go {
        Go::AllThenFail => Err(errno(libc::EIO)),
        Go::Half(e) | Go::Lost(e) => Err(errno(e)),
        Go::All => Ok(()),
    }
}

impl Change {
    pub(super) fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::SetLen(n) => to.resize(*n as usize, 0),
            Self::Write(at, data) => {
                let (at, end) = (*at as usize, *at as usize + data.len());
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[at..end].copy_from_slice(data);
            }
        }
    }

    /// Applies the sectors that `keep` says.
    pub(super) fn apply_some(&self, to: &mut Vec<u8>, keep: &mut impl FnMut() -> bool) {
        let Self::Write(at, data) = self else {
            if keep() {
                self.apply(to);
            }
            return;
        };
        let mut done = 0;
        while done < data.len() {
            let pos = at + done as u64;
            let n = ((SECTOR - pos % SECTOR) as usize).min(data.len() - done);
            if keep() {
                Self::Write(pos, data[done..done + n].to_vec()).apply(to);
            }
            done += n;
        }
    }
}
