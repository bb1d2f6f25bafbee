//! Becoming the writer of a WAL: locks, and an index that can be believed.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use litefs_sqlite::lock_bytes::Lock;
use litefs_sqlite::shm::{CheckpointInfo, IndexHeader, NATIVE, READ_MARK_UNUSED};
use litefs_sqlite::wal::{FRAME_HEADER_LEN, FRAME_SUMMED_LEN, FrameHeader, WalHeader, frame_offset};
use litefs_sqlite::wal_checksum::{ByteOrder, wal_checksum};
use litefs_types::PageSize;

use super::checkpoint::RESTART_FRAMES;
use super::frames::{read_frame_header, read_wal_header};
use super::{State, WalPosition, WalWriter, index};
use crate::apply::image::BATCH_BYTES;
use crate::apply::{ApplyError, locks};
use crate::own_mount::{FileKind, LockKind, OwnMount};

/// All locks an attached writer holds, in the order of release.
const HELD: [Lock; 3] = [Lock::WalWrite, Lock::Dms, Lock::Shared];

impl WalWriter {
    /// Takes SHARED, DMS and WRITE, creating `-wal` and `-shm` where they are missing, and adopts what
    /// local processes left in the WAL, rebuilding the index if it is not valid.
    ///
    /// `page_size` is that of the database. On error nothing stays locked.
    pub fn attach(mount: &dyn OwnMount, page_size: PageSize, deadline: Instant) -> Result<Self, ApplyError> {
        mount.open(FileKind::Database, true).map_err(ApplyError::io("open the database"))?;
        locks::shared(mount, deadline)?;
        let attached = attach_shared(mount, page_size, deadline);
        if attached.is_err() {
            release(mount);
        }
        Ok(Self { state: Mutex::new(attached?), cancel: AtomicBool::new(false) })
    }

    /// Releases the locks. What was written stays where it is, for local processes to go on from: the
    /// answer is what a tracker of their writes must know.
    ///
    /// A checkpoint under way gives up after the page in hand; [`ApplyError::Blocked`] if it has not until
    /// the deadline (a sync of a slow disk).
    pub fn detach(&self, mount: &dyn OwnMount, deadline: Instant) -> Result<WalPosition, ApplyError> {
        let mut state = self.lock_idle(mount, deadline)?;
        if state.attached {
            release(mount);
            state.detached();
        }
        Ok(state.position())
    }
}

fn release(mount: &dyn OwnMount) {
    for lock in HELD {
        locks::unlock(mount, lock);
    }
}

fn attach_shared(mount: &dyn OwnMount, page_size: PageSize, deadline: Instant) -> Result<State, ApplyError> {
    // Under SHARED nobody can remove them any more.
    mount.open(FileKind::Wal, true).map_err(ApplyError::io("open the WAL"))?;
    mount.open(FileKind::Shm, true).map_err(ApplyError::io("open the WAL index"))?;
    locks::join_index(mount, deadline)?;
    locks::acquire(mount, Lock::WalWrite, LockKind::Exclusive, deadline)?;
    index::grow_to_first_block(mount)?;
    let mut state = State {
        attached: true,
        page_size,
        header: empty_header(),
        generation: None,
        sequence: 0,
        chain_broken: false,
        block: None,
        checkpointing: false,
        wait_from: RESTART_FRAMES,
        buf: Vec::new(),
    };
    match index::read_prefix(mount)?.0 {
        Some(header) => state.adopt(mount, header)?,
        None => state.recover(mount, deadline)?,
    }
    Ok(state)
}

const fn empty_header() -> IndexHeader {
    IndexHeader {
        change: 0,
        big_endian: matches!(NATIVE, ByteOrder::Big),
        page_size: None,
        mx_frame: 0,
        n_pages: 0,
        frame_checksum: [0; 2],
        salt: [0; 2],
    }
}

impl State {
    /// Takes over a valid index that somebody else wrote, if the WAL is the one it describes.
    pub(super) fn adopt(&mut self, mount: &dyn OwnMount, header: IndexHeader) -> Result<(), ApplyError> {
        self.block = None;
        self.chain_broken = false;
        let generation = read_wal_header(mount)?;
        self.sequence = generation.map_or(0, |g| g.sequence);
        if header.mx_frame > 0 {
            let Some(g) = generation.filter(|g| g.salt == header.salt) else {
                return Err(ApplyError::Damaged("the index belongs to another WAL"));
            };
            if header.page_size != Some(g.page_size) || header.big_endian != g.big_endian {
                return Err(ApplyError::Damaged("page size or byte order differ from the WAL's header"));
            }
            self.check_page_size(g.page_size)?;
            let last = read_frame_header(mount, &g, header.mx_frame)?;
            if last.commit != header.n_pages || last.page == 0 {
                return Err(ApplyError::Damaged("the last frame is not a commit of the size in the index"));
            }
            // Not an error: SQLite before 3.51.1 commits such frames.
            self.chain_broken = last.checksum != header.frame_checksum || last.salt != header.salt;
        }
        self.generation = generation;
        self.header = header;
        Ok(())
    }

    fn check_page_size(&self, have: PageSize) -> Result<(), ApplyError> {
        if have == self.page_size { Ok(()) } else { Err(ApplyError::PageSize { have, want: self.page_size }) }
    }

    /// Rebuilds the index from the WAL (wal.c, `walIndexRecover`).
    pub(super) fn recover(&mut self, mount: &dyn OwnMount, deadline: Instant) -> Result<(), ApplyError> {
        locks::acquire(mount, Lock::WalCkpt, LockKind::Exclusive, deadline)?;
        let result = locks::acquire(mount, Lock::WalRecover, LockKind::Exclusive, deadline).and_then(|()| {
            let result = self.rebuild(mount);
            locks::unlock(mount, Lock::WalRecover);
            result
        });
        locks::unlock(mount, Lock::WalCkpt);
        result
    }

    fn rebuild(&mut self, mount: &dyn OwnMount) -> Result<(), ApplyError> {
        let mut header = empty_header();
        let generation = read_wal_header(mount)?;
        let mut pages = Vec::new();
        if let Some(g) = &generation {
            header.big_endian = g.big_endian;
            header.salt = g.salt;
            let scan = scan(mount, g)?;
            if scan.mx_frame > 0 {
                self.check_page_size(g.page_size)?;
                header.page_size = Some(g.page_size);
            }
            header.mx_frame = scan.mx_frame;
            header.n_pages = scan.n_pages;
            header.frame_checksum = scan.chain;
            pages = scan.pages;
        }
        self.block = None;
        self.add_entries(mount, 0, &pages)?;
        let info = CheckpointInfo::fresh(header.mx_frame);
        index::put_backfill(mount, info.backfill)?;
        index::put_backfill_attempted(mount, info.backfill_attempted)?;
        index::put_read_mark(mount, 0, 0)?;
        for n in 1..5 {
            // A reader that holds a mark keeps it: it is one that the new index serves as well.
            if locks::try_lock(mount, Lock::WalRead(n), LockKind::Exclusive)? {
                let mark = if header.mx_frame > 0 { info.read_marks[n as usize] } else { READ_MARK_UNUSED };
                let put = index::put_read_mark(mount, n, mark);
                locks::unlock(mount, Lock::WalRead(n));
                put?;
            }
        }
        // The header last: until then the index is not valid for anybody.
        index::write_header(mount, &header)?;
        self.sequence = generation.map_or(0, |g| g.sequence);
        self.chain_broken = false;
        self.generation = generation;
        self.header = header;
        Ok(())
    }
}

struct Scan {
    mx_frame: u32,
    n_pages: u32,
    chain: [u32; 2],
    /// Page numbers of frames 1 to `mx_frame`.
    pages: Vec<u32>,
}

/// The committed frames of a WAL file.
fn scan(mount: &dyn OwnMount, g: &WalHeader) -> Result<Scan, ApplyError> {
    let frame_len = FRAME_HEADER_LEN + g.page_size.bytes();
    let mut buf = vec![0; (BATCH_BYTES / frame_len).max(1) * frame_len];
    let mut found = Scan { mx_frame: 0, n_pages: 0, chain: g.header_checksum, pages: Vec::new() };
    let (mut chain, mut pages) = (g.header_checksum, Vec::new());
    'file: loop {
        let next = u32::try_from(pages.len() + 1)
            .map_err(|_| ApplyError::Damaged("the WAL has as many frames as it can number"))?;
        let n = mount
            .read_at(FileKind::Wal, &mut buf, frame_offset(next, g.page_size))
            .map_err(ApplyError::io("read the WAL"))?;
        for frame in buf[..n].chunks_exact(frame_len) {
            let (head, data) = frame.split_at(FRAME_HEADER_LEN);
            let Some(header) = head.first_chunk().map(FrameHeader::parse) else { break 'file };
            if header.salt != g.salt || header.page == 0 {
                break 'file;
            }
            let sum = wal_checksum(g.order(), chain, &head[..FRAME_SUMMED_LEN]);
            chain = wal_checksum(g.order(), sum, data);
            if chain != header.checksum {
                break 'file;
            }
            pages.push(header.page);
            if header.commit != 0 {
                found.mx_frame = pages.len() as u32;
                found.n_pages = header.commit;
                found.chain = chain;
            }
        }
        if n < buf.len() {
            break;
        }
    }
    pages.truncate(found.mx_frame as usize);
    found.pages = pages;
    Ok(found)
}
