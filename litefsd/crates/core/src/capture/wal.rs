//! Follows a WAL while SQLite writes it, and tells when a transaction is complete in the file.
//!
//! Owns: which frames are verified, which transactions are prepared or published, what a write makes
//! invalid. Does not own: whether a transaction is visible (the WAL index, read by the caller), the
//! file, or the content of pages. The rules W1 to W3, W7 and W11, in short:
//!
//! * The writer appends a frame as a header and a page, in any number of WRITEs. It may overwrite the
//!   page of a frame of its own running transaction, and then, before it commits, writes all headers
//!   from there on again in ascending order.
//! * A write to the header of frame f makes all frames behind f leftovers until their headers are
//!   written again, or the remains of a rolled back transaction would pass for new frames.
//! * A frame counts once its header, its page and the checksum chain agree. The chain is carried along
//!   while the bytes come in; the file is read only for pages that were written earlier.
//! * What a write makes invalid is dropped, in the same call. A published frame cannot be overwritten.
//!
//! Tested in `tests/wal_tracker.rs` (real WAL files in any partition, a model writer with in-place
//! rewrites, leftovers) and `tests/wal_rules.rs` (one test a rule).

mod frames;
mod verify;

use alloc::vec::Vec;

use litefs_sqlite::source::{ReadAt, ReadFailed};
use litefs_sqlite::wal::{
    FRAME_HEADER_LEN, Transaction as FrameTx, WAL_HEADER_LEN, WalHeader, frame_len, frame_offset,
};
use thiserror::Error;

use frames::Frames;
use verify::Run;

/// The frames between two restarts of the log, named by the WAL header.
pub type Generation = WalHeader;

/// What a change of the WAL file means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// A complete valid header was written: the log starts over.
    NewGeneration,
    /// Prepared transactions whose last frame is `from_frame` or behind it are gone from the file, and
    /// with them every chance that they become visible.
    Dropped {
        /// First frame that is no longer what it was; 1 if all are gone.
        from_frame: u32,
    },
    /// A transaction is complete in the file: it is prepared.
    Commit(FrameTx),
}

/// A write that would touch a frame which is already visible to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a write to frame {frame} of the WAL, where frames up to {published} are committed")]
pub struct RefusedWrite {
    /// First frame that the write touches.
    pub frame: u32,
    /// Last published frame.
    pub published: u32,
}

/// A truncation that would cut off valid frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("truncating the WAL to {size} bytes, where valid frames end at {verified_end}")]
pub struct RefusedTruncate {
    /// The size asked for, in bytes.
    pub size: u64,
    /// Where the last verified frame ends, in bytes.
    pub verified_end: u64,
}

/// Why the tracker cannot go on. The caller cannot know any more what the WAL holds: it has to stop
/// acknowledging commits and recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WalError {
    /// The backing file could not be read.
    #[error("the WAL could not be read back")]
    Read(#[from] ReadFailed),
    /// A write reached a published frame although [`WalTracker::check_write`] refuses it.
    #[error("a committed frame was overwritten")]
    Published(#[from] RefusedWrite),
    /// The WAL index covers frames, but there is no valid WAL header.
    #[error("the WAL index covers frames of a WAL without a valid header")]
    NoGeneration,
    /// The WAL index covers a frame that is none, or an empty database.
    #[error("the WAL index covers frame {0}, which is not a frame of a transaction")]
    NotATransaction(u32),
}

/// The state of one database's WAL. See the module's documentation.
///
/// Frames count from 1. `published ≤ verified` always holds, and so does `published <` the last frame
/// of each prepared transaction `≤ verified`.
#[derive(Debug, Default)]
pub struct WalTracker {
    /// The header as far as it was written, and which of its bytes.
    header: [u8; WAL_HEADER_LEN],
    header_have: u32,
    generation: Option<Generation>,
    frames: Frames,
    /// Last frame of the verified prefix.
    verified: u32,
    published: u32,
    /// The chain after the last published frame, and when its header was written.
    published_chain: [u32; 2],
    published_at: u64,
    /// Last frames of the prepared transactions, ascending.
    prepared: Vec<u32>,
    /// Counts the writes of frame headers.
    clock: u64,
    /// A complete commit frame behind the verified prefix, 0 if there is none; see
    /// [`WalTracker::uncaptured_commit`].
    unverified_commit: u32,
    /// The checksum of the frame that is just coming in.
    run: Option<Run>,
    /// One page, for reading back.
    page: Vec<u8>,
}

impl WalTracker {
    /// A database without a WAL.
    pub fn new() -> Self {
        Self::default()
    }

    /// The generation that frames are written in; `None` without a valid header.
    pub const fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// Last frame of the prefix that the checksum chain vouches for.
    pub const fn verified_frames(&self) -> u32 {
        self.verified
    }

    /// Last frame that everybody can see.
    pub const fn published_frames(&self) -> u32 {
        self.published
    }

    /// Last frame of the newest prepared or published transaction: what the log explains.
    pub fn captured_frames(&self) -> u32 {
        self.prepared.last().copied().unwrap_or(self.published)
    }

    /// Whether a commit frame is complete in the file that the checksum chain does not vouch for. It may
    /// be one that an old SQLite commits nevertheless (rule W7): only the WAL index tells. For moments
    /// also during an in-place rewrite.
    pub fn uncaptured_commit(&self) -> bool {
        self.unverified_commit > self.verified
    }

    /// Last frame that was written to at all, leftovers included.
    pub fn frame_count(&self) -> u32 {
        self.frames.count()
    }

    /// Last frames of the prepared transactions, ascending.
    pub fn prepared(&self) -> &[u32] {
        &self.prepared
    }

    /// The checksum chain after `frame`, if that is verified and not in front of the last published
    /// frame. The WAL index must name the same value where it ends with this frame.
    pub fn chain(&self, frame: u32) -> Option<[u32; 2]> {
        self.generation?;
        if frame == self.published {
            Some(self.published_chain)
        } else if frame <= self.verified {
            self.frames.get(frame).map(|f| f.chain)
        } else {
            None
        }
    }

    /// Whether a write may reach the file. One that begins with the WAL header may: it starts a new
    /// generation, and whether SQLite may do that now is in the WAL index.
    pub fn check_write(&self, offset: u64, len: u64) -> Result<(), RefusedWrite> {
        let Some(generation) = &self.generation else { return Ok(()) };
        let Some(at) = offset.checked_sub(WAL_HEADER_LEN as u64) else { return Ok(()) };
        let index = at / frame_len(generation.page_size);
        match u32::try_from(index) {
            Ok(index) if len > 0 && index < self.published => {
                Err(RefusedWrite { frame: index + 1, published: self.published })
            }
            _ => Ok(()),
        }
    }

    /// Bytes were written, and are in the file that `rd` reads.
    ///
    /// In the common case, a frame that arrives in order, nothing is read back and nothing allocated;
    /// all work together is proportional to the bytes written. Bytes of one frame must arrive in
    /// ascending order, else the frame is found only through the WAL index ([`Self::cover`]).
    pub fn wrote(
        &mut self,
        offset: u64,
        data: &[u8],
        rd: &mut dyn ReadAt,
    ) -> Result<Vec<WalEvent>, WalError> {
        let mut events = Vec::new();
        let mut at = offset;
        let mut data = data;
        if !data.is_empty() && at < WAL_HEADER_LEN as u64 {
            let (head, rest) = data.split_at(data.len().min(WAL_HEADER_LEN - at as usize));
            self.header_written(at as usize, head, &mut events);
            at += head.len() as u64;
            data = rest;
        }
        let Some(generation) = self.generation else { return Ok(events) };
        let frame_len = frame_len(generation.page_size);
        while !data.is_empty() {
            let index = (at - WAL_HEADER_LEN as u64) / frame_len;
            let within = (at - WAL_HEADER_LEN as u64) % frame_len;
            let Some(frame) = u32::try_from(index).ok().and_then(|i| i.checked_add(1)) else { break };
            let room = usize::try_from(frame_len - within).unwrap_or(usize::MAX);
            let (piece, rest) = data.split_at(data.len().min(room));
            self.frame_written(&generation, frame, within as usize, piece, rd, &mut events)?;
            self.note_commit(frame);
            at = at.saturating_add(piece.len() as u64);
            data = rest;
        }
        Ok(events)
    }

    /// Whether the file may be cut to `size` bytes: wholly, or behind the last verified frame
    /// (`journal_size_limit`). Whether cutting it wholly is right now is in the WAL index.
    pub fn check_truncate(&self, size: u64) -> Result<(), RefusedTruncate> {
        let Some(generation) = &self.generation else { return Ok(()) };
        let verified_end = frame_offset(self.verified, generation.page_size)
            + if self.verified == 0 { 0 } else { frame_len(generation.page_size) };
        if size == 0 || size >= verified_end { Ok(()) } else { Err(RefusedTruncate { size, verified_end }) }
    }

    /// The file was cut or extended to `size` bytes.
    pub fn truncated(&mut self, size: u64) -> Vec<WalEvent> {
        let Some(body) = size.checked_sub(WAL_HEADER_LEN as u64) else { return self.removed() };
        let Some(generation) = self.generation else { return Vec::new() };
        let kept = u32::try_from(body / frame_len(generation.page_size)).unwrap_or(u32::MAX);
        if kept < self.published {
            return self.removed();
        }
        let mut events = Vec::new();
        if kept < self.frames.count() {
            self.invalidate(kept.saturating_add(1), &mut events);
            self.frames.truncate(kept);
            if self.unverified_commit > kept {
                self.unverified_commit = 0;
            }
        }
        events
    }

    /// The file is gone, or empty.
    pub fn removed(&mut self) -> Vec<WalEvent> {
        let mut events = Vec::new();
        self.start_over(&mut events);
        self.header_have = 0;
        events
    }

    /// The WAL index covers everything up to `last_frame`: the prepared transactions that end there or
    /// before are published. Returns the last published frame.
    pub fn publish(&mut self, last_frame: u32) -> u32 {
        let n = self.prepared.partition_point(|end| *end <= last_frame);
        if let Some(end) = n.checked_sub(1).and_then(|i| self.prepared.get(i)).copied() {
            if let Some(frame) = self.frames.get(end) {
                self.published_chain = frame.chain;
                self.published_at = frame.written_at;
            }
            self.prepared.drain(..n);
            self.published = end;
            self.frames.forget_through(end);
        }
        self.published
    }

    /// The daemon itself wrote frames 1 to `mx_frame` of `generation`, or took them over: they are
    /// published, and the next frame continues from `chain`.
    pub fn adopt(&mut self, generation: Generation, mx_frame: u32, chain: [u32; 2]) {
        *self = Self {
            header: generation.encode(),
            header_have: u32::MAX,
            generation: Some(generation),
            verified: mx_frame,
            published: mx_frame,
            published_chain: chain,
            page: core::mem::take(&mut self.page),
            ..Self::default()
        };
        self.frames.reset(mx_frame);
    }

    /// Bytes of the WAL header were written.
    fn header_written(&mut self, at: usize, bytes: &[u8], events: &mut Vec<WalEvent>) {
        // Whatever it says, and even if it says the same as before: the log starts over. A writer
        // whose first transaction in a generation was rolled back writes an equal header again.
        self.start_over(events);
        let bits = ((1u64 << bytes.len()) - 1) as u32;
        self.header_have = if at == 0 { bits } else { self.header_have | bits << at };
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        if self.header_have == u32::MAX
            && let Ok(generation) = WalHeader::parse(&self.header)
        {
            self.generation = Some(generation);
            self.published_chain = generation.header_checksum;
            events.push(WalEvent::NewGeneration);
        }
    }

    /// Forgets all frames and the generation.
    fn start_over(&mut self, events: &mut Vec<WalEvent>) {
        if !self.prepared.is_empty() {
            events.push(WalEvent::Dropped { from_frame: 1 });
        }
        self.generation = None;
        self.frames.reset(0);
        self.verified = 0;
        self.published = 0;
        self.published_at = 0;
        self.prepared.clear();
        self.unverified_commit = 0;
        self.run = None;
    }

    /// `frame` and all behind it are no longer verified; what was prepared there is dropped.
    fn invalidate(&mut self, frame: u32, events: &mut Vec<WalEvent>) {
        if frame <= self.verified {
            self.verified = frame - 1;
            let keep = self.prepared.partition_point(|end| *end < frame);
            if keep < self.prepared.len() {
                self.prepared.truncate(keep);
                events.push(WalEvent::Dropped { from_frame: frame });
            }
        }
        if self.run.as_ref().is_some_and(|run| run.frame() >= frame) {
            self.run = None;
        }
    }

    /// Remembers a commit frame that is whole but not verified.
    fn note_commit(&mut self, frame: u32) {
        if frame > self.verified
            && let Some(entry) = self.frames.get(frame)
            && entry.header_complete()
            && entry.data_complete()
            && entry.header().commit != 0
        {
            self.unverified_commit = self.unverified_commit.max(frame);
        }
    }

    /// Bytes from `within` on of `frame` were written: some of its header, some of its page, or both.
    fn frame_written(
        &mut self,
        generation: &Generation,
        frame: u32,
        within: usize,
        piece: &[u8],
        rd: &mut dyn ReadAt,
        events: &mut Vec<WalEvent>,
    ) -> Result<(), WalError> {
        if frame <= self.published {
            return Err(RefusedWrite { frame, published: self.published }.into());
        }
        let was_verified = frame <= self.verified;
        let (head, data) = piece.split_at(piece.len().min(FRAME_HEADER_LEN.saturating_sub(within)));
        if was_verified || !head.is_empty() {
            self.invalidate(frame, events);
        }
        let Some(entry) = self.frames.entry(frame) else { return Ok(()) };
        if !head.is_empty() {
            self.clock += 1;
            entry.header_written(within, head, self.clock);
            if frame <= self.unverified_commit {
                self.unverified_commit = 0;
            }
        } else if was_verified {
            entry.verified_data_overwritten();
        }
        if data.is_empty() {
            // The page was written before: the second pass of an in-place rewrite.
            if entry.data_complete() && frame == self.verified + 1 {
                return self.advance(generation, rd, events);
            }
            return Ok(());
        }
        let at = within.max(FRAME_HEADER_LEN) - FRAME_HEADER_LEN;
        let end = at + data.len() == generation.page_size.bytes();
        entry.data_written(at, end);
        if frame == self.verified + 1 {
            self.data_written(generation, frame, at, data);
            if end {
                return self.advance(generation, rd, events);
            }
        }
        Ok(())
    }
}
