//! Appending: the commit path.
//!
//! A record that fits into the buffer costs one `pwrite` of header and payload into blocks that exist.
//! A bigger one is streamed behind the place of its header, and the header, without which nothing of it
//! counts, comes last.
//!
//! A segment switch seals the old segment and takes the spare one; without a spare it makes a small one
//! itself, so the commit path never zeroes megabytes. Tests: `tests`, `crash_tests`.

use std::io::{self, Write};
use std::sync::{Arc, MutexGuard};

use crc_fast::Digest;
use litefs_types::{Checksum, Pos, Timestamp, Txid};

use super::record::{HEADER_LEN, Header, crc, crc_digest, padded};
use super::retention::SPARE;
use super::segment::{Entry, Extent, FIRST_RECORD, Head, SegFile, file_name};
use super::{
    AppendState, Log, LogError, Lsn, MIN_SEGMENT, OpenSegment, RecordKind, Result, Sealed, lock, ops,
};
use crate::disk::OpenHow;
use crate::spool::Spooled;

/// Payload bytes that are held in memory; a bigger record is streamed.
const BUFFER: usize = super::MIN_SEGMENT as usize;
/// Zeros for the padding and for new segments.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// What is known of a record before its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RecordMeta {
    /// Where it comes from.
    pub kind: RecordKind,
    /// First transaction in it; must be the one after the tip.
    pub min: Txid,
    /// Last transaction in it, usually the same.
    pub max: Txid,
    /// Database checksum before; must be the tip's (`NONE` at the start).
    pub pre: Checksum,
    /// Now, for retention by age.
    pub time: Timestamp,
    /// How long the payload will be, if known. Only a hint where to put it.
    pub len: Option<u64>,
}

/// A record being written. Dropped without [`Appender::finish`] it is not there.
///
/// Holds the log's append lock: one at a time, and nothing else that changes the log meanwhile.
pub struct Appender<'a> {
    log: &'a Log,
    state: MutexGuard<'a, AppendState>,
    meta: RecordMeta,
    stream: Option<Stream>,
}

/// Where a record that outgrew the buffer goes.
struct Stream {
    seg: Arc<SegFile>,
    /// Offset of the header.
    at: u64,
    /// Payload bytes written; the buffer holds those after.
    len: u64,
    sum: Digest,
}

impl Log {
    /// Starts a record. Waits for another unfinished one.
    pub fn append(&self, meta: RecordMeta) -> Result<Appender<'_>> {
        let mut state = lock(&self.append);
        self.check_next(&meta)?;
        state.buf.clear();
        state.buf.resize(HEADER_LEN, 0);
        Ok(Appender { log: self, state, meta, stream: None })
    }

    fn check_next(&self, meta: &RecordMeta) -> Result<()> {
        self.check_usable()?;
        let tip = self.tip();
        if meta.min != tip.next_txid() || meta.pre != tip.checksum() || meta.max < meta.min {
            return Err(LogError::NotContiguous { txid: meta.min, pre: meta.pre, tip });
        }
        Ok(())
    }

    /// Appends what was spooled: copied if it is in memory, taken over as a segment of its own (by
    /// rename) if it is a file. `post` is the database checksum after it.
    pub fn append_spooled(&self, meta: RecordMeta, spooled: Spooled, post: Checksum) -> Result<Pos> {
        match spooled.into_memory() {
            Ok(bytes) => {
                let mut a = self.append(RecordMeta { len: Some(bytes.len() as u64), ..meta })?;
                a.write_all(&bytes).map_err(LogError::io(ops::APPEND))?;
                a.finish(post)
            }
            Err(file) => {
                let _append = lock(&self.append);
                self.check_next(&meta)?;
                self.adopt(meta, file, post)
            }
        }
    }

    /// The append lock must be held.
    fn adopt(&self, meta: RecordMeta, mut spooled: Spooled, post: Checksum) -> Result<Pos> {
        let err = LogError::io;
        let Some((path, file)) = spooled.file() else { return Err(LogError::Poisoned) };
        let (seq, tip) = self.take_seq();
        let mut head = Head {
            seq,
            base: tip,
            nominal: 0,
            created: meta.time,
            reset: false,
            nonce: rand::random(),
            crc: 0,
        };
        let head_bytes = head.encode();
        let mut h = header(&meta, post, head.crc, spooled.len(), spooled.crc());
        file.write_all_at(ops::ADOPT, &h.encode(), FIRST_RECORD).map_err(err(ops::ADOPT))?;
        file.write_all_at(ops::ADOPT, &head_bytes, 0).map_err(err(ops::ADOPT))?;
        // Before it gets its name, so that no segment ever has less in it than its head says.
        file.sync_data(ops::SYNC).inspect_err(|_| self.poison()).map_err(err(ops::SYNC))?;
        self.seal_open()?;
        let target = self.dir.join(file_name(seq));
        self.disk.rename(ops::ADOPT, &path, &target).map_err(err(ops::ADOPT))?;
        spooled.keep();
        let seg = Arc::new(SegFile { seq, head, file });
        self.install_segment(&seg);
        Ok(self.note(&seg, FIRST_RECORD, &h))
    }

    /// Records in the log's memory that a record was written.
    fn note(&self, seg: &Arc<SegFile>, at: u64, h: &Header) -> Pos {
        let mut v = lock(&self.view);
        if let Some(open) = &mut v.open {
            if h.kind.is_some() {
                open.entries.push(Entry { min: h.min, offset: at });
            }
            open.extent.push(h, h.stride().unwrap_or_default());
        }
        if h.kind.is_some() {
            v.tip = h.pos();
        }
        v.touch(seg);
        v.tip
    }

    /// Writes the marker "committed" behind the rollback record of `txid`, the last in the log. Without
    /// effect for any other transaction. Durable with the next sync, which is the one that makes
    /// [`Log::synced`] at least what this returns.
    pub fn mark_committed(&self, txid: Txid) -> Result<Lsn> {
        let _append = lock(&self.append);
        self.check_usable()?;
        let (seg, extent) = {
            let v = lock(&self.view);
            match &v.open {
                Some(o) if o.extent.unmarked == Some(txid) => (Arc::clone(&o.seg), o.extent),
                _ => return Ok(Lsn(v.lsn)),
            }
        };
        let mut h = Header {
            kind: None,
            prev: extent.last_crc,
            payload_len: 0,
            min: txid,
            max: txid,
            pre: extent.last.checksum(),
            post: extent.last.checksum(),
            time: extent.last_time,
            nonce: rand::random(),
            payload_crc: 0,
            crc: 0,
        };
        // Never in another segment than its record: it may run over the segment's nominal end.
        let bytes = h.encode();
        self.write_or_scrub(&seg, extent.end, |seg| seg.file.write_all_at(ops::MARK, &bytes, extent.end))
            .map_err(LogError::io(ops::MARK))?;
        self.note(&seg, extent.end, &h);
        Ok(Lsn(lock(&self.view).lsn))
    }

    /// Runs a write of the record at `at`. After a failure an unknown part of it may be there, even all:
    /// its header is wiped, or the log is out of use.
    fn write_or_scrub(
        &self,
        seg: &SegFile,
        at: u64,
        write: impl FnOnce(&SegFile) -> io::Result<()>,
    ) -> io::Result<()> {
        write(seg).inspect_err(|_| {
            if seg.file.write_all_at(ops::REWIND, &ZEROS[..HEADER_LEN], at).is_err() {
                self.poison();
            }
        })
    }

    /// The segment and the offset for a record with `need` bytes of payload (`None`: unknown, big).
    /// The append lock must be held.
    fn place(&self, need: Option<u64>, time: Timestamp) -> Result<(Arc<SegFile>, u64, u64)> {
        let total = need.map(|n| padded(n).unwrap_or(u64::MAX).saturating_add(HEADER_LEN as u64));
        {
            let v = lock(&self.view);
            if let Some(o) = &v.open {
                let left = o.seg.head.nominal.saturating_sub(o.extent.end);
                // Unknown length: what is left must at least be worth it. It may run over the end.
                if o.extent.end == FIRST_RECORD || left >= total.unwrap_or(4 * BUFFER as u64) {
                    return Ok((Arc::clone(&o.seg), o.extent.end, o.extent.last_crc));
                }
            }
        }
        self.roll(total, time)
    }

    /// Switches to a new segment.
    fn roll(&self, total: Option<u64>, time: Timestamp) -> Result<(Arc<SegFile>, u64, u64)> {
        let (seq, tip) = self.take_seq();
        let spare = {
            let mut v = lock(&self.view);
            let fits = |size: u64| total.is_some_and(|t| FIRST_RECORD.saturating_add(t) <= size);
            if v.spare.is_some_and(fits) { v.spare.take() } else { None }
        };
        let small = total.is_some_and(|t| FIRST_RECORD.saturating_add(t) <= MIN_SEGMENT);
        let nominal = spare.unwrap_or(if small { MIN_SEGMENT } else { 0 });
        // The seal first: a failure after it leaves the old segment in use, and the next record simply
        // overwrites the footer. The other way round it would leave a segment that is in the way.
        self.seal_open()?;
        let seg = self.make_segment(seq, tip, nominal, spare.is_some(), false, time)?;
        self.install_segment(&seg);
        Ok((Arc::clone(&seg), FIRST_RECORD, seg.head.crc))
    }

    /// Makes the file of a new segment, head included.
    pub(super) fn make_segment(
        &self,
        seq: u64,
        base: Pos,
        nominal: u64,
        from_spare: bool,
        reset: bool,
        time: Timestamp,
    ) -> Result<Arc<SegFile>> {
        let path = self.dir.join(file_name(seq));
        let mut head = Head { seq, base, nominal, created: time, reset, nonce: rand::random(), crc: 0 };
        let mut make = || -> io::Result<_> {
            let file = if from_spare {
                self.disk.rename(ops::NEW_SEGMENT, &self.dir.join(SPARE), &path)?;
                self.disk.open(ops::NEW_SEGMENT, &path, OpenHow::READ_WRITE)?
            } else {
                let file = self.disk.open(ops::NEW_SEGMENT, &path, OpenHow::REPLACE.with_mode(0o600))?;
                let mut at = 0;
                while at < nominal {
                    let n = (nominal - at).min(ZEROS.len() as u64);
                    file.write_all_at(ops::NEW_SEGMENT, &ZEROS[..n as usize], at)?;
                    at += n;
                }
                file
            };
            file.write_all_at(ops::NEW_SEGMENT, &head.encode(), 0)?;
            Ok(file)
        };
        match make() {
            Ok(file) => Ok(Arc::new(SegFile { seq, head, file })),
            Err(source) => {
                // It would stand between the old segment, which stays in use, and the next new one.
                match self.disk.unlink(ops::NEW_SEGMENT, &path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => self.poison(),
                    _ => {}
                }
                Err(LogError::Io { op: ops::NEW_SEGMENT, source })
            }
        }
    }

    pub(super) fn take_seq(&self) -> (u64, Pos) {
        let mut v = lock(&self.view);
        let seq = v.next_seq;
        v.next_seq += 1;
        (seq, v.tip)
    }

    /// Seals the open segment's file. It stays the open one until [`Log::install_segment`].
    fn seal_open(&self) -> Result<()> {
        // The view is locked across two small writes, once a segment.
        let mut v = lock(&self.view);
        let Some(open) = &v.open else { return Ok(()) };
        open.seg.seal(&open.extent, &open.entries)?;
        let seg = Arc::clone(&open.seg);
        v.touch(&seg);
        Ok(())
    }

    fn install_segment(&self, seg: &Arc<SegFile>) {
        let mut v = lock(&self.view);
        if let Some(old) = v.open.take() {
            let file_len = old.seg.file.len();
            let sealed = Sealed {
                seq: old.seg.seq,
                base: old.seg.head.base,
                extent: old.extent,
                file_len: file_len.unwrap_or(old.extent.end),
                file: Arc::downgrade(&old.seg),
            };
            v.sealed.push_back(sealed);
        }
        v.open =
            Some(OpenSegment { seg: Arc::clone(seg), extent: Extent::empty(&seg.head), entries: Vec::new() });
        v.dir_dirty = true;
        v.touch(seg);
    }
}

fn header(meta: &RecordMeta, post: Checksum, prev: u64, len: u64, payload_crc: u64) -> Header {
    Header {
        kind: Some(meta.kind),
        prev,
        payload_len: len,
        min: meta.min,
        max: meta.max,
        pre: meta.pre,
        post,
        time: meta.time,
        nonce: rand::random(),
        payload_crc,
        crc: 0,
    }
}

impl Appender<'_> {
    /// Completes the record; `post` is the database checksum after it. Not durable before a sync.
    ///
    /// After an error the record is not there and the log is as it was (or out of use).
    pub fn finish(mut self, post: Checksum) -> Result<Pos> {
        let Some(mut s) = self.stream.take() else { return self.finish_small(post) };
        self.flush_stream(&mut s).map_err(LogError::io(ops::APPEND))?;
        let pad = (padded(s.len).unwrap_or(s.len) - s.len) as usize;
        let mut h = header(&self.meta, post, self.prev(), s.len, s.sum.finalize());
        let bytes = h.encode();
        self.log
            .write_or_scrub(&s.seg, s.at, |seg| {
                seg.file.write_all_at(ops::APPEND, &ZEROS[..pad], s.at + HEADER_LEN as u64 + s.len)?;
                seg.file.write_all_at(ops::APPEND, &bytes, s.at)
            })
            .map_err(LogError::io(ops::APPEND))?;
        Ok(self.log.note(&s.seg, s.at, &h))
    }

    fn finish_small(mut self, post: Checksum) -> Result<Pos> {
        let len = (self.state.buf.len() - HEADER_LEN) as u64;
        let (seg, at, prev) = self.log.place(Some(len), self.meta.time)?;
        let mut h = header(&self.meta, post, prev, len, crc(&self.state.buf[HEADER_LEN..]));
        let total = h.stride().unwrap_or_default() as usize;
        self.state.buf.resize(total, 0);
        self.state.buf[..HEADER_LEN].copy_from_slice(&h.encode());
        let buf = &self.state.buf;
        self.log
            .write_or_scrub(&seg, at, |seg| seg.file.write_all_at(ops::APPEND, buf, at))
            .map_err(LogError::io(ops::APPEND))?;
        Ok(self.log.note(&seg, at, &h))
    }

    /// `prev` for the next record. Nothing else can append meanwhile.
    fn prev(&self) -> u64 {
        lock(&self.log.view).open.as_ref().map_or(0, |o| o.extent.last_crc)
    }

    fn flush_stream(&mut self, s: &mut Stream) -> io::Result<()> {
        let data = &self.state.buf[HEADER_LEN..];
        s.seg.file.write_all_at(ops::APPEND, data, s.at + HEADER_LEN as u64 + s.len)?;
        s.sum.update(data);
        s.len += data.len() as u64;
        self.state.buf.truncate(HEADER_LEN);
        Ok(())
    }
}

impl Write for Appender<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.state.buf.len() - HEADER_LEN + data.len() > BUFFER {
            let mut s = if let Some(s) = self.stream.take() {
                s
            } else {
                let need = self.meta.len.filter(|l| *l > BUFFER as u64);
                let (seg, at, _) = self.log.place(need, self.meta.time).map_err(io::Error::other)?;
                Stream { seg, at, len: 0, sum: crc_digest() }
            };
            let r = self.flush_stream(&mut s);
            self.stream = Some(s);
            r?;
        }
        let n = data.len().min(BUFFER);
        self.state.buf.extend_from_slice(&data[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
