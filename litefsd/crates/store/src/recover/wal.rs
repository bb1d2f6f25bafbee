//! The wal: what it holds beyond the log is committed, because SQLite would recover it.
//!
//! Every commit is appended to the log before its WRITE is answered, so the wal is ahead only where a
//! power loss took the log's unsynced end and spared the wal. Which of its transactions the log has:
//!
//! * The log's last records carry this wal's salts: their offsets say where the log ends in it.
//! * They do not: the daemon wrote the wal itself (a replica), or the log has nothing of it. Then the
//!   transactions are compared with the last records, page by page.
//!
//! A log that is ahead of the wal is right (the wal was not synced, or its end not yet written).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{BufReader, Write};
use std::sync::Arc;

use litefs_core::page_sums::PageSums;
use litefs_ltx::{Compression, Decoder, Encoder, Header, WalSpan};
use litefs_sqlite::wal::{Transaction, WalReader, frame_data_offset};
use litefs_types::{Checksum, PageNo, PageSize, Txid};

use super::{OPEN, Recovery, Source, Step, anomaly, disk_error, page_sum};
use crate::disk::{DiskFile, OpenHow};
use crate::error::StoreError;
use crate::log::{LogEntry, RecordKind, RecordMeta};

const BUFFER: usize = 64 * 1024;

/// The committed transactions of a wal.
pub(super) struct Wal {
    file: Arc<dyn DiskFile>,
    page_size: PageSize,
    salt: [u32; 2],
    pub(super) transactions: Vec<Transaction>,
}

impl Recovery {
    /// Appends to the log what the wal holds beyond it. Whether there was something.
    pub(super) fn wal(&mut self, sums: &mut PageSums) -> Step<bool> {
        let Some(wal) = self.read_wal()? else { return Ok(false) };
        if sums.page_count() > 0 && wal.page_size != sums.page_size() {
            self.note("ignored a wal of another page size");
            return Ok(false);
        }
        let known = match self.known_by_offset(&wal)? {
            Some(n) => n,
            None => match self.known_by_content(&wal, sums)? {
                Some(n) => n,
                None => return Ok(false),
            },
        };
        let beyond = wal.transactions.get(known..).unwrap_or_default();
        for t in beyond {
            self.log_transaction(&wal, t, sums)?;
        }
        if !beyond.is_empty() {
            self.note(format!("{} transactions of the wal were not in the log yet", beyond.len()));
        }
        Ok(!beyond.is_empty())
    }

    pub(super) fn read_wal(&mut self) -> Step<Option<Wal>> {
        let path = self.dir.wal();
        if !self.exists(&path)? {
            return Ok(None);
        }
        let file = self.disk.open(OPEN, &path, OpenHow::READ).map_err(disk_error("opening of the wal"))?;
        let len = file.len().map_err(disk_error("size of the wal"))?;
        let unreadable = |_| anomaly("the wal cannot be read");
        let Some(mut reader) = WalReader::open(Source::new(Arc::clone(&file)), len).map_err(unreadable)?
        else {
            return Ok(None);
        };
        let mut transactions = Vec::new();
        while let Some(t) = reader.next_transaction().map_err(unreadable)? {
            transactions.push(t);
        }
        if transactions.is_empty() {
            return Ok(None);
        }
        let h = *reader.header();
        Ok(Some(Wal { file, page_size: h.page_size, salt: h.salt, transactions }))
    }

    /// How many of the wal's transactions the log has, if its end names this wal.
    pub(super) fn known_by_offset(&self, wal: &Wal) -> Step<Option<usize>> {
        let Some(tip) = self.log.tip().txid() else { return Ok(None) };
        let Some(e) = self.log.get(tip)? else { return Ok(None) };
        let Some(span) = e.ltx_header()?.wal.filter(|w| w.salt == wal.salt) else { return Ok(None) };
        let end = span.offset.saturating_add(span.size);
        Ok(Some(wal.transactions.partition_point(|t| t.wal_offset + t.wal_size <= end)))
    }

    /// The same by comparing pages; `None` if the wal says nothing that the log does not.
    fn known_by_content(&mut self, wal: &Wal, sums: &PageSums) -> Step<Option<usize>> {
        let shapes = wal.transactions.iter().map(|t| shape_of(wal, t)).collect::<Step<Vec<_>>>()?;
        // Newest alignment first: record `last` of the log is transaction `i` of the wal, and so on back.
        let tip = self.log.tip();
        let mut cache: HashMap<Txid, Option<Shape>> = HashMap::new();
        for n in (1..=shapes.len()).rev() {
            let mut at = tip.txid();
            let mut matched = 0;
            for shape in shapes[..n].iter().rev() {
                let Some(t) = at else { break };
                let record = match cache.entry(t) {
                    Entry::Occupied(e) => e.into_mut(),
                    Entry::Vacant(e) => e.insert(self.record_shape(t)?),
                };
                match record {
                    Some(r) if r.covers(shape) => matched += 1,
                    // Older than the log: what could be compared was equal.
                    None if matched > 0 => matched = n,
                    _ => matched = usize::MAX,
                }
                if matched >= n {
                    break;
                }
                at = t.prev();
            }
            if matched == n {
                return Ok(Some(n));
            }
        }
        // Nothing of it is in the log as such. All of it may be in the database's state nevertheless: a wal
        // that was checkpointed and then outlived its records.
        let mut newest: HashMap<PageNo, Checksum> = HashMap::new();
        for s in &shapes {
            newest.extend(s.pages.iter().copied());
        }
        let commit = shapes.last().map_or(0, |s| s.commit);
        if commit == sums.page_count()
            && newest.iter().all(|(no, sum)| no.get() > commit || sums.get(*no) == *sum)
        {
            return Ok(None);
        }
        let applied = match tip.txid() {
            Some(t) => self.log.get(t)?.is_none_or(|e| e.kind() == RecordKind::Applied),
            None => false,
        };
        // The daemon wrote it, after it had logged it; or it is a wal that came to its end (a wal ends only
        // when the log has all of it) and whose removal or restart a power loss undid.
        if applied || self.ended(wal)? {
            self.note("the wal is older than the log: not used");
            return Ok(None);
        }
        Ok(Some(0))
    }

    /// Whether the log went on after a transaction of this wal with something else.
    fn ended(&self, wal: &Wal) -> Step<bool> {
        let mut at = self.log.tip().txid();
        while let Some(t) = at {
            let Some(e) = self.log.get(t)? else { break };
            if e.ltx_header()?.wal.is_some_and(|w| w.salt == wal.salt) {
                return Ok(true);
            }
            at = e.min_txid().prev();
        }
        Ok(false)
    }

    fn record_shape(&self, txid: Txid) -> Step<Option<Shape>> {
        match self.log.get(txid)? {
            Some(e) => shape_of_record(&e).map(Some),
            None => Ok(None),
        }
    }

    /// Appends one transaction of the wal to the log, and its page sums.
    fn log_transaction(&mut self, wal: &Wal, t: &Transaction, sums: &mut PageSums) -> Step<()> {
        let ps = wal.page_size;
        let old = if sums.page_count() == 0 { 0 } else { sums.page_count() };
        if sums.page_size() != ps {
            *sums = PageSums::new(ps);
        }
        // Pages of the new size without a frame are zeros: SQLite never wrote them.
        let mut list: Vec<(PageNo, Option<u32>)> = t.pages.iter().map(|(no, f)| (*no, Some(*f))).collect();
        let lock = ps.lock_page();
        if t.commit > old {
            let have: std::collections::HashSet<PageNo> = t.pages.iter().map(|p| p.0).collect();
            list.extend(
                (old + 1..=t.commit)
                    .filter_map(PageNo::new)
                    .filter(|no| !have.contains(no) && *no != lock)
                    .map(|no| (no, None)),
            );
            list.sort_unstable();
        }
        let read = |frame: Option<u32>, page: &mut Vec<u8>| -> Step<()> {
            page.clear();
            page.resize(ps.bytes(), 0);
            match frame {
                Some(f) => wal
                    .file
                    .read_exact_at(page, frame_data_offset(f, ps))
                    .map_err(disk_error("read of the wal")),
                None => Ok(()),
            }
        };
        let mut page = Vec::new();
        let mut changes = Vec::with_capacity(list.len());
        for (no, frame) in &list {
            read(*frame, &mut page)?;
            changes.push((*no, page_sum(ps, *no, &page)));
        }
        if t.commit == old && changes.iter().all(|(no, sum)| sums.get(*no) == *sum) {
            // No transaction (capture rule R5): a copy that fills a sector (`psow=0`).
            return Ok(());
        }
        let tip = self.log.tip();
        let txid = tip.next_txid();
        let post = sums.checksum_after(&changes, t.commit);
        let mut header = Header::new(ps, t.commit, txid, tip.checksum());
        header.timestamp = self.now;
        header.node_id = self.node_id;
        header.wal = Some(WalSpan { offset: t.wal_offset, size: t.wal_size, salt: wal.salt });
        let meta = RecordMeta {
            kind: RecordKind::Wal,
            min: txid,
            max: txid,
            pre: tip.checksum(),
            time: self.now,
            len: Some(litefs_ltx::raw_size(ps, list.len() as u32)),
        };
        let made = |e: litefs_ltx::LtxError| StoreError::Corrupt {
            what: "a transaction of the wal",
            reason: e.to_string(),
        };
        let mut enc = Encoder::new(self.log.append(meta)?, header, Compression::None).map_err(made)?;
        for (no, frame) in &list {
            read(*frame, &mut page)?;
            enc.page(*no, &page).map_err(made)?;
        }
        let (_, mut appender) = enc.finish(post).map_err(made)?;
        appender.flush().map_err(disk_error("write of the log"))?;
        appender.finish(post)?;
        let _ = sums.set_all(&changes, t.commit);
        Ok(())
    }

    /// Puts the wal's pages into the file without asking the log: for a database that has to be taken as
    /// it is.
    pub(super) fn overlay_wal(&mut self) -> Step<()> {
        let Some(wal) = self.read_wal()? else { return Ok(()) };
        let file = self.file()?;
        let ps = wal.page_size;
        let mut page = vec![0; ps.bytes()];
        for t in &wal.transactions {
            for (no, frame) in &t.pages {
                wal.file
                    .read_exact_at(&mut page, frame_data_offset(*frame, ps))
                    .map_err(disk_error("read of the wal"))?;
                file.write_all_at(super::WRITE, &page, ps.offset(*no))
                    .map_err(disk_error("write of a page"))?;
            }
            file.set_len(super::WRITE, ps.file_size(t.commit)).map_err(disk_error("size of the database"))?;
        }
        Ok(())
    }
}

/// What a transaction changes.
struct Shape {
    commit: u32,
    pages: Vec<(PageNo, Checksum)>,
}

impl Shape {
    /// Whether a record holds all of a wal transaction; it may hold zero pages besides.
    fn covers(&self, wal: &Shape) -> bool {
        self.commit == wal.commit && wal.pages.iter().all(|p| self.pages.binary_search(p).is_ok())
    }
}

fn shape_of(wal: &Wal, t: &Transaction) -> Step<Shape> {
    let mut page = vec![0; wal.page_size.bytes()];
    let mut pages = Vec::with_capacity(t.pages.len());
    for (no, frame) in &t.pages {
        wal.file
            .read_exact_at(&mut page, frame_data_offset(*frame, wal.page_size))
            .map_err(disk_error("read of the wal"))?;
        pages.push((*no, page_sum(wal.page_size, *no, &page)));
    }
    Ok(Shape { commit: t.commit, pages })
}

fn shape_of_record(e: &LogEntry) -> Step<Shape> {
    let damaged =
        |err: litefs_ltx::LtxError| anomaly(format!("transaction {} in the log: {err}", e.max_txid()));
    let mut dec = Decoder::new(BufReader::with_capacity(BUFFER, e.reader())).map_err(damaged)?;
    let commit = dec.header().commit;
    let mut pages = Vec::new();
    let mut page = Vec::new();
    while let Some(info) = dec.next_page(&mut page).map_err(damaged)? {
        pages.push((info.page, info.checksum));
    }
    Ok(Shape { commit, pages })
}
