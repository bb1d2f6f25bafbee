//! What the kernel calls: requests in, replies out.
//!
//! Owns: INIT flags, moving a request to a worker, exactly one answer for each request. Does not own:
//! what is done ([`super::ops`]). Tested by `tests/tests/fuse_adapter` on a real mount.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::access::Who;
use super::answer::{Job, plain};
use super::attrs::{FOREVER, nothing};
use super::deferred::Fate;
use super::model::{DatabaseFiles, FileSystemModel, ModelError, read_full};
use super::names::{MAX_NAME_LEN, Name};
use super::nodes::Target;
use super::ops::{Content, Core, Created, Found, Open};
use super::scope::Serving;
use super::stats::Op;

/// Largest WRITE and read-ahead: 256 pages, what Linux allows without a change of its limits.
pub const MAX_IO: u32 = 1024 * 1024;
/// Node numbers are never used twice, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// What we ask for. Not POSIX_LOCKS or FLOCK_LOCKS: the kernel keeps locks itself. Not
/// WRITEBACK_CACHE: writes must arrive when they are made. Not AUTO_INVAL_DATA: pages stay until
/// somebody says otherwise. KILLPRIV_V2 saves a GETXATTR for each write.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2);

/// Without it the kernel drops cached pages whenever it sees another size or time.
const REQUIRED: InitFlags = InitFlags::FUSE_EXPLICIT_INVAL_DATA;

thread_local! {
    /// READs are answered from here: one buffer a thread, as large as its largest READ so far.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The [`Filesystem`] over a [`Core`].
pub struct Adapter<M: FileSystemModel>(pub Arc<Core<M>>);

fn who(req: &Request) -> Who {
    Who { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

impl<M: FileSystemModel> Adapter<M> {
    fn file_job(op: Op, open: &Open<M::Db>) -> Job {
        let db = match &open.node.target {
            Target::File(db, _) | Target::Pos(db) | Target::Lock(db) => Some(db.name().clone()),
            Target::Primary | Target::Lag => None,
        };
        Job { op, db, directory_locked: false, own: open.own }
    }

    fn node_job(&self, op: Op, id: u64, who: Who) -> Job {
        let db = self.0.nodes.get(id).and_then(|n| match &n.target {
            Target::File(db, _) => Some(db.name().clone()),
            _ => None,
        });
        Job { op, db, directory_locked: false, own: self.0.own.contains(who.pid) }
    }

    fn name_job(&self, op: Op, name: &OsStr, who: Who) -> Job {
        let db = Name::parse(name).ok().and_then(|n| n.database().cloned());
        Job { op, db, directory_locked: true, own: self.0.own.contains(who.pid) }
    }

    /// Counts a request, and logs it (`fuse.debug`).
    fn begin(&self, op: Op, req: &Request, ino: INodeNo, detail: &dyn std::fmt::Debug) {
        self.0.stats.count(op);
        if let Some(low) = &self.0.low_latency {
            low.request();
        }
        tracing::trace!(op = op.label(), pid = req.pid(), uid = req.uid(), node = ino.0, ?detail);
    }

    /// The open file of a handle, or an answer in its place.
    fn opened(&self, fh: FileHandle) -> Result<Arc<Open<M::Db>>, Errno> {
        self.0.handles.get(fh.0).ok_or(Errno::EBADF)
    }
}

fn empty<M: FileSystemModel>(_: &Core<M>, reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl<M: FileSystemModel> Filesystem for Adapter<M> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        if !offered.contains(REQUIRED) {
            tracing::error!(abi = %config.kernel_abi(), "this kernel's FUSE is too old (Linux 5.2 or later is needed)");
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        // Cannot fail: these are offered. What is missing costs speed only.
        let _ = config.add_capabilities(WANTED & offered);
        let _ = config.set_max_write(MAX_IO);
        if let Err(most) = config.set_max_readahead(MAX_IO) {
            let _ = config.set_max_readahead(most);
        }
        tracing::debug!(missing = ?(WANTED & !offered), "FUSE features");
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.begin(Op::Lookup, req, parent, &name);
        match self.0.lookup(who(req), parent.0, name) {
            Ok(Found::Yes { attr, attr_ttl, entry_ttl }) => {
                reply.entry_with_ttls(&attr_ttl, &entry_ttl, &attr, GENERATION);
            }
            Ok(Found::No(ttl)) if ttl.is_zero() => reply.error(Errno::ENOENT),
            // Node 0: "does not exist", with a time to remember it.
            Ok(Found::No(ttl)) => reply.entry_with_ttls(&Duration::ZERO, &ttl, &nothing(), GENERATION),
            Err(e) => reply.error(plain(&self.0, Op::Lookup, e)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.0.stats.count(Op::Forget);
        self.0.nodes.forget(std::iter::once((ino.0, nlookup)));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.begin(Op::Getattr, req, ino, &());
        match self.0.getattr(ino.0) {
            Ok((attr, ttl)) => reply.attr(&ttl, &attr),
            Err(e) => reply.error(plain(&self.0, Op::Getattr, e)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.begin(Op::Setattr, req, ino, &size);
        let who = who(req);
        self.deferrable(
            self.node_job(Op::Setattr, ino.0, who),
            reply,
            move |core, may_block| core.setattr(who, ino.0, size, fh.map(|h| h.0), may_block),
            |_, reply, done| match done {
                Ok((attr, ttl)) => reply.attr(&ttl, &attr),
                Err(e) => reply.error(e),
            },
        );
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.begin(Op::Open, req, ino, &flags);
        let who = who(req);
        self.deferrable(
            self.node_job(Op::Open, ino.0, who),
            reply,
            move |core, may_block| core.open(who, ino.0, flags.0, may_block),
            |_, reply, done| match done {
                Ok(opened) => reply.opened(FileHandle(opened.handle), opened.flags),
                Err(e) => reply.error(e),
            },
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.begin(Op::Create, req, parent, &name);
        let who = who(req);
        let owned = name.to_owned();
        self.deferrable(
            self.name_job(Op::Create, name, who),
            reply,
            move |core, may_block| core.create(who, parent.0, &owned, mode & !umask, flags, may_block),
            |core, reply, done: Result<Created, Errno>| match done {
                Ok(Created { opened, attr, new_database }) => {
                    reply.created(&FOREVER, &attr, GENERATION, FileHandle(opened.handle), opened.flags);
                    let db = new_database.and_then(|name| Some((core.model.database(name.as_str())?, name)));
                    if let Some((db, name)) = db {
                        core.workers.run(
                            &name,
                            Box::new(move |fate| {
                                if fate == Fate::Run {
                                    db.created();
                                }
                            }),
                        );
                    }
                }
                Err(e) => reply.error(e),
            },
        );
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.begin(Op::Read, req, ino, &(offset, size));
        let open = match self.opened(fh) {
            Ok(open) => open,
            Err(e) => return reply.error(e),
        };
        let Content::File(_, file) = &open.content else {
            let (pid, job) = (req.pid(), Self::file_job(Op::Read, &open));
            return self.deferrable(
                job,
                reply,
                move |core, may_block| core.text(&open, pid, offset, may_block),
                move |_, reply, done| match done {
                    Ok(text) => reply.data(&text[..text.len().min(size as usize)]),
                    Err(e) => reply.error(e),
                },
            );
        };
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size.min(MAX_IO) as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match read_full(file.as_ref(), &mut buffer[..size], offset) {
                Ok(n) => reply.data(&buffer[..n]),
                Err(e) => reply.error(plain(&self.0, Op::Read, e.into())),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.begin(Op::Write, req, ino, &(offset, data.len()));
        let open = match self.opened(fh) {
            Ok(open) => open,
            Err(e) => return reply.error(e),
        };
        let (pid, len) = (req.pid(), data.len() as u32);
        let from_page_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        // Not `deferrable`: the data is only copied when the request must wait.
        let place = self.0.busy.enter(Op::Write, open.own);
        let first = if place.is_some() {
            let _serving = Serving::Inline.enter();
            self.0.write(&open, pid, fh.0, (offset, data), from_page_cache, false)
        } else {
            Err(ModelError::NeedsWorker)
        };
        drop(place);
        match first {
            Ok(()) => reply.written(len),
            Err(ModelError::NeedsWorker) => {
                let (data, job) = (data.to_vec(), Self::file_job(Op::Write, &open));
                self.defer(
                    job,
                    reply,
                    move |core, may_block| {
                        core.write(&open, pid, fh.0, (offset, &data), from_page_cache, may_block)
                    },
                    move |_, reply, done| match done {
                        Ok(()) => reply.written(len),
                        Err(e) => reply.error(e),
                    },
                );
            }
            Err(e) => reply.error(plain(&self.0, Op::Write, e)),
        }
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.begin(Op::Flush, req, ino, &fh);
        let open = match self.opened(fh) {
            Ok(open) => open,
            Err(e) => return reply.error(e),
        };
        let (pid, job) = (req.pid(), Self::file_job(Op::Flush, &open));
        self.deferrable(job, reply, move |_, may_block| Core::<M>::flush(&open, pid, fh.0, may_block), empty);
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.begin(Op::Release, req, ino, &fh);
        let Some(open) = self.0.handles.remove(fh.0) else { return reply.error(Errno::EBADF) };
        let job = Self::file_job(Op::Release, &open);
        self.deferrable(job, reply, move |core, may_block| core.release(&open, fh.0, may_block), empty);
    }

    fn fsync(&self, req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.begin(Op::Fsync, req, ino, &fh);
        let open = match self.opened(fh) {
            Ok(open) => open,
            Err(e) => return reply.error(e),
        };
        let (pid, job) = (req.pid(), Self::file_job(Op::Fsync, &open));
        self.deferrable(
            job,
            reply,
            move |core, may_block| core.fsync(&open, pid, fh.0, datasync, may_block),
            empty,
        );
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.begin(Op::Unlink, req, parent, &name);
        let (who, owned) = (who(req), name.to_owned());
        self.deferrable(
            self.name_job(Op::Unlink, name, who),
            reply,
            move |core, may_block| core.unlink(who, parent.0, &owned, may_block),
            empty,
        );
    }

    fn rename(
        &self,
        req: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.begin(Op::Rename, req, INodeNo::ROOT, &(name, newname));
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (who, from, to) = (who(req), name.to_owned(), newname.to_owned());
        self.deferrable(
            self.name_job(Op::Rename, newname, who),
            reply,
            move |core, may_block| core.rename(who, &from, &to, may_block),
            empty,
        );
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Once and for all: the kernel opens and closes directories without us from now on, and
        // keeps listings until it is told (two round trips less in each rollback-mode transaction).
        self.0.stats.count(Op::Opendir);
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.begin(Op::Readdir, req, ino, &offset);
        for entry in self.0.list(offset) {
            if reply.add(INodeNo(entry.ino), entry.cookie, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn fsyncdir(&self, req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.0.stats.count(Op::Fsyncdir);
        let caller = self.0.caller(who(req), false);
        let done = self.0.model.sync_directory(&caller).map_err(|e| plain(&self.0, Op::Fsyncdir, e));
        empty(&self.0, reply, done);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.0.stats.count(Op::Statfs);
        match nix::sys::statvfs::statvfs(&self.0.options.data_dir) {
            Ok(s) => reply.statfs(
                s.blocks(),
                s.blocks_free(),
                s.blocks_available(),
                s.files(),
                s.files_free(),
                s.block_size() as u32,
                MAX_NAME_LEN as u32,
                s.fragment_size() as u32,
            ),
            Err(e) => reply.error(Errno::from_i32(e as i32)),
        }
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        self.0.stats.count(Op::Access);
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        self.0.stats.count(Op::Xattr);
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        self.0.stats.count(Op::Xattr);
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        self.0.stats.count(Op::Xattr);
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        self.0.stats.count(Op::Xattr);
        reply.error(Errno::ENOSYS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        self.0.stats.count(Op::Other);
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        self.0.stats.count(Op::Other);
        reply.error(Errno::EPERM);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        self.0.stats.count(Op::Other);
        reply.error(Errno::EPERM);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        self.0.stats.count(Op::Other);
        reply.error(Errno::EPERM);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        self.0.stats.count(Op::Other);
        reply.error(Errno::EPERM);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        self.0.stats.count(Op::Other);
        reply.error(Errno::EOPNOTSUPP);
    }
}
