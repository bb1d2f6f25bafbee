//! Redo: the log's transactions into the database file and the page sums; and the check that both are
//! what the log's last position says.
//!
//! Writing a page that is there already changes nothing, so redo may start too early and may be
//! interrupted. It starts at the stamp's two positions; without a stamp the whole log is redone and the
//! file is read once.
//!
//! After a rollback was played back the file may still differ in pages that the journal does not cover:
//! SQLite does not save free pages before it overwrites them. Then the file is compared with the sums,
//! and what differs becomes a transaction, as it would have with the daemon alive (capture rule R5).

use std::io::{BufReader, Write};

use litefs_core::page_sums::PageSums;
use litefs_ltx::{Compression, Decoder, Encoder, Header};
use litefs_sqlite::db_header::{DB_HEADER_LEN, DbHeader};
use litefs_types::{Checksum, PageNo, PageSize, Pos};

use super::{Recovery, Step, WRITE, anomaly, disk_error, page_sum};
use crate::error::StoreError;
use crate::log::{LogEntry, RecordKind, RecordMeta};

const BUFFER: usize = 256 * 1024;
/// Bytes read at once when the whole file is checked.
const SCAN: usize = 1024 * 1024;

impl Recovery {
    /// Brings file and sums to the end of the log and checks them. `known`: the sums at a position that
    /// the file has.
    pub(super) fn redo(&mut self, known: Option<(Pos, PageSums)>) -> Step<PageSums> {
        let tip = self.log.tip();
        if let Some(at) = self.db_pos.filter(|p| p.txid() > tip.txid()) {
            // Redoing what is left would take the file back.
            return Err(anomaly(format!("the database file was at {at}, the log ends at {tip}")));
        }
        let shortened = self.check_length()?;
        let stored = match known {
            Some(k) => Some(k),
            None => self.stored_sums()?,
        };
        if shortened {
            // Before the file has its length again: interrupted then, the next start could not tell.
            self.sums_file.withdraw().map_err(disk_error("withdrawal of the page sums"))?;
        }
        let mut sums = if let Some((from, sums)) = stored {
            self.redo_from(self.db_pos, Some(from), sums)?
        } else {
            // A log that goes back to the beginning says what every page is.
            let whole = self.log.base().is_zero();
            let none = PageSums::new(PageSize::DEFAULT);
            let sums = self.redo_from(self.db_pos, whole.then_some(Pos::ZERO), none)?;
            if whole && !tip.is_zero() { sums } else { self.scan()? }
        };
        if !fits(&sums, tip) {
            self.note("the page sums do not fit; read the whole database");
            sums = self.scan()?;
            if let Some(healed) = self.heal(&sums)? {
                sums = healed;
            }
            if !fits(&sums, tip) {
                return Err(anomaly(format!(
                    "database checksum {} is not that of the log's end, {tip}",
                    sums.checksum()
                )));
            }
        } else if self.suspect && sums.page_count() > 0 {
            self.compare(&mut sums)?;
        }
        Ok(sums)
    }

    /// Whether the file lost its end: the log may still have it, and is redone from its beginning.
    fn check_length(&mut self) -> Step<bool> {
        let Some(stamp) = self.sums_file.stamp().copied() else { return Ok(false) };
        let (Some(ps), true) = (stamp.page_size, self.db_pos == Some(stamp.sums_pos)) else {
            return Ok(false);
        };
        let pages = match self.shape()? {
            Some((now, pages)) if now == ps => pages.min(stamp.page_count),
            _ => return Ok(false),
        };
        let len = self.file()?.len().map_err(disk_error("size of the database"))?;
        let shortened = len < ps.file_size(pages);
        if shortened {
            self.note("the database file is shorter than it was: redoing the whole log");
            self.db_pos = None;
            self.suspect = true;
        }
        Ok(shortened)
    }

    /// The stored array with its position, if it can be brought up to date.
    fn stored_sums(&mut self) -> Step<Option<(Pos, PageSums)>> {
        let Some(stamp) = self.sums_file.stamp().copied() else { return Ok(None) };
        let base = self.log.base();
        if stamp.sums_pos.txid() < base.txid() || stamp.sums_pos.txid() > self.log.tip().txid() {
            return Ok(None);
        }
        let loaded = self.sums_file.load().map_err(disk_error("read of the page sums"))?;
        let loaded = match loaded {
            Some(sums) => sums,
            None if stamp.page_count == 0 => PageSums::new(stamp.page_size.unwrap_or(PageSize::DEFAULT)),
            None => return Ok(None),
        };
        Ok(Some((stamp.sums_pos, loaded)))
    }

    /// Redoes what file and sums lack. `None`: from the start of the log, and not the sums.
    pub(super) fn redo_from(
        &mut self,
        file_pos: Option<Pos>,
        sums_pos: Option<Pos>,
        mut sums: PageSums,
    ) -> Step<PageSums> {
        let base = self.log.base();
        let tip = self.log.tip();
        let file_from = file_pos.map_or(base.txid(), Pos::txid);
        if file_from < base.txid() {
            return Err(anomaly(format!(
                "the log begins at {base}, the database file needs it from earlier on"
            )));
        }
        let mut at = file_from.min(sums_pos.map_or(file_from, Pos::txid));
        let mut redone = 0u64;
        while at < tip.txid() {
            let next = at.map_or(litefs_types::Txid::FIRST, litefs_types::Txid::next);
            let Some(e) = self.log.get(next)? else {
                return Err(anomaly(format!("transaction {next} is missing in the log")));
            };
            let header = e.ltx_header()?;
            let changes = self.redo_one(&e, &header, file_from < Some(e.max_txid()))?;
            if sums_pos.is_some_and(|s| s.txid() < Some(e.max_txid())) {
                if header.page_size != sums.page_size() {
                    sums = PageSums::new(header.page_size);
                    sums.mark_all_dirty();
                }
                let _ = sums.set_all(&changes, header.commit);
            }
            redone += 1;
            at = Some(e.max_txid());
        }
        if redone > 0 {
            self.note(format!("redid {redone} transactions up to {tip}"));
        }
        Ok(sums)
    }

    /// Writes one transaction's pages into the file (or only looks at them).
    fn redo_one(&mut self, e: &LogEntry, header: &Header, write: bool) -> Step<Vec<(PageNo, Checksum)>> {
        let damaged =
            |err: litefs_ltx::LtxError| anomaly(format!("transaction {} in the log: {err}", e.max_txid()));
        let mut dec = Decoder::new(BufReader::with_capacity(BUFFER, e.reader())).map_err(damaged)?;
        let mut changes = Vec::new();
        let mut page = Vec::new();
        let ps = header.page_size;
        let file = if write && header.commit > 0 { Some(self.file()?) } else { None };
        while let Some(info) = dec.next_page(&mut page).map_err(damaged)? {
            if let Some(f) = &file {
                f.write_all_at(WRITE, &page, ps.offset(info.page)).map_err(disk_error("write of a page"))?;
            }
            changes.push((info.page, info.checksum));
        }
        dec.finish().map_err(damaged)?;
        if let Some(f) = &file {
            f.set_len(WRITE, ps.file_size(header.commit)).map_err(disk_error("size of the database"))?;
        }
        Ok(changes)
    }

    /// Redoes what was appended to the log meanwhile; the sums have it already.
    pub(super) fn redo_into_file(&mut self, sums: &PageSums) -> Step<()> {
        self.log.sync()?;
        let done = self.db_pos;
        self.redo_from(done, None, PageSums::new(sums.page_size())).map(|_| ())
    }

    /// Reads the whole file.
    fn scan(&mut self) -> Step<PageSums> {
        let Some((ps, pages)) = self.shape()? else { return Ok(PageSums::new(PageSize::DEFAULT)) };
        let mut sums = PageSums::new(ps);
        let mut all = Vec::with_capacity(pages.min(1 << 20) as usize);
        self.each_page(ps, pages, |no, data| all.push((no, page_sum(ps, no, data))))?;
        let _ = sums.set_all(&all, pages);
        sums.mark_all_dirty();
        Ok(sums)
    }

    /// Pages that are wrong in the file may be right in the log. Whether redoing all of it gives what its
    /// end says is found out by sums first: the file may also be *ahead* of a damaged log, and redoing
    /// would then destroy what is nowhere else.
    fn heal(&mut self, found: &PageSums) -> Step<Option<PageSums>> {
        let (base, tip) = (self.log.base(), self.log.tip());
        if base == tip || fits(found, tip) {
            return Ok(None);
        }
        let would_be = self.redo_from(Some(tip), Some(base), found.clone())?;
        if !fits(&would_be, tip) {
            return Ok(None);
        }
        self.redo_from(Some(base), None, PageSums::new(would_be.page_size()))?;
        self.note("pages of the database file were damaged: written again from the log");
        Ok(Some(would_be))
    }

    /// Page size and page count by log or file; `None`: no pages.
    fn shape(&mut self) -> Step<Option<(PageSize, u32)>> {
        if let Some(t) = self.log.tip().txid()
            && let Some(e) = self.log.get(t)?
        {
            let h = e.ltx_header()?;
            return Ok((h.commit > 0).then_some((h.page_size, h.commit)));
        }
        if let Some(s) = self.sums_file.stamp()
            && s.sums_pos == self.log.tip()
            && let Some(ps) = s.page_size
        {
            return Ok((s.page_count > 0).then_some((ps, s.page_count)));
        }
        let path = self.dir.database();
        if !self.exists(&path)? {
            return Ok(None);
        }
        let file = self.file()?;
        let mut head = [0; DB_HEADER_LEN];
        let n = file.read_at(&mut head, 0).map_err(disk_error("read of the database's header"))?;
        if n < DB_HEADER_LEN {
            return Ok(None);
        }
        let Ok(h) = DbHeader::parse(&head) else { return Ok(None) };
        let len = file.len().map_err(disk_error("size of the database"))?;
        Ok(Some((h.page_size(), h.page_count(len))))
    }

    /// Every page of the file; pages behind its end are zeros.
    pub(super) fn each_page(
        &mut self,
        ps: PageSize,
        pages: u32,
        mut f: impl FnMut(PageNo, &[u8]),
    ) -> Step<()> {
        let file = self.file()?;
        let mut buf = vec![0; SCAN.max(ps.bytes())];
        let per_read = (buf.len() / ps.bytes()) as u32;
        let mut first = 1u32;
        while let Some(no) = PageNo::new(first).filter(|n| n.get() <= pages) {
            let count = per_read.min(pages - first + 1);
            let want = count as usize * ps.bytes();
            let n =
                file.read_at(&mut buf[..want], ps.offset(no)).map_err(disk_error("read of the database"))?;
            buf[n..want].fill(0);
            for (i, page) in buf[..want].chunks_exact(ps.bytes()).enumerate() {
                if let Some(no) = PageNo::new(first + i as u32) {
                    f(no, page);
                }
            }
            first = first.saturating_add(count);
        }
        Ok(())
    }

    /// Compares the file with the sums; what differs becomes a transaction.
    fn compare(&mut self, sums: &mut PageSums) -> Step<()> {
        let (ps, pages) = (sums.page_size(), sums.page_count());
        let mut differ: Vec<(PageNo, Checksum)> = Vec::new();
        let mut size_ok = true;
        {
            let file = self.file()?;
            size_ok &= file.len().map_err(disk_error("size of the database"))? >= ps.file_size(pages);
        }
        self.each_page(ps, pages, |no, data| {
            let sum = page_sum(ps, no, data);
            if sum != sums.get(no) {
                differ.push((no, sum));
            }
        })?;
        if differ.is_empty() && size_ok {
            return Ok(());
        }
        let journal = self.exists(&self.dir.journal())?;
        if !journal {
            let found = self.scan()?;
            if let Some(healed) = self.heal(&found)? {
                *sums = healed;
                return Ok(());
            }
            return Err(anomaly(format!("{} pages of the database are not those of the log", differ.len())));
        }
        let tip = self.log.tip();
        let undo = sums.set_all(&differ, pages);
        drop(undo);
        self.log_pages(tip, sums, &differ)?;
        self.note(format!("{} free pages changed by the rolled back transaction: logged", differ.len()));
        Ok(())
    }

    /// Appends a transaction with these pages of the file; `sums` is the state after it.
    pub(super) fn log_pages(&mut self, tip: Pos, sums: &PageSums, pages: &[(PageNo, Checksum)]) -> Step<()> {
        let ps = sums.page_size();
        let file = self.file()?;
        let txid = tip.next_txid();
        let mut header = Header::new(ps, sums.page_count(), txid, tip.checksum());
        header.timestamp = self.now;
        header.node_id = self.node_id;
        let meta = RecordMeta {
            kind: RecordKind::Plain,
            min: txid,
            max: txid,
            pre: tip.checksum(),
            time: self.now,
            len: Some(litefs_ltx::raw_size(ps, pages.len() as u32)),
        };
        let made = |e: litefs_ltx::LtxError| StoreError::Corrupt {
            what: "a transaction made at recovery",
            reason: e.to_string(),
        };
        let mut enc = Encoder::new(self.log.append(meta)?, header, Compression::None).map_err(made)?;
        let mut page = vec![0; ps.bytes()];
        for (no, _) in pages {
            let n = file.read_at(&mut page, ps.offset(*no)).map_err(disk_error("read of the database"))?;
            page[n..].fill(0);
            enc.page(*no, &page).map_err(made)?;
        }
        let (_, mut appender) = enc.finish(sums.checksum()).map_err(made)?;
        appender.flush().map_err(disk_error("write of the log"))?;
        appender.finish(sums.checksum())?;
        Ok(())
    }
}

fn fits(sums: &PageSums, tip: Pos) -> bool {
    if tip.is_zero() { sums.page_count() == 0 } else { sums.checksum() == tip.checksum() }
}
