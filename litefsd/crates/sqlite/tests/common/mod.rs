//! What the tests against real SQLite share: databases in a temporary directory, and images.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::path::Path;

use litefs_types::{PageNo, PageSize};
use rusqlite::Connection;

/// The page sizes that are tested: the smallest, the largest, and two in between.
pub const PAGE_SIZES: [u32; 4] = [512, 1024, 4096, 65536];

/// Opens `path` with this page size and these pragmas.
pub fn open(path: &Path, page_size: u32, pragmas: &str) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch(&format!("PRAGMA page_size={page_size};{pragmas}")).unwrap();
    db
}

/// A small generator, so that a test's content depends on its seed alone.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn text(&mut self, len: usize) -> String {
        (0..len).map(|_| char::from(b'a' + (self.next() % 26) as u8)).collect()
    }
}

/// Writes a page into a database image, which grows as a file would.
pub fn put_page(image: &mut Vec<u8>, page_size: PageSize, page: PageNo, data: &[u8]) {
    let at = page_size.offset(page) as usize;
    if image.len() < at + data.len() {
        image.resize(at + data.len(), 0);
    }
    image[at..at + data.len()].copy_from_slice(data);
}
