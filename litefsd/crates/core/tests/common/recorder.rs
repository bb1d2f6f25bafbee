//! A SQLite VFS that keeps what SQLite does to WAL files: the system's VFS, with the calls of WAL files
//! going through here. It makes the tracker's tests independent of our idea of SQLite's writer.
//!
//! Everything that SQLite does on a thread is kept on that thread.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Once, OnceLock};

use rusqlite::ffi;

use super::writer::Request;

thread_local!(static REQUESTS: RefCell<Vec<Request>> = const { RefCell::new(Vec::new()) });

/// The system's VFS and its methods for files; set once, before the first WAL file is open.
static BASE_VFS: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());
static BASE_METHODS: AtomicPtr<ffi::sqlite3_io_methods> = AtomicPtr::new(ptr::null_mut());
static METHODS: OnceLock<ffi::sqlite3_io_methods> = OnceLock::new();

/// The name to open databases with.
pub const VFS: &std::ffi::CStr = c"litefs-recorder";

/// What SQLite did to WAL files on this thread since the last call.
pub fn take() -> Vec<Request> {
    REQUESTS.with(|r| std::mem::take(&mut *r.borrow_mut()))
}

/// Makes [`VFS`] known to SQLite.
#[allow(unsafe_code)] // SQLite's C interface
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the default VFS lives as long as the process, and so does its copy, which is leaked.
        // Its functions do not look at which VFS structure they are called with.
        unsafe {
            let base = ffi::sqlite3_vfs_find(ptr::null());
            assert!(!base.is_null());
            BASE_VFS.store(base, Ordering::SeqCst);
            let copy = Box::leak(Box::new(ptr::read(base)));
            copy.zName = VFS.as_ptr();
            copy.pNext = ptr::null_mut();
            copy.xOpen = Some(open);
            copy.xDelete = Some(delete);
            assert_eq!(ffi::sqlite3_vfs_register(copy, 0), ffi::SQLITE_OK);
        }
    });
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are passed on as they came; the methods that the base set are valid, and
    // ours do the same with the same file structure.
    unsafe {
        let base = BASE_VFS.load(Ordering::SeqCst);
        let rc = (*base).xOpen.unwrap()(base, name, file, flags, out_flags);
        if rc == ffi::SQLITE_OK && flags & ffi::SQLITE_OPEN_WAL != 0 {
            let methods = (*file).pMethods;
            BASE_METHODS.store(methods.cast_mut(), Ordering::SeqCst);
            let ours = METHODS.get_or_init(|| {
                let mut m = ptr::read(methods);
                m.xWrite = Some(write);
                m.xTruncate = Some(truncate);
                m
            });
            (*file).pMethods = ours;
        }
        rc
    }
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: `name` is a string, as the interface says.
    unsafe {
        let base = BASE_VFS.load(Ordering::SeqCst);
        let rc = (*base).xDelete.unwrap()(base, name, sync);
        if std::ffi::CStr::from_ptr(name).to_bytes().ends_with(b"-wal") {
            REQUESTS.with(|r| r.borrow_mut().push(Request::Unlink));
        }
        rc
    }
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: `data` has `len` bytes, as the interface says.
    unsafe {
        let data_copy = std::slice::from_raw_parts(data.cast::<u8>(), len as usize).to_vec();
        let offset_copy = offset as u64;
        let request = Request::Write { offset: offset_copy, data: data_copy, completes: None };
        REQUESTS.with(|r| r.borrow_mut().push(request));
        (*BASE_METHODS.load(Ordering::SeqCst)).xWrite.unwrap()(file, data, len, offset)
    }
}

#[allow(unsafe_code)] // called by SQLite
unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    REQUESTS.with(|r| r.borrow_mut().push(Request::Truncate(size as u64)));
    // SAFETY: the arguments are passed on as they came.
    unsafe { (*BASE_METHODS.load(Ordering::SeqCst)).xTruncate.unwrap()(file, size) }
}
