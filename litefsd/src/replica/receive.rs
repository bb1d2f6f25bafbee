//! Puts one LTX file of the stream together and checks what can be checked on the way.
//!
//! Owns the spool of the file being received, its size limit and the early check of its position; the
//! store verifies the whole of it. Tested in `tests/tests/replication_net.rs`.

use std::io;
use std::sync::Arc;

use litefs_ltx::{HEADER_SIZE, Header, TRAILER_SIZE, raw_size};
use litefs_types::{Checksum, DbName, NodeId, Pos};
use tokio::task::spawn_blocking;

use super::inbox::{Admit, Inbox, Item};
use super::stream::pre_pos;
use crate::http::backend::Backend;
use crate::http::spool::Spooler;

/// The disk is asked for its room whenever this much more was received.
const BUDGET_STEP: u64 = 64 << 20;
/// What LZ4 may add to incompressible data: a 64th is many times what any encoder adds, and a constant
/// for its frame.
const LZ4_OVERHEAD_SHIFT: u32 = 6;
/// See above.
const LZ4_OVERHEAD_CONST: u64 = 4096;

/// A file that makes the rest of the stream useless, or shows that the peer is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum RejectedFile {
    /// It does not continue what is here: the next request tells the primary what is.
    #[error("position mismatch on db {db:?}: {have} <> {want}")]
    Mismatch {
        /// Which database.
        db: String,
        /// Where it is here.
        have: Pos,
        /// Where the file starts.
        want: Pos,
    },
    /// Its header is no LTX header.
    #[error("{db}: {source}")]
    Header {
        /// Which database.
        db: DbName,
        /// What is wrong.
        source: litefs_ltx::LtxError,
    },
    /// It ends in something else than a trailer.
    #[error("{db}: LTX file without a valid trailer ({len} bytes)")]
    Trailer {
        /// Which database.
        db: DbName,
        /// Bytes received.
        len: u64,
    },
    /// It is longer than its header allows, or too short to be anything.
    #[error("{db}: LTX file of wrong length ({len} bytes)")]
    Length {
        /// Which database.
        db: DbName,
        /// Bytes received so far.
        len: u64,
    },
}

/// Receives one file after the other.
pub(super) struct Receiver {
    own_id: NodeId,
    backend: Arc<dyn Backend>,
    inbox: Inbox,
    state: State,
}

enum State {
    /// Between files.
    Idle,
    /// Within a file that is not wanted now.
    Skipping,
    /// Within a file.
    File(Box<File>),
}

struct File {
    db: DbName,
    spooler: Spooler,
    header: Option<Header>,
    limit: u64,
    /// The last bytes received: the trailer when the file ends.
    tail: Vec<u8>,
    budget_at: u64,
}

impl Receiver {
    pub(super) fn new(own_id: NodeId, backend: Arc<dyn Backend>, inbox: Inbox) -> Self {
        Self { own_id, backend, inbox, state: State::Idle }
    }

    /// Whether it stands between two files.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// A file begins.
    pub(super) fn begin(&mut self, db: &DbName, wanted: bool) {
        let admit = if wanted { self.inbox.admit(db) } else { Admit::Skip };
        self.state = match admit {
            Admit::Skip => State::Skipping,
            Admit::Take => State::File(Box::new(File {
                db: db.clone(),
                spooler: Spooler::default(),
                header: None,
                limit: u64::MAX,
                tail: Vec::with_capacity(2 * TRAILER_SIZE),
                budget_at: 0,
            })),
        };
    }

    /// Bytes of it.
    pub(super) async fn data(&mut self, bytes: &[u8]) -> Result<(), RejectedFile> {
        let State::File(file) = &mut self.state else { return Ok(()) };
        let full = file.spooler.push(bytes);
        file.remember_tail(bytes);
        let len = file.spooler.len();
        if file.header.is_none()
            && let Some(head) = file.spooler.head().first_chunk::<HEADER_SIZE>()
        {
            let header =
                Header::parse(head).map_err(|source| RejectedFile::Header { db: file.db.clone(), source })?;
            check_position(&self.inbox, self.own_id, &file.db, &header)?;
            let raw = raw_size(header.page_size, header.commit);
            file.limit = raw.saturating_add(raw >> LZ4_OVERHEAD_SHIFT).saturating_add(LZ4_OVERHEAD_CONST);
            file.header = Some(header);
        }
        if len > file.limit {
            return Err(RejectedFile::Length { db: file.db.clone(), len });
        }
        if !full {
            return Ok(());
        }
        let ask_budget = len >= file.budget_at;
        if ask_budget {
            file.budget_at = len + BUDGET_STEP;
        }
        let spooler = std::mem::take(&mut file.spooler);
        let (backend, db) = (Arc::clone(&self.backend), file.db.clone());
        let flushed = spawn_blocking(move || {
            if ask_budget && backend.spool_budget() < BUDGET_STEP {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "no room for the transaction"));
            }
            let mut spooler = spooler;
            spooler.flush(&|| backend.spool(&db))?;
            Ok(spooler)
        });
        match flushed.await.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(spooler) => file.spooler = spooler,
            Err(e) => self.fail(&e),
        }
        Ok(())
    }

    /// The file is complete.
    pub(super) async fn end(&mut self) -> Result<(), RejectedFile> {
        let State::File(file) = std::mem::replace(&mut self.state, State::Idle) else { return Ok(()) };
        let len = file.spooler.len();
        let wrong = || RejectedFile::Length { db: file.db.clone(), len };
        let header = file.header.as_ref().ok_or_else(wrong)?;
        if len < (HEADER_SIZE + TRAILER_SIZE) as u64 {
            return Err(wrong());
        }
        let post = file.post().ok_or_else(|| RejectedFile::Trailer { db: file.db.clone(), len })?;
        let (own, timestamp) = (header.node_id == self.own_id, header.timestamp);
        let post = Pos::new(header.max_txid, post);
        let File { db, spooler, .. } = *file;
        let finished = if spooler.is_file() {
            let finished = spawn_blocking(move || spooler.finish()).await;
            finished.unwrap_or_else(|e| Err(io::Error::other(e)))
        } else {
            spooler.finish()
        };
        let received = match finished {
            Ok(r) => r,
            Err(e) => {
                self.inbox.fail(&db, &format!("write temporary file: {e}"));
                return Ok(());
            }
        };
        self.inbox.push(&db, Item { ltx: received, post, timestamp, own });
        Ok(())
    }

    /// The local side cannot take the file: this database waits, the others go on.
    fn fail(&mut self, e: &io::Error) {
        if let State::File(file) = std::mem::replace(&mut self.state, State::Skipping) {
            self.inbox.fail(&file.db, &format!("write temporary file: {e}"));
        }
    }
}

fn check_position(inbox: &Inbox, own_id: NodeId, db: &DbName, header: &Header) -> Result<(), RejectedFile> {
    if header.is_snapshot() || header.node_id == own_id {
        return Ok(());
    }
    let (have, want) = (inbox.position(db), pre_pos(header));
    if have == want {
        return Ok(());
    }
    Err(RejectedFile::Mismatch { db: db.to_string(), have, want })
}

impl File {
    fn remember_tail(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(TRAILER_SIZE)..];
        let keep = TRAILER_SIZE - new.len();
        let drop = self.tail.len().saturating_sub(keep);
        self.tail.drain(..drop);
        self.tail.extend_from_slice(new);
    }

    /// The checksum that the trailer gives for the database after the file.
    fn post(&self) -> Option<Checksum> {
        let bytes = self.tail.first_chunk::<8>()?;
        Checksum::from_raw(u64::from_be_bytes(*bytes)).filter(|c| !c.is_none())
    }
}
