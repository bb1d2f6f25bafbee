//! Writing pages at their place in the database file, few large writes instead of many small ones.

use std::io;

use crate::own_mount::{FileKind, OwnMount};

/// Bytes collected before they are written: the largest WRITE that FUSE passes on at once.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// Collects what lies side by side.
pub(super) struct ImageWriter<'a> {
    mount: &'a dyn OwnMount,
    start: u64,
    buf: Vec<u8>,
}

impl<'a> ImageWriter<'a> {
    pub(super) const fn new(mount: &'a dyn OwnMount) -> Self {
        Self { mount, start: 0, buf: Vec::new() }
    }

    /// Writes `data` at `offset`, now or later.
    pub(super) fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let here = self.start + self.buf.len() as u64;
        if offset != here || self.buf.len() + data.len() > BATCH_BYTES {
            self.flush()?;
            self.start = offset;
        }
        self.buf.extend_from_slice(data);
        Ok(())
    }

    /// Writes what is collected.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.buf.is_empty() {
            self.mount.write_all_at(FileKind::Database, &self.buf, self.start)?;
            self.start += self.buf.len() as u64;
            self.buf.clear();
        }
        Ok(())
    }
}
