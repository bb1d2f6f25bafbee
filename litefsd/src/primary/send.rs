//! Sends the log entries and snapshots of changed databases. Runs on a thread that may block.
//!
//! Owns verification before sending, compression for the wire, and chunks; not when to send
//! (`session.rs`) nor what comes next for a replica (`litefs_core::stream::Session`). Tested in
//! `tests/tests/replication_net.rs`.

use std::cell::RefCell;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use litefs_core::stream::{Action, Frame, LogFacts, Session, Source, chunk};
use litefs_ltx::{Compression, Decoder, HEADER_SIZE, Header, LtxError, transcode, verify};
use litefs_types::{Checksum, DbName, PageSize, Pos, Timestamp, Txid};
use tokio::time::Instant;

use super::changes::Progress;
use super::page_size::{Copies, peek};
use crate::http::App;
use crate::http::backend::{Backend, LogEntry, SnapshotOptions, SourceError};
use crate::http::channel::{ChannelWriter, STOPPED};
use crate::http::spool::MEMORY_LIMIT;

/// Read buffer of large log entries.
const READ_BUFFER: usize = 256 << 10;

/// Why nothing more is sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The replica has gone.
    #[error("replica has gone")]
    Gone,
    /// The role or the port ends.
    #[error("stopped")]
    Stopped {
        /// A file was begun and not finished.
        within_file: bool,
    },
    /// The replica, or a snapshot, took too long.
    #[error("{0}")]
    TimedOut(String),
    /// A log entry is not what was written.
    #[error("{db}: log entry {txid} is damaged and was not sent: {what}")]
    Damaged {
        /// Of which database.
        db: DbName,
        /// Which entry.
        txid: Txid,
        /// What is wrong.
        what: String,
    },
    /// The store could not read.
    #[error("{db}: {source}")]
    Source {
        /// Of which database.
        db: DbName,
        /// Why.
        source: SourceError,
    },
}

/// What a replica needs next, and the way to it.
pub(super) struct Sender {
    app: Arc<App>,
    /// Decides what is sent.
    pub(super) session: Session,
    progress: Progress,
    /// Of a peer of the original.
    copies: Option<Copies>,
}

/// How a pump ended.
pub(super) enum Pumped {
    /// Everything is sent.
    Wait,
    /// The session closed the stream.
    Closed,
}

impl Sender {
    pub(super) fn new(app: Arc<App>, session: Session, progress: Progress) -> Self {
        let copies = (!progress.extensions().page_size).then(Copies::default);
        Self { app, session, progress, copies }
    }

    /// Does what the session says until it waits.
    pub(super) fn pump(&mut self, out: ChannelWriter) -> Result<Pumped, SendError> {
        let backend = Arc::clone(&self.app.backend);
        let app = Arc::clone(&self.app);
        let source = StoreSource { app: &app, backend: &*backend, found: RefCell::default() };
        let mut wire = Wire { app: &app, out, file_from: None };
        loop {
            let action = self.session.next(Timestamp::from_system(SystemTime::now()), &source);
            match action {
                Action::Frame(frame) => wire.frame(&frame)?,
                Action::Entry { db, txid } => match source.take(&db, txid) {
                    Some(entry) => {
                        let post = entry.post;
                        let Some(entry) = self.admit(&db, txid, entry) else { continue };
                        if wire.entry(&db, txid, entry)? {
                            self.session.sent(post, &source);
                            self.progress.sent(&db, post);
                        } else {
                            self.session.unavailable();
                        }
                    }
                    None => self.session.unavailable(),
                },
                Action::Snapshot { db, reason } => {
                    if !self.admit_snapshot(&db) {
                        continue;
                    }
                    tracing::info!("{db}: sending a snapshot: {}", reason.as_str());
                    let pos = wire.snapshot(&db)?;
                    self.session.sent(pos, &source);
                    self.progress.sent(&db, pos);
                }
                Action::Wait => {
                    wire.flush()?;
                    return Ok(Pumped::Wait);
                }
                Action::Close => {
                    wire.flush()?;
                    return Ok(Pumped::Closed);
                }
            }
        }
    }
}

impl Sender {
    /// The entry, if the peer can take it.
    fn admit(&mut self, db: &DbName, txid: Txid, entry: LogEntry) -> Option<LogEntry> {
        if self.copies.is_none() {
            return Some(entry);
        }
        let (entry, header) = match peek(entry) {
            Ok(found) => found,
            Err(what) => {
                self.app.damage.report(&*self.app.backend, db, txid, &what);
                self.session.unavailable();
                return None;
            }
        };
        // A drop has no pages.
        (header.commit == 0 || self.admit_pages(db, Some(txid), header.page_size)).then_some(entry)
    }

    fn admit_snapshot(&mut self, db: &DbName) -> bool {
        let size = if self.copies.is_some() { self.app.backend.page_size(db) } else { None };
        size.is_none_or(|size| self.admit_pages(db, None, size))
    }

    /// Whether a peer of the original can take pages of this size; if not, the database is held back.
    fn admit_pages(&mut self, db: &DbName, txid: Option<Txid>, size: PageSize) -> bool {
        let Some(copies) = &mut self.copies else { return true };
        match copies.check(&self.app, db, self.session.client_pos(db), size) {
            Ok(()) => {
                copies.sent(db, size);
                true
            }
            Err(changed) => {
                if let Some(txid) = txid {
                    // For when the log does not reach back to it any more.
                    self.app.changes.page_size_changed(db, txid, changed.from, changed.to);
                }
                self.progress.held(db, changed.explain(db));
                self.session.hold();
                false
            }
        }
    }
}

/// The store as the session asks for it. Keeps the entry that was looked at.
struct StoreSource<'a> {
    app: &'a App,
    backend: &'a dyn Backend,
    found: RefCell<Option<(DbName, Txid, LogEntry)>>,
}

impl StoreSource<'_> {
    fn take(&self, db: &DbName, txid: Txid) -> Option<LogEntry> {
        match self.found.take() {
            Some((d, t, entry)) if (&d, t) == (db, txid) => Some(entry),
            _ => self.look(db, txid),
        }
    }

    /// An entry that cannot be read is as good as none: the replica gets a snapshot instead.
    fn look(&self, db: &DbName, txid: Txid) -> Option<LogEntry> {
        if self.app.damage.is_known(db, txid) {
            return None;
        }
        match self.backend.entry(db, txid) {
            Ok(entry) => entry,
            Err(e) => {
                self.app.damage.report(self.backend, db, txid, &e.to_string());
                None
            }
        }
    }
}

impl Source for StoreSource<'_> {
    fn pos(&self, db: &DbName) -> Option<Pos> {
        self.backend.streamable(db)
    }

    fn log(&self, db: &DbName, txid: Txid) -> Option<LogFacts> {
        let entry = self.look(db, txid)?;
        let facts = LogFacts { pre_apply: entry.pre, post: entry.post };
        self.found.replace(Some((db.clone(), txid, entry)));
        Some(facts)
    }

    fn hwm(&self, db: &DbName) -> Option<Txid> {
        Txid::new(self.backend.high_water_mark(db))
    }
}

/// Frames and files on their way into the response.
struct Wire<'a> {
    app: &'a App,
    out: ChannelWriter,
    /// While a file is being sent: how many parts had been sent before it.
    file_from: Option<u64>,
}

impl Wire<'_> {
    /// Sends a log entry. `false`: it is damaged, and nothing of it was sent.
    fn entry(&mut self, db: &DbName, txid: Txid, entry: LogEntry) -> Result<bool, SendError> {
        let facts = (txid, entry.pre, entry.post);
        let check = |header: &Header, post: Checksum| {
            let is = (header.min_txid, header.pre_apply, Pos::new(header.max_txid, post));
            if is == facts { Ok(()) } else { Err("it holds another transaction".to_owned()) }
        };
        let compress = self.app.options.compress;
        let result = if entry.len <= MEMORY_LIMIT as u64 {
            // Verified before its first byte is sent.
            let mut bytes = Vec::with_capacity(entry.len as usize);
            if let Err(e) = send_verified(entry.reader, &mut bytes, compress, &check) {
                self.app.damage.report(&*self.app.backend, db, txid, &e.to_string());
                return Ok(false);
            }
            self.begin(db)?;
            self.file(|chunks| chunks.write_all(&bytes).map_err(|e| e.to_string()))
        } else {
            // Verified on its way; its end is sent only when all of it was good.
            self.begin(db)?;
            let input = BufReader::with_capacity(READ_BUFFER, entry.reader);
            self.file(|chunks| send_verified(input, chunks, compress, &check).map_err(|e| e.to_string()))
        };
        match result {
            Ok(()) => {}
            Err(Failure::Send(e)) => return Err(e),
            Err(Failure::Damaged(what)) => {
                self.app.damage.report(&*self.app.backend, db, txid, &what);
                return Err(SendError::Damaged { db: db.clone(), txid, what });
            }
        }
        self.app.stream_metrics.sent(db.as_str(), false);
        self.end()?;
        Ok(true)
    }

    fn snapshot(&mut self, db: &DbName) -> Result<Pos, SendError> {
        let limit = self.app.options.snapshot_timeout;
        let backend = Arc::clone(&self.app.backend);
        let opts = SnapshotOptions { node_id: self.app.node.id, compress: self.app.options.compress };
        self.begin(db)?;
        self.out.set_deadline(Some(Instant::now() + limit));
        let mut result = Ok(Pos::ZERO);
        let sent = self.file(|chunks| {
            result = backend.write_snapshot(db, opts, chunks);
            result.as_ref().map(|_| ()).map_err(ToString::to_string)
        });
        let sent = match sent {
            Ok(()) => self.end(),
            Err(Failure::Send(e)) => Err(e),
            Err(Failure::Damaged(what)) => {
                let source = result.as_ref().err().map_or(what, ToString::to_string);
                Err(SendError::Source { db: db.clone(), source: SourceError::Other(source) })
            }
        };
        self.out.set_deadline(None);
        match sent {
            Ok(()) => {
                self.app.stream_metrics.sent(db.as_str(), true);
                result.map_err(|source| SendError::Source { db: db.clone(), source })
            }
            Err(SendError::TimedOut(_)) => {
                Err(SendError::TimedOut(format!("{db}: snapshot timeout exceeded ({}s)", limit.as_secs())))
            }
            Err(e) => Err(e),
        }
    }

    /// Lets `write` write a file in chunks and ends it if that succeeded.
    fn file(
        &mut self,
        write: impl FnOnce(&mut ChunkWriter<'_>) -> Result<(), String>,
    ) -> Result<(), Failure> {
        let mut chunks = ChunkWriter::new(&mut self.out);
        let written = write(&mut chunks);
        let failed = chunks.failed.take();
        match (written, failed) {
            (_, Some(e)) => Err(Failure::Send(self.lost(&e))),
            (Err(what), None) => Err(Failure::Damaged(what)),
            (Ok(()), None) => chunks.finish().map_err(|e| Failure::Send(self.lost(&e))),
        }
    }

    /// A file begins: until [`Wire::end`], the stream can only be reset.
    fn begin(&mut self, db: &DbName) -> Result<(), SendError> {
        self.file_from = Some(self.out.parts());
        self.frame(&Frame::Ltx { db: db.clone() })
    }

    /// The file is complete. A large one leaves at once; small ones leave together with what follows (at
    /// least the high-water mark), in one write, as soon as there is nothing more or a part is full.
    fn end(&mut self) -> Result<(), SendError> {
        if self.file_from.is_some_and(|from| self.out.parts() > from) {
            self.flush()?;
        }
        self.file_from = None;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SendError> {
        self.out.flush_buf().map_err(|e| self.lost(&e))
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), SendError> {
        let result = self.out.write_all(&frame.to_bytes());
        result.map_err(|e| self.lost(&e))
    }

    fn lost(&self, e: &io::Error) -> SendError {
        match e.kind() {
            STOPPED => {
                SendError::Stopped { within_file: self.file_from.is_some_and(|from| self.out.parts() > from) }
            }
            io::ErrorKind::TimedOut => SendError::TimedOut("the replica does not read".to_owned()),
            _ => SendError::Gone,
        }
    }
}

/// Of one file.
enum Failure {
    Send(SendError),
    Damaged(String),
}

/// Copies an LTX file while verifying it: byte for byte, or compressed if it is not yet and should be.
/// What was written is worthless unless this succeeds.
fn send_verified(
    mut input: impl Read,
    mut out: impl Write,
    compress: bool,
    check: &impl Fn(&Header, Checksum) -> Result<(), String>,
) -> Result<(), LtxError> {
    let mut head = [0; HEADER_SIZE];
    input.read_exact(&mut head).map_err(LtxError::Io)?;
    let header = Header::parse(&head)?;
    let packed = Decoder::new(&head[..])?.compression() == Compression::Lz4;
    let whole = head.chain(input);
    let post = if compress && !packed {
        transcode(Decoder::new(whole)?, &mut out, Compression::Lz4)?.0.post_apply
    } else {
        verify(Tee { input: whole, out })?.trailer.post_apply
    };
    check(&header, post).map_err(|e| LtxError::Io(io::Error::other(e)))
}

/// Copies what is read from `input` to `out`.
struct Tee<R, W> {
    input: R,
    out: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.out.write_all(&buf[..n])?;
        Ok(n)
    }
}

/// Cuts what is written into chunks of the stream.
struct ChunkWriter<'a> {
    out: &'a mut ChannelWriter,
    chunk: Vec<u8>,
    /// Why `out` failed: an encoder in between may hide it.
    failed: Option<io::Error>,
}

impl<'a> ChunkWriter<'a> {
    fn new(out: &'a mut ChannelWriter) -> Self {
        Self { out, chunk: Vec::new(), failed: None }
    }

    fn flush_chunk(&mut self) -> io::Result<()> {
        for (head, body) in chunk::chunks(&self.chunk) {
            let written = self.out.write_all(&head).and_then(|()| self.out.write_all(body));
            written.inspect_err(|e| self.failed = Some(e.kind().into()))?;
        }
        self.chunk.clear();
        Ok(())
    }

    /// Ends the file.
    fn finish(&mut self) -> io::Result<()> {
        self.flush_chunk()?;
        self.out.write_all(&chunk::END)
    }
}

impl Write for ChunkWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() == chunk::MAX_CHUNK {
            self.flush_chunk()?;
        }
        let n = bytes.len().min(chunk::MAX_CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
