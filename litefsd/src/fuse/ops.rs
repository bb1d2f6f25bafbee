//! What is done for each request, in terms of the model.
//!
//! Owns: names to nodes, handles, permission checks, which requests are the daemon's own. Does not
//! own: replies and deferral ([`super::adapter`]), meaning ([`super::model`]). Tested on a real mount.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FopenFlags};
use litefs_store::own_mount::FileKind;
use litefs_types::DbName;

use super::access::{self, Ownership, Who, permitted};
use super::answer::Busy;
use super::attrs::{FOREVER, ttl};
use super::deferred::Workers;
use super::handles::Handles;
use super::invalidate::KernelCache;
use super::listing::Numbers;
use super::low_latency::LowLatency;
use super::model::{
    Backing, Caller, DatabaseFiles, FileSystemModel, ModelError, ModelResult, NodeView, OpenMode,
};
use super::names::{FileRef, Name};
use super::nodes::{Node, Nodes, ROOT, Target};
use super::scope::OwnThreads;
use super::stats::Stats;
use super::virtual_files::{lag_text, pos_text, primary_text};

/// How the mount looks.
#[derive(Clone, Debug)]
pub struct Options {
    /// Owner, group, mode.
    pub ownership: Ownership,
    /// `statfs` tells about the file system of this directory.
    pub data_dir: PathBuf,
}

/// What an open handle reads.
pub(crate) enum Content<O> {
    File(FileRef, Arc<O>),
    /// Made when it is read from the start.
    Virtual(Mutex<String>),
}

/// An open handle.
pub(crate) struct Open<D: DatabaseFiles> {
    pub(crate) node: Arc<Node<D>>,
    pub(crate) content: Content<D::Opened>,
    pub(crate) own: bool,
}

/// State of one mount.
pub struct Core<M: FileSystemModel> {
    pub(crate) model: Arc<M>,
    pub(crate) view: Arc<dyn NodeView>,
    pub(crate) options: Options,
    pub(crate) started: SystemTime,
    pub(crate) nodes: Arc<Nodes<M::Db>>,
    pub(crate) handles: Handles<Open<M::Db>>,
    pub(crate) workers: Workers,
    pub(crate) own: OwnThreads,
    pub(crate) stats: Arc<Stats>,
    pub(crate) cache: Arc<KernelCache<M::Db>>,
    pub(crate) numbers: Numbers,
    pub(crate) busy: Busy,
    pub(crate) low_latency: Option<LowLatency>,
}

/// Answer to LOOKUP.
pub(crate) enum Found {
    Yes {
        attr: FileAttr,
        attr_ttl: Duration,
        entry_ttl: Duration,
    },
    /// With how long the kernel may remember it.
    No(Duration),
}

/// Answer to OPEN.
pub(crate) struct Opened {
    pub(crate) handle: u64,
    pub(crate) flags: FopenFlags,
}

/// Answer to CREATE.
pub(crate) struct Created {
    pub(crate) opened: Opened,
    pub(crate) attr: FileAttr,
    /// A database file made by an application: its own descriptors are opened after the answer.
    pub(crate) new_database: Option<DbName>,
}

const fn errno<T>(e: i32) -> ModelResult<T> {
    Err(ModelError::Errno(e))
}

impl<M: FileSystemModel> Core<M> {
    /// A mount that is not there yet.
    pub fn new(
        model: Arc<M>,
        view: Arc<dyn NodeView>,
        options: Options,
        low_latency: Option<LowLatency>,
    ) -> Arc<Self> {
        let (nodes, stats) = (Arc::new(Nodes::default()), Arc::new(Stats::default()));
        Arc::new(Self {
            model,
            view,
            options,
            started: SystemTime::now(),
            cache: KernelCache::new(nodes.clone(), stats.clone()),
            nodes,
            handles: Handles::default(),
            workers: Workers::default(),
            own: OwnThreads::default(),
            stats,
            numbers: Numbers::default(),
            busy: Busy::default(),
            low_latency,
        })
    }

    /// Request counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The kernel's caches of this mount.
    pub fn kernel_cache(&self) -> &Arc<KernelCache<M::Db>> {
        &self.cache
    }

    /// Threads that are inside an own-mount call.
    pub fn own_threads(&self) -> &OwnThreads {
        &self.own
    }

    /// How many files are open.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    /// How many files of each database applications have open; the daemon's own are not counted.
    pub fn open_files(&self) -> BTreeMap<DbName, u32> {
        let mut open = BTreeMap::new();
        self.handles.for_each(|h| {
            if let (false, Target::File(db, _)) = (h.own, &h.node.target) {
                *open.entry(db.name().clone()).or_default() += 1;
            }
        });
        open
    }

    pub(crate) fn may(&self, who: Who, mode: u16, want: u32) -> bool {
        let o = self.options.ownership;
        permitted(who, o.uid, o.gid, mode, want) || self.own.contains(who.pid)
    }

    fn enter_root(&self, who: Who, parent: u64, want: u32) -> ModelResult<()> {
        if parent != ROOT {
            return errno(libc::ENOTDIR);
        }
        if self.may(who, self.options.ownership.dir_mode(), want) { Ok(()) } else { errno(libc::EACCES) }
    }

    pub(crate) fn caller(&self, who: Who, may_block: bool) -> Caller {
        Caller { own: self.own.contains(who.pid), may_block, pid: who.pid, handle: 0, unlinked: false }
    }

    fn handle_caller(open: &Open<M::Db>, pid: u32, handle: u64, may_block: bool) -> Caller {
        Caller { own: open.own, may_block, pid, handle, unlinked: !open.node.is_linked() }
    }

    /// What a name stands for, whether or not the file exists.
    fn target(&self, name: Name) -> ModelResult<Target<M::Db>> {
        let db = |name: &DbName| self.model.database(name.as_str()).ok_or(ModelError::Errno(libc::ENOENT));
        Ok(match name {
            Name::Primary => Target::Primary,
            Name::Lag => Target::Lag,
            Name::Pos(name) => Target::Pos(db(&name)?),
            Name::Lock(name) => Target::Lock(db(&name)?),
            Name::File(name, file) => Target::File(db(&name)?, file),
        })
    }

    pub(crate) fn lookup(&self, who: Who, parent: u64, name: &OsStr) -> ModelResult<Found> {
        self.enter_root(who, parent, access::X)?;
        let parsed = match Name::parse(name) {
            Ok(parsed) => parsed,
            Err(bad) if bad.lookup_errno() == libc::ENOENT => return Ok(Found::No(FOREVER)),
            Err(bad) => return errno(bad.lookup_errno()),
        };
        // A negative entry of a virtual file would outlive the moment when its database appears.
        let absent = if matches!(parsed, Name::File(..)) { FOREVER } else { Duration::ZERO };
        let found = self.target(parsed).and_then(|target| Ok((self.stat(&target)?, target)));
        let Some(text) = name.to_str() else { return Ok(Found::No(absent)) };
        match found {
            Ok((stat, target)) => {
                let node = self.nodes.look_up(text, &target, stat.ino);
                let ttl = ttl(&target);
                Ok(Found::Yes { attr: self.fresh_attr(&node, stat), attr_ttl: ttl, entry_ttl: ttl })
            }
            Err(ModelError::Errno(libc::ENOENT)) => {
                self.nodes.unlink(text);
                Ok(Found::No(absent))
            }
            Err(e) => Err(e),
        }
    }

    pub(crate) fn getattr(&self, id: u64) -> ModelResult<(FileAttr, Duration)> {
        if id == ROOT {
            return Ok((self.root_attr(), FOREVER));
        }
        let node = self.node(id)?;
        Ok((self.node_attr(&node)?, ttl(&node.target)))
    }

    pub(crate) fn node(&self, id: u64) -> ModelResult<Arc<Node<M::Db>>> {
        self.nodes.get(id).ok_or(ModelError::Errno(libc::ESTALE))
    }

    /// Everything but the size is accepted and ignored, as in the original (SQLite running as root
    /// gives its journal the database's owner each time).
    pub(crate) fn setattr(
        &self,
        who: Who,
        id: u64,
        size: Option<u64>,
        handle: Option<u64>,
        may_block: bool,
    ) -> ModelResult<(FileAttr, Duration)> {
        if let Some(size) = size
            && id != ROOT
        {
            let node = self.node(id)?;
            if let Target::File(db, file) = &node.target {
                let open = handle.and_then(|h| self.handles.get(h));
                let caller = match (&open, handle) {
                    (Some(open), Some(h)) => Self::handle_caller(open, who.pid, h, may_block),
                    _ => Caller { unlinked: !node.is_linked(), ..self.caller(who, may_block) },
                };
                // With a descriptor the check was made at OPEN.
                if open.is_none() && !self.may(who, self.options.ownership.file_mode, access::W) {
                    return errno(libc::EACCES);
                }
                match node.backing() {
                    Some(backing) if caller.unlinked => backing.set_len(size)?,
                    _ => db.truncate(&caller, *file, size)?,
                }
                self.cache.changed();
            }
        }
        self.getattr(id)
    }

    pub(crate) fn open(&self, who: Who, id: u64, flags: i32, may_block: bool) -> ModelResult<Opened> {
        let node = self.node(id)?;
        let acc = flags & libc::O_ACCMODE;
        let mode = OpenMode {
            read: acc != libc::O_WRONLY,
            write: acc != libc::O_RDONLY,
            truncate: flags & libc::O_TRUNC != 0,
        };
        let Target::File(db, file) = &node.target else {
            // A client of the HALT lock opens `-lock` for writing to lock it: no check of W.
            if !self.may(who, self.file_mode(&node.target), access::R) {
                return errno(libc::EACCES);
            }
            let handle = self.handles.reserve();
            let content = Content::Virtual(Mutex::default());
            self.handles.fill(handle, Arc::new(Open { node, content, own: false }));
            let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
            return Ok(Opened { handle, flags });
        };
        let own = self.own.contains(who.pid);
        let writes = mode.write || mode.truncate;
        let want = if mode.read { access::R } else { 0 } | if writes { access::W } else { 0 };
        if !self.may(who, self.options.ownership.file_mode, want) {
            return errno(libc::EACCES);
        }
        if writes && !own && *file == FileRef::DATABASE && self.view.refuse_write_opens() {
            return errno(libc::EACCES);
        }
        let handle = self.handles.reserve();
        let caller = Caller { own, may_block, pid: who.pid, handle, unlinked: !node.is_linked() };
        let opened = match node.backing() {
            // Reached through /proc/<pid>/fd: the name leads elsewhere by now.
            Some(backing) if !node.is_linked() => Ok(backing.clone()),
            _ => db.open_file(&caller, *file, mode).map(Arc::new),
        };
        let opened = opened.and_then(|opened| {
            let stat = opened.stat()?;
            // Replaced behind the kernel's back: the kernel looks the name up again and repeats.
            if stat.ino == node.backing_ino {
                Ok((opened, stat.size == 0))
            } else {
                node.set_unlinked();
                let _ = db.release(&caller, *file, &opened);
                errno(libc::ESTALE)
            }
        });
        let (opened, empty) = opened.inspect_err(|_| drop(self.handles.remove(handle)))?;
        node.keep(&opened);
        let content = Content::File(*file, opened);
        self.handles.fill(handle, Arc::new(Open { node: node.clone(), content, own }));
        Ok(Opened { handle, flags: open_flags(*file, own, writes && empty) })
    }

    pub(crate) fn create(
        &self,
        who: Who,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
        may_block: bool,
    ) -> ModelResult<Created> {
        self.enter_root(who, parent, access::W | access::X)?;
        let (db_name, file) = match Name::parse(name) {
            Ok(Name::File(db, file)) => (db, file),
            // Never ENOSYS: the kernel would stop sending CREATE for as long as the mount lives.
            Ok(Name::Primary | Name::Lag | Name::Pos(_) | Name::Lock(_)) => return errno(libc::EACCES),
            Err(bad) => return errno(bad.create_errno()),
        };
        let own = self.own.contains(who.pid);
        if file == FileRef::DATABASE && !own && self.view.refuse_write_opens() {
            return errno(libc::EACCES);
        }
        let handle = self.handles.reserve();
        let caller = Caller { own, may_block, pid: who.pid, handle, unlinked: false };
        let made = || {
            let db = match self.model.database(db_name.as_str()) {
                Some(db) => db,
                None if file == FileRef::DATABASE => self.model.create_database(&caller, &db_name)?,
                None => return errno(libc::ENOENT),
            };
            let opened = Arc::new(db.create_file(&caller, file, mode, flags & libc::O_EXCL != 0)?);
            let mut stat = opened.stat()?;
            if flags & libc::O_TRUNC != 0 && stat.size > 0 {
                db.truncate(&caller, file, 0)?;
                stat = opened.stat()?;
            }
            let node =
                self.nodes.look_up(&file.name_in_mount(db_name.as_str()), &Target::File(db, file), stat.ino);
            node.keep(&opened);
            Ok((node, opened, stat))
        };
        let (node, opened, stat) = made().inspect_err(|_| drop(self.handles.remove(handle)))?;
        let attr = self.fresh_attr(&node, stat);
        self.handles.fill(handle, Arc::new(Open { node, content: Content::File(file, opened), own }));
        let new_database = (file == FileRef::DATABASE && !own).then_some(db_name);
        Ok(Created { opened: Opened { handle, flags: open_flags(file, own, true) }, attr, new_database })
    }

    /// Text of a virtual file.
    pub(crate) fn text(
        &self,
        open: &Open<M::Db>,
        pid: u32,
        offset: u64,
        may_block: bool,
    ) -> ModelResult<Vec<u8>> {
        let Content::Virtual(text) = &open.content else { return errno(libc::EBADF) };
        if offset == 0 {
            // A reader with a small buffer goes on in the text that it began with.
            let fresh = match &open.node.target {
                Target::Primary => {
                    let host = self.view.primary_hostname().ok_or(ModelError::Errno(libc::ENOENT))?;
                    primary_text(&host)
                }
                Target::Lag => lag_text(self.view.lag()),
                Target::Pos(db) => pos_text(db.pos(&Self::handle_caller(open, pid, 0, may_block))?),
                Target::Lock(_) | Target::File(..) => String::new(),
            };
            *text.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        let text = text.lock().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        Ok(text.as_bytes()[from..].to_vec())
    }

    pub(crate) fn write(
        &self,
        open: &Open<M::Db>,
        pid: u32,
        handle: u64,
        (offset, data): (u64, &[u8]),
        from_page_cache: bool,
        may_block: bool,
    ) -> ModelResult<()> {
        let (Content::File(file, opened), Target::File(db, _)) = (&open.content, &open.node.target) else {
            return errno(libc::EACCES);
        };
        let mut caller = Self::handle_caller(open, pid, handle, may_block);
        // The kernel writes pages back through any handle that can write, also one of ours.
        caller.own &= !from_page_cache;
        db.write(&caller, *file, opened, offset, data, from_page_cache)?;
        self.cache.changed();
        Ok(())
    }

    pub(crate) fn fsync(
        &self,
        open: &Open<M::Db>,
        pid: u32,
        h: u64,
        data_only: bool,
        may_block: bool,
    ) -> ModelResult<()> {
        let (Content::File(file, opened), Target::File(db, _)) = (&open.content, &open.node.target) else {
            return Ok(());
        };
        db.fsync(&Self::handle_caller(open, pid, h, may_block), *file, opened, data_only)?;
        self.cache.changed();
        Ok(())
    }

    pub(crate) fn flush(open: &Open<M::Db>, pid: u32, h: u64, may_block: bool) -> ModelResult<()> {
        let (Content::File(file, opened), Target::File(db, _)) = (&open.content, &open.node.target) else {
            return Ok(());
        };
        db.flush(&Self::handle_caller(open, pid, h, may_block), *file, opened)
    }

    pub(crate) fn release(&self, open: &Open<M::Db>, h: u64, may_block: bool) -> ModelResult<()> {
        let (Content::File(file, opened), Target::File(db, _)) = (&open.content, &open.node.target) else {
            return Ok(());
        };
        db.release(&Self::handle_caller(open, 0, h, may_block), *file, opened)?;
        self.cache.changed();
        Ok(())
    }

    pub(crate) fn unlink(&self, who: Who, parent: u64, name: &OsStr, may_block: bool) -> ModelResult<()> {
        self.enter_root(who, parent, access::W | access::X)?;
        let (db_name, file) = match Name::parse(name) {
            Ok(Name::File(db, file)) => (db, file),
            Ok(_) => return errno(libc::EPERM),
            Err(bad) => return errno(bad.lookup_errno()),
        };
        let db = self.model.database(db_name.as_str()).ok_or(ModelError::Errno(libc::ENOENT))?;
        db.unlink(&self.caller(who, may_block), file)?;
        self.nodes.unlink(&file.name_in_mount(db_name.as_str()));
        if file == FileRef::DATABASE {
            // A dropped database takes its companions along; the kernel only knows of this one name.
            for kind in [FileKind::Journal, FileKind::Wal, FileKind::Shm] {
                self.cache.entry_later(FileRef::Kind(kind).name_in_mount(db_name.as_str()));
            }
        }
        self.cache.changed();
        Ok(())
    }

    pub(crate) fn rename(&self, who: Who, from: &OsStr, to: &OsStr, may_block: bool) -> ModelResult<()> {
        self.enter_root(who, ROOT, access::W | access::X)?;
        let (Ok(Name::File(db, file)), Ok(Name::File(to, FileRef::DATABASE))) =
            (Name::parse(from), Name::parse(to))
        else {
            return errno(libc::EPERM);
        };
        self.model.rename_onto(&self.caller(who, may_block), (&db, file), &to)?;
        // The kernel gives the new name to the old file's node; a fresh LOOKUP tells it better.
        for name in [file.name_in_mount(db.as_str()), to.to_string()] {
            self.nodes.unlink(&name);
            self.cache.entry_later(name);
        }
        Ok(())
    }
}

/// Cache rules of an open file. Pages are kept between opens: whoever changes a file behind the
/// kernel's back invalidates them. FLUSH is of use for the database file only (an error of an import
/// by `cp` can be told there); locks are the kernel's own.
///
/// A new journal is written around the cache, because a cached write ends its request at each page that the
/// kernel does not have whole. Not one that is there already (PERSIST): each reader looks at its first
/// byte, so it is in the cache, whole.
fn open_flags(file: FileRef, own: bool, new: bool) -> FopenFlags {
    let mut flags = match file {
        FileRef::Kind(FileKind::Journal) if new => FopenFlags::FOPEN_DIRECT_IO,
        _ => FopenFlags::FOPEN_KEEP_CACHE,
    };
    if own || file != FileRef::DATABASE {
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    flags
}
