//! The pages that a hot journal rolls back, by SQLite's rules (pager.c `pager_playback`,
//! `readJournalHdr`, `pager_playback_one_page`).
//!
//! Playback first cuts the database to [`JournalReader::original_pages`], then writes each page it is
//! given, in order. It ends at the first record that names page 0 or the lock page (the super-journal
//! record), has a wrong checksum or is short, and where no further segment header follows. Records of
//! pages behind the original size are passed over. Tested in `tests/journal.rs`.

use alloc::vec::Vec;

use litefs_types::{PageNo, PageSize};

use super::super_journal::super_journal_name;
use super::{
    JOURNAL_HEADER_LEN, JournalHeader, JournalIdentity, MIN_JOURNAL_SECTOR, RecordCount, is_live,
    record_checksum,
};
use crate::be;
use crate::source::{ReadAt, ReadFailed};

/// Walks through the records of a live journal.
#[derive(Debug)]
pub struct JournalReader<R> {
    source: R,
    size: u64,
    header: JournalHeader,
    page_size: PageSize,
    /// Where the next record or header is looked for.
    offset: u64,
    /// Records left in this segment.
    left: u64,
    /// Nonce of this segment.
    nonce: u32,
}

impl<R: ReadAt> JournalReader<R> {
    /// Starts at the first record of a journal of `size` bytes.
    ///
    /// `db_page_size` stands in where the journal does not store one. `None` if the journal is not
    /// live: nothing is to be rolled back, and the database is not to be cut either.
    pub fn open(
        mut source: R,
        size: u64,
        db_page_size: Option<PageSize>,
    ) -> Result<Option<Self>, ReadFailed> {
        if size < MIN_JOURNAL_SECTOR {
            return Ok(None);
        }
        let mut b = [0; JOURNAL_HEADER_LEN];
        source.read_at(0, &mut b)?;
        let Ok(header) = JournalHeader::parse(&b) else { return Ok(None) };
        let Some(page_size) = header.page_size.or(db_page_size) else { return Ok(None) };
        let mut reader = Self { source, size, header, page_size, offset: 0, left: 0, nonce: header.nonce };
        reader.start_segment(header.records);
        Ok(Some(reader))
    }

    /// The first segment's header.
    pub const fn header(&self) -> &JournalHeader {
        &self.header
    }

    /// Size of the pages that are handed out.
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Database size in pages before the transaction: playback cuts the file to it.
    pub const fn original_pages(&self) -> u32 {
        self.header.original_pages
    }

    /// The super-journal that this journal names.
    pub fn super_journal(&mut self) -> Result<Option<Vec<u8>>, ReadFailed> {
        super_journal_name(&mut self.source, self.size)
    }

    /// The journal's identity; `None` if the file is shorter than its first sector.
    pub fn identity(&mut self) -> Result<Option<JournalIdentity>, ReadFailed> {
        let len = self.header.sector_size.max(JOURNAL_HEADER_LEN as u32);
        if u64::from(len) > self.size {
            return Ok(None);
        }
        let mut sector = alloc::vec![0; len as usize];
        self.source.read_at(0, &mut sector)?;
        Ok(JournalIdentity::of_first_sector(&sector))
    }

    /// The next page to write back, whose content is put into `page`; `None` at the end.
    ///
    /// A page may come more than once; then the later one is right, as SQLite writes both.
    pub fn next_page(&mut self, page: &mut Vec<u8>) -> Result<Option<PageNo>, ReadFailed> {
        let record_len = u64::from(self.page_size.get()) + 8;
        loop {
            while self.left == 0 {
                if !self.next_segment()? {
                    return self.end();
                }
            }
            let Some(next) = self.offset.checked_add(record_len).filter(|end| *end <= self.size) else {
                return self.end();
            };
            let mut word = [0; 4];
            self.source.read_at(self.offset, &mut word)?;
            let Some(page_no) = PageNo::new(be::u32_at(&word, 0)) else { return self.end() };
            if page_no == self.page_size.lock_page() {
                return self.end();
            }
            let data = self.offset + 4;
            self.offset = next;
            self.left -= 1;
            if page_no.get() > self.header.original_pages {
                continue;
            }
            page.resize(self.page_size.bytes(), 0);
            self.source.read_at(data, page)?;
            self.source.read_at(next - 4, &mut word)?;
            if record_checksum(self.nonce, page) != be::u32_at(&word, 0) {
                return self.end();
            }
            return Ok(Some(page_no));
        }
    }

    /// Playback is over: nothing behind this point counts.
    #[allow(clippy::unnecessary_wraps)] // the value of `next_page` at its ends
    fn end(&mut self) -> Result<Option<PageNo>, ReadFailed> {
        self.offset = self.size;
        self.left = 0;
        Ok(None)
    }

    /// Looks for a header at the next sector boundary.
    fn next_segment(&mut self) -> Result<bool, ReadFailed> {
        let sector = u64::from(self.header.sector_size);
        let Some(at) = self.offset.checked_next_multiple_of(sector) else { return Ok(false) };
        if at.checked_add(sector.max(JOURNAL_HEADER_LEN as u64)).is_none_or(|end| end > self.size) {
            return Ok(false);
        }
        let mut b = [0; JOURNAL_HEADER_LEN];
        self.source.read_at(at, &mut b)?;
        if !is_live(&b) {
            return Ok(false);
        }
        self.offset = at;
        self.nonce = be::u32_at(&b, 12);
        // Sector size, page size and original size are taken from the first header alone.
        self.start_segment(match be::u32_at(&b, 8) {
            u32::MAX => RecordCount::ToEnd,
            n => RecordCount::Exactly(n),
        });
        Ok(true)
    }

    /// Steps over the header at `offset`. A sector is at least 32 bytes, so this always moves on.
    fn start_segment(&mut self, records: RecordCount) {
        self.offset = self.offset.saturating_add(u64::from(self.header.sector_size));
        let fit = self.size.saturating_sub(self.offset) / (u64::from(self.page_size.get()) + 8);
        self.left = match records {
            // In a hot journal zero means that the segment was not synced: no page of it can have
            // been overwritten in the database.
            RecordCount::Exactly(n) => u64::from(n),
            RecordCount::ToEnd => fit,
        };
    }
}
