//! Where the pages of a transaction come from.

use litefs_types::{PageNo, PageSize};

use super::ApplyError;

/// Takes the pages of a transaction one by one; its first error ends the transaction.
pub type PageSink<'a> = &'a mut dyn FnMut(PageNo, &[u8]) -> Result<(), ApplyError>;

/// The pages of one transaction, in ascending order, each once.
///
/// Streamed: a transaction may be larger than memory. What fails in the source itself is
/// [`ApplyError::Source`].
pub trait PageSource {
    /// Hands every page to `f`, and stops at its first error. Called again, it starts again.
    fn for_each(&mut self, f: PageSink<'_>) -> Result<(), ApplyError>;
}

impl PageSource for &[(PageNo, Vec<u8>)] {
    fn for_each(&mut self, f: PageSink<'_>) -> Result<(), ApplyError> {
        self.iter().try_for_each(|(page, data)| f(*page, data))
    }
}

/// Checks what a source hands out against what an LTX file may hold, right before it is written: the
/// check costs nothing and a page at a wrong place costs a database.
#[derive(Debug)]
pub(super) struct PageCheck {
    page_size: PageSize,
    commit: u32,
    last: u32,
}

impl PageCheck {
    pub(super) const fn new(page_size: PageSize, commit: u32) -> Self {
        Self { page_size, commit, last: 0 }
    }

    pub(super) fn check(&mut self, page: PageNo, data: &[u8]) -> Result<(), ApplyError> {
        let why = if data.len() != self.page_size.bytes() {
            "not of the page size"
        } else if page.get() > self.commit {
            "beyond the end of the database"
        } else if page.get() <= self.last {
            "not in ascending order"
        } else if page == self.page_size.lock_page() {
            "the lock page"
        } else {
            self.last = page.get();
            return Ok(());
        };
        Err(ApplyError::BadPage { page: page.get(), why })
    }
}
