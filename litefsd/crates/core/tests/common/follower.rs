//! Feeds requests to a tracker the way the store does, keeps what it would log, and checks that it is
//! never ahead of what is written.

use litefs_core::capture::{FrameTx, ReadAt, ReadFailed, WalEvent, WalTracker, frame_data_offset};
use litefs_types::PageSize;

use super::writer::Request;

/// The backing file; counts how often it is read.
#[derive(Default)]
pub struct File {
    pub bytes: Vec<u8>,
    pub reads: usize,
}

impl ReadAt for File {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ReadFailed> {
        self.reads += 1;
        (&self.bytes[..]).read_at(offset, buf)
    }
}

/// A prepared transaction with its content, as it would be in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub tx: FrameTx,
    pub content: Vec<(u32, Vec<u8>)>,
}

#[derive(Default)]
pub struct Follower {
    pub tracker: WalTracker,
    pub file: File,
    pub prepared: Vec<Logged>,
    /// Transactions of everything published, in order.
    pub published: Vec<Logged>,
    pub drops: usize,
}

impl Follower {
    /// Handles a request in pieces of the lengths that `cuts` gives, over and over.
    pub fn request(&mut self, request: &Request, cuts: &mut dyn FnMut() -> usize) {
        match request {
            Request::Write { offset, data, completes } => {
                let mut at = *offset;
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let (piece, tail) = rest.split_at(cuts().clamp(1, rest.len()));
                    self.write(at, piece, *completes);
                    at += piece.len() as u64;
                    rest = tail;
                }
            }
            Request::Truncate(size) => {
                self.tracker.check_truncate(*size).unwrap();
                self.file.bytes.resize(*size as usize, 0);
                let events = self.tracker.truncated(*size);
                self.absorb(events, None);
            }
            Request::Unlink => {
                self.file.bytes.clear();
                let events = self.tracker.removed();
                self.absorb(events, None);
            }
        }
    }

    /// One WRITE. A transaction may be reported only if it ends with the frame `completes`.
    pub fn write(&mut self, offset: u64, data: &[u8], completes: Option<u32>) {
        self.tracker.check_write(offset, data.len() as u64).unwrap();
        let at = offset as usize;
        if self.file.bytes.len() < at + data.len() {
            self.file.bytes.resize(at + data.len(), 0);
        }
        self.file.bytes[at..at + data.len()].copy_from_slice(data);
        let events = self.tracker.wrote(offset, data, &mut self.file).unwrap();
        self.absorb(events, completes);
    }

    fn absorb(&mut self, events: Vec<WalEvent>, completes: Option<u32>) {
        for event in events {
            match event {
                WalEvent::NewGeneration => assert!(self.prepared.is_empty(), "dropped first"),
                WalEvent::Dropped { from_frame } => {
                    let before = self.prepared.len();
                    self.prepared.retain(|p| p.tx.last < from_frame);
                    assert!(self.prepared.len() < before, "a drop drops something");
                    self.drops += 1;
                }
                WalEvent::Commit(tx) => {
                    assert_eq!(Some(tx.last), completes, "prepared too early");
                    self.log(tx);
                }
            }
        }
        let ends: Vec<u32> = self.prepared.iter().map(|p| p.tx.last).collect();
        assert_eq!(ends, self.tracker.prepared(), "events tell the whole story");
    }

    fn log(&mut self, tx: FrameTx) {
        let ps: PageSize = self.tracker.generation().unwrap().page_size;
        let expected_first = self.prepared.last().map_or(self.tracker.published_frames(), |p| p.tx.last) + 1;
        assert_eq!(tx.first, expected_first, "no frame is left out");
        let content = tx
            .pages
            .iter()
            .map(|(page, frame)| {
                let at = frame_data_offset(*frame, ps) as usize;
                (page.get(), self.file.bytes[at..at + ps.bytes()].to_vec())
            })
            .collect();
        self.prepared.push(Logged { tx, content });
    }

    /// The WAL index says this. Returns whether the checksum chain was not enough (rule W7).
    pub fn index(&mut self, mx: u32, pages: u32, chain: [u32; 2]) -> bool {
        let covered = self.tracker.cover(mx, pages, chain, &mut self.file).unwrap();
        let needed = !covered.is_empty();
        for tx in covered {
            self.log(tx);
        }
        assert_eq!(self.tracker.publish(mx), mx);
        assert_eq!(self.tracker.chain(mx), Some(chain));
        let n = self.prepared.partition_point(|p| p.tx.last <= mx);
        self.published.extend(self.prepared.drain(..n));
        needed
    }
}
