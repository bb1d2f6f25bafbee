//! CRC-64/GO-ISO and what LTX makes of it: page, database and file checksums.
//!
//! The bulk is done by `crc-fast` (carry-less multiplication where the processor has it). On top of
//! it stand two things that save work: a table for the few bytes of page headers, and the
//! combination of CRCs, by which a page is hashed once for both its own and the file's checksum:
//! `crc(a ‖ b) = shift(crc(a), |b|) ^ crc(b)`, and `shift` is linear, so that for a fixed length it
//! is sixteen table look-ups.

use crc_fast::CrcAlgorithm::Crc64GoIso;
use litefs_types::{Checksum, PageNo, PageSize};

/// The polynomial, bits reversed.
const POLY: u64 = 0xD800_0000_0000_0000;

/// Up to this many bytes the table is faster than the call into `crc-fast`.
const SHORT: usize = 16;

/// CRC-64/GO-ISO of some bytes, without the flag.
pub fn crc64(data: &[u8]) -> u64 {
    crc_fast::checksum(Crc64GoIso, data)
}

/// An incremental CRC-64/GO-ISO.
#[derive(Clone, Copy, Debug)]
pub struct Crc64 {
    /// The register, i.e. the complement of the CRC so far.
    state: u64,
}

impl Crc64 {
    /// The CRC of no bytes.
    pub const fn new() -> Self {
        Self { state: !0 }
    }

    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) {
        if data.len() <= SHORT {
            for b in data {
                self.state = BYTES[usize::from(self.state as u8 ^ b)] ^ (self.state >> 8);
            }
        } else {
            let mut digest = crc_fast::Digest::new_with_init_state(Crc64GoIso, self.state);
            digest.update(data);
            self.state = digest.get_state();
        }
    }

    /// The CRC so far, without the flag.
    pub const fn value(&self) -> u64 {
        !self.state
    }

    /// The checksum of what was added.
    pub const fn checksum(&self) -> Checksum {
        Checksum::new(self.value())
    }

    /// Adds a page whose CRC is known.
    fn append_page(&mut self, shift: &Shift, data_crc: u64) {
        self.state = !(shift.apply(self.value()) ^ data_crc);
    }
}

impl Default for Crc64 {
    fn default() -> Self {
        Self::new()
    }
}

/// The checksum of a page: of its number and its data.
pub fn page_checksum(page: PageNo, data: &[u8]) -> Checksum {
    let mut crc = Crc64::new();
    crc.update(&page.get().to_be_bytes());
    crc.update(data);
    crc.checksum()
}

/// The checksum of a whole database from the pages in order; the lock page among them is skipped.
pub fn database_checksum<'a>(page_size: PageSize, pages: impl IntoIterator<Item = &'a [u8]>) -> Checksum {
    let mut sum = Checksum::EMPTY;
    for (n, data) in (1..).zip(pages) {
        if let Some(page) = PageNo::new(n).filter(|p| *p != page_size.lock_page()) {
            sum = sum.replace(Checksum::NONE, page_checksum(page, data));
        }
    }
    sum
}

/// Hashes a file and its pages in one pass over the data.
#[derive(Clone, Debug)]
pub(crate) struct FileHash {
    file: Crc64,
    shift: &'static Shift,
}

impl FileHash {
    pub(crate) fn new(page_size: PageSize) -> Self {
        Self { file: Crc64::new(), shift: Shift::by(page_size) }
    }

    /// Anything that is not page data.
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.file.update(data);
    }

    /// Page data (without its header); returns the checksum of the page.
    pub(crate) fn page(&mut self, page: PageNo, data: &[u8]) -> Checksum {
        let data_crc = crc64(data);
        self.file.append_page(self.shift, data_crc);
        let mut own = Crc64::new();
        own.update(&page.get().to_be_bytes());
        own.append_page(self.shift, data_crc);
        own.checksum()
    }

    pub(crate) fn checksum(&self) -> Checksum {
        self.file.checksum()
    }
}

/// Advances a CRC over as many zero bytes as a page has.
#[derive(Debug)]
struct Shift([[u64; 16]; 16]);

/// One for every page size, 512 first.
static SHIFTS: [Shift; 8] = [
    Shift::new(9),
    Shift::new(10),
    Shift::new(11),
    Shift::new(12),
    Shift::new(13),
    Shift::new(14),
    Shift::new(15),
    Shift::new(16),
];

static BYTES: [u64; 256] = byte_table();

impl Shift {
    fn by(page_size: PageSize) -> &'static Self {
        // A page size is a power of two from 2^9 to 2^16.
        &SHIFTS[(page_size.get().trailing_zeros() as usize - 9).min(7)]
    }

    /// Over 2^`log2` bytes.
    const fn new(log2: u32) -> Self {
        // x^8 in the reversed notation (bit 63 is x^0), squared log2 times: x^(8·2^log2).
        let mut factor = 1 << 55;
        let mut i = 0;
        while i < log2 {
            factor = multiply(factor, factor);
            i += 1;
        }
        // What each bit of a CRC contributes; bit 63 is x^0, every bit below it one x more.
        let mut bits = [0u64; 64];
        let mut bit = 64;
        while bit > 0 {
            bit -= 1;
            bits[bit] = factor;
            factor = times_x(factor);
        }
        let mut table = [[0u64; 16]; 16];
        let mut n = 0;
        while n < 16 {
            let mut v = 0;
            while v < 16 {
                let mut b = 0;
                while b < 4 {
                    if v & (1 << b) != 0 {
                        table[n][v] ^= bits[4 * n + b];
                    }
                    b += 1;
                }
                v += 1;
            }
            n += 1;
        }
        Self(table)
    }

    fn apply(&self, crc: u64) -> u64 {
        let mut out = 0;
        for (n, row) in self.0.iter().enumerate() {
            out ^= row[(crc >> (4 * n)) as usize & 15];
        }
        out
    }
}

const fn times_x(v: u64) -> u64 {
    if v & 1 == 1 { (v >> 1) ^ POLY } else { v >> 1 }
}

/// Product of two polynomials modulo the CRC's.
const fn multiply(a: u64, mut b: u64) -> u64 {
    let (mut product, mut i) = (0, 64);
    while i > 0 {
        i -= 1;
        if a & (1 << i) != 0 {
            product ^= b;
        }
        b = times_x(b);
    }
    product
}

const fn byte_table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let (mut v, mut i) = (n as u64, 0);
        while i < 8 {
            v = times_x(v);
            i += 1;
        }
        table[n] = v;
        n += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value() {
        assert_eq!(crc64(b"123456789"), 0xB909_56C7_75A4_1001);
        let mut long = Crc64::new();
        long.update(b"12");
        long.update(b"");
        long.update(b"3456789");
        assert_eq!(long.value(), 0xB909_56C7_75A4_1001);
    }

    #[test]
    fn table_and_bulk_agree() {
        let data: Vec<u8> = (0..5000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        for len in [0, 1, 15, 16, 17, 100, 512, 4096, 5000] {
            let mut bytewise = Crc64::new();
            data[..len].chunks(3).for_each(|c| bytewise.update(c));
            let mut bulk = Crc64::new();
            bulk.update(&data[..len]);
            assert_eq!((bytewise.value(), bulk.value()), (crc64(&data[..len]), crc64(&data[..len])));
        }
    }

    #[test]
    fn one_pass_equals_two() {
        for log2 in 9..=16 {
            let ps = PageSize::new(1 << log2).unwrap();
            let mut hash = FileHash::new(ps);
            let mut plain = Crc64::new();
            for n in 1..4u32 {
                let page = PageNo::new(n * 77).unwrap();
                let data: Vec<u8> = (0..ps.get()).map(|i| (i.wrapping_mul(n * 31) >> 5) as u8).collect();
                hash.update(&page.get().to_be_bytes());
                plain.update(&page.get().to_be_bytes());
                plain.update(&data);
                assert_eq!(hash.page(page, &data), page_checksum(page, &data));
            }
            assert_eq!(hash.checksum(), plain.checksum());
        }
    }

    #[test]
    fn known_pages() {
        let mut page = [0u8; 512];
        page[0] = 0x0d;
        let two = PageNo::new(2).unwrap();
        assert_eq!(page_checksum(two, &page).get(), 0x891b_189f_ecd9_9002);
        page[1..].fill(0xaa);
        assert_eq!(page_checksum(two, &page).get(), 0xddfb_189f_ecd9_9033);
        let none: [&[u8]; 0] = [];
        assert_eq!(database_checksum(PageSize::DEFAULT, none), Checksum::EMPTY);
    }
}
