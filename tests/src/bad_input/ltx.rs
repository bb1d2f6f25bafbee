//! LTX files made byte by byte, so that they can be wrong in one respect and right in all others.
//!
//! Not the encoder of the crate under test: that one refuses to write what is needed here.

use litefs_ltx::checksum::{crc64, page_checksum};
use litefs_types::{Checksum, PageNo, Pos};

/// Length of the header (spec of format 1).
pub const HEADER: usize = 100;

/// A file in the making. Without compression.
#[derive(Clone, Debug)]
pub struct RawLtx {
    /// Magic, flags, numbers; see the setters.
    pub header: [u8; HEADER],
    /// Numbers and content, in the order in which they are written.
    pub pages: Vec<(u32, Vec<u8>)>,
    /// Database checksum after it.
    pub post: u64,
}

impl RawLtx {
    /// A right transaction that follows `pos` of the database `image` and changes the end of page 2.
    pub fn following(pos: Pos, image: &[u8]) -> Self {
        let size = crate::image::page_size(image);
        let old = &image[size as usize..2 * size as usize];
        let mut new = old.to_vec();
        // The last bytes of a page are content; integrity is not at stake as long as nobody applies it.
        for b in new.iter_mut().rev().take(4) {
            *b = b.wrapping_add(1);
        }
        let two = PageNo::new(2).expect("a page");
        let post = pos.checksum().replace(page_checksum(two, old), page_checksum(two, &new));
        let commit = (image.len() as u64 / u64::from(size)) as u32;
        let txid = pos.txid_raw() + 1;
        let mut ltx = Self { header: [0; HEADER], pages: vec![(2, new)], post: post.get() };
        ltx.set(0, b"LTX1").set(8, &size.to_be_bytes()).set(12, &commit.to_be_bytes());
        ltx.txids(txid, txid).set(32, &1_800_000_000_000_u64.to_be_bytes());
        ltx.set(40, &pos.checksum().get().to_be_bytes()).set(72, &0xABCD_u64.to_be_bytes());
        ltx
    }

    /// A right snapshot: transactions 1 to `txid` of the database `image`.
    pub fn snapshot(txid: u64, image: &[u8]) -> Self {
        let size = crate::image::page_size(image);
        let pages: Vec<(u32, Vec<u8>)> =
            image.chunks(size as usize).zip(1..).map(|(data, n)| (n, data.to_vec())).collect();
        let mut ltx = Self { header: [0; HEADER], post: crate::image::checksum(image), pages };
        let commit = ltx.pages.len() as u32;
        ltx.set(0, b"LTX1").set(8, &size.to_be_bytes()).set(12, &commit.to_be_bytes());
        ltx.txids(1, txid).set(32, &1_800_000_000_000_u64.to_be_bytes());
        ltx.set(72, &0xABCD_u64.to_be_bytes());
        ltx
    }

    /// Sets bytes of the header.
    pub fn set(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Sets the transactions.
    pub fn txids(&mut self, min: u64, max: u64) -> &mut Self {
        self.set(16, &min.to_be_bytes()).set(24, &max.to_be_bytes())
    }

    /// Sets the number of pages after it.
    pub fn commit(&mut self, pages: u32) -> &mut Self {
        self.set(12, &pages.to_be_bytes())
    }

    /// The bytes, with a right file checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header.to_vec();
        for (number, data) in &self.pages {
            out.extend(number.to_be_bytes());
            out.extend(data);
        }
        out.extend([0; 4]);
        out.extend(self.post.to_be_bytes());
        let sum = Checksum::new(crc64(&out)).get();
        out.extend(sum.to_be_bytes());
        out
    }
}

/// The LTX frame that announces a file of the database `name`.
pub fn ltx_frame(name: &[u8]) -> Vec<u8> {
    let mut out = 1_u32.to_be_bytes().to_vec();
    out.extend([0; 8]);
    out.extend((name.len() as u32).to_be_bytes());
    out.extend(name);
    out
}

/// Bytes cut into chunks, without the end of the file.
pub fn chunked(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + data.len() / 1000 + 2);
    for part in data.chunks(u16::MAX.into()) {
        out.extend((part.len() as u16).to_be_bytes());
        out.extend(part);
    }
    out
}

/// A whole file as it travels: frame, chunks, end.
pub fn sent(name: &str, file: &[u8]) -> Vec<u8> {
    let mut out = ltx_frame(name.as_bytes());
    out.extend(chunked(file));
    out.extend([0, 0]);
    out
}

/// A frame of this type with this payload.
pub fn frame(kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_fault_the_files_are_right() {
        let mut image = vec![0_u8; 3 * 512];
        image[16..18].copy_from_slice(&512_u16.to_be_bytes());
        let pos = Pos::from_raw(4, crate::image::checksum(&image)).unwrap();
        let next = litefs_ltx::verify(&RawLtx::following(pos, &image).bytes()[..]).unwrap();
        assert_eq!((next.header.pre_apply_pos(), next.pages), (pos, 1));
        let snapshot = litefs_ltx::verify(&RawLtx::snapshot(4, &image).bytes()[..]).unwrap();
        assert_eq!(snapshot.trailer.post_apply, pos.checksum());
    }
}
