//! A disk in memory that can fail, stop and lose what was not synced. For tests only.
//!
//! Every file has a durable and a volatile content, the difference being a list of unsynced writes;
//! every change of a directory is volatile until `sync_dir`. [`SimDisk::crash`] makes the disk that
//! a restart would find: unsynced writes are lost, kept, or torn sector by sector, unsynced directory
//! changes lost or kept one by one, whichever the [`Crash`] says. That is more hostile than any real
//! file system, which keeps some order.
//!
//! Faults ([`SimDisk::arm`]) hit the n-th changing operation, or the n-th of an [`Op`]. Reads are
//! not counted; they fail once the disk has stopped.
//!
//! Tests: `tests`.

mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::state::{Change, DirChange, Go, Inode, Node, State, finish};
use crate::disk::{DirEntry, Disk, DiskFile, FileMeta, Op, OpenHow};

/// Bytes that a disk writes all or nothing.
const SECTOR: u64 = 512;

/// What happens to the operation that a fault hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It does nothing and fails with this errno; the disk goes on.
    Error(i32),
    /// A write writes its first half and fails with this errno; the disk goes on.
    Short(i32),
    /// It does nothing, and this and every later operation fails: the machine died.
    Stop,
    /// A write writes its first half, then as [`Fault::Stop`].
    TornStop,
    /// It happens, then as [`Fault::Stop`].
    StopAfter,
    /// A sync fails with this errno and, as the kernel does, takes what it did not write for written: it
    /// can be read until a crash, but no later sync makes it durable.
    LostSync(i32),
}

/// Sees the disk just before each changing operation, and for a write also as it is with half of it.
///
/// Gets a copy of the disk, to be crashed at will.
pub type Watcher = Arc<dyn Fn(&SimDisk, Op, Moment) + Send + Sync>;

/// When a [`Watcher`] looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// Nothing of the operation has happened.
    Before,
    /// Half of the write has happened.
    Torn,
}

/// Which operation a fault hits. Numbers count from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// The n-th changing operation from now on.
    Nth(usize),
    /// The n-th operation with this name from now on.
    NthOf(Op, usize),
}

/// What a crash does to unsynced data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The daemon died, the kernel lives: everything is kept.
    KeepAll,
    /// Power loss at the worst moment: everything unsynced is gone.
    LoseAll,
    /// Power loss: each sector of each unsynced write and each directory change on its own, by seed.
    Random(u64),
}

/// See the module documentation. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

struct SimFile {
    disk: SimDisk,
    ino: usize,
    how: OpenHow,
}

fn errno(n: i32) -> io::Error {
    io::Error::from_raw_os_error(n)
}

fn not_found() -> io::Error {
    errno(libc::ENOENT)
}

impl SimDisk {
    /// An empty disk with a root directory `/`.
    pub fn new() -> Self {
        let tree = BTreeMap::from([(PathBuf::from("/"), Node::Dir)]);
        Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            durable_tree: tree.clone(),
            tree,
            unsynced: Vec::new(),
            clock: 1,
            faults: Vec::new(),
            trace: Vec::new(),
            stopped: false,
            watcher: None,
            lies: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a fault; each hits once.
    pub fn arm(&self, at: At, fault: Fault) {
        self.state().faults.push((at, fault));
    }

    /// Has every changing operation looked at from now on; `None`: no more.
    pub fn watch(&self, watcher: Option<Watcher>) {
        self.state().watcher = watcher;
    }

    /// Syncs of this name do nothing from now on, and say that they succeeded: to show that a test would
    /// notice if the code left them out.
    pub fn lie(&self, op: Op) {
        self.state().lies.push(op);
    }

    /// Takes all faults away.
    pub fn disarm(&self) {
        self.state().faults.clear();
    }

    /// Changing operations so far, in order.
    pub fn trace(&self) -> Vec<Op> {
        self.state().trace.clone()
    }

    /// Whether a fault has stopped the disk.
    pub fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// The disk as the next start finds it. This one stays as it is.
    pub fn crash(&self, how: Crash) -> Self {
        let s = self.state();
        let mut seed = match how {
            Crash::Random(seed) => seed,
            _ => 0,
        };
        let mut keep = || match how {
            Crash::KeepAll => true,
            Crash::LoseAll => false,
            Crash::Random(_) => {
                // SplitMix64
                seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = seed;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) & 1 == 1
            }
        };
        let mut tree = s.durable_tree.clone();
        for c in &s.unsynced {
            if keep() {
                c.apply(&mut tree);
            }
        }
        // What was synced into a directory that is not there itself is not there either.
        let whole = |tree: &BTreeMap<PathBuf, Node>, p: &Path| {
            p.ancestors().skip(1).all(|d| d == Path::new("") || tree.get(d) == Some(&Node::Dir))
        };
        let lost: Vec<PathBuf> = tree.keys().filter(|p| !whole(&tree, p)).cloned().collect();
        tree.retain(|p, _| !lost.contains(p));
        // A file without a name is gone: nobody has it open after a crash.
        let named: BTreeSet<usize> = tree
            .values()
            .filter_map(|n| match n {
                Node::File(i) => Some(*i),
                Node::Dir => None,
            })
            .collect();
        let inodes = s
            .inodes
            .iter()
            .enumerate()
            .map(|(i, f)| {
                if !named.contains(&i) {
                    return Inode::default();
                }
                let mut now = f.durable.clone();
                for c in &f.unsynced {
                    c.apply_some(&mut now, &mut keep);
                }
                Inode { durable: now.clone(), now, unsynced: Vec::new(), mode: f.mode, mtime: f.mtime }
            })
            .collect();
        Self(Arc::new(Mutex::new(State {
            inodes,
            durable_tree: tree.clone(),
            tree,
            unsynced: Vec::new(),
            clock: s.clock + 1000,
            faults: Vec::new(),
            trace: Vec::new(),
            stopped: false,
            watcher: None,
            lies: Vec::new(),
        })))
    }

    /// Puts a durable file there, with its directories.
    pub fn put(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = path.as_ref();
        let mut s = self.state();
        for dir in path.ancestors().skip(1) {
            s.tree.insert(dir.to_path_buf(), Node::Dir);
            s.durable_tree.insert(dir.to_path_buf(), Node::Dir);
        }
        s.clock += 1;
        let mtime = s.clock;
        s.inodes.push(Inode {
            durable: bytes.to_vec(),
            now: bytes.to_vec(),
            unsynced: Vec::new(),
            mode: 0o666,
            mtime,
        });
        let node = Node::File(s.inodes.len() - 1);
        s.tree.insert(path.to_path_buf(), node);
        s.durable_tree.insert(path.to_path_buf(), node);
    }

    /// The content of a file; `None` if there is none.
    pub fn content(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let s = self.state();
        match s.tree.get(path.as_ref()) {
            Some(Node::File(i)) => Some(s.inodes[*i].now.clone()),
            _ => None,
        }
    }

    /// Every file there is.
    pub fn files(&self) -> Vec<PathBuf> {
        let s = self.state();
        s.tree.iter().filter(|(_, n)| **n != Node::Dir).map(|(p, _)| p.clone()).collect()
    }

    /// Flips one bit, on the disk and in memory, without a trace.
    pub fn flip_bit(&self, path: impl AsRef<Path>, byte: usize, bit: u8) {
        let mut s = self.state();
        if let Some(Node::File(i)) = s.tree.get(path.as_ref()).copied() {
            let f = &mut s.inodes[i];
            for content in [&mut f.now, &mut f.durable] {
                if let Some(b) = content.get_mut(byte) {
                    *b ^= 1 << bit;
                }
            }
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, op: Op, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        let mut s = self.state();
        s.read_ok()?;
        let ino = match s.tree.get(path).copied() {
            Some(Node::Dir) => return Err(errno(libc::EISDIR)),
            Some(Node::File(_)) if how.create_new => return Err(errno(libc::EEXIST)),
            Some(Node::File(i)) => {
                if how.truncate && !s.inodes[i].now.is_empty() {
                    if let Go::Half(e) = s.begin(op)? {
                        return Err(errno(e));
                    }
                    s.file_change(i, Change::SetLen(0));
                }
                i
            }
            None if how.create || how.create_new => {
                if path.parent().is_none_or(|d| s.tree.get(d) != Some(&Node::Dir)) {
                    return Err(not_found());
                }
                let go = s.begin(op)?;
                let mtime = s.clock;
                s.inodes.push(Inode { mode: how.mode, mtime, ..Inode::default() });
                let i = s.inodes.len() - 1;
                s.dir_change(go, DirChange::Make(path.to_path_buf(), Node::File(i)))?;
                i
            }
            None => return Err(not_found()),
        };
        Ok(Arc::new(SimFile { disk: self.clone(), ino, how }))
    }

    fn rename(&self, op: Op, from: &Path, to: &Path) -> io::Result<()> {
        let mut s = self.state();
        let go = s.begin(op)?;
        if !s.tree.contains_key(from) || to.parent().is_none_or(|d| s.tree.get(d) != Some(&Node::Dir)) {
            return Err(not_found());
        }
        s.dir_change(go, DirChange::Rename(from.to_path_buf(), to.to_path_buf()))
    }

    fn unlink(&self, op: Op, path: &Path) -> io::Result<()> {
        let mut s = self.state();
        let go = s.begin(op)?;
        match s.tree.get(path) {
            None => Err(not_found()),
            Some(Node::Dir) => Err(errno(libc::EISDIR)),
            Some(Node::File(_)) => s.dir_change(go, DirChange::Remove(path.to_path_buf())),
        }
    }

    fn create_dir_all(&self, op: Op, path: &Path) -> io::Result<()> {
        let mut s = self.state();
        let missing: Vec<_> =
            path.ancestors().take_while(|p| !s.tree.contains_key(*p)).map(Path::to_path_buf).collect();
        for dir in missing.into_iter().rev() {
            let go = s.begin(op)?;
            s.dir_change(go, DirChange::Make(dir, Node::Dir))?;
        }
        s.read_ok()
    }

    fn remove_dir_all(&self, op: Op, path: &Path) -> io::Result<()> {
        let mut s = self.state();
        let inside: Vec<_> = s.tree.keys().filter(|k| k.starts_with(path)).cloned().collect();
        for p in inside.into_iter().rev() {
            let go = s.begin(op)?;
            s.dir_change(go, DirChange::Remove(p))?;
        }
        s.read_ok()
    }

    fn read_dir(&self, _op: Op, path: &Path) -> io::Result<Vec<DirEntry>> {
        let s = self.state();
        s.read_ok()?;
        if s.tree.get(path) != Some(&Node::Dir) {
            return Err(not_found());
        }
        let inside = s.tree.iter().filter(|(k, _)| k.parent() == Some(path));
        Ok(inside
            .filter_map(|(k, n)| Some(DirEntry { name: k.file_name()?.to_owned(), is_dir: *n == Node::Dir }))
            .collect())
    }

    fn metadata(&self, _op: Op, path: &Path) -> io::Result<FileMeta> {
        let s = self.state();
        s.read_ok()?;
        s.tree.get(path).map(|n| s.meta(*n)).ok_or_else(not_found)
    }

    fn sync_dir(&self, op: Op, path: &Path) -> io::Result<()> {
        let mut s = self.state();
        let go = s.begin(op)?;
        if s.tree.get(path) != Some(&Node::Dir) {
            return Err(not_found());
        }
        if let Go::Half(e) = go {
            return Err(errno(e));
        }
        if s.lies.contains(&op) {
            return finish(go);
        }
        let s = &mut *s;
        if let Go::Lost(e) = go {
            s.unsynced.retain(|c| !c.concerns(path));
            return Err(errno(e));
        }
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut s.unsynced).into_iter().partition(|c| c.concerns(path));
        for c in now {
            c.apply(&mut s.durable_tree);
        }
        s.unsynced = later;
        // A file that came from a directory where its creation was never synced.
        for (k, n) in s.tree.iter().filter(|(k, _)| k.parent() == Some(path)) {
            s.durable_tree.insert(k.clone(), *n);
        }
        finish(go)
    }

    fn copy(&self, op: Op, from: &Path, to: &Path) -> io::Result<()> {
        let bytes = self.content(from).ok_or_else(not_found)?;
        let f = self.open(op, to, OpenHow::CREATE_NEW)?;
        f.write_all_at(op, &bytes, 0)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let s = self.disk.state();
        s.read_ok()?;
        let data = &s.inodes[self.ino].now;
        let at = (offset as usize).min(data.len());
        let n = buf.len().min(data.len() - at);
        buf[..n].copy_from_slice(&data[at..at + n]);
        Ok(n)
    }

    fn write_all_at(&self, op: Op, buf: &[u8], offset: u64) -> io::Result<()> {
        if !self.how.write {
            return Err(errno(libc::EBADF));
        }
        let mut s = self.disk.state();
        if let Some(w) = s.watcher.clone().filter(|_| buf.len() > 1) {
            let torn = s.fork();
            torn.state().file_change(self.ino, Change::Write(offset, buf[..buf.len() / 2].to_vec()));
            w(&torn, op, Moment::Torn);
        }
        let go = s.begin(op)?;
        let n = if matches!(go, Go::Half(_)) { buf.len() / 2 } else { buf.len() };
        s.file_change(self.ino, Change::Write(offset, buf[..n].to_vec()));
        if let Go::Half(e) = go { Err(errno(e)) } else { finish(go) }
    }

    fn set_len(&self, op: Op, len: u64) -> io::Result<()> {
        let mut s = self.disk.state();
        let go = s.begin(op)?;
        if let Go::Half(e) = go {
            return Err(errno(e));
        }
        s.file_change(self.ino, Change::SetLen(len));
        finish(go)
    }

    fn sync_data(&self, op: Op) -> io::Result<()> {
        let mut s = self.disk.state();
        let go = s.begin(op)?;
        if let Go::Half(e) = go {
            return Err(errno(e));
        }
        if s.lies.contains(&op) {
            return finish(go);
        }
        let f = &mut s.inodes[self.ino];
        if let Go::Lost(e) = go {
            f.unsynced.clear();
            return Err(errno(e));
        }
        for c in std::mem::take(&mut f.unsynced) {
            c.apply(&mut f.durable);
        }
        finish(go)
    }

    fn sync_all(&self, op: Op) -> io::Result<()> {
        self.sync_data(op)
    }

    fn metadata(&self) -> io::Result<FileMeta> {
        let s = self.disk.state();
        s.read_ok()?;
        Ok(s.meta(Node::File(self.ino)))
    }

    fn std_file(&self) -> Option<&File> {
        None
    }
}
