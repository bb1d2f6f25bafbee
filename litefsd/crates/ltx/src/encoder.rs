//! Writes LTX files of format 1: header, pages, trailer, in this order and no other.

use std::io::Write;

use litefs_types::{Checksum, PageNo, PageSize};

use crate::checksum::FileHash;
use crate::compress::{BodyWriter, Compression};
use crate::error::{LtxError, PageError};
use crate::header::{FLAG_LZ4, HEADER_SIZE, Rules};
use crate::page::PageOrder;
use crate::trailer::{TRAILER_SIZE, Trailer, check_post_apply};
use crate::{Header, Result};

/// Bytes of an uncompressed format-1 file with this many pages.
pub const fn raw_size(page_size: PageSize, pages: u32) -> u64 {
    (HEADER_SIZE + 4 + TRAILER_SIZE) as u64 + pages as u64 * (4 + page_size.get() as u64)
}

/// Writes one LTX file.
///
/// The stages cannot be skipped: [`Encoder::new`] writes the header and [`Encoder::finish`] consumes
/// the encoder. Without compression each page is two writes (4 bytes and the page) to `W`: give it
/// a `Vec` or something buffered.
pub struct Encoder<W: Write> {
    body: BodyWriter<W>,
    header: Header,
    order: PageOrder,
    hash: FileHash,
    /// Database checksum of the pages so far, meaningful for snapshots.
    sum: Checksum,
    pages: u32,
    /// A write failed: what is in `W` is no file any more.
    broken: bool,
}

impl<W: Write> Encoder<W> {
    /// Checks the header and writes it.
    pub fn new(mut w: W, header: Header, compression: Compression) -> Result<Self> {
        if header.no_checksum {
            return Err(LtxError::Unrepresentable("format 1 has no files without checksums"));
        }
        header.check(Rules::V1)?;
        let bytes = header.encode(if compression == Compression::Lz4 { FLAG_LZ4 } else { 0 });
        w.write_all(&bytes).map_err(LtxError::Io)?;
        let mut hash = FileHash::new(header.page_size);
        hash.update(&bytes);
        Ok(Self {
            body: BodyWriter::new(w, compression),
            order: PageOrder::new(&header),
            header,
            hash,
            sum: Checksum::EMPTY,
            pages: 0,
            broken: false,
        })
    }

    /// Writes a page and returns its checksum, so that nobody needs to hash it a second time.
    ///
    /// Pages ascend, none lies beyond the header's `commit`, none is the lock page, and a snapshot
    /// has them all. A refused page leaves the encoder usable.
    pub fn page(&mut self, page: PageNo, data: &[u8]) -> Result<Checksum> {
        if data.len() != self.header.page_size.bytes() {
            return Err(PageError::Length { page: page.get(), len: data.len() }.into());
        }
        self.order.accept(page)?;
        let number = page.get().to_be_bytes();
        self.hash.update(&number);
        let checksum = self.hash.page(page, data);
        self.write(&number)?;
        self.write(data)?;
        self.sum = self.sum.replace(Checksum::NONE, checksum);
        self.pages += 1;
        Ok(checksum)
    }

    /// The database checksum of the pages so far: what a snapshot must be finished with.
    pub fn pages_checksum(&self) -> Checksum {
        self.sum
    }

    /// Pages written so far.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The writer behind the encoder, to take out what was written so far. Writing to it is not allowed.
    pub fn writer_mut(&mut self) -> &mut W {
        self.body.writer_mut()
    }

    /// Writes the end of the file, given the database checksum after the transaction.
    ///
    /// A snapshot must be complete and `post_apply` the checksum of its pages.
    pub fn finish(mut self, post_apply: Checksum) -> Result<(Trailer, W)> {
        self.order.finish()?;
        check_post_apply(&self.header, post_apply.get())?;
        if self.header.is_snapshot() && post_apply != self.sum {
            return Err(LtxError::SnapshotChecksum { stored: post_apply, computed: self.sum });
        }
        self.hash.update(&[0; 4]);
        self.write(&[0; 4])?;
        self.hash.update(&post_apply.get().to_be_bytes());
        let trailer = Trailer { post_apply, file_checksum: self.hash.checksum() };
        let mut w = self.body.finish()?;
        w.write_all(&trailer.encode()).map_err(LtxError::Io)?;
        Ok((trailer, w))
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        if self.broken {
            return Err(LtxError::Failed);
        }
        self.body.write_all(data).inspect_err(|_| self.broken = true)
    }
}

#[cfg(test)]
mod tests {
    use litefs_types::{NodeId, Timestamp, Txid};

    use super::*;
    use crate::WalSpan;

    const PS: PageSize = match PageSize::new(512) {
        Ok(p) => p,
        Err(_) => PageSize::DEFAULT,
    };

    fn page(n: u32) -> PageNo {
        PageNo::new(n).unwrap()
    }

    #[test]
    fn documented_example_of_a_deletion() {
        let header = Header {
            timestamp: Timestamp::from_millis(1_700_000_000_125),
            ..Header::new(PS, 0, Txid::new(3).unwrap(), Checksum::from_raw(0xe753_b334_3b26_d640).unwrap())
        };
        let (trailer, file) =
            Encoder::new(Vec::new(), header, Compression::None).unwrap().finish(Checksum::EMPTY).unwrap();
        assert_eq!(trailer.file_checksum.get(), 0x90a1_7a4f_0017_dd4c);
        assert_eq!(file.len() as u64, raw_size(PS, 0));
        assert_eq!(file[..8], *b"LTX1\0\0\0\0");
    }

    #[test]
    fn documented_example_of_a_wal_transaction() {
        let header = Header {
            timestamp: Timestamp::from_millis(0x018b_cfe5_687c),
            wal: Some(WalSpan { offset: 32, size: 536, salt: [0x0102_0304, 0x0506_0708] }),
            ..Header::new(PS, 2, Txid::new(2).unwrap(), Checksum::from_raw(0xb3b3_b334_3b26_d671).unwrap())
        };
        let mut data = [0xaa; 512];
        data[0] = 0x0d;
        let mut e = Encoder::new(Vec::new(), header, Compression::None).unwrap();
        assert_eq!(e.page(page(2), &data).unwrap().get(), 0xddfb_189f_ecd9_9033);
        let (trailer, file) = e.finish(Checksum::from_raw(0xe753_b334_3b26_d640).unwrap()).unwrap();
        assert_eq!(trailer.file_checksum.get(), 0xa6b9_a2c8_2c08_9d52);
        assert_eq!(file.len(), 636);
    }

    #[test]
    fn documented_example_of_a_snapshot() {
        let header = Header {
            timestamp: Timestamp::from_millis(0x018b_cfe5_687b),
            node_id: NodeId::new(0x1122_3344_5566_7788),
            ..Header::new(PS, 2, Txid::FIRST, Checksum::NONE)
        };
        let mut one = [0; 512];
        one[..16].copy_from_slice(b"SQLite format 3\0");
        one[16..20].copy_from_slice(&[2, 0, 1, 1]);
        let mut two = [0; 512];
        two[0] = 0x0d;
        for (compression, file_checksum) in
            [(Compression::None, 0xfef1_25e8_4166_41c3), (Compression::Lz4, 0x8bea_bc4b_2ad7_8702)]
        {
            let mut e = Encoder::new(Vec::new(), header.clone(), compression).unwrap();
            e.page(page(1), &one).unwrap();
            assert!(matches!(e.page(page(3), &two), Err(LtxError::Page(PageError::Bounds { .. }))));
            e.page(page(2), &two).unwrap();
            let sum = e.pages_checksum();
            assert_eq!(sum.get(), 0xb3b3_b334_3b26_d671);
            assert_eq!(e.finish(sum).unwrap().0.file_checksum.get(), file_checksum);
        }
    }

    #[test]
    fn refused() {
        let snapshot = || {
            Encoder::new(Vec::new(), Header::new(PS, 1, Txid::FIRST, Checksum::NONE), Compression::None)
                .unwrap()
        };
        assert!(matches!(
            snapshot().finish(Checksum::EMPTY),
            Err(LtxError::Page(PageError::Incomplete { .. }))
        ));
        let mut e = snapshot();
        assert!(e.page(page(1), &[0; 511]).is_err());
        e.page(page(1), &[0; 512]).unwrap();
        assert!(matches!(e.finish(Checksum::EMPTY), Err(LtxError::SnapshotChecksum { .. })));
        let deletion = Header::new(PS, 0, Txid::new(2).unwrap(), Checksum::EMPTY);
        let e = Encoder::new(Vec::new(), deletion, Compression::None).unwrap();
        assert!(matches!(e.finish(Checksum::new(1)), Err(LtxError::PostApply(_))));
    }

    #[test]
    fn a_failed_write_is_final() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
                if self.0 < b.len() {
                    return Err(std::io::ErrorKind::StorageFull.into());
                }
                self.0 -= b.len();
                Ok(b.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let header = Header::new(PS, 9, Txid::new(2).unwrap(), Checksum::EMPTY);
        let mut e = Encoder::new(Full(130), header, Compression::None).unwrap();
        assert!(matches!(e.page(page(1), &[0; 512]), Err(LtxError::Io(_))));
        assert!(matches!(e.finish(Checksum::EMPTY), Err(LtxError::Failed)));
    }
}
