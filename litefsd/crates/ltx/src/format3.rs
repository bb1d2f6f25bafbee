//! The body of formats 2 and 3: every page compressed on its own, and an index behind them.
//!
//! ```text
//! format 2: u32 pgno, LZ4 frame
//! format 3: u32 pgno, u16 flags; flags = 0: LZ4 frame; flags = 1: u32 size, LZ4 block
//! end:      a page header of zeros
//! index:    for each page uvarint pgno, offset, size; uvarint 0; u64 length of all that
//! ```
//!
//! The file checksum covers page headers, size prefixes, *uncompressed* data and the index.

use std::io::Read;

use litefs_types::PageNo;

use crate::checksum::FileHash;
use crate::compress::FrameReader;
use crate::decoder::PageInfo;
use crate::error::{LtxError, PageError, Part};
use crate::header::HEADER_SIZE;
use crate::page::PageOrder;
use crate::{Format, Result};

/// Page flag: a size prefix and an LZ4 block follow (otherwise an LZ4 frame).
const PAGE_FLAG_SIZE: u16 = 1;
/// The index is compared in pieces of this many bytes.
const INDEX_CHUNK: usize = 4096;

/// Counts what is read: the index names offsets.
struct Counted<R> {
    inner: R,
    position: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.position += n as u64;
        Ok(n)
    }
}

/// Reads pages and index.
pub(crate) struct PageFrames<R> {
    r: Counted<R>,
    format: Format,
    block: Vec<u8>,
    /// The index as it must be, from the pages that were really there.
    index: Vec<u8>,
}

/// Largest LZ4 block of this much data: literals only, with their length bytes.
fn lz4_bound(len: usize) -> usize {
    len + len / 255 + 16
}

impl<R: Read> PageFrames<R> {
    pub(crate) fn new(inner: R, format: Format) -> Self {
        let r = Counted { inner, position: HEADER_SIZE as u64 };
        Self { r, format, block: Vec::new(), index: Vec::new() }
    }

    pub(crate) fn read_exact(&mut self, buf: &mut [u8], part: Part) -> Result<()> {
        self.r.read_exact(buf).map_err(|e| LtxError::reading(part, e))
    }

    pub(crate) fn next_page(
        &mut self,
        order: &mut PageOrder,
        hash: &mut FileHash,
        data: &mut [u8],
    ) -> Result<Option<PageInfo>> {
        let start = self.r.position;
        let mut head = [0; 6];
        let len = if self.format == Format::V2 { 4 } else { 6 };
        self.read_exact(&mut head[..len], Part::Pages)?;
        hash.update(&head[..len]);
        let number = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = u16::from_be_bytes([head[4], head[5]]);
        if flags & !PAGE_FLAG_SIZE != 0 || (number == 0 && flags != 0) {
            return Err(PageError::Flags { page: number, flags }.into());
        }
        let Some(page) = PageNo::new(number) else { return Ok(None) };
        order.accept(page)?;
        if flags == PAGE_FLAG_SIZE {
            self.read_block(page, hash, data)?;
        } else {
            let mut frame = FrameReader::new(&mut self.r);
            frame.read_exact(data)?;
            frame.expect_end()?;
        }
        for v in [u64::from(number), start, self.r.position - start] {
            put_uvarint(&mut self.index, v);
        }
        Ok(Some(PageInfo { page, checksum: hash.page(page, data) }))
    }

    fn read_block(&mut self, page: PageNo, hash: &mut FileHash, data: &mut [u8]) -> Result<()> {
        let mut prefix = [0; 4];
        self.read_exact(&mut prefix, Part::Pages)?;
        hash.update(&prefix);
        let size = u32::from_be_bytes(prefix) as usize;
        if size == 0 || size > lz4_bound(data.len()) {
            return Err(PageError::Length { page: page.get(), len: size }.into());
        }
        self.block.resize(size, 0);
        self.r.read_exact(&mut self.block).map_err(|e| LtxError::reading(Part::Pages, e))?;
        let len = lz4_flex::block::decompress_into(&self.block, data)
            .map_err(|e| LtxError::Compression(e.to_string()))?;
        if len != data.len() {
            return Err(PageError::Length { page: page.get(), len }.into());
        }
        Ok(())
    }

    /// Reads the index, requires it to name exactly the pages that were read, and returns the reader.
    pub(crate) fn finish(mut self, hash: &mut FileHash) -> Result<R> {
        let mut expected = std::mem::take(&mut self.index);
        expected.push(0);
        let len = expected.len() as u64;
        expected.extend_from_slice(&len.to_be_bytes());
        let mut buf = [0; INDEX_CHUNK];
        for chunk in expected.chunks(INDEX_CHUNK) {
            let read = &mut buf[..chunk.len()];
            self.read_exact(read, Part::Index)?;
            if read != chunk {
                return Err(LtxError::Index);
            }
            hash.update(read);
        }
        Ok(self.r.inner)
    }
}

/// Little-endian base 128.
fn put_uvarint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}
