//! A model of SQLite's WAL writer: the write sequences of wal.c `walFrames`, `walRewriteChecksums`,
//! `sqlite3WalSavepointUndo` and `walRestartHdr`, and as much of a pager as they need.

use std::collections::{BTreeMap, BTreeSet};

use litefs_sqlite::wal::{
    FrameHeader, WAL_HEADER_LEN, WalHeader, frame_data_offset, frame_len, frame_offset,
};
use litefs_sqlite::wal_checksum::{ByteOrder, wal_checksum};
use litefs_types::PageSize;

/// One request of SQLite to the WAL file.
#[derive(Clone, Debug)]
pub enum Request {
    Write {
        offset: u64,
        data: Vec<u8>,
        /// A commit frame that may be complete after this write.
        completes: Option<u32>,
    },
    Truncate(u64),
    Unlink,
}

/// Page number → content. The content of a page follows from one byte, so that equal frames are common.
pub type Image = BTreeMap<u32, u8>;

pub struct Writer {
    pub page_size: PageSize,
    /// The bug of SQLite before 3.51.1: `ROLLBACK TO` keeps a checksum rewrite that lies behind the end.
    pub keeps_rewrite_mark: bool,
    /// What is in the file when all requests are done.
    pub file: Vec<u8>,
    pub requests: Vec<Request>,
    salt: [u32; 2],
    restarts: u32,
    /// The published index header.
    pub live_mx: u32,
    pub live_chain: [u32; 2],
    /// The writer's private header.
    mx: u32,
    chain: [u32; 2],
    rewrite_from: u32,
    /// Page of each frame, as in the index.
    frame_pages: Vec<u32>,
    /// The database as everybody sees it, and as the writer does.
    pub committed: Image,
    pub pages: u32,
    view: Image,
    dirty: BTreeSet<u32>,
    savepoint: Option<(u32, [u32; 2], u32, Image)>,
}

pub fn page_bytes(page_size: PageSize, page: u32, content: u8) -> Vec<u8> {
    let mut b = vec![content; page_size.bytes()];
    b[..4].copy_from_slice(&page.to_be_bytes());
    b
}

impl Writer {
    pub fn new(page_size: PageSize) -> Self {
        Self {
            page_size,
            keeps_rewrite_mark: false,
            file: Vec::new(),
            requests: Vec::new(),
            salt: [1000, 2000],
            restarts: 0,
            live_mx: 0,
            live_chain: [0; 2],
            mx: 0,
            chain: [0; 2],
            rewrite_from: 0,
            frame_pages: Vec::new(),
            committed: Image::new(),
            pages: 1,
            view: Image::new(),
            dirty: BTreeSet::new(),
            savepoint: None,
        }
    }

    pub fn set(&mut self, page: u32, content: u8) {
        self.view.insert(page, content);
        self.dirty.insert(page);
    }

    /// The cache is full: writes the dirty pages that `pick` names.
    pub fn spill(&mut self, pick: impl Fn(u32) -> bool) {
        let list: Vec<u32> = self.dirty.iter().copied().filter(|p| pick(*p)).collect();
        if !list.is_empty() {
            self.frames(&list, 0, 0);
        }
    }

    pub fn savepoint(&mut self) {
        self.savepoint = Some((self.mx, self.chain, self.restarts, self.view.clone()));
    }

    pub fn rollback_to(&mut self) {
        let Some((mx, chain, restarts, view)) = self.savepoint.take() else { return };
        let mx = if restarts == self.restarts { mx } else { 0 };
        if mx < self.mx {
            self.mx = mx;
            self.chain = chain;
            self.frame_pages.truncate(mx as usize);
            if !self.keeps_rewrite_mark && self.rewrite_from > mx {
                self.rewrite_from = 0;
            }
        }
        self.view = view;
        self.dirty =
            self.view.keys().copied().filter(|p| self.stored(*p) != self.view.get(p).copied()).collect();
    }

    /// Commits; `copies` more commit frames fill the sector; `limit` is a `journal_size_limit`.
    /// `killed` stops before the index is written.
    pub fn commit(&mut self, pages: u32, copies: u32, limit: bool, killed: bool) {
        self.dirty.retain(|p| *p <= pages);
        for p in self.pages + 1..=pages {
            if !self.view.contains_key(&p) {
                self.set(p, 0);
            }
        }
        if self.dirty.is_empty() {
            let content = self.view.get(&1).copied().unwrap_or(0);
            self.set(1, content);
        }
        let list: Vec<u32> = self.dirty.iter().copied().collect();
        self.frames(&list, pages, copies);
        if limit {
            self.limit();
        }
        if killed {
            self.rollback();
            return;
        }
        self.live_mx = self.mx;
        self.live_chain = self.chain;
        self.pages = pages;
        self.committed = self.view.iter().filter(|(p, _)| **p <= pages).map(|(p, c)| (*p, *c)).collect();
        self.rollback();
    }

    /// Also what the next writer finds after this one was killed.
    pub fn rollback(&mut self) {
        self.mx = self.live_mx;
        self.chain = self.live_chain;
        self.frame_pages.truncate(self.mx as usize);
        self.rewrite_from = 0;
        self.view = self.committed.clone();
        self.dirty.clear();
        self.savepoint = None;
    }

    /// Everything is checkpointed: the next transaction starts the log over.
    pub fn restart(&mut self) {
        self.rollback();
        if self.live_mx == 0 {
            return;
        }
        self.restarts += 1;
        self.salt = [self.salt[0].wrapping_add(1), self.salt[1].wrapping_mul(31).wrapping_add(7)];
        self.live_mx = 0;
        self.mx = 0;
        self.frame_pages.clear();
    }

    /// A TRUNCATE checkpoint, or the last close.
    pub fn remove(&mut self, unlink: bool) {
        self.restart();
        self.file.clear();
        self.requests.push(if unlink { Request::Unlink } else { Request::Truncate(0) });
    }

    /// `journal_size_limit`, between the last frame of a commit and the index.
    fn limit(&mut self) {
        let end = frame_offset(self.mx.max(1), self.page_size) + frame_len(self.page_size);
        if self.mx > 0 && (self.file.len() as u64) > end {
            self.file.truncate(end as usize);
            self.requests.push(Request::Truncate(end));
        }
    }

    /// The content of a page as the file and the database have it for the writer.
    fn stored(&self, page: u32) -> Option<u8> {
        match self.find(page) {
            // A page that was cut off and comes back is new, whatever an old frame says.
            frame if frame <= self.live_mx => self.committed.get(&page).copied(),
            frame => Some(self.file[frame_data_offset(frame, self.page_size) as usize + 4]),
        }
    }

    fn find(&self, page: u32) -> u32 {
        self.frame_pages.iter().rposition(|p| *p == page).map_or(0, |i| i as u32 + 1)
    }

    fn generation(&self) -> WalHeader {
        WalHeader::new(self.page_size, ByteOrder::Little, self.restarts, self.salt)
    }

    fn frames(&mut self, list: &[u32], commit: u32, copies: u32) {
        let private = self.mx != self.live_mx || self.chain != self.live_chain;
        let first_of_ours = if private { self.live_mx + 1 } else { 0 };
        if self.mx == 0 {
            if self.restarts == 0 {
                self.salt[1] = self.salt[1].wrapping_add(1);
            }
            let header = self.generation();
            self.chain = header.header_checksum;
            if self.live_mx == 0 {
                self.live_chain = self.chain;
            }
            self.write(0, header.encode().to_vec(), None);
        }
        for (i, page) in list.iter().enumerate() {
            let last = i + 1 == list.len();
            let content = self.view[page];
            let found = self.find(*page);
            if first_of_ours > 0 && found >= first_of_ours && !(last && commit > 0) {
                if self.rewrite_from == 0 || found < self.rewrite_from {
                    self.rewrite_from = found;
                }
                let at = frame_data_offset(found, self.page_size);
                self.write(at, page_bytes(self.page_size, *page, content), None);
                continue;
            }
            self.append(*page, content, if last { commit } else { 0 });
        }
        if commit > 0 && self.rewrite_from > 0 {
            self.rewrite_checksums();
        }
        let page = list[list.len() - 1];
        for _ in 0..copies {
            self.append(page, self.view[&page], commit);
        }
        self.dirty.retain(|p| !list.contains(p));
    }

    fn append(&mut self, page: u32, content: u8, commit: u32) {
        let frame = self.mx + 1;
        let data = page_bytes(self.page_size, page, content);
        let header = if self.rewrite_from == 0 {
            FrameHeader::chained(&self.generation(), self.chain, page, commit, &data)
        } else {
            FrameHeader { page, commit, salt: [0; 2], checksum: [0; 2] }
        };
        if self.rewrite_from == 0 {
            self.chain = header.checksum;
        }
        let completes = (commit > 0).then_some(frame);
        let at = frame_offset(frame, self.page_size);
        self.write(at, header.encode().to_vec(), completes);
        self.write(at + 24, data, completes);
        self.mx = frame;
        self.frame_pages.truncate(frame as usize - 1);
        self.frame_pages.push(page);
    }

    fn rewrite_checksums(&mut self) {
        let from = std::mem::take(&mut self.rewrite_from);
        let at = if from == 1 { 24 } else { frame_offset(from - 1, self.page_size) as usize + 16 };
        let word = |at: usize| u32::from_be_bytes(self.file[at..at + 4].try_into().unwrap());
        self.chain = [word(at), word(at + 4)];
        for frame in from..=self.mx {
            let at = frame_offset(frame, self.page_size) as usize;
            let old = FrameHeader::parse(self.file[at..].first_chunk().unwrap());
            let data = &self.file[at + 24..at + 24 + self.page_size.bytes()];
            let new = FrameHeader::chained(&self.generation(), self.chain, old.page, old.commit, data);
            self.chain = new.checksum;
            self.write(at as u64, new.encode().to_vec(), (old.commit > 0).then_some(frame));
        }
    }

    fn write(&mut self, offset: u64, data: Vec<u8>, completes: Option<u32>) {
        let at = offset as usize;
        if self.file.len() < at + data.len() {
            self.file.resize(at + data.len(), 0);
        }
        self.file[at..at + data.len()].copy_from_slice(&data);
        self.requests.push(Request::Write { offset, data, completes });
    }
}

/// Whether the first `frames` frames of a file are valid by the checksum chain.
pub fn chain_is_valid(file: &[u8], frames: u32) -> bool {
    let Some(header) = file.first_chunk::<WAL_HEADER_LEN>().and_then(|b| WalHeader::parse(b).ok()) else {
        return false;
    };
    let mut chain = header.header_checksum;
    for frame in 1..=frames {
        let at = frame_offset(frame, header.page_size) as usize;
        let Some(bytes) = file.get(at..at + 24 + header.page_size.bytes()) else { return false };
        let head = FrameHeader::parse(bytes.first_chunk().unwrap());
        let sum = wal_checksum(header.order(), chain, &bytes[..8]);
        chain = wal_checksum(header.order(), sum, &bytes[24..]);
        if head.salt != header.salt || head.page == 0 || head.checksum != chain {
            return false;
        }
    }
    true
}
