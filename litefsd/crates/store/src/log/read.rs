//! Looking up and reading records. A reader holds the segment's file and no lock.
//!
//! The index of the open segment is in memory; those of sealed ones are footers, loaded when they are
//! wanted and kept in a small LRU. Tests: `tests`.

use std::io::{self, Read};
use std::sync::Arc;

use crc_fast::Digest;
use litefs_ltx::HEADER_SIZE;
use litefs_types::{Pos, Timestamp, Txid};

use super::record::{HEADER_LEN, Header, crc_digest};
use super::segment::{Entry, SegFile};
use super::{CACHED_SEGMENTS, Loaded, Log, LogError, RecordKind, Result, lock, ops};

/// One record of the log. Keeps its segment from being recycled, even when retention has removed it.
#[derive(Clone)]
pub struct LogEntry {
    seg: Arc<SegFile>,
    offset: u64,
    header: Header,
}

impl LogEntry {
    /// First transaction in the record.
    pub fn min_txid(&self) -> Txid {
        self.header.min
    }

    /// Last transaction in the record, usually the same.
    pub fn max_txid(&self) -> Txid {
        self.header.max
    }

    /// The position before it.
    pub fn pre(&self) -> Pos {
        match self.header.min.prev() {
            Some(t) => Pos::new(t, self.header.pre),
            None => Pos::ZERO,
        }
    }

    /// The position after it.
    pub fn post(&self) -> Pos {
        self.header.pos()
    }

    /// Where it came from.
    pub fn kind(&self) -> RecordKind {
        self.header.kind.unwrap_or(RecordKind::Plain)
    }

    /// Bytes of its LTX file.
    pub fn len(&self) -> u64 {
        self.header.payload_len
    }

    /// Whether it has no bytes; no LTX file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When it was appended.
    pub fn time(&self) -> Timestamp {
        self.header.time
    }

    /// The bytes, from the start. The last piece is given out only if all of them are what was appended;
    /// otherwise the reader fails with [`io::ErrorKind::InvalidData`].
    pub fn reader(&self) -> EntryReader {
        EntryReader { entry: self.clone(), at: 0, sum: Some(crc_digest()) }
    }

    /// Fills `buf` from these bytes at `offset`. Not checked: for callers that can tell right from wrong by
    /// what they read.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.seg.file.read_exact_at(buf, self.offset + HEADER_LEN as u64 + offset)
    }

    /// The LTX header at the start of the bytes (they are not checked as a whole).
    pub fn ltx_header(&self) -> Result<litefs_ltx::Header> {
        let mut raw = [0; HEADER_SIZE];
        self.seg
            .file
            .read_exact_at(&mut raw, self.offset + HEADER_LEN as u64)
            .map_err(LogError::io(ops::OPEN))?;
        litefs_ltx::Header::parse(&raw).map_err(|_| LogError::Corrupt(self.header.min))
    }

    /// Reads and checks all bytes without giving them out.
    pub fn verify(&self) -> Result<()> {
        match io::copy(&mut self.reader(), &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                Err(LogError::Corrupt(self.header.min))
            }
            Err(e) => Err(LogError::Io { op: ops::OPEN, source: e }),
        }
    }
}

impl std::fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogEntry")
            .field("segment", &self.seg.seq)
            .field("offset", &self.offset)
            .field("post", &self.post())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// See [`LogEntry::reader`].
pub struct EntryReader {
    entry: LogEntry,
    at: u64,
    /// `None` after a failure.
    sum: Option<Digest>,
}

impl Read for EntryReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.entry.len() - self.at;
        let n = left.min(buf.len() as u64) as usize;
        if n == 0 {
            return Ok(0);
        }
        let Some(mut sum) = self.sum.take() else { return Err(io::ErrorKind::InvalidData.into()) };
        let buf = &mut buf[..n];
        self.entry.seg.file.read_exact_at(buf, self.entry.offset + HEADER_LEN as u64 + self.at)?;
        sum.update(buf);
        self.at += n as u64;
        if n as u64 == left && sum.finalize() != self.entry.header.payload_crc {
            let e = LogError::Corrupt(self.entry.header.min);
            return Err(io::Error::new(io::ErrorKind::InvalidData, e));
        }
        self.sum = Some(sum);
        Ok(n)
    }
}

impl Log {
    /// The record that holds transaction `txid`; `None` if the log does not.
    pub fn get(&self, txid: Txid) -> Result<Option<LogEntry>> {
        let seq = {
            let v = lock(&self.view);
            if let Some(o) = &v.open
                && let Some(e) = find(&o.entries, txid)
            {
                if v.tip.txid().is_none_or(|t| t < txid) {
                    return Ok(None);
                }
                let seg = Arc::clone(&o.seg);
                drop(v);
                return entry(seg, e, txid);
            }
            let i = v.sealed.partition_point(|s| s.extent.last.txid().is_none_or(|t| t < txid));
            match v.sealed.get(i) {
                Some(s) if s.base.txid().is_none_or(|b| b < txid) => s.seq,
                _ => return Ok(None),
            }
        };
        let Some(loaded) = self.loaded(seq)? else { return Ok(None) };
        match find(&loaded.entries, txid) {
            Some(e) => entry(Arc::clone(&loaded.seg), e, txid),
            None => Err(LogError::Corrupt(txid)),
        }
    }

    /// The last record, if it is a rollback record without a marker: whether it is committed depends on
    /// its journal.
    pub fn in_doubt(&self) -> Result<Option<LogEntry>> {
        let txid = {
            let v = lock(&self.view);
            match &v.open {
                Some(o) if o.extent.count > 0 => o.extent.unmarked,
                _ => v.sealed.back().and_then(|s| s.extent.unmarked),
            }
        };
        match txid {
            Some(t) => self.get(t),
            None => Ok(None),
        }
    }

    /// A sealed segment with its index, from the cache or the disk. `None` if it is gone meanwhile.
    pub(super) fn loaded(&self, seq: u64) -> Result<Option<Arc<Loaded>>> {
        let err = || LogError::io(ops::OPEN);
        let (seg, seal, extent) = {
            let mut v = lock(&self.view);
            if let Some(i) = v.cache.iter().position(|(s, _)| *s == seq) {
                let hit = v.cache.remove(i);
                let out = hit.as_ref().map(|h| Arc::clone(&h.1));
                if let Some(h) = hit {
                    v.cache.push_front(h);
                }
                return Ok(out);
            }
            let Some(i) = v.sealed.iter().position(|s| s.seq == seq) else { return Ok(None) };
            // Opened under the lock: retention must see that the file is in use before it recycles it.
            let Some((seg, seal)) = SegFile::open(&*self.disk, &self.dir, seq).map_err(err())? else {
                return Err(LogError::Corrupt(v.sealed[i].base.next_txid()));
            };
            let seg = Arc::new(seg);
            v.sealed[i].file = Arc::downgrade(&seg);
            (seg, seal, v.sealed[i].extent)
        };
        let footer = match seal {
            Some(seal) => seg.footer(&seal).map_err(err())?,
            None => None,
        };
        let entries = match footer {
            Some(entries) => entries,
            None => seg.scan(extent.last.txid()).map_err(err())?.1,
        };
        let loaded = Arc::new(Loaded { seg, entries });
        let mut v = lock(&self.view);
        v.cache.push_front((seq, Arc::clone(&loaded)));
        v.cache.truncate(CACHED_SEGMENTS);
        Ok(Some(loaded))
    }
}

/// The entry that may hold `txid`.
fn find(entries: &[Entry], txid: Txid) -> Option<Entry> {
    let i = entries.partition_point(|e| e.min <= txid);
    i.checked_sub(1).map(|i| entries[i])
}

fn entry(seg: Arc<SegFile>, e: Entry, txid: Txid) -> Result<Option<LogEntry>> {
    match seg.header_at(e.offset).map_err(LogError::io(ops::OPEN))? {
        Some(h) if h.min == e.min && h.kind.is_some() && h.max >= txid => {
            Ok(Some(LogEntry { seg, offset: e.offset, header: h }))
        }
        _ => Err(LogError::Corrupt(txid)),
    }
}
