//! Checks frames against the checksum chain, turns verified commit frames into transactions, and takes
//! over what the WAL index covers although the chain does not (rule W7).
//!
//! Tested with the tracker.

use alloc::vec;
use alloc::vec::Vec;

use litefs_sqlite::source::{ReadAt, ReadFailed};
use litefs_sqlite::wal::{
    FRAME_HEADER_LEN, FRAME_SUMMED_LEN, FrameHeader, Transaction as FrameTx, frame_data_offset, frame_len,
    frame_offset, newest_versions,
};
use litefs_sqlite::wal_checksum::{RunningChecksum, wal_checksum};

use super::frames::Frame;
use super::{Generation, WalError, WalEvent, WalTracker};

/// The checksum of the frame behind the verified prefix, as far as its page came in.
#[derive(Debug)]
pub(super) struct Run {
    frame: u32,
    /// Page bytes that are in the sum.
    len: usize,
    sum: RunningChecksum,
}

impl Run {
    pub(super) const fn frame(&self) -> u32 {
        self.frame
    }
}

impl WalTracker {
    /// Page bytes of the frame behind the verified prefix came in.
    pub(super) fn data_written(&mut self, generation: &Generation, frame: u32, at: usize, data: &[u8]) {
        if at == 0 {
            self.run = self.candidate(generation).map(|(entry, chain)| {
                let head = &entry.header_bytes()[..FRAME_SUMMED_LEN];
                let sum = wal_checksum(generation.order(), chain, head);
                Run { frame, len: 0, sum: RunningChecksum::new(generation.order(), sum) }
            });
        }
        match &mut self.run {
            Some(run) if run.frame == frame && run.len == at => {
                run.sum.update(data);
                run.len += data.len();
            }
            _ => self.run = None,
        }
    }

    /// Moves the verified prefix on as far as frames are complete and valid.
    pub(super) fn advance(
        &mut self,
        generation: &Generation,
        rd: &mut dyn ReadAt,
        events: &mut Vec<WalEvent>,
    ) -> Result<(), WalError> {
        loop {
            let run = self.run.take();
            let Some((entry, chain)) = self.candidate(generation) else { return Ok(()) };
            if !entry.data_complete() {
                return Ok(());
            }
            let header = entry.header();
            let frame = self.verified + 1;
            let sum = match run {
                Some(run) if run.frame == frame && run.len == generation.page_size.bytes() => run.sum.value(),
                _ => {
                    let sum =
                        wal_checksum(generation.order(), chain, &entry.header_bytes()[..FRAME_SUMMED_LEN]);
                    let page = self.read_page(generation, frame, rd)?;
                    wal_checksum(generation.order(), sum, page)
                }
            };
            if sum != header.checksum {
                return Ok(());
            }
            let first = self.captured_frames() + 1;
            self.verified = frame;
            if let Some(entry) = self.frames.entry(frame) {
                entry.chain = sum;
            }
            if header.commit != 0 {
                let pages = (first..=frame).map(|f| self.frames.get(f).map_or(0, |e| e.header().page));
                let tx = transaction(generation, first, frame, header.commit, pages, sum);
                self.prepared.push(frame);
                events.push(WalEvent::Commit(tx));
            }
        }
    }

    /// The WAL index covers frames up to `mx_frame`, with `n_pages` pages and this frame checksum: takes
    /// what is not captured yet as one transaction, although the checksum chain does not reach there.
    ///
    /// SQLite before 3.51.1 commits frames without salts and checksums after an in-place rewrite that
    /// was undone by `ROLLBACK TO`. Their page numbers are right. The caller has read the index header
    /// again after it copied the pages, and restarts this WAL when it can.
    ///
    /// Returns the transaction, and behind it any that the chain could vouch for from there on; none if
    /// everything covered is captured already. All are prepared, not published.
    pub fn cover(
        &mut self,
        mx_frame: u32,
        n_pages: u32,
        frame_checksum: [u32; 2],
        rd: &mut dyn ReadAt,
    ) -> Result<Vec<FrameTx>, WalError> {
        let captured = self.captured_frames();
        if mx_frame <= captured {
            return Ok(Vec::new());
        }
        let generation = self.generation.ok_or(WalError::NoGeneration)?;
        if n_pages == 0 {
            return Err(WalError::NotATransaction(mx_frame));
        }
        let first = captured + 1;
        let mut pages = Vec::new();
        for frame in first..=mx_frame {
            let page = match self.frames.get(frame) {
                Some(entry) if entry.header_complete() => entry.header().page,
                _ => {
                    let mut b = [0; FRAME_HEADER_LEN];
                    rd.read_at(frame_offset(frame, generation.page_size), &mut b)?;
                    FrameHeader::parse(&b).page
                }
            };
            if page == 0 {
                return Err(WalError::NotATransaction(frame));
            }
            pages.push(page);
        }
        let tx = transaction(&generation, first, mx_frame, n_pages, pages.into_iter(), frame_checksum);
        // Frame by frame: all of them exist, so none of them is too far ahead.
        for frame in self.frames.count().saturating_add(1)..=mx_frame {
            let _ = self.frames.entry(frame);
        }
        if let Some(entry) = self.frames.entry(mx_frame) {
            entry.chain = frame_checksum;
        }
        self.verified = mx_frame;
        self.run = None;
        self.prepared.push(mx_frame);

        let mut found = vec![tx];
        let mut events = Vec::new();
        self.advance(&generation, rd, &mut events)?;
        found.extend(events.into_iter().filter_map(|event| match event {
            WalEvent::Commit(tx) => Some(tx),
            WalEvent::NewGeneration | WalEvent::Dropped { .. } => None,
        }));
        Ok(found)
    }

    /// The frame behind the verified prefix and the chain before it, if its header could be valid: it
    /// is whole, newer than those in front of it, of this generation, and no page was written over what
    /// it vouched for.
    fn candidate(&self, generation: &Generation) -> Option<(&Frame, [u32; 2])> {
        let entry = self.frames.get(self.verified.checked_add(1)?)?;
        let (chain, before) = if self.verified == self.published {
            (self.published_chain, self.published_at)
        } else {
            let last = self.frames.get(self.verified)?;
            (last.chain, last.written_at)
        };
        if entry.needs_header() || entry.written_at <= before {
            return None;
        }
        let header = entry.header();
        (header.page != 0 && header.salt == generation.salt).then_some((entry, chain))
    }

    /// Reads the page of `frame` back.
    fn read_page(
        &mut self,
        generation: &Generation,
        frame: u32,
        rd: &mut dyn ReadAt,
    ) -> Result<&[u8], ReadFailed> {
        self.page.resize(generation.page_size.bytes(), 0);
        rd.read_at(frame_data_offset(frame, generation.page_size), &mut self.page)?;
        Ok(&self.page)
    }
}

fn transaction(
    generation: &Generation,
    first: u32,
    last: u32,
    commit: u32,
    pages: impl Iterator<Item = u32>,
    chain: [u32; 2],
) -> FrameTx {
    let page_size = generation.page_size;
    FrameTx {
        first,
        last,
        commit,
        pages: newest_versions(first, pages, commit, page_size),
        chain,
        wal_offset: frame_offset(first, page_size),
        wal_size: u64::from(last - first + 1) * frame_len(page_size),
    }
}
