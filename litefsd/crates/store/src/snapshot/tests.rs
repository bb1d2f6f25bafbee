//! Tests of [`super`]: the output is always the image at the position, or an error.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use litefs_ltx::{Decoder, verify};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::disk::{FileMeta, Op, OpenHow};
use crate::log::{Log, RecordKind, RecordMeta};
use crate::os_disk::OsDisk;
use crate::sim_disk::{At, Fault, SimDisk};

const WRITE: Op = Op::new("test.write");
const NOW: Timestamp = Timestamp::from_millis(77);

fn node() -> NodeId {
    NodeId::new(5)
}

fn ps(bytes: u32) -> PageSize {
    PageSize::new(bytes).unwrap()
}

fn page(n: u32) -> PageNo {
    PageNo::new(n).unwrap()
}

fn pos(txid: u64, sums: &PageSums) -> Pos {
    Pos::new(Txid::new(txid).unwrap(), sums.checksum())
}

/// Page content that no other page and version has.
fn content(size: PageSize, n: u32, version: u32) -> Vec<u8> {
    let mut data = vec![(n.wrapping_mul(31) ^ version) as u8; size.bytes()];
    data[..4].copy_from_slice(&n.to_be_bytes());
    data[4..8].copy_from_slice(&version.to_be_bytes());
    data
}

fn sums_of(size: PageSize, image: &[Vec<u8>]) -> PageSums {
    let mut sums = PageSums::new(size);
    let changes: Vec<_> = (1..).zip(image).map(|(n, d)| (page(n), page_checksum(page(n), d))).collect();
    let _ = sums.set_all(&changes, image.len() as u32);
    sums
}

/// A database file on some disk.
struct Db {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file: Arc<dyn DiskFile>,
    size: PageSize,
    image: Vec<Vec<u8>>,
}

impl Db {
    fn new(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>, size: PageSize, pages: u32) -> Self {
        let dir = dir.into();
        disk.create_dir_all(WRITE, &dir).unwrap();
        let file = disk.open(WRITE, &dir.join("database"), OpenHow::CREATE).unwrap();
        let image: Vec<Vec<u8>> = (1..=pages).map(|n| content(size, n, 0)).collect();
        file.write_all_at(WRITE, &image.concat(), 0).unwrap();
        Self { disk, dir, file, size, image }
    }

    fn sim(size: PageSize, pages: u32) -> (SimDisk, Self) {
        let disk = SimDisk::new();
        (disk.clone(), Self::new(Arc::new(disk), "/db", size, pages))
    }

    fn input(&self) -> SnapshotInput {
        let sums = sums_of(self.size, &self.image);
        SnapshotInput {
            db: "x.db".parse().unwrap(),
            pos: pos(9, &sums),
            sums,
            file: Arc::clone(&self.file),
            history: Box::new(()),
            disk: Arc::clone(&self.disk),
            spool_dir: self.dir.join("spool"),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.input()).unwrap()
    }

    /// As the write path does it.
    fn overwrite(&self, cow: &CopyOnWrite, n: u32, data: &[u8]) {
        let mut old = vec![0; self.size.bytes()];
        let at = self.size.offset(page(n));
        if self.file.read_at(&mut old, at).unwrap() == old.len() {
            cow.preserve(page(n), &old);
        }
        self.file.write_all_at(WRITE, data, at).unwrap();
    }

    fn truncate(&self, cow: &CopyOnWrite, pages: u32) {
        let mut old = vec![0; self.size.bytes()];
        for n in pages + 1..=(self.file.len().unwrap() / self.size.bytes() as u64) as u32 {
            self.file.read_exact_at(&mut old, self.size.offset(page(n))).unwrap();
            cow.preserve(page(n), &old);
        }
        self.file.set_len(WRITE, self.size.file_size(pages)).unwrap();
    }
}

fn read_all(mut r: impl Read) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    r.read_to_end(&mut out).map(|_| out)
}

/// The pages of an LTX file, verified.
fn pages_of(ltx: &[u8]) -> Vec<u8> {
    verify(ltx).unwrap();
    let (mut d, mut data, mut out) = (Decoder::new(ltx).unwrap(), Vec::new(), Vec::new());
    while d.next_page(&mut data).unwrap().is_some() {
        out.extend_from_slice(&data);
    }
    out
}

#[test]
fn both_outputs_of_a_quiet_database() {
    for (bytes, pages) in [(512, 1), (512, 3000), (4096, 100), (65536, 9)] {
        let (_, db) = Db::sim(ps(bytes), pages);
        let stream = db.snapshot().into_database();
        assert_eq!(stream.len(), db.size.file_size(pages));
        assert!(read_all(stream).unwrap() == db.image.concat());
        for compression in [Compression::None, Compression::Lz4] {
            let ltx = read_all(db.snapshot().into_ltx(node(), NOW, compression).unwrap()).unwrap();
            assert!(pages_of(&ltx) == db.image.concat());
            let v = verify(&ltx[..]).unwrap();
            assert!(v.header.is_snapshot());
            assert_eq!((v.header.node_id, v.header.timestamp, v.header.commit), (node(), NOW, pages));
            assert_eq!(v.trailer.post_apply_pos(&v.header), db.input().pos);
            let (trailer, pushed) = db.snapshot().write_ltx(Vec::new(), node(), NOW, compression).unwrap();
            assert!(pushed == ltx && trailer == v.trailer);
        }
    }
}

#[test]
fn a_dropped_database_and_one_that_never_was() {
    let (_, db) = Db::sim(ps(4096), 0);
    let ltx = read_all(db.snapshot().into_ltx(node(), NOW, Compression::Lz4).unwrap()).unwrap();
    let v = verify(&ltx[..]).unwrap();
    assert_eq!((v.header.commit, v.trailer.post_apply), (0, Checksum::EMPTY));
    assert!(read_all(db.snapshot().into_database()).unwrap().is_empty());
    let input = SnapshotInput { pos: Pos::ZERO, ..db.input() };
    assert!(matches!(Snapshot::new(input), Err(SnapshotError::Nothing(_))));
    let input = SnapshotInput { pos: Pos::new(Txid::FIRST, Checksum::new(1)), ..db.input() };
    assert!(matches!(Snapshot::new(input), Err(SnapshotError::Inconsistent { .. })));
}

/// Every order of writes, truncations and reads that 400 seeds come up with.
#[test]
fn interleaved_with_a_writer() {
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let pages = rng.random_range(1..60);
        let (_, db) = Db::sim(ps(512), pages);
        let mut snapshot = db.snapshot();
        if seed % 2 == 0 {
            Arc::get_mut(&mut snapshot.cow).unwrap().set_memory(rng.random_range(0..5000));
        }
        let cow = Arc::clone(snapshot.copy_on_write());
        let (mut out, mut data) = (Vec::new(), Vec::new());
        let mut version = 0;
        loop {
            match rng.random_range(0..10) {
                0..6 => {
                    version += 1;
                    let n = rng.random_range(1..=pages + 10);
                    // Sometimes back to what it was, as after a rollback.
                    let v = if rng.random_range(0..4) == 0 { 0 } else { version };
                    db.overwrite(&cow, n, &content(db.size, n, v));
                }
                6 => db.truncate(&cow, rng.random_range(0..pages)),
                _ => {
                    if snapshot.next_page(&mut data).unwrap().is_none() {
                        break;
                    }
                    out.extend_from_slice(&data);
                }
            }
        }
        assert!(out == db.image.concat(), "seed {seed}");
        assert!(cow.is_done() && !cow.wants(page(1)));
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_thread_writes_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::new(Arc::new(OsDisk), dir.path(), ps(4096), 2000);
    for round in 0..6 {
        for (n, data) in (1..).zip(&db.image) {
            db.file.write_all_at(WRITE, data, db.size.offset(page(n))).unwrap();
        }
        let mut snapshot = db.snapshot();
        // In half of the rounds nearly everything goes to the file.
        Arc::get_mut(&mut snapshot.cow).unwrap().set_memory(if round < 3 { 100_000 } else { cow::MEMORY });
        let cow = Arc::clone(snapshot.copy_on_write());
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            let writer = s.spawn(|| {
                let mut rng = StdRng::seed_from_u64(round);
                let mut writes = 0u32;
                while !stop.load(Relaxed) {
                    let n = rng.random_range(1..=2000);
                    db.overwrite(&cow, n, &content(db.size, n, rng.random_range(1..u32::MAX)));
                    writes += 1;
                }
                writes
            });
            // Also when what follows panics: the scope waits for the writer.
            let _stop = Stop(&stop);
            let got = match round % 3 {
                0 => read_all(snapshot.into_database()).unwrap(),
                1 => pages_of(&read_all(snapshot.into_ltx(node(), NOW, Compression::Lz4).unwrap()).unwrap()),
                _ => {
                    let (mut out, mut data) = (Vec::new(), Vec::new());
                    while snapshot.next_page(&mut data).unwrap().is_some() {
                        out.extend_from_slice(&data);
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    out
                }
            };
            stop.store(true, Relaxed);
            assert!(writer.join().unwrap() > 0);
            assert!(got == db.image.concat(), "round {round}");
        });
    }
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0, "no file stays");
}

/// A WAL database: the newest pages are in the log only, and a checkpoint brings them into the file
/// while the snapshot runs.
#[test]
fn pages_from_the_log() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (disk, mut db) = Db::sim(ps(512), rng.random_range(1..40));
        let (log, _) = Log::open(Arc::new(disk), "/db/log", None).unwrap();
        let log = Arc::new(log);
        let mut floor = Pos::ZERO;
        let mut tip = Pos::ZERO;
        for t in 1..=rng.random_range(1..40u32) {
            // Grow, shrink, change; the file gets it only up to the floor.
            let old = db.image.len() as u32;
            let new = rng.random_range(1..50u32);
            let mut changed: Vec<u32> = (old + 1..=new).collect();
            changed.extend((0..3).map(|_| rng.random_range(1..=new)));
            if t == 1 {
                changed = (1..=new).collect();
            }
            changed.sort_unstable();
            changed.dedup();
            db.image.resize(new as usize, Vec::new());
            for n in &changed {
                db.image[*n as usize - 1] = content(db.size, *n, t);
            }
            let post = sums_of(db.size, &db.image).checksum();
            let header = Header::new(db.size, new, tip.next_txid(), tip.checksum());
            let compression = if t % 3 == 0 { Compression::Lz4 } else { Compression::None };
            let mut e = Encoder::new(Vec::new(), header, compression).unwrap();
            for n in &changed {
                e.page(page(*n), &db.image[*n as usize - 1]).unwrap();
            }
            let meta = RecordMeta {
                kind: RecordKind::Plain,
                min: tip.next_txid(),
                max: tip.next_txid(),
                pre: tip.checksum(),
                time: NOW,
                len: None,
            };
            let mut record = log.append(meta).unwrap();
            record.write_all(&e.finish(post).unwrap().1).unwrap();
            tip = record.finish(post).unwrap();
            if rng.random_range(0..6) == 0 {
                db.file.set_len(WRITE, db.size.file_size(new)).unwrap();
                db.file.write_all_at(WRITE, &db.image.concat(), 0).unwrap();
                floor = tip;
            }
        }
        let input = SnapshotInput {
            pos: tip,
            history: Box::new(LogHistory::new(Arc::clone(&log), floor, tip)),
            ..db.input()
        };
        let mut snapshot = Snapshot::new(input).unwrap();
        let cow = Arc::clone(snapshot.copy_on_write());
        let (mut out, mut data) = (Vec::new(), Vec::new());
        while snapshot.next_page(&mut data).unwrap().is_some() {
            out.extend_from_slice(&data);
            let n = rng.random_range(1..=db.image.len() as u32);
            let version =
                if rng.random() { content(db.size, n, 999) } else { db.image[n as usize - 1].clone() };
            db.overwrite(&cow, n, &version);
        }
        assert!(out == db.image.concat(), "seed {seed}");
    }
}

#[test]
fn damage_is_named() {
    let (disk, db) = Db::sim(ps(512), 20);
    disk.flip_bit("/db/database", 512 * 6 + 100, 3);
    let mut snapshot = db.snapshot();
    let mut data = Vec::new();
    for n in 1..=6 {
        assert_eq!(snapshot.next_page(&mut data).unwrap(), Some(page(n)));
    }
    match snapshot.next_page(&mut data) {
        Err(SnapshotError::Page { db, page, .. }) => assert_eq!((db.as_str(), page.get()), ("x.db", 7)),
        other => panic!("{other:?}"),
    }
    // Whoever reads the stream gets the error instead of an end.
    let mut stream = db.snapshot().into_database();
    let e = read_all(&mut stream).unwrap_err();
    assert!(e.to_string().contains("page 7"), "{e}");
    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
    let ltx = db.snapshot().into_ltx(node(), NOW, Compression::None).unwrap();
    assert!(read_all(ltx).is_err());
}

/// A page that only a rollback brings back is waited for, for a moment.
#[test]
fn a_page_may_come_back() {
    let (_, db) = Db::sim(ps(512), 3);
    db.file.write_all_at(WRITE, &content(db.size, 2, 7), 512).unwrap();
    std::thread::scope(|s| {
        let reader = s.spawn(|| read_all(db.snapshot().into_database()));
        std::thread::sleep(Duration::from_millis(5));
        db.file.write_all_at(WRITE, &db.image[1], 512).unwrap();
        assert!(reader.join().unwrap().unwrap() == db.image.concat());
    });
}

#[test]
fn abort_and_drop() {
    let (_, db) = Db::sim(ps(512), 20);
    let mut snapshot = db.snapshot();
    let cow = Arc::clone(snapshot.copy_on_write());
    let mut data = Vec::new();
    snapshot.next_page(&mut data).unwrap();
    assert!(!cow.wants(page(1)) && cow.wants(page(2)) && !cow.wants(page(21)));
    cow.abort("took too long");
    cow.abort("later reasons do not count");
    assert!(cow.is_done());
    match snapshot.next_page(&mut data) {
        Err(SnapshotError::Aborted { reason, .. }) => assert_eq!(reason, "took too long"),
        other => panic!("{other:?}"),
    }
    let snapshot = db.snapshot();
    let cow = Arc::clone(snapshot.copy_on_write());
    drop(snapshot);
    assert!(cow.is_done());
}

/// The disk is full: the snapshot ends, the writer never notices.
#[test]
fn a_page_that_cannot_be_saved_ends_the_snapshot() {
    let (disk, db) = Db::sim(ps(512), 20);
    let mut snapshot = db.snapshot();
    Arc::get_mut(&mut snapshot.cow).unwrap().set_memory(512);
    let cow = Arc::clone(snapshot.copy_on_write());
    db.overwrite(&cow, 5, &content(db.size, 5, 1));
    disk.arm(At::NthOf(Op::new("snapshot.spool"), 2), Fault::Error(libc::ENOSPC));
    db.overwrite(&cow, 6, &content(db.size, 6, 1));
    let e = snapshot.next_page(&mut Vec::new()).unwrap_err();
    assert!(matches!(&e, SnapshotError::Aborted { reason, .. } if reason.contains("overwritten")), "{e}");
}

/// A file that makes its pages up, so that it can be bigger than a gigabyte.
struct Huge(PageSize);

impl DiskFile for Huge {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        for (i, chunk) in buf.chunks_mut(self.0.bytes()).enumerate() {
            chunk.fill(0);
            let n = offset / u64::from(self.0.get()) + i as u64 + 1;
            chunk[..8].copy_from_slice(&n.to_be_bytes());
        }
        Ok(buf.len())
    }
    fn write_all_at(&self, _: Op, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn set_len(&self, _: Op, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync_data(&self, _: Op) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self, _: Op) -> io::Result<()> {
        Ok(())
    }
    fn metadata(&self) -> io::Result<FileMeta> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn std_file(&self) -> Option<&File> {
        None
    }
}

/// The lock page: no page of the LTX file, zeros in the SQLite file.
#[test]
fn beyond_the_lock_page() {
    let size = PageSize::MAX;
    let lock = size.lock_page();
    let (_, small) = Db::sim(ps(512), 1);
    for count in [lock.get(), lock.get() + 2] {
        let file = Huge(size);
        let mut data = vec![0; size.bytes()];
        let changes: Vec<_> = (1..=count)
            .map(page)
            .map(|p| {
                file.read_at(&mut data, size.offset(p)).unwrap();
                (p, page_checksum(p, &data))
            })
            .collect();
        let mut sums = PageSums::new(size);
        let _ = sums.set_all(&changes, count);
        let input = SnapshotInput { pos: pos(2, &sums), sums, file: Arc::new(file), ..small.input() };
        let mut snapshot = Snapshot::new(input).unwrap();
        // The pages before it are passed over: only what is around it matters here.
        snapshot.last = lock.get() - 3;
        let mut stream = snapshot.into_database();
        stream.last = lock.get() - 3;
        let out = read_all(&mut stream).unwrap();
        let numbers: Vec<u64> =
            out.chunks(size.bytes()).map(|p| u64::from_be_bytes(p[..8].try_into().unwrap())).collect();
        let l = u64::from(lock.get());
        assert_eq!(numbers, [l - 2, l - 1, 0, l + 1, l + 2][..(count - lock.get() + 3) as usize]);
    }
}
