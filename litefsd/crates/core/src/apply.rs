//! Whether a received transaction fits onto the database, and what the database is afterwards.
//!
//! Owns: the checks between a verified LTX file and the page sums, before the first page is written.
//! Does not own: the LTX file's own integrity, or writing. Tested in `tests/page_sums.rs`.

use litefs_types::{Checksum, PageNo, PageSize};
use thiserror::Error;

use crate::page_sums::PageSums;

/// What the header and trailer of an LTX file say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Page size of all its pages.
    pub page_size: PageSize,
    /// Whether it holds the whole database rather than a change.
    pub snapshot: bool,
    /// Database size in pages afterwards.
    pub commit: u32,
    /// Database checksum before; not looked at for a snapshot.
    pub pre: Checksum,
    /// Database checksum afterwards.
    pub post: Checksum,
}

/// Why a transaction cannot be applied. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotApplicable {
    /// It continues from another state of the database.
    #[error("the transaction continues from database checksum {expected}, the database has {found}")]
    Pre {
        /// What the file says.
        expected: Checksum,
        /// What the database has.
        found: Checksum,
    },
    /// Only a snapshot may change the page size.
    #[error("the transaction has pages of {incoming} bytes, the database of {found}")]
    PageSize {
        /// Of the file.
        incoming: PageSize,
        /// Of the database.
        found: PageSize,
    },
    /// Pages must be ascending, within the database, and not the lock page.
    #[error("page {0} is out of order, behind the end, or the lock page")]
    Page(PageNo),
    /// A page that the database does not have yet must be in the file.
    #[error("page {0} is new, but not in the transaction")]
    Missing(PageNo),
    /// The database would not be what the sender has.
    #[error("the database would have checksum {found}, the transaction says {expected}")]
    Post {
        /// What the file says.
        expected: Checksum,
        /// What would come out.
        found: Checksum,
    },
}

/// Checks a transaction, whose pages have these checksums, against the database.
///
/// After `Ok` the pages may be written and [`PageSums::set_all`] with the same pages gives `post`
/// (for a snapshot on sums that were emptied before).
pub fn plan(sums: &PageSums, incoming: &Incoming, pages: &[(PageNo, Checksum)]) -> Result<(), NotApplicable> {
    let empty = PageSums::new(incoming.page_size);
    let base = if incoming.snapshot { &empty } else { sums };
    if !incoming.snapshot {
        if incoming.pre != base.checksum() {
            return Err(NotApplicable::Pre { expected: incoming.pre, found: base.checksum() });
        }
        if incoming.page_size != base.page_size() && base.page_count() > 0 {
            return Err(NotApplicable::PageSize { incoming: incoming.page_size, found: base.page_size() });
        }
    }
    let lock = incoming.page_size.lock_page();
    // The next page behind the old end that has to be there.
    let mut needed = base.page_count().saturating_add(1);
    let mut last = None;
    for (page, _) in pages {
        if last.is_some_and(|last| *page <= last) || page.get() > incoming.commit || *page == lock {
            return Err(NotApplicable::Page(*page));
        }
        last = Some(*page);
        if needed == lock.get() {
            needed = needed.saturating_add(1);
        }
        if page.get() >= needed {
            if page.get() > needed {
                return Err(missing(needed));
            }
            needed = needed.saturating_add(1);
        }
    }
    if needed == lock.get() {
        needed = needed.saturating_add(1);
    }
    if needed <= incoming.commit {
        return Err(missing(needed));
    }
    let found = base.checksum_after(pages, incoming.commit);
    if found != incoming.post {
        return Err(NotApplicable::Post { expected: incoming.post, found });
    }
    Ok(())
}

fn missing(page: u32) -> NotApplicable {
    NotApplicable::Missing(PageNo::new(page).unwrap_or(PageNo::FIRST))
}
