//! Encoding a transaction as WAL frames and writing them in few large writes.

use litefs_sqlite::wal::{
    FRAME_HEADER_LEN, FRAME_SUMMED_LEN, FrameHeader, WAL_HEADER_LEN, WalHeader, frame_offset,
};
use litefs_sqlite::wal_checksum::wal_checksum;

use super::WalSync;
use crate::apply::ApplyError;
use crate::apply::image::BATCH_BYTES;
use crate::own_mount::{FileKind, OwnMount};

/// Frames under way to the WAL. Nobody sees them before the index says so.
pub(super) struct FrameWriter<'a> {
    mount: &'a dyn OwnMount,
    generation: WalHeader,
    chain: [u32; 2],
    /// First frame to be written.
    first: u32,
    /// Bytes not yet written, and where they belong.
    buf: &'a mut Vec<u8>,
    offset: u64,
    /// Where in `buf` the newest frame starts: its header waits for whether it is the last.
    open: Option<usize>,
    /// Page numbers of all frames.
    pages: Vec<u32>,
}

impl<'a> FrameWriter<'a> {
    /// Frames after `mx_frame`, where the chain has the value `chain`. With `mx_frame` 0 the WAL's header
    /// is written too.
    pub(super) fn new(
        mount: &'a dyn OwnMount,
        generation: WalHeader,
        mx_frame: u32,
        chain: [u32; 2],
        buf: &'a mut Vec<u8>,
        sync: WalSync,
    ) -> Result<Self, ApplyError> {
        buf.clear();
        let first = mx_frame
            .checked_add(1)
            .ok_or(ApplyError::Damaged("the WAL has as many frames as it can number"))?;
        let mut writer = Self {
            mount,
            generation,
            chain,
            first,
            buf,
            offset: frame_offset(first, generation.page_size),
            open: None,
            pages: Vec::new(),
        };
        if mx_frame == 0 {
            writer.offset = 0;
            writer.buf.extend_from_slice(&generation.encode());
            writer.chain = generation.header_checksum;
            if sync == WalSync::Yes {
                // Frames that reach the disk before the header that makes the old ones invalid would
                // let an older state be recovered.
                writer.flush()?;
                mount.sync(FileKind::Wal).map_err(ApplyError::io("sync the WAL"))?;
            }
        }
        Ok(writer)
    }

    /// One page.
    pub(super) fn add(&mut self, page: u32, data: &[u8]) -> Result<(), ApplyError> {
        // Up to the highest frame number, so that `first + pages` cannot overflow anywhere.
        if self.pages.len() as u64 + u64::from(self.first) >= u64::from(u32::MAX) {
            return Err(ApplyError::Damaged("the WAL has as many frames as it can number"));
        }
        self.close_frame(0);
        if self.buf.len() + FRAME_HEADER_LEN + data.len() > BATCH_BYTES {
            self.flush()?;
        }
        self.open = Some(self.buf.len());
        let header = FrameHeader { page, commit: 0, salt: self.generation.salt, checksum: [0; 2] };
        self.buf.extend_from_slice(&header.encode());
        self.buf.extend_from_slice(data);
        self.pages.push(page);
        Ok(())
    }

    /// Whether there is a page yet.
    pub(super) const fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Makes the last frame the commit frame and writes what is left. Returns page numbers and chain.
    pub(super) fn finish(mut self, commit: u32, sync: WalSync) -> Result<(Vec<u32>, [u32; 2]), ApplyError> {
        self.close_frame(commit);
        self.flush()?;
        if sync == WalSync::Yes {
            self.mount.sync(FileKind::Wal).map_err(ApplyError::io("sync the WAL"))?;
        }
        Ok((self.pages, self.chain))
    }

    /// Commit size and checksum of the newest frame.
    fn close_frame(&mut self, commit: u32) {
        let Some(at) = self.open.take() else { return };
        let frame = &mut self.buf[at..];
        frame[4..8].copy_from_slice(&commit.to_be_bytes());
        let order = self.generation.order();
        let sum = wal_checksum(order, self.chain, &frame[..FRAME_SUMMED_LEN]);
        self.chain = wal_checksum(order, sum, &frame[FRAME_HEADER_LEN..]);
        frame[16..20].copy_from_slice(&self.chain[0].to_be_bytes());
        frame[20..24].copy_from_slice(&self.chain[1].to_be_bytes());
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        if !self.buf.is_empty() {
            self.mount
                .write_all_at(FileKind::Wal, self.buf, self.offset)
                .map_err(ApplyError::io("write the WAL"))?;
            self.offset += self.buf.len() as u64;
            self.buf.clear();
        }
        Ok(())
    }
}

/// Reads the WAL's header; `None` if SQLite would take the file for empty.
pub(super) fn read_wal_header(mount: &dyn OwnMount) -> Result<Option<WalHeader>, ApplyError> {
    let mut b = [0; WAL_HEADER_LEN];
    let n = mount.read_at(FileKind::Wal, &mut b, 0).map_err(ApplyError::io("read the WAL"))?;
    Ok(if n == b.len() { WalHeader::parse(&b).ok() } else { None })
}

/// Reads a frame's header.
pub(super) fn read_frame_header(
    mount: &dyn OwnMount,
    generation: &WalHeader,
    frame: u32,
) -> Result<FrameHeader, ApplyError> {
    let mut b = [0; FRAME_HEADER_LEN];
    mount
        .read_at(FileKind::Wal, &mut b, frame_offset(frame, generation.page_size))
        .map_err(ApplyError::io("read the WAL"))?;
    Ok(FrameHeader::parse(&b))
}
