//! A small primary for the tests: makes transactions on a simulated disk in the order that the daemon
//! and SQLite do them, and knows what the database must look like at each position.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use litefs_core::page_sums::PageSums;
use litefs_ltx::{Compression, Encoder, Header, WalSpan};
use litefs_sqlite::journal::{JOURNAL_MAGIC, record_checksum};
use litefs_sqlite::wal::{FrameHeader, WalHeader, frame_offset};
use litefs_sqlite::wal_checksum::ByteOrder;
use litefs_types::{DbName, NodeId, PageNo, PageSize, Pos, Timestamp};

use super::{OnAnomaly, Recovered, page_sum};
use crate::disk::{Disk, DiskFile, Op, OpenHow};
use crate::error::Result;
use crate::layout::{DataLayout, DbLayout};
use crate::log::{JournalId, Log, LogError, RecordKind, RecordMeta};
use crate::sim_disk::SimDisk;
use crate::sums_file::FileId;

pub(super) const PS: u32 = 512;
const OP: Op = Op::new("sqlite.write");
const FSYNC: Op = Op::new("sqlite.fsync");
const UNLINK: Op = Op::new("sqlite.unlink");

pub(super) fn ps() -> PageSize {
    PageSize::new(PS).unwrap()
}

pub(super) fn name() -> DbName {
    "db".parse().unwrap()
}

pub(super) fn layout() -> DataLayout {
    DataLayout::new("/data")
}

pub(super) fn files() -> DbLayout {
    layout().db(&name())
}

pub(super) fn now() -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000)
}

/// A data directory without databases.
pub(super) fn disk() -> SimDisk {
    let d = SimDisk::new();
    d.put("/data/dbs/.keep", b"");
    d.put("/data/clusterid", b"");
    d
}

pub(super) fn recover(disk: &SimDisk, on_anomaly: OnAnomaly) -> Result<Recovered> {
    let d: Arc<dyn Disk> = Arc::new(disk.clone());
    super::open(&d, &layout(), &name(), on_anomaly, NodeId::new(7), now())
}

/// The pages of a database.
pub(super) type Image = Vec<Vec<u8>>;

/// Page `no` in version `v`; page 1 starts with a valid database header.
pub(super) fn page(no: u32, v: u32, pages: u32, wal: bool) -> Vec<u8> {
    let mut b: Vec<u8> = (0..PS).map(|i| (no * 7 + v * 13 + i / 5) as u8).collect();
    if no == 1 {
        b[..100].fill(0);
        b[..16].copy_from_slice(b"SQLite format 3\0");
        b[16..18].copy_from_slice(&(PS as u16).to_be_bytes());
        b[18] = if wal { 2 } else { 1 };
        b[19] = b[18];
        b[21..24].copy_from_slice(&[64, 32, 32]);
        b[24..28].copy_from_slice(&v.to_be_bytes());
        b[28..32].copy_from_slice(&pages.to_be_bytes());
        b[44..48].copy_from_slice(&4u32.to_be_bytes());
        b[56..60].copy_from_slice(&1u32.to_be_bytes());
        b[92..96].copy_from_slice(&v.to_be_bytes());
    }
    b
}

pub(super) fn sums_of(image: &Image) -> PageSums {
    let mut s = PageSums::new(ps());
    let all: Vec<_> = (1..).zip(image).map(|(n, p)| (PageNo::new(n).unwrap(), p)).collect();
    let all: Vec<_> = all.iter().map(|(n, p)| (*n, page_sum(ps(), *n, p))).collect();
    let _ = s.set_all(&all, image.len() as u32);
    s
}

/// The primary.
pub(super) struct Primary {
    pub(super) disk: SimDisk,
    pub(super) r: Recovered,
    pub(super) image: Image,
    pub(super) wal: Option<WalState>,
    version: u32,
    /// Positions with what the database is there.
    pub(super) history: Vec<(Pos, Image)>,
    db: Arc<dyn DiskFile>,
}

pub(super) struct WalState {
    header: WalHeader,
    chain: [u32; 2],
    frame: u32,
    file: Arc<dyn DiskFile>,
    /// Newest version of each page in it.
    pages: Vec<(u32, Vec<u8>)>,
}

fn io(e: std::io::Error) -> LogError {
    LogError::Io { op: OP, source: e }
}

pub(super) type R<T> = std::result::Result<T, crate::error::StoreError>;

impl Primary {
    pub(super) fn new(disk: &SimDisk) -> R<Self> {
        let r = recover(disk, OnAnomaly::Primary)?;
        let db = disk.open(OP, &files().database(), OpenHow::CREATE).map_err(io)?;
        let image = image_of(disk, r.page_count);
        Ok(Self {
            disk: disk.clone(),
            history: vec![(r.pos, image.clone())],
            r,
            image,
            wal: None,
            version: 1,
            db,
        })
    }

    /// The next state: `pages` pages, these changed (page 1 always is).
    pub(super) fn next(&mut self, pages: u32, changed: &[u32]) -> (Image, Vec<u32>) {
        self.version += 1;
        let mut image = self.image.clone();
        let old = image.len() as u32;
        image.resize(pages as usize, Vec::new());
        let mut list: Vec<u32> = changed.iter().copied().chain([1]).chain(old + 1..=pages).collect();
        list.sort_unstable();
        list.dedup();
        list.retain(|n| *n <= pages);
        for n in &list {
            image[*n as usize - 1] = page(*n, self.version, pages, self.wal.is_some());
        }
        (image, list)
    }

    /// Appends a transaction to the log, as the capture does.
    pub(super) fn log_tx(
        &mut self,
        kind: RecordKind,
        image: &Image,
        list: &[u32],
        span: Option<WalSpan>,
    ) -> R<Pos> {
        let pre = self.r.log.tip();
        let pos = Pos::new(pre.next_txid(), sums_of(image).checksum());
        let header = Header {
            timestamp: now(),
            wal: span,
            ..Header::new(ps(), image.len() as u32, pre.next_txid(), pre.checksum())
        };
        let a = self.r.log.append(RecordMeta {
            kind,
            min: pre.next_txid(),
            max: pre.next_txid(),
            pre: pre.checksum(),
            time: now(),
            len: None,
        })?;
        let mut enc = Encoder::new(a, header, Compression::None).unwrap();
        for n in list {
            enc.page(PageNo::new(*n).unwrap(), &image[*n as usize - 1]).unwrap();
        }
        let (_, a) = enc.finish(pos.checksum()).unwrap();
        a.finish(pos.checksum())?;
        self.history.push((pos, image.clone()));
        Ok(pos)
    }

    /// SQLite's journal for a change of these pages, synced.
    pub(super) fn write_journal(&self, list: &[u32], super_journal: Option<&str>) -> R<JournalId> {
        let bytes = journal_bytes(&self.image, list, self.version, super_journal);
        let path = files().journal();
        let f = self.disk.open(OP, &path, OpenHow::REPLACE).map_err(io)?;
        f.write_all_at(OP, &bytes, 0).map_err(io)?;
        f.sync_data(FSYNC).map_err(io)?;
        self.disk.sync_dir(FSYNC, files().dir()).map_err(io)?;
        Ok(JournalId::of(&bytes).unwrap())
    }

    pub(super) fn write_pages(&self, image: &Image, list: &[u32]) -> R<()> {
        for n in list {
            let at = ps().offset(PageNo::new(*n).unwrap());
            self.db.write_all_at(OP, &image[*n as usize - 1], at).map_err(io)?;
        }
        Ok(())
    }

    pub(super) fn fsync_db(&self) -> R<()> {
        self.db.sync_data(FSYNC).map_err(io)?;
        Ok(())
    }

    pub(super) fn cut_db(&self, pages: usize) -> R<()> {
        self.db.set_len(OP, ps().file_size(pages as u32)).map_err(io)?;
        Ok(())
    }

    pub(super) fn unlink(&self, path: &Path) -> R<()> {
        self.disk.unlink(UNLINK, path).map_err(io)?;
        Ok(())
    }

    /// A whole commit in DELETE mode with synchronous=FULL, replicas included (rule R4).
    pub(super) fn rollback_commit(&mut self, pages: u32, changed: &[u32]) -> R<Pos> {
        let (image, list) = self.next(pages, changed);
        let touched: Vec<u32> = list.iter().copied().filter(|n| *n as usize <= self.image.len()).collect();
        let id = self.write_journal(&touched, None)?;
        self.write_pages(&image, &list)?;
        let pos = self.log_tx(RecordKind::Rollback(id), &image, &list, None)?;
        self.r.log.sync()?;
        self.fsync_db()?;
        self.unlink(&files().journal())?;
        self.r.log.mark_committed(pos.txid().unwrap())?;
        if image.len() < self.image.len() {
            self.cut_db(image.len())?;
        }
        self.image = image;
        self.r.log.sync()?;
        Ok(pos)
    }

    /// Starts a wal, or restarts it.
    pub(super) fn start_wal(&mut self) -> R<()> {
        let path = files().wal();
        let salt = self.wal.as_ref().map_or([10, 20], |w| [w.header.salt[0] + 1, w.header.salt[1] * 3]);
        let header = WalHeader::new(ps(), ByteOrder::Little, 1, salt);
        let file = self.disk.open(OP, &path, OpenHow::CREATE).map_err(io)?;
        file.write_all_at(OP, &header.encode(), 0).map_err(io)?;
        file.sync_data(FSYNC).map_err(io)?;
        self.disk.sync_dir(FSYNC, files().dir()).map_err(io)?;
        let chain = header.header_checksum;
        self.wal = Some(WalState { header, chain, frame: 0, file, pages: Vec::new() });
        Ok(())
    }

    /// Frames of a transaction; returns its span.
    pub(super) fn write_frames(&mut self, image: &Image, list: &[u32]) -> R<WalSpan> {
        // Committed as soon as its frames are whole, logged or not.
        let pos = Pos::new(self.tip().next_txid(), sums_of(image).checksum());
        self.history.push((pos, image.clone()));
        let w = self.wal.as_mut().unwrap();
        let first = w.frame + 1;
        for (i, n) in list.iter().enumerate() {
            let data = &image[*n as usize - 1];
            let commit = if i + 1 == list.len() { image.len() as u32 } else { 0 };
            let h = FrameHeader::chained(&w.header, w.chain, *n, commit, data);
            w.chain = h.checksum;
            w.frame += 1;
            let mut b = h.encode().to_vec();
            b.extend_from_slice(data);
            w.file.write_all_at(OP, &b, frame_offset(w.frame, ps())).map_err(io)?;
            w.pages.push((*n, data.clone()));
        }
        let offset = frame_offset(first, ps());
        Ok(WalSpan { offset, size: frame_offset(w.frame + 1, ps()) - offset, salt: w.header.salt })
    }

    pub(super) fn fsync_wal(&self) -> R<()> {
        self.wal.as_ref().unwrap().file.sync_data(FSYNC).map_err(io)?;
        Ok(())
    }

    /// A commit in WAL mode; with `full` SQLite syncs the wal.
    pub(super) fn wal_commit(&mut self, pages: u32, changed: &[u32], full: bool) -> R<Pos> {
        let (image, list) = self.next(pages, changed);
        let span = self.write_frames(&image, &list)?;
        let pos = self.log_tx(RecordKind::Wal, &image, &list, Some(span))?;
        if full {
            self.fsync_wal()?;
        }
        self.image = image;
        Ok(pos)
    }

    /// The writer of the last frames is gone; the next one starts `n` frames back.
    pub(super) fn drop_frames(&mut self, n: u32) {
        let w = self.wal.as_mut().unwrap();
        w.frame -= n;
        w.pages.truncate(w.pages.len() - n as usize);
        let mut h = [0; 24];
        w.file.read_exact_at(&mut h, frame_offset(w.frame, ps())).unwrap();
        w.chain = FrameHeader::parse(&h).checksum;
    }

    /// A checkpoint of the whole wal by SQLite (rules W6, C3), and a stamp after it.
    pub(super) fn checkpoint(&mut self) -> R<()> {
        self.r.log.sync()?;
        let w = self.wal.as_ref().unwrap();
        w.file.sync_data(FSYNC).map_err(io)?;
        for (n, data) in &w.pages {
            if *n as usize <= self.image.len() {
                self.db.write_all_at(OP, data, ps().offset(PageNo::new(*n).unwrap())).map_err(io)?;
            }
        }
        self.cut_db(self.image.len())?;
        self.fsync_db()?;
        self.wal.as_mut().unwrap().pages.clear();
        self.stamp(None)
    }

    pub(super) fn stamp(&mut self, clean: Option<FileId>) -> R<()> {
        let pos = self.r.log.sync()?;
        let mut sums = sums_of(&self.image);
        sums.mark_all_dirty();
        let update = self.r.sums_file.collect(&mut sums);
        self.r.sums_file.write(update, pos, pos, clean).map_err(io)?;
        Ok(())
    }

    /// Stops cleanly, the wal checkpointed and removed.
    pub(super) fn stop(mut self) -> R<()> {
        if self.wal.is_some() {
            self.checkpoint()?;
            self.unlink(&files().wal())?;
        }
        self.fsync_db()?;
        self.r.log.close()?;
        let id = FileId::from(self.db.metadata().map_err(io)?);
        self.stamp(Some(id))
    }

    pub(super) fn tip(&self) -> Pos {
        self.r.log.tip()
    }
}

/// A journal with the old content of these pages.
pub(super) fn journal_bytes(image: &Image, list: &[u32], nonce: u32, super_journal: Option<&str>) -> Vec<u8> {
    let mut b = vec![0u8; 512];
    b[..8].copy_from_slice(&JOURNAL_MAGIC);
    b[8..12].copy_from_slice(&(list.len() as u32).to_be_bytes());
    b[12..16].copy_from_slice(&nonce.to_be_bytes());
    b[16..20].copy_from_slice(&(image.len() as u32).to_be_bytes());
    b[20..24].copy_from_slice(&512u32.to_be_bytes());
    b[24..28].copy_from_slice(&PS.to_be_bytes());
    for n in list {
        let data = &image[*n as usize - 1];
        b.extend_from_slice(&n.to_be_bytes());
        b.extend_from_slice(data);
        b.extend_from_slice(&record_checksum(nonce, data).to_be_bytes());
    }
    if let Some(name) = super_journal {
        b.extend_from_slice(&ps().lock_page().get().to_be_bytes());
        b.extend_from_slice(name.as_bytes());
        b.extend_from_slice(&(name.len() as u32).to_be_bytes());
        b.extend_from_slice(&name.bytes().map(u32::from).sum::<u32>().to_be_bytes());
        b.extend_from_slice(&JOURNAL_MAGIC);
    }
    b
}

pub(super) fn image_of(disk: &SimDisk, pages: u32) -> Image {
    let b = disk.content(files().database()).unwrap_or_default();
    assert!(b.len() >= (pages * PS) as usize);
    b.chunks(PS as usize).take(pages as usize).map(<[u8]>::to_vec).collect()
}

/// What must hold after any recovery.
pub(super) fn check_sound(disk: &SimDisk, r: &Recovered, what: &str) {
    for gone in [files().journal(), files().wal(), files().shm(), files().snapshot()] {
        assert!(disk.content(&gone).is_none(), "{what}: {} is left", gone.display());
    }
    assert!(!disk.files().iter().any(|f| f.starts_with(files().spool())), "{what}: spool");
    let db = disk.content(files().database());
    assert_eq!(db.map_or(0, |b| b.len()), (r.page_count * PS) as usize, "{what}: file size");
    let image = image_of(disk, r.page_count);
    assert_eq!(sums_of(&image).checksum(), r.sums.checksum(), "{what}: sums");
    for n in 1..=r.page_count {
        let no = PageNo::new(n).unwrap();
        assert_eq!(r.sums.get(no), page_sum(ps(), no, &image[n as usize - 1]), "{what}: sum of page {n}");
    }
    assert_eq!(r.pos, r.log.tip(), "{what}");
    assert_eq!(r.log.durable(), r.log.tip(), "{what}");
    if !r.pos.is_zero() && r.page_count > 0 {
        assert_eq!(r.sums.checksum(), r.pos.checksum(), "{what}: position");
    }
    check_log(&r.log, what);
}

fn check_log(log: &Log, what: &str) {
    let Some(first) = log.first() else { return };
    let mut at = first;
    let mut pre = log.base();
    while Some(at) <= log.tip().txid() {
        let e = log.get(at).unwrap().unwrap_or_else(|| panic!("{what}: {at} is missing"));
        assert_eq!(e.pre(), pre, "{what}: gap before {at}");
        let v = litefs_ltx::verify(std::io::BufReader::new(e.reader())).unwrap();
        assert_eq!(v.trailer.post_apply, e.post().checksum(), "{what}");
        pre = e.post();
        at = e.max_txid().next();
    }
    assert_eq!(pre, log.tip(), "{what}");
}

/// A snapshot file of an image.
pub(super) fn snapshot_bytes(image: &Image, txid: u64) -> Vec<u8> {
    let mut header =
        Header::new(ps(), image.len() as u32, litefs_types::Txid::FIRST, litefs_types::Checksum::NONE);
    header.max_txid = litefs_types::Txid::new(txid).unwrap();
    let mut enc = Encoder::new(Vec::new(), header, Compression::Lz4).unwrap();
    for (n, p) in (1..).zip(image) {
        enc.page(PageNo::new(n).unwrap(), p).unwrap();
    }
    let sum = enc.pages_checksum();
    let (_, mut out) = enc.finish(sum).unwrap();
    out.flush().unwrap();
    out
}
