//! A committed transaction of the WAL: which frames, which version of each page.
//!
//! Owns: picking the newest version. Tested here and through the readers.

use alloc::vec::Vec;

use litefs_types::{PageNo, PageSize};

/// One committed transaction, or several merged into one, as a range of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// First frame, counted from 1.
    pub first: u32,
    /// Last frame: the one with the commit size.
    pub last: u32,
    /// Database size in pages after the transaction.
    pub commit: u32,
    /// Each page that the database has afterwards, in ascending order, with the frame of its newest
    /// version. Neither pages behind `commit` nor the lock page are here.
    pub pages: Vec<(PageNo, u32)>,
    /// The checksum chain's value after the last frame.
    pub chain: [u32; 2],
    /// File offset of the first frame's header.
    pub wal_offset: u64,
    /// Bytes of all frames, headers included.
    pub wal_size: u64,
}

/// From the raw page numbers of frames `first`, `first + 1`, …: the newest frame of each page, in
/// ascending order of pages, without the lock page and pages behind `commit`.
pub fn newest_versions(
    first: u32,
    pages: impl Iterator<Item = u32>,
    commit: u32,
    page_size: PageSize,
) -> Vec<(PageNo, u32)> {
    let mut newest: Vec<(PageNo, u32)> = Vec::with_capacity(pages.size_hint().0);
    for (page, frame) in pages.zip(first..) {
        if let Some(page) = PageNo::new(page)
            && page.get() <= commit
            && page != page_size.lock_page()
        {
            newest.push((page, frame));
        }
    }
    // Sorted by page, then frame: of equal pages the last one is the newest.
    newest.sort_unstable();
    newest.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            kept.1 = later.1;
        }
        same
    });
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_each_page_wins() {
        let ps = PageSize::MAX;
        let lock = ps.lock_page().get();
        let got = newest_versions(5, [3, 1, 3, 9, lock, 2, 3].into_iter(), lock, ps);
        let got: Vec<_> = got.iter().map(|(p, f)| (p.get(), *f)).collect();
        assert_eq!(got, [(1, 6), (2, 10), (3, 11), (9, 8)]);
        assert_eq!(newest_versions(1, [3, 1, 0].into_iter(), 2, ps).len(), 1);
    }
}
