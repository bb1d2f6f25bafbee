//! Nodes: what the kernel calls an inode.
//!
//! Owns: node numbers, the kernel's reference counts, which name leads to which node. Does not own:
//! attributes. Tested below and by the unlink tests in `tests/tests/fuse_adapter`.
//!
//! Node numbers are our own and never used twice: with the backing file's inode number, a file that
//! is unlinked and created again can get the number of one whose pages the kernel still caches. For
//! the same reason the first open backing file stays open until the kernel forgets the node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::model::DatabaseFiles;
use super::names::FileRef;

/// The root directory (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;

/// What a node stands for.
#[derive(Debug)]
pub enum Target<D> {
    /// `.primary`
    Primary,
    /// `.lag`
    Lag,
    /// `db-pos`
    Pos(Arc<D>),
    /// `db-lock`
    Lock(Arc<D>),
    /// A file with content on disk.
    File(Arc<D>, FileRef),
}

impl<D> Clone for Target<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Primary => Self::Primary,
            Self::Lag => Self::Lag,
            Self::Pos(d) => Self::Pos(d.clone()),
            Self::Lock(d) => Self::Lock(d.clone()),
            Self::File(d, f) => Self::File(d.clone(), *f),
        }
    }
}

impl<D: DatabaseFiles> Target<D> {
    /// Made up at each read: never cached.
    pub fn is_virtual(&self) -> bool {
        !matches!(self, Self::File(..))
    }
}

/// One inode of the mount.
pub struct Node<D: DatabaseFiles> {
    /// Its number.
    pub id: u64,
    /// What it stands for.
    pub target: Target<D>,
    /// Identity of the backing file when the node was made; 0 for virtual files.
    pub backing_ino: u64,
    /// The first file that was opened through it, kept until FORGET.
    backing: OnceLock<Arc<D::Opened>>,
    linked: AtomicBool,
}

impl<D: DatabaseFiles> Node<D> {
    /// Its name still leads here.
    pub fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    /// Its name does not lead here any more.
    pub fn set_unlinked(&self) {
        self.linked.store(false, Ordering::Release);
    }

    /// An open backing file, if there ever was one.
    pub fn backing(&self) -> Option<&Arc<D::Opened>> {
        self.backing.get()
    }

    /// Keeps the backing file open until FORGET.
    pub fn keep(&self, opened: &Arc<D::Opened>) {
        self.backing.get_or_init(|| opened.clone());
    }
}

struct Known<D: DatabaseFiles> {
    node: Arc<Node<D>>,
    name: Box<str>,
    lookups: u64,
}

struct Tables<D: DatabaseFiles> {
    by_id: HashMap<u64, Known<D>>,
    by_name: HashMap<Box<str>, u64>,
    next: u64,
}

/// All nodes that the kernel knows.
pub struct Nodes<D: DatabaseFiles>(RwLock<Tables<D>>);

impl<D: DatabaseFiles> Default for Nodes<D> {
    fn default() -> Self {
        Self(RwLock::new(Tables { by_id: HashMap::new(), by_name: HashMap::new(), next: ROOT + 1 }))
    }
}

impl<D: DatabaseFiles> Nodes<D> {
    /// The node with this number.
    pub fn get(&self, id: u64) -> Option<Arc<Node<D>>> {
        let t = self.0.read().unwrap_or_else(PoisonError::into_inner);
        t.by_id.get(&id).map(|k| k.node.clone())
    }

    /// The number that the kernel knows for this name.
    pub fn id_of(&self, name: &str) -> Option<u64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).copied()
    }

    /// The node for a name that exists with the backing file `ino`, counted once for the kernel. A
    /// known node of another backing file loses the name.
    pub fn look_up(&self, name: &str, target: &Target<D>, ino: u64) -> Arc<Node<D>> {
        let mut t = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let t = &mut *t;
        if let Some(known) = t.by_name.get(name).and_then(|id| t.by_id.get_mut(id)) {
            if known.node.backing_ino == ino {
                known.lookups = known.lookups.saturating_add(1);
                return known.node.clone();
            }
            known.node.set_unlinked();
        }
        let id = t.next;
        t.next += 1;
        let node = Arc::new(Node {
            id,
            target: target.clone(),
            backing_ino: ino,
            backing: OnceLock::new(),
            linked: AtomicBool::new(true),
        });
        t.by_id.insert(id, Known { node: node.clone(), name: name.into(), lookups: 1 });
        t.by_name.insert(name.into(), id);
        node
    }

    /// The name is gone; open handles keep the node.
    pub fn unlink(&self, name: &str) {
        let mut t = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let t = &mut *t;
        if let Some(known) = t.by_name.remove(name).and_then(|id| t.by_id.get(&id)) {
            known.node.set_unlinked();
        }
    }

    /// FORGET: the kernel gives back `n` of its references to each node.
    pub fn forget(&self, list: impl Iterator<Item = (u64, u64)>) {
        let mut dead = Vec::new();
        let mut t = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let t = &mut *t;
        for (id, n) in list {
            let Some(known) = t.by_id.get_mut(&id) else { continue };
            known.lookups = known.lookups.saturating_sub(n);
            if known.lookups == 0
                && let Some(known) = t.by_id.remove(&id)
            {
                if t.by_name.get(&known.name) == Some(&id) {
                    t.by_name.remove(&known.name);
                }
                // Closing the backing file may take a while: not under the lock.
                dead.push(known);
            }
        }
        drop(dead);
    }

    /// Every file node of the kernel that has a name.
    pub fn linked_files(&self) -> Vec<Arc<Node<D>>> {
        let t = self.0.read().unwrap_or_else(PoisonError::into_inner);
        t.by_id
            .values()
            .filter(|k| k.node.is_linked() && !k.node.target.is_virtual())
            .map(|k| k.node.clone())
            .collect()
    }

    /// How many nodes the kernel knows.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_id.len()
    }

    /// Whether the kernel knows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::SystemTime;

    use litefs_types::{DbName, Pos};

    use super::*;
    use crate::fuse::model::{Backing, Caller, FileStat, ModelError, ModelResult, OpenMode};

    struct NoDb(DbName);
    struct NoFile;

    impl Backing for NoFile {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn stat(&self) -> io::Result<FileStat> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    const NO: ModelError = ModelError::Errno(libc::ENOENT);

    impl DatabaseFiles for NoDb {
        type Opened = NoFile;
        fn name(&self) -> &DbName {
            &self.0
        }
        fn listed(&self) -> bool {
            false
        }
        fn pos(&self, _: &Caller) -> ModelResult<Pos> {
            Ok(Pos::ZERO)
        }
        fn last_change(&self) -> Option<SystemTime> {
            None
        }
        fn attr(&self, _: FileRef) -> ModelResult<FileStat> {
            Err(NO)
        }
        fn open_file(&self, _: &Caller, _: FileRef, _: OpenMode) -> ModelResult<NoFile> {
            Err(NO)
        }
        fn create_file(&self, _: &Caller, _: FileRef, _: u32, _: bool) -> ModelResult<NoFile> {
            Err(NO)
        }
        fn write(&self, _: &Caller, _: FileRef, _: &NoFile, _: u64, _: &[u8], _: bool) -> ModelResult<()> {
            Err(NO)
        }
        fn truncate(&self, _: &Caller, _: FileRef, _: u64) -> ModelResult<()> {
            Err(NO)
        }
        fn fsync(&self, _: &Caller, _: FileRef, _: &NoFile, _: bool) -> ModelResult<()> {
            Err(NO)
        }
        fn unlink(&self, _: &Caller, _: FileRef) -> ModelResult<()> {
            Err(NO)
        }
        fn release(&self, _: &Caller, _: FileRef, _: &NoFile) -> ModelResult<()> {
            Err(NO)
        }
    }

    #[test]
    fn a_replaced_file_is_another_node_and_numbers_are_not_used_again() {
        let nodes = Nodes::<NoDb>::default();
        let db = Target::File(Arc::new(NoDb("db".parse().unwrap())), FileRef::DATABASE);
        let a = nodes.look_up("db", &db, 7);
        let again = nodes.look_up("db", &db, 7);
        assert_eq!(a.id, again.id);
        assert!(a.id > ROOT);

        let b = nodes.look_up("db", &db, 8);
        assert_ne!(a.id, b.id);
        assert!(!a.is_linked() && b.is_linked());
        assert_eq!(nodes.id_of("db"), Some(b.id));

        // The kernel still has two references to the old one: it is found until both are given back.
        nodes.forget([(a.id, 1)].into_iter());
        assert!(nodes.get(a.id).is_some());
        nodes.forget([(a.id, 1)].into_iter());
        assert!(nodes.get(a.id).is_none());
        assert_eq!(nodes.id_of("db"), Some(b.id), "forgetting the old node took the name from the new one");

        nodes.unlink("db");
        assert!(!b.is_linked() && nodes.get(b.id).is_some());
        let c = nodes.look_up("db", &db, 8);
        assert_ne!(b.id, c.id, "same backing inode number, but another file");
        nodes.forget([(b.id, 1), (c.id, 5), (99, 1)].into_iter());
        assert!(nodes.is_empty());
        assert!(nodes.look_up("db", &db, 8).id > c.id);
    }
}
