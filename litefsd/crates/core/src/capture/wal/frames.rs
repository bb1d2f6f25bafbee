//! What is known about each frame that is not published yet.
//!
//! Owns: the table of frames and what a single one has seen. Does not own: what follows from it (the
//! tracker). Tested through the tracker.

use alloc::vec::Vec;

use litefs_sqlite::wal::{FRAME_HEADER_LEN, FrameHeader};

/// How far behind the last known frame a write may begin to be followed, in frames. SQLite leaves no
/// gaps; a frame that is not followed is still found through the WAL index.
pub(super) const MAX_AHEAD: u32 = 1024;

/// Entries for which the memory is kept when the table becomes empty: 768 KiB. A larger transaction
/// gives its memory back.
const KEEP_CAPACITY: usize = 16_384;

/// All bytes of a frame header.
const HEADER_COMPLETE: u32 = (1 << FRAME_HEADER_LEN) - 1;
/// The last byte of the page was written.
const DATA_END: u32 = 1 << 24;
/// Page bytes were written after the first byte of the header.
const DATA_AFTER_HEADER: u32 = 1 << 25;
/// The page was overwritten after the frame had been verified: only a new header can make it valid.
const NEEDS_HEADER: u32 = 1 << 26;

/// One frame: 48 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frame {
    header: [u8; FRAME_HEADER_LEN],
    /// The checksum chain after this frame; right while the frame is verified.
    pub(super) chain: [u32; 2],
    /// When the first byte of the header was written last, counted in header writes. A header that is
    /// older than one in front of it is a leftover: SQLite writes headers in ascending order.
    pub(super) written_at: u64,
    /// Bits 0 to 23: the header bytes written since its first byte was. Above: the flags.
    state: u32,
}

const _: () = assert!(size_of::<Frame>() <= 64);

impl Frame {
    /// Header bytes `at..` were written.
    pub(super) fn header_written(&mut self, at: usize, bytes: &[u8], now: u64) {
        let bits = ((1u32 << bytes.len()) - 1) << at;
        if at == 0 {
            self.written_at = now;
            self.state = (self.state & DATA_END) | bits;
        } else {
            self.state |= bits;
        }
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Page bytes from `at` on were written; `end` if the last one of the page is among them.
    pub(super) fn data_written(&mut self, at: usize, end: bool) {
        self.state |= DATA_AFTER_HEADER;
        if end {
            self.state |= DATA_END;
        } else if at == 0 {
            self.state &= !DATA_END;
        }
    }

    /// The page of a verified frame is being overwritten.
    ///
    /// If its header is newer than its page, this is the page that belongs to the header: the header
    /// happened to match what a rolled back transaction had left there.
    pub(super) fn verified_data_overwritten(&mut self) {
        if self.state & DATA_AFTER_HEADER != 0 {
            self.state |= NEEDS_HEADER;
        }
    }

    /// Whether the whole header is known.
    pub(super) const fn header_complete(&self) -> bool {
        self.state & HEADER_COMPLETE == HEADER_COMPLETE
    }

    /// Whether the end of the page has been written, at any time.
    pub(super) const fn data_complete(&self) -> bool {
        self.state & DATA_END != 0
    }

    /// Whether a header must come before the frame can be valid.
    pub(super) const fn needs_header(&self) -> bool {
        !self.header_complete() || self.state & NEEDS_HEADER != 0
    }

    /// The header; meaningful if it is complete.
    pub(super) const fn header(&self) -> FrameHeader {
        FrameHeader::parse(&self.header)
    }

    /// The header as stored.
    pub(super) const fn header_bytes(&self) -> &[u8; FRAME_HEADER_LEN] {
        &self.header
    }
}

/// The frames behind the published ones, in order.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Frames in front of the table.
    base: u32,
    frames: Vec<Frame>,
}

impl Frames {
    /// An empty table behind frame `base`.
    pub(super) fn reset(&mut self, base: u32) {
        self.base = base;
        self.frames.clear();
        self.release_memory();
    }

    /// Frames that are known to exist, the published ones included.
    pub(super) fn count(&self) -> u32 {
        self.base.saturating_add(self.frames.len() as u32)
    }

    pub(super) fn get(&self, frame: u32) -> Option<&Frame> {
        self.frames.get(self.index(frame)?)
    }

    /// The entry of `frame`, made if it is new; `None` for a published frame, and for one that lies
    /// too far ahead.
    pub(super) fn entry(&mut self, frame: u32) -> Option<&mut Frame> {
        let index = self.index(frame)?;
        if index >= self.frames.len() {
            if frame - self.count() > MAX_AHEAD {
                return None;
            }
            self.frames.resize(index + 1, Frame::default());
        }
        self.frames.get_mut(index)
    }

    /// Forgets the frames behind `frame`.
    pub(super) fn truncate(&mut self, frame: u32) {
        self.frames.truncate(frame.saturating_sub(self.base) as usize);
    }

    /// Forgets the frames up to and including `frame`.
    pub(super) fn forget_through(&mut self, frame: u32) {
        let n = (frame.saturating_sub(self.base) as usize).min(self.frames.len());
        self.frames.drain(..n);
        self.base = self.base.max(frame);
        self.release_memory();
    }

    fn release_memory(&mut self) {
        if self.frames.is_empty() && self.frames.capacity() > KEEP_CAPACITY {
            self.frames = Vec::new();
        }
    }

    fn index(&self, frame: u32) -> Option<usize> {
        Some(frame.checked_sub(self.base)?.checked_sub(1)? as usize)
    }
}
