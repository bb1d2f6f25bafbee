//! One segment file: its head, its seal and footer, and the scan that needs neither.
//!
//! ```text
//! 0     head: magic, sequence, base position, nominal size, nonce, CRC            (written once)
//! 512   seal: record count, end, last position, CRC of the footer, CRC            (when it is full)
//! 1024  records … end
//! end   footer: (first txid, offset) of every record                              (when it is full)
//! ```
//!
//! Seal and footer are a shortcut and never the truth: a segment without a valid seal, or whose footer
//! does not match it, is scanned. So they need no sync of their own, and appending to a segment that was
//! sealed at a clean stop needs no order: the first record overwrites the footer.
//!
//! Head and seal lie in sectors of their own, so that writing one cannot tear the other.
//!
//! Tests: the crash matrix of `log`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use litefs_types::{Pos, Timestamp, Txid};

use super::record::{HEADER_LEN, Header, crc, crc_digest};
use super::{LogError, ops};
use crate::disk::{Disk, DiskFile, OpenHow};

/// Offset of the first record.
pub(crate) const FIRST_RECORD: u64 = 1024;
/// Offset of the seal.
const SEAL_AT: usize = 512;
const SEAL_LEN: usize = 96;
const HEAD_LEN: usize = 64;
const HEAD_MAGIC: u64 = 0x3144_4847_4553_464c; // "LFSEGHD1"
const SEAL_MAGIC: u64 = 0x314c_5347_4553_464c; // "LFSEGSL1"
/// Head flag: the log was reset here; segments before it are void.
const RESET: u32 = 1;
/// Bytes read at once while scanning: dozens of small records, cheap when records are big.
const SCAN_WINDOW: usize = 64 * 1024;
/// Most records one segment can hold, to bound what a footer may make us allocate: the header alone of
/// each in the largest segment (16 MiB) or one record in a segment of its own.
const MAX_RECORDS: u64 = (16 * 1024 * 1024) / HEADER_LEN as u64 + 1;

/// What a segment starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    /// The position before the segment's first record.
    pub(crate) base: Pos,
    /// Bytes that were made ready for records; a record may end behind.
    pub(crate) nominal: u64,
    pub(crate) created: Timestamp,
    pub(crate) reset: bool,
    pub(crate) nonce: u32,
    /// CRC of the head, `prev` of the first record.
    pub(crate) crc: u64,
}

impl Head {
    pub(crate) fn encode(&mut self) -> [u8; HEAD_LEN] {
        let mut b = [0; HEAD_LEN];
        b[0..8].copy_from_slice(&HEAD_MAGIC.to_le_bytes());
        b[8..16].copy_from_slice(&self.seq.to_le_bytes());
        b[16..24].copy_from_slice(&self.base.txid_raw().to_le_bytes());
        b[24..32].copy_from_slice(&self.base.checksum().get().to_le_bytes());
        b[32..40].copy_from_slice(&self.created.millis().to_le_bytes());
        b[40..48].copy_from_slice(&self.nominal.to_le_bytes());
        b[48..52].copy_from_slice(&(if self.reset { RESET } else { 0 }).to_le_bytes());
        b[52..56].copy_from_slice(&self.nonce.to_le_bytes());
        self.crc = crc(&b[..56]);
        b[56..].copy_from_slice(&self.crc.to_le_bytes());
        b
    }

    fn parse(b: &[u8]) -> Option<Self> {
        let b: &[u8; HEAD_LEN] = b.get(..HEAD_LEN)?.try_into().ok()?;
        if le64(b, 0) != HEAD_MAGIC || crc(&b[..56]) != le64(b, 56) {
            return None;
        }
        Some(Self {
            seq: le64(b, 8),
            base: Pos::from_raw(le64(b, 16), le64(b, 24))?,
            created: Timestamp::from_millis(le64(b, 32) as i64),
            nominal: le64(b, 40),
            reset: le64(b, 48) as u32 & RESET != 0,
            nonce: (le64(b, 48) >> 32) as u32,
            crc: le64(b, 56),
        })
    }
}

fn le64(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Where the record starts that holds transaction `min` (and perhaps later ones).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) min: Txid,
    pub(crate) offset: u64,
}

/// How far a segment goes: what its seal says, or a scan found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    /// Transactions' records, without markers.
    pub(crate) count: u64,
    /// Offset behind the last record.
    pub(crate) end: u64,
    pub(crate) last: Pos,
    /// Header CRC of the last record, `prev` of the next one.
    pub(crate) last_crc: u64,
    pub(crate) last_time: Timestamp,
    /// The last record, if it is a rollback record without its marker.
    pub(crate) unmarked: Option<Txid>,
}

impl Extent {
    /// Of a segment without records.
    pub(crate) fn empty(head: &Head) -> Self {
        Self {
            count: 0,
            end: FIRST_RECORD,
            last: head.base,
            last_crc: head.crc,
            last_time: head.created,
            unmarked: None,
        }
    }

    /// After one more record.
    pub(crate) fn push(&mut self, h: &Header, stride: u64) {
        self.end += stride;
        self.last_crc = h.crc;
        self.last_time = h.time;
        match h.kind {
            None => self.unmarked = None,
            Some(kind) => {
                self.count += 1;
                self.last = h.pos();
                self.unmarked = matches!(kind, super::RecordKind::Rollback(_)).then_some(h.max);
            }
        }
    }
}

/// An open segment file. Readers keep it alive, so it is not recycled under them.
pub(crate) struct SegFile {
    pub(crate) seq: u64,
    pub(crate) head: Head,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// The seal as it is on disk, with the CRC of the footer that belongs to it.
#[derive(Clone, Copy)]
pub(crate) struct Seal {
    pub(crate) extent: Extent,
    footer_crc: u64,
}

/// `log/<seq>.seg`
pub(crate) fn file_name(seq: u64) -> String {
    format!("{seq:016x}.seg")
}

/// The sequence number in a segment's name.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".seg")?;
    if hex.len() != 16 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    u64::from_str_radix(hex, 16).ok()
}

impl SegFile {
    /// Opens an existing segment; `Ok(None)` if its head is damaged or another segment's. The seal is
    /// returned if there is one.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, seq: u64) -> io::Result<Option<(Self, Option<Seal>)>> {
        let path = dir.join(file_name(seq));
        let file = disk.open(ops::OPEN, &path, OpenHow::READ_WRITE)?;
        let mut b = [0; FIRST_RECORD as usize];
        let n = file.read_at(&mut b, 0)?;
        let Some(head) = Head::parse(&b[..n]).filter(|h| h.seq == seq) else { return Ok(None) };
        let seal = Seal::parse(&b[SEAL_AT..SEAL_AT + SEAL_LEN], &head);
        Ok(Some((Self { seq, head, file }, seal)))
    }

    /// Writes footer and seal for what the segment holds.
    pub(crate) fn seal(&self, extent: &Extent, entries: &[Entry]) -> Result<(), LogError> {
        let mut footer = Vec::with_capacity(entries.len() * 16);
        for e in entries {
            footer.extend_from_slice(&e.min.get().to_le_bytes());
            footer.extend_from_slice(&e.offset.to_le_bytes());
        }
        let seal = Seal { extent: *extent, footer_crc: crc(&footer) };
        if !footer.is_empty() {
            self.file.write_all_at(ops::SEAL, &footer, extent.end).map_err(LogError::io(ops::SEAL))?;
        }
        self.file
            .write_all_at(ops::SEAL, &seal.encode(&self.head), SEAL_AT as u64)
            .map_err(LogError::io(ops::SEAL))
    }

    /// Takes the seal away, before the segment is appended to again.
    pub(crate) fn unseal(&self) -> Result<(), LogError> {
        self.file.write_all_at(ops::SEAL, &[0; SEAL_LEN], SEAL_AT as u64).map_err(LogError::io(ops::SEAL))
    }

    /// The entries that a seal vouches for; `None` if the footer does not match it.
    pub(crate) fn footer(&self, seal: &Seal) -> io::Result<Option<Vec<Entry>>> {
        if seal.extent.count > MAX_RECORDS {
            return Ok(None);
        }
        let mut b = vec![0; seal.extent.count as usize * 16];
        if self.file.read_at(&mut b, seal.extent.end)? != b.len() || crc(&b) != seal.footer_crc {
            return Ok(None);
        }
        Ok(b.chunks_exact(16)
            .map(|c| Some(Entry { min: Txid::new(le64(c, 0))?, offset: le64(c, 8) }))
            .collect())
    }

    /// Walks the records from the start to the last whole one. Payloads of transactions after `floor`
    /// are read and checked; those before it were durable long ago and are checked when they are read.
    pub(crate) fn scan(&self, floor: Option<Txid>) -> io::Result<(Extent, Vec<Entry>)> {
        let len = self.file.len()?;
        let mut window = Window::new(&*self.file);
        let mut extent = Extent::empty(&self.head);
        let mut entries = Vec::new();
        let mut raw = [0; HEADER_LEN];
        while window.read(extent.end, &mut raw)? {
            let Some(h) = Header::parse(&raw) else { break };
            let Some(stride) = h.stride() else { break };
            if h.prev != extent.last_crc || !follows(&h, extent.last, extent.unmarked) {
                break;
            }
            let payload = extent.end + HEADER_LEN as u64;
            // The padding behind the last payload of a file need not exist.
            if payload.checked_add(h.payload_len).is_none_or(|end| end > len) {
                break;
            }
            if floor.is_none_or(|f| h.max > f) && !window.check(payload, h.payload_len, h.payload_crc)? {
                break;
            }
            if h.kind.is_some() {
                entries.push(Entry { min: h.min, offset: extent.end });
            }
            extent.push(&h, stride);
        }
        Ok((extent, entries))
    }

    /// The header of the record at `offset`; `None` if there is none.
    pub(crate) fn header_at(&self, offset: u64) -> io::Result<Option<Header>> {
        let mut raw = [0; HEADER_LEN];
        Ok(if self.file.read_at(&mut raw, offset)? == HEADER_LEN { Header::parse(&raw) } else { None })
    }
}

/// Whether a record may stand after `last`.
fn follows(h: &Header, last: Pos, unmarked: Option<Txid>) -> bool {
    match h.kind {
        None => h.payload_len == 0 && h.min == h.max && unmarked == Some(h.max),
        Some(_) => h.min == last.next_txid() && h.pre == last.checksum(),
    }
}

impl Seal {
    fn encode(&self, head: &Head) -> [u8; SEAL_LEN] {
        let e = &self.extent;
        let mut b = [0; SEAL_LEN];
        let words = [
            SEAL_MAGIC,
            head.seq,
            head.crc,
            e.count,
            e.end,
            e.last.txid_raw(),
            e.last.checksum().get(),
            e.last_crc,
            e.last_time.millis() as u64,
            e.unmarked.map_or(0, Txid::get),
            self.footer_crc,
        ];
        for (i, w) in words.iter().enumerate() {
            b[i * 8..i * 8 + 8].copy_from_slice(&w.to_le_bytes());
        }
        let sum = crc(&b[..SEAL_LEN - 8]);
        b[SEAL_LEN - 8..].copy_from_slice(&sum.to_le_bytes());
        b
    }

    fn parse(b: &[u8], head: &Head) -> Option<Self> {
        let w = |i: usize| le64(b, i * 8);
        if w(0) != SEAL_MAGIC || w(11) != crc(&b[..SEAL_LEN - 8]) || w(1) != head.seq || w(2) != head.crc {
            return None;
        }
        let extent = Extent {
            count: w(3),
            end: w(4),
            last: Pos::from_raw(w(5), w(6))?,
            last_crc: w(7),
            last_time: Timestamp::from_millis(w(8) as i64),
            unmarked: Txid::new(w(9)),
        };
        Some(Self { extent, footer_crc: w(10) })
    }
}

/// Reads that mostly go forward, through one buffer.
struct Window<'a> {
    file: &'a dyn DiskFile,
    buf: Vec<u8>,
    at: u64,
    len: usize,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn DiskFile) -> Self {
        Self { file, buf: vec![0; SCAN_WINDOW], at: 0, len: 0 }
    }

    /// Bytes from `offset` on that are in the buffer; none at the end of the file.
    fn fill(&mut self, offset: u64, want: usize) -> io::Result<&[u8]> {
        let inside = offset >= self.at && offset + want as u64 <= self.at + self.len as u64;
        if !inside {
            self.at = offset;
            self.len = self.file.read_at(&mut self.buf, offset)?;
        }
        Ok(&self.buf[(offset - self.at) as usize..self.len])
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        let n = out.len();
        let got = self.fill(offset, n)?;
        let Some(got) = got.get(..n) else { return Ok(false) };
        out.copy_from_slice(got);
        Ok(true)
    }

    fn check(&mut self, mut offset: u64, mut len: u64, want: u64) -> io::Result<bool> {
        let mut sum = crc_digest();
        while len > 0 {
            let ask = len.min(SCAN_WINDOW as u64) as usize;
            let got = self.fill(offset, ask)?;
            let n = got.len().min(ask);
            if n == 0 {
                return Ok(false);
            }
            sum.update(&got[..n]);
            offset += n as u64;
            len -= n as u64;
        }
        Ok(sum.finalize() == want)
    }
}
