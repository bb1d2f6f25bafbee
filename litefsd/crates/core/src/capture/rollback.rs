//! Which pages a transaction with a rollback journal may have changed (rule R1).
//!
//! Owns: the set of touched pages. Does not own: when the transaction commits, or whether the pages
//! differ from before (the page sums tell). The journal's page list is not asked: it leaves out every
//! page that is new, or was free before. Tested in `tests/rollback_capture.rs`.

use alloc::vec::Vec;

use litefs_types::{PageNo, PageSize};

/// Touched pages are sorted and made unique when there are this many new ones, or as many new ones as
/// old ones: that keeps memory within twice the pages touched, and the work within O(n log n).
const COMPACT_AFTER: usize = 1024;

/// The dirty set of the running transaction.
#[derive(Clone, Debug, Default)]
pub struct RollbackCapture {
    /// Touched pages; the first `sorted` are ascending and unique.
    touched: Vec<PageNo>,
    sorted: usize,
    /// The lowest page count that the file was cut to.
    cut: Option<u32>,
}

impl RollbackCapture {
    /// Nothing touched.
    pub const fn new() -> Self {
        Self { touched: Vec::new(), sorted: 0, cut: None }
    }

    /// `len` bytes of the database file were written from `offset` on; they need not be whole pages.
    /// Bytes behind the last page that a database can have are not followed.
    pub fn touch(&mut self, offset: u64, len: u64, page_size: PageSize) {
        if len == 0 {
            return;
        }
        let size = u64::from(page_size.get());
        let first = page_at(offset / size);
        let last = page_at(offset.saturating_add(len - 1) / size);
        let (Some(first), Some(last)) = (first, last) else { return };
        for page in (first.get()..=last.get()).filter_map(PageNo::new) {
            if self.touched.last() != Some(&page) {
                self.touched.push(page);
            }
        }
        if self.touched.len() - self.sorted > self.sorted.max(COMPACT_AFTER) {
            self.compact();
        }
    }

    /// The database file was cut, or extended, to `size` bytes. What lies behind a cut and comes back
    /// later without being written is zeros: it counts as touched.
    pub fn truncate(&mut self, size: u64, page_size: PageSize) {
        let pages = u32::try_from(size / u64::from(page_size.get())).unwrap_or(u32::MAX);
        self.cut = Some(self.cut.map_or(pages, |cut| cut.min(pages)));
    }

    /// Whether anything was written or cut.
    pub const fn is_dirty(&self) -> bool {
        !self.touched.is_empty() || self.cut.is_some()
    }

    /// The pages that may differ from before the transaction, which took the database from `old_pages`
    /// to `new_pages` pages: ascending, all within `new_pages`, without the lock page.
    ///
    /// Pages between the old and the new end count even if nobody wrote them: they are holes, and the
    /// other side does not have them yet.
    pub fn dirty_pages(&mut self, old_pages: u32, new_pages: u32, page_size: PageSize) -> Vec<PageNo> {
        self.compact();
        let kept = self.cut.map_or(old_pages, |cut| cut.min(old_pages)).min(new_pages);
        let lock = page_size.lock_page();
        self.touched
            .iter()
            .copied()
            .take_while(|page| page.get() <= kept)
            .chain((kept..new_pages).filter_map(|n| PageNo::new(n + 1)))
            .filter(|page| *page != lock)
            .collect()
    }

    /// The transaction is over.
    pub fn clear(&mut self) {
        // A huge transaction does not keep its memory for ever.
        if self.touched.capacity() > COMPACT_AFTER * 4 {
            self.touched = Vec::new();
        }
        self.touched.clear();
        self.sorted = 0;
        self.cut = None;
    }

    fn compact(&mut self) {
        self.touched.sort_unstable();
        self.touched.dedup();
        self.sorted = self.touched.len();
    }
}

/// The page with this index, counted from 0.
fn page_at(index: u64) -> Option<PageNo> {
    PageNo::new(u32::try_from(index).ok()?.checked_add(1)?)
}
