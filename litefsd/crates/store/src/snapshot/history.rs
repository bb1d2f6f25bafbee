//! Pages that are newer than the database file: in the log.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use litefs_ltx::{Compression, Decoder, HEADER_SIZE, LtxError};
use litefs_types::{PageNo, Pos, Txid};

use crate::log::{EntryReader, Log, LogEntry, LogError, Pin};

/// Records that are kept open at once, each with a buffer and a page (at most 2 MiB in all).
const OPEN_RECORDS: usize = 16;

/// Bytes before each page in an uncompressed record: its number.
const PAGE_HEADER: u64 = 4;

/// Where a snapshot looks for pages that the database file does not have.
pub trait PageHistory: Send {
    /// Reads the newest content of a page, as of the snapshot's position; `false` if none is known. Pages
    /// are asked for in ascending order, some of them several times.
    fn read(&mut self, page: PageNo, data: &mut [u8]) -> io::Result<bool>;
}

/// No history: the file has everything (after a checkpoint of everything, or in rollback modes).
impl PageHistory for () {
    fn read(&mut self, _page: PageNo, _data: &mut [u8]) -> io::Result<bool> {
        Ok(false)
    }
}

/// The log's records after the position that the database file holds for sure, up to the snapshot's.
///
/// Keeps them from being trimmed by age. The index is made when the first page is asked for: it needs to
/// read all of these records once.
pub struct LogHistory {
    log: Arc<Log>,
    _pin: Pin,
    from: Txid,
    to: Option<Txid>,
    index: Option<HashMap<PageNo, Place>>,
    /// Compressed records in use. Pages are wanted in the order in which records hold them, so each is
    /// read once as long as there are not too many.
    open: BTreeMap<Txid, Record<EntryReader>>,
}

/// Where the newest content of a page is.
#[derive(Clone, Copy)]
struct Place {
    txid: Txid,
    /// Offset in the record's bytes, if it is not compressed (all local transactions).
    offset: Option<u64>,
}

/// A record and the page that was read last.
pub(super) struct Record<R: Read> {
    decoder: Decoder<BufReader<R>>,
    page: Option<PageNo>,
    data: Vec<u8>,
}

impl LogHistory {
    /// Of the records after `floor`, up to `to`.
    pub fn new(log: Arc<Log>, floor: Pos, to: Pos) -> Self {
        let from = floor.next_txid();
        Self { _pin: log.pin(from), log, from, to: to.txid(), index: None, open: BTreeMap::new() }
    }

    fn entry(&self, txid: Txid) -> io::Result<Option<LogEntry>> {
        self.log.get(txid).map_err(from_log)
    }

    fn build_index(&self) -> io::Result<HashMap<PageNo, Place>> {
        let mut index = HashMap::new();
        let mut data = Vec::new();
        let Some(to) = self.to else { return Ok(index) };
        let mut txid = self.from.max(self.log.first().unwrap_or(self.from));
        while txid <= to {
            let Some(entry) = self.entry(txid)? else {
                // Trimmed by size meanwhile: what was in it cannot be found, nor is it needed if it is in the file.
                txid = txid.next().max(self.log.first().unwrap_or(to.next()));
                continue;
            };
            let mut decoder = open(entry.reader())?;
            let mut offset = HEADER_SIZE as u64 + PAGE_HEADER;
            while let Some(info) = decoder.next_page(&mut data).map_err(from_ltx)? {
                let raw = decoder.compression() == Compression::None;
                index.insert(info.page, Place { txid, offset: raw.then_some(offset) });
                offset += PAGE_HEADER + data.len() as u64;
            }
            txid = entry.max_txid().next();
        }
        Ok(index)
    }

    /// Puts the record to `page` or behind it.
    fn seek(&mut self, txid: Txid, page: PageNo) -> io::Result<Option<&Record<EntryReader>>> {
        let rewind = self.open.get(&txid).is_some_and(|r| r.is_behind(page));
        if rewind || !self.open.contains_key(&txid) {
            let Some(entry) = self.entry(txid)? else { return Ok(None) };
            if self.open.len() >= OPEN_RECORDS && !rewind {
                self.open.pop_first();
            }
            self.open.insert(txid, Record::open(entry.reader())?);
        }
        let Some(record) = self.open.get_mut(&txid) else { return Ok(None) };
        record.seek(page)?;
        Ok(Some(record))
    }
}

impl PageHistory for LogHistory {
    fn read(&mut self, page: PageNo, data: &mut [u8]) -> io::Result<bool> {
        let index = match self.index.take() {
            Some(index) => index,
            None => self.build_index()?,
        };
        let place = index.get(&page).copied();
        self.index = Some(index);
        let Some(Place { txid, offset }) = place else { return Ok(false) };
        if let Some(offset) = offset {
            let Some(entry) = self.entry(txid)? else { return Ok(false) };
            return entry.read_exact_at(data, offset).map(|()| true);
        }
        match self.seek(txid, page)? {
            Some(record) => Ok(record.give(page, data)),
            None => Ok(false),
        }
    }
}

impl<R: Read> Record<R> {
    /// At its first page.
    pub(super) fn open(reader: R) -> io::Result<Self> {
        let mut record = Self { decoder: open(reader)?, page: None, data: Vec::new() };
        record.advance()?;
        Ok(record)
    }

    /// Only from the start again it could come to `page`.
    pub(super) fn is_behind(&self, page: PageNo) -> bool {
        self.page.is_none_or(|p| p > page)
    }

    /// Goes to `page`, or to the first one behind it.
    pub(super) fn seek(&mut self, page: PageNo) -> io::Result<()> {
        while self.page.is_some_and(|p| p < page) {
            self.advance()?;
        }
        Ok(())
    }

    /// The page, if it is at it.
    pub(super) fn give(&self, page: PageNo, data: &mut [u8]) -> bool {
        let here = self.page == Some(page) && self.data.len() == data.len();
        if here {
            data.copy_from_slice(&self.data);
        }
        here
    }

    fn advance(&mut self) -> io::Result<()> {
        self.page = self.decoder.next_page(&mut self.data).map_err(from_ltx)?.map(|i| i.page);
        Ok(())
    }
}

fn open<R: Read>(reader: R) -> io::Result<Decoder<BufReader<R>>> {
    Decoder::new(BufReader::with_capacity(64 * 1024, reader)).map_err(from_ltx)
}

fn from_ltx(e: LtxError) -> io::Error {
    match e {
        LtxError::Io(e) => e,
        e => io::Error::new(io::ErrorKind::InvalidData, e),
    }
}

fn from_log(e: LogError) -> io::Error {
    match e {
        LogError::Io { source, .. } => source,
        e => io::Error::other(e),
    }
}
