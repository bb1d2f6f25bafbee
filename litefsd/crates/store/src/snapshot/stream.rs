//! A snapshot as something to read from, in pieces of bounded size.

use std::io::{self, Read};

use litefs_ltx::{Compression, Encoder};
use litefs_types::{NodeId, Pos, Timestamp};

use super::{Snapshot, SnapshotError, encoding};

/// Output is made in pieces of about this many bytes.
const PIECE: usize = 256 * 1024;

/// What was made and not read yet.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    at: usize,
    done: bool,
}

impl Buffer {
    /// Reads; calls `fill` to make more when everything was read. `fill` gets the empty buffer and
    /// returns whether there is nothing more behind it. After an error nothing comes any more.
    fn read(
        &mut self,
        out: &mut [u8],
        fill: impl FnOnce(&mut Vec<u8>) -> Result<bool, SnapshotError>,
    ) -> io::Result<usize> {
        if self.at == self.bytes.len() {
            if self.done || out.is_empty() {
                return Ok(0);
            }
            (self.at, self.done) = (0, true);
            self.bytes.clear();
            match fill(&mut self.bytes) {
                Ok(done) => self.done = done,
                Err(e) => {
                    self.bytes.clear();
                    return Err(io::Error::other(e));
                }
            }
        }
        let n = out.len().min(self.bytes.len() - self.at);
        out[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// A snapshot as an LTX file. An error (a [`SnapshotError`] inside) means that all of it is worthless.
pub struct LtxStream {
    snapshot: Snapshot,
    /// `None` behind the end.
    encoder: Option<Encoder<Vec<u8>>>,
    buffer: Buffer,
    page: Vec<u8>,
}

impl LtxStream {
    pub(super) fn new(
        snapshot: Snapshot,
        node_id: NodeId,
        now: Timestamp,
        compression: Compression,
    ) -> Result<Self, SnapshotError> {
        let encoder =
            Encoder::new(Vec::new(), snapshot.header(node_id, now), compression).map_err(encoding)?;
        Ok(Self { snapshot, encoder: Some(encoder), buffer: Buffer::default(), page: Vec::new() })
    }

    /// The position of the snapshot.
    pub fn pos(&self) -> Pos {
        self.snapshot.pos()
    }
}

impl Read for LtxStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Self { snapshot, encoder, buffer, page } = self;
        buffer.read(out, |bytes| {
            let Some(mut e) = encoder.take() else { return Ok(true) };
            while e.writer_mut().len() < PIECE {
                let Some(number) = snapshot.next_page(page)? else {
                    *bytes = e.finish(snapshot.pos().checksum()).map_err(encoding)?.1;
                    return Ok(true);
                };
                e.page(number, page).map_err(encoding)?;
            }
            // The empty buffer in exchange for the full one.
            std::mem::swap(e.writer_mut(), bytes);
            *encoder = Some(e);
            Ok(false)
        })
    }
}

/// A snapshot as a SQLite file. An error (a [`SnapshotError`] inside) means that all of it is worthless.
pub struct DatabaseStream {
    snapshot: Snapshot,
    buffer: Buffer,
    page: Vec<u8>,
    /// The last page that was made.
    pub(super) last: u32,
}

impl DatabaseStream {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, buffer: Buffer::default(), page: Vec::new(), last: 0 }
    }

    /// The position of the snapshot.
    pub fn pos(&self) -> Pos {
        self.snapshot.pos()
    }

    /// Bytes of the whole file.
    pub fn len(&self) -> u64 {
        self.snapshot.database_len()
    }

    /// Whether the file is empty: a dropped database.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Read for DatabaseStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Self { snapshot, buffer, page, last } = self;
        buffer.read(out, |bytes| {
            while bytes.len() < PIECE {
                if *last == snapshot.page_count() {
                    snapshot.cow.finish();
                    return Ok(true);
                }
                *last += 1;
                if *last == snapshot.page_size().lock_page().get() {
                    bytes.resize(bytes.len() + snapshot.page_size().bytes(), 0);
                } else if snapshot.next_page(page)?.is_some() {
                    bytes.extend_from_slice(page);
                }
            }
            Ok(false)
        })
    }
}
