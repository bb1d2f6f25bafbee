//! A SQLite VFS over [`World`]: real SQLite makes the requests that it would make through the mount, and
//! gets the answers, errors included.
//!
//! It does what `os_unix.c` does with files and locks, as far as the store sees it: one request a write,
//! an fsync of the directory after the first fsync of a new journal or wal, locks in the same order, a
//! wal-index in shared memory that the first opener empties and the last closer removes. Reads go to the
//! backing file, as in the FUSE adapter. Path names are `/w<world>/<file>`.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};

use litefs_store::StoreError;
use litefs_store::database::{Database, OpenMode, OpenedFile};
use litefs_store::own_mount::FileKind;
use litefs_types::DbName;
use rusqlite::ffi;
use rusqlite::{Connection, OpenFlags};

use self::locking::{check_reserved, lock, shm_barrier, shm_lock, shm_map, shm_unmap, unlock};
use super::locks::Locks;
use super::world::{Hang, Index, World};

mod locking;

const NAME: &CStr = c"litefs-sim";
/// What `os_unix.c` says of an ordinary file system.
const SECTOR: c_int = 4096;

static WORLDS: Mutex<BTreeMap<u64, Arc<World>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);
static METHODS: OnceLock<ffi::sqlite3_io_methods> = OnceLock::new();

/// A world that SQLite can open databases in, until this is dropped.
pub struct Visible(u64);

impl Visible {
    /// Gives the world a number.
    pub fn new(world: &Arc<World>) -> Self {
        register();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        WORLDS.lock().unwrap().insert(n, Arc::clone(world));
        Self(n)
    }

    /// Opens a database in it.
    pub fn connect(&self, db: &str) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let c = Connection::open_with_flags_and_vfs(self.path(db), flags, NAME)?;
        c.busy_timeout(std::time::Duration::ZERO)?;
        // Temporary files are none of the mount's.
        c.execute_batch("PRAGMA temp_store=MEMORY")?;
        Ok(c)
    }

    /// The name of a database for ATTACH.
    pub fn path(&self, db: &str) -> String {
        format!("/w{}/{db}", self.0)
    }
}

impl Drop for Visible {
    fn drop(&mut self) {
        WORLDS.lock().unwrap().remove(&self.0);
    }
}

/// What a path names.
enum Target {
    File(Arc<Database>, FileKind),
    Super(Arc<Database>, String),
}

fn split(path: &str) -> Option<(Arc<World>, &str)> {
    let (world, file) = path.strip_prefix("/w")?.split_once('/')?;
    let world = WORLDS.lock().unwrap().get(&world.parse().ok()?).cloned()?;
    Some((world, file))
}

fn database(world: &World, name: &str, create: bool) -> Result<Arc<Database>, StoreError> {
    match world.store.database(name) {
        Some(db) => Ok(db),
        None if create => {
            let name: DbName = name.parse().map_err(|_| StoreError::NotFound)?;
            world.store.create_for_application(&world.caller(0), &name)
        }
        None => Err(StoreError::NotFound),
    }
}

fn target(world: &World, file: &str, create: bool) -> Result<Target, StoreError> {
    if DbName::is_super_journal(file)
        && let Some((db, suffix)) = file.rsplit_once("-mj")
    {
        return Ok(Target::Super(database(world, db, false)?, suffix.to_owned()));
    }
    for kind in [FileKind::Journal, FileKind::Wal] {
        if let Some(db) = file.strip_suffix(kind.suffix()) {
            return Ok(Target::File(database(world, db, false)?, kind));
        }
    }
    Ok(Target::File(database(world, file, create)?, FileKind::Database))
}

/// An open file.
enum Body {
    Temp(Vec<u8>),
    Named(Named),
}

struct Named {
    world: Arc<World>,
    target: Target,
    opened: OpenedFile,
    handle: u64,
    level: c_int,
    locks: Arc<Locks>,
    index: Option<Arc<Index>>,
    sync_dir: bool,
}

#[repr(C)]
struct VfsFile {
    base: ffi::sqlite3_file,
    body: *mut Body,
}

/// SQLite's code for a failed request, as `os_unix.c` derives it from errno.
fn code(e: &StoreError, io: c_int) -> c_int {
    if e.errno() == libc::ENOSPC { ffi::SQLITE_FULL } else { io }
}

/// Says what was refused, if `CRASH_TRACE` is set.
fn trace(what: &str, e: &StoreError) {
    if std::env::var_os("CRASH_TRACE").is_some() {
        eprintln!("{what}: {e}");
    }
}

fn done(named: &Named, r: Result<(), StoreError>, io: c_int) -> c_int {
    let rc = match r {
        Ok(()) => ffi::SQLITE_OK,
        Err(e) => {
            trace(&format!("answered {io}"), &e);
            code(&e, io)
        }
    };
    named.world.requested();
    rc
}

#[allow(unsafe_code)] // SQLite's C interface
fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the default VFS lives as long as the process, and so does its leaked copy; the
        // functions that stay (time, randomness, sleep) do not look at which VFS they are called with.
        unsafe {
            let base = ffi::sqlite3_vfs_find(ptr::null());
            assert!(!base.is_null());
            let copy = Box::leak(Box::new(ptr::read(base)));
            copy.zName = NAME.as_ptr();
            copy.pNext = ptr::null_mut();
            copy.szOsFile = size_of::<VfsFile>() as c_int;
            copy.xOpen = Some(open);
            copy.xDelete = Some(delete);
            copy.xAccess = Some(access);
            copy.xFullPathname = Some(full_pathname);
            assert_eq!(ffi::sqlite3_vfs_register(copy, 0), ffi::SQLITE_OK);
        }
    });
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    n: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: `name` is a string and `out` has room for `n` bytes, as the interface says.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if bytes.len() > n as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
    }
    ffi::SQLITE_OK
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: `file` has room for our structure, `name` is null or a string, as the interface says.
    unsafe {
        (*file).pMethods = ptr::null();
        let body = if name.is_null() {
            Body::Temp(Vec::new())
        } else {
            match open_named(&CStr::from_ptr(name).to_string_lossy(), flags) {
                Ok(n) => Body::Named(n),
                Err(e) => {
                    trace("open", &e);
                    return code(&e, ffi::SQLITE_CANTOPEN);
                }
            }
        };
        (*file.cast::<VfsFile>()).body = Box::into_raw(Box::new(body));
        (*file).pMethods = METHODS.get_or_init(methods);
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

fn open_named(path: &str, flags: c_int) -> Result<Named, StoreError> {
    let (world, name) = split(path).ok_or(StoreError::NotFound)?;
    let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
    let exclusive = flags & ffi::SQLITE_OPEN_EXCLUSIVE != 0;
    let target = target(&world, name, create)?;
    let handle = world.handle();
    let caller = world.caller(handle);
    let mode = OpenMode { read: true, write: true, truncate: false };
    let (opened, db) = match &target {
        Target::Super(db, suffix) => {
            (db.open_super_journal(suffix, create, exclusive)?, db.name().to_string())
        }
        Target::File(db, kind) => {
            let opened = match db.open_file(&caller, *kind, mode) {
                Err(StoreError::NotFound) if create => db.create_file(&caller, *kind, exclusive)?,
                other => other?,
            };
            (opened, db.name().to_string())
        }
    };
    let journal = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
    let locks = world.locks(&db);
    world.requested();
    Ok(Named {
        world,
        target,
        opened,
        handle,
        level: ffi::SQLITE_LOCK_NONE,
        locks,
        index: None,
        sync_dir: create && flags & journal != 0,
    })
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: `name` is a string, as the interface says.
    let path = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let Some((world, name)) = split(&path) else { return ffi::SQLITE_IOERR_DELETE };
    if world.hangs(Some(Hang::Delete)) {
        return ffi::SQLITE_IOERR_DELETE;
    }
    let removed = target(&world, name, false).and_then(|t| match t {
        Target::File(db, kind) => db.unlink(&world.caller(0), kind),
        Target::Super(db, suffix) => {
            // As the FUSE adapter does it.
            for member in world.store.databases() {
                member.ready_for_super_commit(name)?;
            }
            db.unlink_super_journal(&suffix)
        }
    });
    let rc = match removed {
        Ok(()) if sync != 0 => match world.store.sync_dirs() {
            Ok(()) => ffi::SQLITE_OK,
            Err(_) => ffi::SQLITE_IOERR_DIR_FSYNC,
        },
        Ok(()) => ffi::SQLITE_OK,
        Err(StoreError::NotFound) => ffi::SQLITE_IOERR_DELETE_NOENT,
        Err(e) => {
            trace("delete", &e);
            ffi::SQLITE_IOERR_DELETE
        }
    };
    world.requested();
    rc
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn access(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: `name` is a string, `out` a pointer to the answer, as the interface says.
    let path = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let yes = split(&path).is_some_and(|(world, name)| match target(&world, name, false) {
        Ok(Target::File(db, kind)) => {
            db.exists(kind) && db.attr(kind).is_ok_and(|a| flags != ffi::SQLITE_ACCESS_EXISTS || a.size > 0)
        }
        Ok(Target::Super(db, suffix)) => db.super_journal_attr(&suffix).is_ok(),
        Err(_) => false,
    });
    // SAFETY: see above.
    unsafe { *out = c_int::from(yes) };
    ffi::SQLITE_OK
}

fn methods() -> ffi::sqlite3_io_methods {
    ffi::sqlite3_io_methods {
        iVersion: 2,
        xClose: Some(close),
        xRead: Some(read),
        xWrite: Some(write),
        xTruncate: Some(truncate),
        xSync: Some(sync),
        xFileSize: Some(file_size),
        xLock: Some(lock),
        xUnlock: Some(unlock),
        xCheckReservedLock: Some(check_reserved),
        xFileControl: Some(file_control),
        xSectorSize: Some(sector_size),
        xDeviceCharacteristics: Some(characteristics),
        xShmMap: Some(shm_map),
        xShmLock: Some(shm_lock),
        xShmBarrier: Some(shm_barrier),
        xShmUnmap: Some(shm_unmap),
        xFetch: None,
        xUnfetch: None,
    }
}

/// The file behind SQLite's pointer.
#[allow(unsafe_code)] // SQLite's C interface
unsafe fn body<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Body {
    // SAFETY: set in `open`, freed in `close`; SQLite uses a file from one thread at a time.
    unsafe { &mut *(*file.cast::<VfsFile>()).body }
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as in `body`; SQLite does not use the file again.
    let body = unsafe { Box::from_raw((*file.cast::<VfsFile>()).body) };
    if let Body::Named(n) = *body {
        n.locks.release_all(n.handle);
        if let Target::File(db, kind) = &n.target {
            db.release(&n.world.caller(n.handle), *kind);
        }
    }
    ffi::SQLITE_OK
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buf: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: `buf` has room for `len` bytes, as the interface says.
    let (body, buf) = unsafe { (body(file), std::slice::from_raw_parts_mut(buf.cast::<u8>(), len as usize)) };
    let n = match body {
        Body::Temp(data) => {
            let at = (offset as usize).min(data.len());
            let n = buf.len().min(data.len() - at);
            buf[..n].copy_from_slice(&data[at..at + n]);
            n
        }
        Body::Named(f) => match f.opened.file.read_at(buf, offset as u64) {
            Ok(n) => n,
            Err(_) => return ffi::SQLITE_IOERR_READ,
        },
    };
    buf[n..].fill(0);
    if n < buf.len() { ffi::SQLITE_IOERR_SHORT_READ } else { ffi::SQLITE_OK }
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    buf: *const c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: `buf` has `len` bytes, as the interface says.
    let (body, buf) = unsafe { (body(file), std::slice::from_raw_parts(buf.cast::<u8>(), len as usize)) };
    let at = offset as u64;
    match body {
        Body::Temp(data) => {
            let end = offset as usize + buf.len();
            if data.len() < end {
                data.resize(end, 0);
            }
            data[offset as usize..end].copy_from_slice(buf);
            ffi::SQLITE_OK
        }
        Body::Named(f) if f.world.hangs(None) => ffi::SQLITE_IOERR_WRITE,
        Body::Named(f) => {
            let r = match &f.target {
                Target::File(db, kind) => {
                    db.write(&f.world.caller(f.handle), *kind, &f.opened, at, buf, false)
                }
                Target::Super(db, _) => db.write_super_journal(&f.opened, at, buf),
            };
            done(f, r, ffi::SQLITE_IOERR_WRITE)
        }
    }
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: as in `body`.
    match unsafe { body(file) } {
        Body::Temp(data) => {
            data.resize(size as usize, 0);
            ffi::SQLITE_OK
        }
        Body::Named(f) if f.world.hangs(None) => ffi::SQLITE_IOERR_TRUNCATE,
        Body::Named(f) => {
            let r = match &f.target {
                Target::File(db, kind) => db.truncate(&f.world.caller(f.handle), *kind, size as u64),
                Target::Super(db, suffix) => db.truncate_super_journal(suffix, size as u64),
            };
            done(f, r, ffi::SQLITE_IOERR_TRUNCATE)
        }
    }
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: as in `body`.
    match unsafe { body(file) } {
        Body::Temp(_) => ffi::SQLITE_OK,
        Body::Named(f) if f.world.hangs(Some(Hang::Sync).filter(|_| f.is_wal())) => ffi::SQLITE_IOERR_FSYNC,
        Body::Named(f) => {
            let r = match &f.target {
                Target::File(db, kind) => db.fsync(&f.world.caller(f.handle), *kind, &f.opened),
                Target::Super(db, _) => db.sync_super_journal(&f.opened),
            };
            let rc = done(f, r, ffi::SQLITE_IOERR_FSYNC);
            if rc == ffi::SQLITE_OK && std::mem::take(&mut f.sync_dir) {
                // os_unix.c ignores how this ends.
                let _ = f.world.store.sync_dirs();
            }
            rc
        }
    }
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: as in `body`; `out` is a pointer to the answer.
    unsafe {
        *out = match body(file) {
            Body::Temp(data) => data.len() as i64,
            Body::Named(f) => match f.opened.file.len() {
                Ok(n) => n as i64,
                Err(_) => return ffi::SQLITE_IOERR_FSTAT,
            },
        };
    }
    ffi::SQLITE_OK
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    SECTOR
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as in `body`.
    match unsafe { body(file) } {
        Body::Named(f) if !f.world.options.psow => 0,
        _ => ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE,
    }
}
