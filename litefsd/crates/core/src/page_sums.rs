//! The checksum of every page of the logical database, and of the database as a whole.
//!
//! Owns: the array, its running XOR, undoing one change of it, and which parts of it changed since
//! they were last stored. Does not own: the file it is kept in, or computing a page's checksum. It
//! describes the database at the end of the log, not the file: a checkpoint does not change it. Tested
//! in `tests/page_sums.rs` against recomputing everything.

use alloc::vec;
use alloc::vec::Vec;

use litefs_types::{Checksum, PageNo, PageSize};

/// Pages whose checksums are stored together: 4 KiB of them, one block of a disk.
pub const BLOCK_PAGES: usize = 512;

/// The page checksums of one database.
#[derive(Clone, Debug)]
pub struct PageSums {
    page_size: PageSize,
    /// One for each page, page 1 first; zero for the lock page, and for a page that was never set.
    sums: Vec<u64>,
    /// XOR of all of them.
    xor: u64,
    /// One bit for each block that changed since [`PageSums::take_dirty_blocks`].
    dirty: Vec<u64>,
}

/// What one [`PageSums::set_all`] changed. Undone in the opposite order, or thrown away.
#[must_use = "without it the change cannot be taken back"]
#[derive(Debug)]
pub struct Undo {
    xor: u64,
    pages: usize,
    /// Index and old value of entries that were there before.
    changed: Vec<(u32, u64)>,
    /// Old values behind the new end.
    cut: Vec<u64>,
}

impl PageSums {
    /// A database without pages.
    pub const fn new(page_size: PageSize) -> Self {
        Self { page_size, sums: Vec::new(), xor: 0, dirty: Vec::new() }
    }

    /// From stored values, page 1 first. A value for the lock page is dropped. `None` if a value is
    /// neither a checksum nor zero. All blocks count as stored.
    pub fn from_stored(page_size: PageSize, mut sums: Vec<u64>) -> Option<Self> {
        if sums.iter().any(|raw| Checksum::from_raw(*raw).is_none()) {
            return None;
        }
        if let Some(lock) = sums.get_mut(page_size.lock_page().index()) {
            *lock = 0;
        }
        let xor = sums.iter().fold(0, |xor, sum| xor ^ sum);
        Some(Self { page_size, sums, xor, dirty: Vec::new() })
    }

    /// The page size, which decides where the lock page is.
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Pages of the database.
    pub fn page_count(&self) -> u32 {
        self.sums.len() as u32
    }

    /// The checksum of a page; `NONE` for the lock page and pages behind the end.
    pub fn get(&self, page: PageNo) -> Checksum {
        self.raw(page).map_or(Checksum::NONE, checksum)
    }

    /// The checksum of the database.
    pub const fn checksum(&self) -> Checksum {
        Checksum::new(self.xor)
    }

    /// The checksum that the database would have after [`PageSums::set_all`] with the same arguments.
    /// `changes` must be ascending: of two entries for one page both would count.
    pub fn checksum_after(&self, changes: &[(PageNo, Checksum)], new_pages: u32) -> Checksum {
        let mut xor = self.xor;
        for old in self.sums.get(new_pages as usize..).unwrap_or_default() {
            xor ^= old;
        }
        for (page, sum) in changes {
            if self.holds(*page, new_pages) {
                xor ^= self.raw(*page).unwrap_or(0) ^ sum.get();
            }
        }
        Checksum::new(xor)
    }

    /// Makes the database `new_pages` pages long and sets the checksums of the changed pages.
    ///
    /// Entries for the lock page or behind the new end are passed over. The caller supplies every page
    /// behind the old end; one that is missing stays `NONE`, and the database checksum is wrong then.
    pub fn set_all(&mut self, changes: &[(PageNo, Checksum)], new_pages: u32) -> Undo {
        let pages = self.sums.len();
        let new_len = new_pages as usize;
        let mut undo =
            Undo { xor: self.xor, pages, changed: Vec::with_capacity(changes.len()), cut: Vec::new() };
        self.mark_size_change(pages, new_len);
        if new_len < pages {
            undo.cut = self.sums.split_off(new_len);
            self.xor = undo.cut.iter().fold(self.xor, |xor, sum| xor ^ sum);
        } else {
            self.sums.resize(new_len, 0);
        }
        for (page, sum) in changes {
            if !self.holds(*page, new_pages) {
                continue;
            }
            let index = page.index();
            let Some(entry) = self.sums.get_mut(index) else { continue };
            let old = core::mem::replace(entry, sum.get());
            self.xor ^= old ^ sum.get();
            if index < pages {
                undo.changed.push((index as u32, old));
            }
            self.mark(index);
        }
        undo
    }

    /// Takes the last change back. Only the newest change that was not yet taken back can be.
    pub fn undo(&mut self, undo: Undo) {
        self.mark_size_change(self.sums.len(), undo.pages);
        self.sums.truncate(undo.pages);
        self.sums.extend_from_slice(&undo.cut);
        // Backwards: of two changes of one entry the first has the value from before.
        for (index, old) in undo.changed.into_iter().rev() {
            if let Some(entry) = self.sums.get_mut(index as usize) {
                *entry = old;
                self.mark(index as usize);
            }
        }
        self.xor = undo.xor;
    }

    /// The values of a block, counted from 0; fewer than [`BLOCK_PAGES`] at the end, none behind it.
    pub fn block(&self, block: usize) -> &[u64] {
        let from = block.saturating_mul(BLOCK_PAGES).min(self.sums.len());
        let to = from.saturating_add(BLOCK_PAGES).min(self.sums.len());
        &self.sums[from..to]
    }

    /// Blocks of the whole array.
    pub fn block_count(&self) -> usize {
        self.sums.len().div_ceil(BLOCK_PAGES)
    }

    /// The blocks that changed since the last call, ascending. Blocks behind the end are not among
    /// them: the stored array is cut to the page count.
    pub fn take_dirty_blocks(&mut self) -> Vec<usize> {
        let end = self.block_count();
        let mut blocks = Vec::new();
        for (word_index, word) in self.dirty.iter_mut().enumerate() {
            let mut bits = core::mem::take(word);
            while bits != 0 {
                let block = word_index * 64 + bits.trailing_zeros() as usize;
                if block < end {
                    blocks.push(block);
                }
                bits &= bits - 1;
            }
        }
        blocks
    }

    /// Marks every block as changed: nothing of it is stored any more.
    pub fn mark_all_dirty(&mut self) {
        self.dirty = vec![u64::MAX; self.block_count().div_ceil(64)];
    }

    fn raw(&self, page: PageNo) -> Option<u64> {
        self.sums.get(page.index()).copied()
    }

    /// Whether a database of `pages` pages has a checksum for this page.
    fn holds(&self, page: PageNo, pages: u32) -> bool {
        page.get() <= pages && page != self.page_size.lock_page()
    }

    fn mark(&mut self, index: usize) {
        let block = index / BLOCK_PAGES;
        let word = block / 64;
        if word >= self.dirty.len() {
            self.dirty.resize(word + 1, 0);
        }
        self.dirty[word] |= 1 << (block % 64);
    }

    /// A change of the size changes every block from the smaller end to the larger one.
    fn mark_size_change(&mut self, a: usize, b: usize) {
        let (low, high) = (a.min(b), a.max(b));
        if low == high {
            return;
        }
        // The block in which the smaller size ends is stored with another length.
        for block in low / BLOCK_PAGES..=(high - 1) / BLOCK_PAGES {
            self.mark(block * BLOCK_PAGES);
        }
    }
}

/// Every stored value is zero or has the flag.
fn checksum(raw: u64) -> Checksum {
    Checksum::from_raw(raw).unwrap_or(Checksum::NONE)
}
