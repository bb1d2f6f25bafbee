//! Which pages may follow each other in a file. Used by encoder and decoder alike, in all formats.

use litefs_types::{PageNo, PageSize};

use crate::Header;
use crate::error::PageError;

/// Checks the order of the pages of one file.
#[derive(Clone, Debug)]
pub(crate) struct PageOrder {
    page_size: PageSize,
    commit: u32,
    snapshot: bool,
    previous: u32,
}

impl PageOrder {
    pub(crate) fn new(header: &Header) -> Self {
        Self {
            page_size: header.page_size,
            commit: header.commit,
            snapshot: header.is_snapshot(),
            previous: 0,
        }
    }

    /// Takes the next page.
    pub(crate) fn accept(&mut self, page: PageNo) -> Result<(), PageError> {
        let (n, lock) = (page.get(), self.page_size.lock_page().get());
        if n > self.commit {
            return Err(PageError::Bounds { page: n, commit: self.commit });
        }
        if n == lock {
            return Err(PageError::LockPage(n));
        }
        let next = self.previous + 1;
        let ok = if self.snapshot { n == next || (next == lock && n == lock + 1) } else { n >= next };
        if !ok {
            return Err(PageError::Order { page: n, previous: self.previous });
        }
        self.previous = n;
        Ok(())
    }

    /// Checks that a snapshot is complete: its last page is the database's, unless that is the lock page.
    pub(crate) fn finish(&self) -> Result<(), PageError> {
        let last =
            if self.commit == self.page_size.lock_page().get() { self.commit - 1 } else { self.commit };
        if self.snapshot && self.previous != last {
            return Err(PageError::Incomplete { last: self.previous, commit: self.commit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use litefs_types::{Checksum, Txid};

    use super::*;

    fn order(commit: u32, txid: u64, previous: u32) -> PageOrder {
        let h = Header::new(PageSize::MAX, commit, Txid::new(txid).unwrap(), Checksum::EMPTY);
        PageOrder { previous, ..PageOrder::new(&h) }
    }

    fn p(n: u32) -> PageNo {
        PageNo::new(n).unwrap()
    }

    #[test]
    fn the_lock_page_is_skipped() {
        let lock = PageSize::MAX.lock_page().get();
        let mut o = order(lock + 1, 1, lock - 1);
        assert_eq!(o.accept(p(lock)), Err(PageError::LockPage(lock)));
        assert_eq!(o.accept(p(lock + 1)), Ok(()));
        assert_eq!(o.finish(), Ok(()));
        // A snapshot whose last page is the lock page ends before it.
        assert_eq!(order(lock, 1, lock - 1).finish(), Ok(()));
        assert!(order(lock, 1, lock - 2).finish().is_err());
        assert!(order(lock + 1, 1, lock - 1).finish().is_err());
    }

    #[test]
    fn order_and_bounds() {
        let mut o = order(5, 2, 0);
        assert_eq!(o.accept(p(2)), Ok(()));
        assert_eq!(o.accept(p(2)), Err(PageError::Order { page: 2, previous: 2 }));
        assert_eq!(o.accept(p(5)), Ok(()));
        assert_eq!(o.accept(p(6)), Err(PageError::Bounds { page: 6, commit: 5 }));
        assert_eq!(o.finish(), Ok(()));
        let mut s = order(5, 1, 0);
        assert!(s.accept(p(2)).is_err());
        assert_eq!(s.accept(p(1)), Ok(()));
        assert!(s.accept(p(3)).is_err());
        assert!(s.finish().is_err());
        assert_eq!(order(0, 1, 0).finish(), Ok(()));
    }
}
