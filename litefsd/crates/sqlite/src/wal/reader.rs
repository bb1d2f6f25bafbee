//! Reads the committed transactions of a WAL file by SQLite's rules (file format section 4.4
//! "Reader Algorithm"; wal.c `walIndexRecover`).
//!
//! Frames count up to the first that is short, has other salts, names page 0 or breaks the checksum
//! chain; of these only those up to the last commit frame are committed. Tested in `tests/wal.rs`.

use alloc::vec;
use alloc::vec::Vec;

use super::{
    FRAME_HEADER_LEN, FRAME_SUMMED_LEN, FrameHeader, Transaction, WAL_HEADER_LEN, WalHeader, frame_len,
    frame_offset, newest_versions,
};
use crate::source::{ReadAt, ReadFailed};
use crate::wal_checksum::wal_checksum;

/// Walks through the committed transactions of a WAL.
#[derive(Debug)]
pub struct WalReader<R> {
    source: R,
    size: u64,
    header: WalHeader,
    /// Last frame of the last transaction handed out.
    frame: u32,
    /// The chain's value there.
    chain: [u32; 2],
    /// One frame.
    buf: Vec<u8>,
}

impl<R: ReadAt> WalReader<R> {
    /// Starts at the first frame of a file of `size` bytes.
    ///
    /// `None` if the file is too short for a header or has none that is valid: SQLite takes such a WAL
    /// for empty. [`WalHeader::parse`] says what is wrong with it.
    pub fn open(mut source: R, size: u64) -> Result<Option<Self>, ReadFailed> {
        if size < WAL_HEADER_LEN as u64 {
            return Ok(None);
        }
        let mut b = [0; WAL_HEADER_LEN];
        source.read_at(0, &mut b)?;
        let Ok(header) = WalHeader::parse(&b) else { return Ok(None) };
        let buf = vec![0; FRAME_HEADER_LEN + header.page_size.bytes()];
        Ok(Some(Self { source, size, header, frame: 0, chain: header.header_checksum, buf }))
    }

    /// The header of the file.
    pub const fn header(&self) -> &WalHeader {
        &self.header
    }

    /// Last frame of the transactions handed out so far, 0 before the first.
    pub const fn frame(&self) -> u32 {
        self.frame
    }

    /// The checksum chain's value after [`Self::frame`].
    pub const fn chain(&self) -> [u32; 2] {
        self.chain
    }

    /// The next committed transaction; `None` at the end of what is valid.
    ///
    /// Memory: 4 bytes for each frame of the transaction, besides the result.
    pub fn next_transaction(&mut self) -> Result<Option<Transaction>, ReadFailed> {
        let first = self.frame.saturating_add(1);
        let mut pages: Vec<u32> = Vec::new();
        let mut chain = self.chain;
        let mut frame = first;
        loop {
            let Some(header) = self.read_frame(frame, chain)? else { return Ok(None) };
            chain = header.checksum;
            pages.push(header.page);
            if header.commit != 0 {
                break;
            }
            let Some(next) = frame.checked_add(1) else { return Ok(None) };
            frame = next;
        }
        let commit = FrameHeader::parse_slice(&self.buf).commit;
        let page_size = self.header.page_size;
        let wal_offset = frame_offset(first, page_size);
        self.frame = frame;
        self.chain = chain;
        Ok(Some(Transaction {
            first,
            last: frame,
            commit,
            pages: newest_versions(first, pages.into_iter(), commit, page_size),
            chain,
            wal_offset,
            wal_size: frame_offset(frame, page_size) + frame_len(page_size) - wal_offset,
        }))
    }

    /// Reads `frame` into the buffer and checks it against the chain before it.
    fn read_frame(&mut self, frame: u32, chain: [u32; 2]) -> Result<Option<FrameHeader>, ReadFailed> {
        let offset = frame_offset(frame, self.header.page_size);
        // The last frame number lies below 2^49: no overflow.
        if offset + frame_len(self.header.page_size) > self.size {
            return Ok(None);
        }
        self.source.read_at(offset, &mut self.buf)?;
        let header = FrameHeader::parse_slice(&self.buf);
        if header.salt != self.header.salt || header.page == 0 {
            return Ok(None);
        }
        let order = self.header.order();
        let sum = wal_checksum(order, chain, &self.buf[..FRAME_SUMMED_LEN]);
        let sum = wal_checksum(order, sum, &self.buf[FRAME_HEADER_LEN..]);
        Ok((sum == header.checksum).then_some(header))
    }
}

impl FrameHeader {
    /// The frame header at the start of a frame buffer.
    fn parse_slice(frame: &[u8]) -> Self {
        match frame.first_chunk() {
            Some(b) => Self::parse(b),
            None => Self::parse(&[0; FRAME_HEADER_LEN]),
        }
    }
}
