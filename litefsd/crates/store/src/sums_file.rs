//! The file `sums`: the checksum of every page, so that opening a database does not read it.
//!
//! ```text
//! 0     stamp slot A      each: magic, generation, sums position, db position, page size, page count,
//! 2048  stamp slot B            flags, the database file's size, mtime and inode, CRC (little-endian)
//! 4096  u64 per page, page 1 first
//! ```
//!
//! A stamp says: *with the log's transactions after `sums position`* the array is that of the log's end,
//! and *with those after `db position`* the database file is. Retention keeps the log from the smaller
//! of the two on ([`SumsFile::floor`]).
//!
//! Why blocks may be overwritten in place although the old stamp still holds until the new one is
//! durable: between two stamps the array goes from its state at P to its state at Q. A crash in between
//! leaves each entry as it was at P or as it is at Q. Where these differ, a transaction in (P, Q] changed
//! that page, so its record is in the log (P is the floor until the next stamp) and recovery sets the
//! entry from it. Where they do not differ, it does not matter which is there. The same holds for a torn
//! block: sectors hold whole entries. So: blocks → fdatasync → stamp → fdatasync; the two slots take
//! turns, so a torn stamp leaves the other one.
//!
//! The caller stamps only what is published: the array must not hold a prepared transaction, which
//! could be dropped, leaving entries that no record explains.
//!
//! Owns the file. Does not know what a checksum is for. Tests: below (crash at every operation).

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use litefs_core::page_sums::{BLOCK_PAGES, PageSums};
use litefs_types::{PageSize, Pos, Txid};

use crate::disk::{Disk, DiskFile, FileMeta, Op, OpenHow};
use crate::log::record::crc;

const OPEN: Op = Op::new("sums.open");
const BLOCKS: Op = Op::new("sums.blocks");
const BLOCKS_SYNC: Op = Op::new("sums.blocks-sync");
const STAMP: Op = Op::new("sums.stamp");
const STAMP_SYNC: Op = Op::new("sums.stamp-sync");
const DIR_SYNC: Op = Op::new("sums.sync-dir");

const MAGIC: u64 = 0x3130_534d_5553_464c; // "LFSUMS01"
/// Bytes before the array.
const HEAD: u64 = 4096;
/// Distance of the two slots: sectors of their own, whatever a sector is.
const SLOT: u64 = 2048;
const SLOT_LEN: usize = 104;
const CLEAN: u64 = 1;
/// Bytes of a block of the array.
const BLOCK: u64 = BLOCK_PAGES as u64 * 8;

/// What identifies the content of the database file without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    /// Size in bytes.
    pub len: u64,
    /// Last change, nanoseconds since 1970.
    pub mtime: u64,
    /// Inode.
    pub ino: u64,
}

impl From<FileMeta> for FileId {
    fn from(m: FileMeta) -> Self {
        Self { len: m.len, mtime: nanos(m.mtime), ino: m.ino }
    }
}

fn nanos(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// What a stamp says; see the module documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The array plus the log after this is right.
    pub sums_pos: Pos,
    /// The database file plus the log after this is complete, and up to here it is durable.
    pub db_pos: Pos,
    /// `None`: a database that never had a page.
    pub page_size: Option<PageSize>,
    /// Pages at `sums_pos`.
    pub page_count: u32,
    /// After a clean stop: the database file as it was then. It needs nothing from the log.
    pub clean: Option<FileId>,
}

impl Stamp {
    /// The transaction up to which the log is not needed.
    pub fn floor(&self) -> Option<Txid> {
        self.sums_pos.txid().min(self.db_pos.txid())
    }

    fn encode(&self, generation: u64) -> [u8; SLOT_LEN] {
        let id = self.clean.unwrap_or(FileId { len: 0, mtime: 0, ino: 0 });
        let words = [
            MAGIC,
            generation,
            self.sums_pos.txid_raw(),
            self.sums_pos.checksum().get(),
            self.db_pos.txid_raw(),
            self.db_pos.checksum().get(),
            u64::from(self.page_size.map_or(0, PageSize::get)),
            u64::from(self.page_count),
            if self.clean.is_some() { CLEAN } else { 0 },
            id.len,
            id.mtime,
            id.ino,
        ];
        let mut b = [0; SLOT_LEN];
        for (i, w) in words.iter().enumerate() {
            b[i * 8..i * 8 + 8].copy_from_slice(&w.to_le_bytes());
        }
        let sum = crc(&b[..SLOT_LEN - 8]);
        b[SLOT_LEN - 8..].copy_from_slice(&sum.to_le_bytes());
        b
    }

    fn parse(b: &[u8]) -> Option<(u64, Self)> {
        let b = b.get(..SLOT_LEN)?;
        let w = |i: usize| b[i * 8..i * 8 + 8].try_into().map_or(0, u64::from_le_bytes);
        if w(0) != MAGIC || w(12) != crc(&b[..SLOT_LEN - 8]) {
            return None;
        }
        let page_size = match u32::try_from(w(6)).ok()? {
            0 => None,
            n => Some(PageSize::new(n).ok()?),
        };
        let stamp = Self {
            sums_pos: Pos::from_raw(w(2), w(3))?,
            db_pos: Pos::from_raw(w(4), w(5))?,
            page_size,
            page_count: u32::try_from(w(7)).ok()?,
            clean: (w(8) & CLEAN != 0).then_some(FileId { len: w(9), mtime: w(10), ino: w(11) }),
        };
        Some((w(1), stamp))
    }
}

/// The open file and its newest stamp.
pub struct SumsFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    generation: u64,
    stamp: Option<Stamp>,
    /// Blocks that were collected and not yet written, or not successfully: they go with the next update.
    owed: BTreeSet<usize>,
    /// The array on disk is of no use: all of it must go with the next update.
    all: bool,
    poisoned: bool,
}

/// The changed parts of the array, copied, to be written without the lock on the array.
#[must_use = "what was collected has to be written"]
pub struct Update {
    blocks: Vec<(usize, Vec<u8>)>,
    page_size: PageSize,
    page_count: u32,
}

impl SumsFile {
    /// Opens the file; a missing or damaged one has no stamp.
    pub fn open(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let mut me = Self {
            disk,
            path,
            file: None,
            generation: 0,
            stamp: None,
            owed: BTreeSet::new(),
            all: true,
            poisoned: false,
        };
        let file = match me.disk.open(OPEN, &me.path, OpenHow::READ_WRITE) {
            Ok(f) => f,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(me),
            Err(e) => return Err(e),
        };
        let mut head = [0; HEAD as usize];
        let n = file.read_at(&mut head, 0)?;
        me.file = Some(file);
        for at in [0, SLOT as usize] {
            if let Some((generation, stamp)) = head[..n].get(at..).and_then(Stamp::parse)
                && (generation > me.generation || me.stamp.is_none())
            {
                me.generation = generation;
                me.stamp = Some(stamp);
            }
        }
        me.all = me.stamp.is_none();
        Ok(me)
    }

    /// The newest stamp that is durable.
    pub fn stamp(&self) -> Option<&Stamp> {
        self.stamp.as_ref()
    }

    /// The transaction up to which the log is not needed for recovery; `None`: all of it is.
    pub fn floor(&self) -> Option<Txid> {
        self.stamp.as_ref().and_then(Stamp::floor)
    }

    /// Reads the array of the stamp. `None` if there is no stamp, or the array cannot be right. It is
    /// right only with the log's transactions after the stamp's position.
    pub fn load(&self) -> io::Result<Option<PageSums>> {
        let (Some(stamp), Some(file)) = (&self.stamp, &self.file) else { return Ok(None) };
        let Some(page_size) = stamp.page_size else { return Ok(None) };
        let want = stamp.page_count as usize * 8;
        // Not sized by the stamp alone: the file must be that long. It may be shorter only if a newer
        // array was being written, whose transactions cut the database.
        let have = file.len()?.saturating_sub(HEAD).min(want as u64) as usize;
        let mut raw = vec![0; have];
        let n = file.read_at(&mut raw, HEAD)?;
        let mut sums: Vec<u64> =
            raw[..n].chunks_exact(8).map(|c| c.try_into().map_or(0, u64::from_le_bytes)).collect();
        if u64::from(stamp.page_count) > MAX_PAGES {
            return Ok(None);
        }
        sums.resize(stamp.page_count as usize, 0);
        Ok(PageSums::from_stored(page_size, sums))
    }

    /// There is no stamp any more, durably: the database file is not what it says, and is about to be made
    /// right. The array itself stays until the next update.
    ///
    /// The older slot goes first: alone, it would count.
    pub fn withdraw(&mut self) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.stamp.is_some()) else { return Ok(()) };
        if self.poisoned {
            return Err(io::Error::other("an earlier sync of the page sums failed"));
        }
        for generation in [self.generation + 1, self.generation] {
            file.write_all_at(STAMP, &[0; SLOT_LEN], generation % 2 * SLOT)?;
            file.sync_data(STAMP_SYNC).inspect_err(|_| self.poisoned = true)?;
        }
        self.stamp = None;
        self.all = true;
        Ok(())
    }

    /// Copies what changed since the last update. The array must be at a published position.
    pub fn collect(&mut self, sums: &mut PageSums) -> Update {
        let other_size = self.stamp.as_ref().is_some_and(|s| s.page_size != Some(sums.page_size()));
        if self.all || other_size {
            self.all = true;
            sums.mark_all_dirty();
        }
        let mut blocks: BTreeSet<usize> = sums.take_dirty_blocks().into_iter().collect();
        let end = sums.block_count();
        blocks.extend(self.owed.iter().copied().filter(|b| *b < end));
        // Until they are written, they are owed: the array has forgotten that they changed.
        self.owed.extend(&blocks);
        let blocks = blocks
            .into_iter()
            .map(|b| (b, sums.block(b).iter().flat_map(|s| s.to_le_bytes()).collect()))
            .collect();
        Update { blocks, page_size: sums.page_size(), page_count: sums.page_count() }
    }

    /// Writes an update and then the stamp for it; durable when it returns. `sums_pos` is the position at
    /// which it was collected; the log must be durable up to there, and the database file up to `db_pos`.
    ///
    /// After an error the last stamp still holds. After a failed sync the file is not written any more.
    pub fn write(
        &mut self,
        update: Update,
        sums_pos: Pos,
        db_pos: Pos,
        clean: Option<FileId>,
    ) -> io::Result<()> {
        let Update { blocks, page_size, page_count } = update;
        let nothing = page_count == 0 && sums_pos.is_zero();
        let stamp = Stamp { sums_pos, db_pos, page_size: (!nothing).then_some(page_size), page_count, clean };
        if self.poisoned {
            return Err(io::Error::other("an earlier sync of the page sums failed"));
        }
        if blocks.is_empty() && self.stamp == Some(stamp) {
            return Ok(());
        }
        let new = self.file.is_none();
        let file = match &self.file {
            Some(f) => Arc::clone(f),
            None => self.disk.open(OPEN, &self.path, OpenHow::CREATE.with_mode(0o600))?,
        };
        self.file = Some(Arc::clone(&file));
        let none = blocks.is_empty();
        for (block, bytes) in blocks {
            file.write_all_at(BLOCKS, &bytes, HEAD + block as u64 * BLOCK)?;
        }
        let end = HEAD + u64::from(page_count) * 8;
        let resize = file.len()? != end;
        if resize {
            file.set_len(BLOCKS, end)?;
        }
        if resize || !none {
            file.sync_data(BLOCKS_SYNC).inspect_err(|_| self.poisoned = true)?;
        }
        let generation = self.generation + 1;
        file.write_all_at(STAMP, &stamp.encode(generation), generation % 2 * SLOT)?;
        file.sync_data(STAMP_SYNC).inspect_err(|_| self.poisoned = true)?;
        if new && let Some(dir) = self.path.parent() {
            self.disk.sync_dir(DIR_SYNC, dir).inspect_err(|_| self.poisoned = true)?;
        }
        self.generation = generation;
        self.stamp = Some(stamp);
        self.owed.clear();
        self.all = false;
        Ok(())
    }
}

/// Most pages that SQLite allows a database (limits.html, maximum number of pages).
const MAX_PAGES: u64 = 4_294_967_294;

#[cfg(test)]
mod tests {
    use litefs_types::{Checksum, PageNo};

    use super::*;
    use crate::sim_disk::{At, Crash, Fault, SimDisk};

    const PATH: &str = "/db/sums";

    fn ps() -> PageSize {
        PageSize::new(512).unwrap()
    }

    fn pos(n: u64, sums: &PageSums) -> Pos {
        Txid::new(n).map_or(Pos::ZERO, |t| Pos::new(t, sums.checksum()))
    }

    fn open(disk: &SimDisk) -> SumsFile {
        SumsFile::open(Arc::new(disk.clone()), PATH).unwrap()
    }

    /// Transaction `n`: which pages it gives which sums, and the size after it. Grows and shrinks over
    /// block borders.
    fn tx(n: u64) -> (Vec<(PageNo, Checksum)>, u32) {
        let old = if n == 1 { 0 } else { tx_len(n - 1) };
        let new = tx_len(n);
        let touched = [1, 2, n as u32 * 100 % 1500 + 1, 700, 513].into_iter().filter(|p| *p <= new);
        let mut pages: Vec<u32> = touched.chain(old + 1..=new).collect();
        pages.sort_unstable();
        pages.dedup();
        let sum = |p: u32| Checksum::new(n * 1_000_003 + u64::from(p) * 977);
        (pages.into_iter().map(|p| (PageNo::new(p).unwrap(), sum(p))).collect(), new)
    }

    fn tx_len(n: u64) -> u32 {
        [600, 1400, 300, 1100, 1100, 512, 513][n as usize % 7]
    }

    #[test]
    fn blocks_of_a_failed_update_go_with_the_next_one() {
        let disk = SimDisk::new();
        disk.put("/db/database", b"");
        let mut sums = PageSums::new(ps());
        let mut f = open(&disk);
        for n in 1..=6 {
            let (changes, pages) = tx(n);
            let _ = sums.set_all(&changes, pages);
            disk.arm(At::Nth(0), Fault::Error(libc::ENOSPC));
            let update = f.collect(&mut sums);
            assert!(f.write(update, pos(n, &sums), Pos::ZERO, None).is_err());
            // Collected and then not even tried.
            drop(f.collect(&mut sums));
            if n % 2 == 0 {
                let update = f.collect(&mut sums);
                f.write(update, pos(n, &sums), pos(1, &sums), None).unwrap();
                let again = open(&disk.crash(Crash::KeepAll));
                assert_eq!(again.load().unwrap().unwrap().checksum(), sums.checksum());
                assert_eq!(again.floor(), Txid::new(1));
            }
        }
        let id = FileId { len: 1, mtime: 2, ino: 3 };
        let update = f.collect(&mut sums);
        f.write(update, pos(6, &sums), pos(6, &sums), Some(id)).unwrap();
        assert_eq!(open(&disk).stamp().unwrap().clean, Some(id));
        // A failed sync is not tried again.
        disk.arm(At::NthOf(STAMP_SYNC, 0), Fault::Error(libc::EIO));
        for _ in 0..2 {
            let update = f.collect(&mut sums);
            assert!(f.write(update, pos(6, &sums), pos(6, &sums), None).is_err());
        }
    }

    /// The claim of the module's documentation: array as found + transactions since its stamp = right.
    #[test]
    fn a_crash_at_any_operation_leaves_an_array_that_the_log_completes() {
        let run = |disk: &SimDisk, done: &mut u64| -> io::Result<()> {
            let mut f = SumsFile::open(Arc::new(disk.clone()), PATH)?;
            let mut sums = PageSums::new(ps());
            for n in 1..=8 {
                let (changes, pages) = tx(n);
                let _ = sums.set_all(&changes, pages);
                *done = n;
                if n != 4 {
                    let update = f.collect(&mut sums);
                    f.write(update, pos(n, &sums), pos(n, &sums), None)?;
                }
            }
            Ok(())
        };
        let fresh = || {
            let disk = SimDisk::new();
            disk.put("/db/database", b"");
            disk
        };
        let whole = fresh();
        run(&whole, &mut 0).unwrap();
        for i in 0..whole.trace().len() {
            for fault in [Fault::Stop, Fault::TornStop] {
                let disk = fresh();
                disk.arm(At::Nth(i), fault);
                let mut done = 0;
                assert!(run(&disk, &mut done).is_err());
                let mut want = PageSums::new(ps());
                for n in 1..=done {
                    let (changes, pages) = tx(n);
                    let _ = want.set_all(&changes, pages);
                }
                let seeds = (0..6).map(|s| Crash::Random(i as u64 * 7 + s));
                for crash in [Crash::KeepAll, Crash::LoseAll].into_iter().chain(seeds) {
                    let f = open(&disk.crash(crash));
                    let from = f.stamp().map_or(0, |s| s.sums_pos.txid_raw());
                    assert!(from <= done);
                    let mut sums = f.load().unwrap().unwrap_or_else(|| PageSums::new(ps()));
                    for n in from + 1..=done {
                        let (changes, pages) = tx(n);
                        let _ = sums.set_all(&changes, pages);
                    }
                    assert_eq!(sums.checksum(), want.checksum(), "op {i} {fault:?} {crash:?} from {from}");
                    assert!((0..want.block_count()).all(|b| sums.block(b) == want.block(b)));
                }
            }
        }
    }

    #[test]
    fn damaged_stamps_are_not_believed() {
        let disk = SimDisk::new();
        disk.put("/db/database", b"");
        let mut f = open(&disk);
        let mut sums = PageSums::new(ps());
        for n in 1..=2 {
            let (changes, pages) = tx(n);
            let _ = sums.set_all(&changes, pages);
            let update = f.collect(&mut sums);
            f.write(update, pos(n, &sums), pos(n, &sums), None).unwrap();
        }
        // Generation 2 lies in slot A.
        for bit in 0..SLOT_LEN * 8 {
            disk.flip_bit(PATH, bit / 8, (bit % 8) as u8);
            assert_eq!(open(&disk).floor(), Txid::new(1), "bit {bit}");
            disk.flip_bit(PATH, bit / 8, (bit % 8) as u8);
        }
        assert_eq!(open(&disk).floor(), Txid::new(2));
        disk.put(PATH, b"short");
        assert!(open(&disk).stamp().is_none());
    }
}
