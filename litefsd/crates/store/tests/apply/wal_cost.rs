//! What a transaction costs in calls through the mount, each of which is a FUSE request or two.

use std::io;
use std::sync::Mutex;

use litefs_sqlite::lock_bytes::Lock;
use litefs_store::apply::wal_writer::WalSync;
use litefs_store::own_mount::{FileKind, LockKind, OwnMount, Probe};
use litefs_store::plain_mount::PlainMount;

use crate::primary::Primary;
use crate::wal::{log_is_durable, start, write};

/// Counts what would be FUSE requests.
struct Counting<'a>(&'a PlainMount, Mutex<Vec<(&'static str, FileKind, usize)>>);

impl Counting<'_> {
    fn note(&self, what: &'static str, file: FileKind, len: usize) {
        self.1.lock().unwrap().push((what, file, len));
    }
}

impl OwnMount for Counting<'_> {
    fn probe(&self, lock: Lock, kind: LockKind) -> Probe {
        self.0.probe(lock, kind)
    }
    fn open(&self, file: FileKind, create: bool) -> io::Result<bool> {
        self.0.open(file, create)
    }
    fn close(&self, file: FileKind) {
        self.0.close(file);
    }
    fn try_lock(&self, lock: Lock, kind: LockKind) -> io::Result<bool> {
        self.0.try_lock(lock, kind)
    }
    fn unlock(&self, lock: Lock) -> io::Result<()> {
        self.0.unlock(lock)
    }
    fn read_at(&self, file: FileKind, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.note("read", file, buf.len());
        self.0.read_at(file, buf, offset)
    }
    fn write_all_at(&self, file: FileKind, buf: &[u8], offset: u64) -> io::Result<()> {
        self.note("write", file, buf.len());
        self.0.write_all_at(file, buf, offset)
    }
    fn set_len(&self, file: FileKind, len: u64) -> io::Result<()> {
        self.note("truncate", file, 0);
        self.0.set_len(file, len)
    }
    fn len(&self, file: FileKind) -> io::Result<u64> {
        self.0.len(file)
    }
    fn sync(&self, file: FileKind) -> io::Result<()> {
        self.note("sync", file, 0);
        self.0.sync(file)
    }
    fn unlink(&self, file: FileKind) -> io::Result<()> {
        self.0.unlink(file)
    }
}

#[test]
fn a_small_transaction_is_five_writes_and_a_large_one_comes_in_batches() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    write(&r, &w, &p.update(1..60, 100));
    let tx = p.update(5..6, 100);
    let mount = Counting(&r.mount, Mutex::default());
    w.write_tx(&mount, &mut tx.source(), tx.commit, WalSync::No).unwrap();
    let done: Vec<_> = std::mem::take(&mut *mount.1.lock().unwrap());
    let n = tx.pages.len();
    assert_eq!(done[0], ("read", FileKind::Shm, 136));
    assert_eq!(done[1], ("write", FileKind::Wal, n * (24 + 4096)));
    assert_eq!(done[2], ("write", FileKind::Shm, n * 4));
    assert!(done[3].1 == FileKind::Shm && done[3].2 <= 16384, "{done:?}");
    assert_eq!(done[4..], [("write", FileKind::Shm, 48), ("write", FileKind::Shm, 48)]);

    let big = p.update(1..9000, 900);
    assert!(big.pages.len() > 1500);
    w.write_tx(&mount, &mut big.source(), big.commit, WalSync::Yes).unwrap();
    let done: Vec<_> = std::mem::take(&mut *mount.1.lock().unwrap());
    let to_wal: Vec<usize> =
        done.iter().filter(|d| d.0 == "write" && d.1 == FileKind::Wal).map(|d| d.2).collect();
    assert!(to_wal.iter().all(|len| *len <= 1 << 20), "{to_wal:?}");
    assert_eq!(to_wal.len(), (big.pages.len() * 4120).div_ceil((1 << 20) / 4120 * 4120), "{to_wal:?}");
    assert_eq!(done.iter().filter(|d| d.0 == "sync").count(), 1, "once, behind the commit frame");
    w.checkpoint(&mount, &log_is_durable).unwrap();
    let done: Vec<_> = std::mem::take(&mut *mount.1.lock().unwrap());
    let to_db: Vec<usize> =
        done.iter().filter(|d| d.0 == "write" && d.1 == FileKind::Database).map(|d| d.2).collect();
    assert!(to_db.len() < 20, "{to_db:?}");
    assert_eq!(r.image(), p.image);
}
