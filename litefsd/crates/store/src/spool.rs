//! Bytes on their way: in memory while they are few, in a file of `spool/` when they are many.
//!
//! Owns the directory `spool/`, which is swept at start; nothing in it survives. A spool file keeps room
//! at its start for a log segment's head, so that [`crate::log::Log::append_spooled`] can take it over
//! by rename instead of copying it. Does not look at the bytes. Tests: below, `log::tests`.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crc_fast::Digest;

use crate::disk::{Disk, DiskFile, Op, OpenHow};
use crate::log::record::{HEADER_LEN, crc, crc_digest};
use crate::log::segment::FIRST_RECORD;

/// Bytes that are kept in memory; more go to a file.
pub const MEMORY: usize = if cfg!(test) { 64 } else { 1024 } * 1024;
/// Room before the bytes of a spool file.
const PREFIX: u64 = FIRST_RECORD + HEADER_LEN as u64;
/// Writes to a spool file are collected up to this size.
const BUFFER: usize = MEMORY / 4;

const SPOOL: Op = Op::new("spool.write");
const SWEEP: Op = Op::new("spool.sweep");

/// Numbers the files of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Removes whatever a crash left in the spool directory `dir`. A missing directory is fine.
pub fn sweep(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.remove_dir_all(SWEEP, dir)
}

/// Collects bytes (`io::Write`), of unknown number.
pub struct SpoolWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    buf: Vec<u8>,
    file: Option<(OnDisk, Digest)>,
    limit: u64,
}

/// A spool file; removed with this.
struct OnDisk {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
    keep: bool,
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        if !self.keep {
            // Whatever stays is swept at the next start.
            let _ = self.disk.unlink(SWEEP, &self.path);
        }
    }
}

impl SpoolWriter {
    /// Starts; nothing touches the disk before [`MEMORY`] bytes. More than `limit` bytes are an error.
    pub fn new(disk: Arc<dyn Disk>, spool_dir: impl Into<PathBuf>, limit: u64) -> Self {
        Self { disk, dir: spool_dir.into(), buf: Vec::new(), file: None, limit }
    }

    fn written(&self) -> u64 {
        self.buf.len() as u64 + self.file.as_ref().map_or(0, |(f, _)| f.len)
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.disk.create_dir_all(SPOOL, &self.dir)?;
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.dir.join(format!("{}-{n}", std::process::id()));
            let file = self.disk.open(SPOOL, &path, OpenHow::CREATE_NEW.with_mode(0o600))?;
            let on_disk = OnDisk { disk: Arc::clone(&self.disk), path, file, len: 0, keep: false };
            self.file = Some((on_disk, crc_digest()));
        }
        if let Some((f, sum)) = &mut self.file {
            f.file.write_all_at(SPOOL, &self.buf, PREFIX + f.len)?;
            sum.update(&self.buf);
            f.len += self.buf.len() as u64;
            self.buf.clear();
        }
        Ok(())
    }

    /// Ends the collecting. The bytes are not durable.
    pub fn finish(mut self) -> io::Result<Spooled> {
        if self.file.is_some() {
            self.spill()?;
        }
        Ok(match self.file {
            None => Spooled { crc: crc(&self.buf), bytes: self.buf, file: None },
            Some((f, sum)) => Spooled { crc: sum.finalize(), bytes: Vec::new(), file: Some(f) },
        })
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.written() + data.len() as u64 > self.limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more bytes than the limit allows"));
        }
        let most = if self.file.is_some() { BUFFER } else { MEMORY };
        if self.buf.len() + data.len() > most {
            self.spill()?;
        }
        let n = data.len().min(BUFFER);
        self.buf.extend_from_slice(&data[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collected bytes. A file behind them is removed when this is dropped.
pub struct Spooled {
    bytes: Vec<u8>,
    file: Option<OnDisk>,
    crc: u64,
}

impl Spooled {
    /// Bytes that are in memory already.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { crc: crc(&bytes), bytes, file: None }
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.file.as_ref().map_or(self.bytes.len() as u64, |f| f.len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the bytes are in memory.
    pub fn in_memory(&self) -> bool {
        self.file.is_none()
    }

    /// Bytes from `offset` on; fewer at the end.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.len().saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..n];
        match &self.file {
            Some(f) => f.file.read_exact_at(buf, PREFIX + offset)?,
            None => buf.copy_from_slice(&self.bytes[offset as usize..offset as usize + n]),
        }
        Ok(n)
    }

    /// Reads all bytes from the start; as often as wanted.
    pub fn reader(&self) -> impl Read + Send + '_ {
        SpoolReader { spooled: self, at: 0 }
    }

    pub(crate) fn crc(&self) -> u64 {
        self.crc
    }

    pub(crate) fn file(&self) -> Option<(PathBuf, Arc<dyn DiskFile>)> {
        self.file.as_ref().map(|f| (f.path.clone(), Arc::clone(&f.file)))
    }

    /// The file has got another name.
    pub(crate) fn keep(&mut self) {
        if let Some(f) = &mut self.file {
            f.keep = true;
        }
    }

    /// The bytes, or itself if they are in a file.
    pub(crate) fn into_memory(self) -> Result<Vec<u8>, Self> {
        if self.file.is_none() { Ok(self.bytes) } else { Err(self) }
    }
}

struct SpoolReader<'a> {
    spooled: &'a Spooled,
    at: u64,
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.spooled.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os_disk::OsDisk;

    #[test]
    fn few_bytes_stay_in_memory_and_many_leave_nothing_behind() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("spool");
        for len in [0, 10, MEMORY, MEMORY + 1, 3 * MEMORY + 7] {
            let data: Vec<u8> = (0..len).map(|i| (i * 7 / 3) as u8).collect();
            let mut w = SpoolWriter::new(Arc::new(OsDisk), &dir, u64::MAX);
            for chunk in data.chunks(10_000) {
                w.write_all(chunk).unwrap();
            }
            let s = w.finish().unwrap();
            assert_eq!((s.len(), s.in_memory()), (len as u64, len <= MEMORY));
            assert_eq!(s.crc(), crc(&data));
            for _ in 0..2 {
                let mut back = Vec::new();
                s.reader().read_to_end(&mut back).unwrap();
                assert!(back == data);
            }
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        let mut w = SpoolWriter::new(Arc::new(OsDisk), &dir, 5);
        assert_eq!(w.write_all(b"123456").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        sweep(&OsDisk, &dir).unwrap();
        sweep(&OsDisk, &dir).unwrap();
    }
}
