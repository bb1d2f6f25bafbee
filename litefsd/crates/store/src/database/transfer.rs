//! Consistent copies of a database while it goes on being written: snapshots for replicas, exports.
//!
//! Owns the moment at which a copy starts; how the pages are found is [`crate::snapshot`]'s.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use litefs_ltx::{Compression, Encoder, Header, LtxError};
use litefs_types::{Checksum, NodeId, PageSize, Pos, Txid};

use super::Database;
use crate::error::{Result, StoreError};
use crate::own_mount::FileKind;
use crate::snapshot::{KeptHistory, LogHistory, Snapshot, SnapshotError, SnapshotInput};

/// How long a copy waits for a rollback transaction to end: inside it, pages of the last position may be
/// in the journal only.
const TRANSACTION_WAIT: Duration = Duration::from_secs(30);
/// Bytes handed to the output at once.
const CHUNK: usize = 256 * 1024;

/// A copy that was started; see [`Database::export`].
pub struct Export {
    snapshot: Snapshot,
}

impl Export {
    /// Position of the copy.
    pub fn pos(&self) -> Pos {
        self.snapshot.pos()
    }

    /// Bytes of the SQLite file.
    pub fn size(&self) -> u64 {
        self.snapshot.database_len()
    }

    /// Writes the SQLite file; the lock page is zeros. After an error what was written is worthless.
    ///
    /// `db` is the database that the copy is of: it hears of pages that its disk has lost.
    pub fn write(self, db: &Database, out: &mut dyn Write) -> Result<Pos> {
        let pos = self.pos();
        let mut reader = self.snapshot.into_database();
        let mut buf = vec![0; CHUNK];
        loop {
            let n =
                io::Read::read(&mut reader, &mut buf).map_err(|e| match e.downcast::<SnapshotError>() {
                    Ok(e) => db.snapshot_error(e),
                    Err(source) => StoreError::Io { what: "export", source },
                })?;
            if n == 0 {
                return Ok(pos);
            }
            out.write_all(&buf[..n]).map_err(StoreError::io("output of an export"))?;
        }
    }
}

impl Database {
    /// Starts a copy at the position that SQLite shows now. Worker threads only.
    pub fn export(&self) -> Result<Export> {
        self.resolve_pos();
        Ok(Export { snapshot: self.snapshot()? })
    }

    /// Writes a consistent copy as a SQLite file.
    pub fn write_export(&self, out: &mut dyn Write) -> Result<Pos> {
        self.export()?.write(self, out)
    }

    /// Writes a snapshot as an LTX file of format 1 and returns its position. A dropped database is a
    /// file without pages.
    pub fn write_snapshot(&self, node_id: NodeId, compress: bool, out: &mut dyn Write) -> Result<Pos> {
        let compression = if compress { Compression::Lz4 } else { Compression::None };
        if self.is_dropped() {
            return self.write_empty_snapshot(node_id, compression, out);
        }
        let snapshot = self.snapshot()?;
        let pos = snapshot.pos();
        snapshot.write_ltx(out, node_id, self.env.now(), compression).map_err(|e| self.snapshot_error(e))?;
        Ok(pos)
    }

    fn write_empty_snapshot(
        &self,
        node_id: NodeId,
        compression: Compression,
        out: &mut dyn Write,
    ) -> Result<Pos> {
        let failed = |e: LtxError| match e {
            LtxError::Io(source) => StoreError::Io { what: "output of a snapshot", source },
            other => StoreError::Corrupt { what: "the snapshot", reason: other.to_string() },
        };
        let (pos, timestamp) = {
            let g = self.lock();
            (g.streamable, g.last_timestamp)
        };
        let max_txid = pos.txid().ok_or(StoreError::NotFound)?;
        let header = Header {
            max_txid,
            timestamp: timestamp.unwrap_or_else(|| self.env.now()),
            node_id,
            ..Header::new(PageSize::DEFAULT, 0, Txid::FIRST, Checksum::NONE)
        };
        let enc = Encoder::new(out, header, compression).map_err(failed)?;
        enc.finish(Checksum::EMPTY).map_err(failed)?;
        Ok(pos)
    }

    /// Starts a copy at the published position, made durable first: a replica must not be ahead.
    fn snapshot(&self) -> Result<Snapshot> {
        let deadline = Instant::now() + TRANSACTION_WAIT;
        loop {
            let snapshot = self.snapshot_of_tip(deadline)?;
            if self.wait_published(snapshot.pos(), deadline)? {
                if !self.log_durable_to(snapshot.pos()) {
                    self.sync_log()?;
                }
                return Ok(snapshot);
            }
            // The last transaction was dropped before anybody saw it: a copy of something that never was.
        }
    }

    /// Waits until SQLite shows the position. `Ok(false)`: it never will.
    fn wait_published(&self, pos: Pos, deadline: Instant) -> Result<bool> {
        loop {
            if self.resolve_pos().txid_raw() >= pos.txid_raw() {
                // A later transaction may have taken the number.
                return Ok(
                    self.pos() == pos || self.log.get(pos.next_txid())?.is_some_and(|e| e.pre() == pos)
                );
            }
            if self.lock().tip.txid_raw() < pos.txid_raw() {
                return Ok(false);
            }
            if Instant::now() >= deadline {
                return Err(StoreError::Busy { what: "a copy of the database", holder: "a writer".into() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts a copy at the end of the log, which readers may not see yet.
    fn snapshot_of_tip(&self, deadline: Instant) -> Result<Snapshot> {
        // What the daemon itself writes (an apply, an import) is not between the files and the position now.
        let Some(own_io) = self.lock_own_until(deadline) else {
            return Err(StoreError::Busy {
                what: "a copy of the database",
                holder: "a transaction of the daemon".into(),
            });
        };
        let mut g = self.lock();
        // Inside a rollback transaction the pages of the position are being overwritten.
        while g.prepared_rollback.is_some() || g.rollback.is_dirty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Busy {
                    what: "a copy of the database",
                    holder: "a transaction".into(),
                });
            }
            // Woken at the end of each transaction; the timeout covers those that end otherwise.
            let nap = left.min(Duration::from_millis(20));
            g = self.transaction_ended.wait_timeout(g, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.check_alive(&g)?;
        // Page sums are those of the tip.
        let pos = g.tip;
        if pos.is_zero() || g.sums.page_count() == 0 {
            return Err(StoreError::NotFound);
        }
        let file = self.backing(FileKind::Database)?.file;
        let log = LogHistory::new(Arc::clone(&self.log), g.complete_at, pos);
        let snapshot = Snapshot::new(SnapshotInput {
            db: self.name.clone(),
            pos,
            sums: g.sums.clone(),
            file,
            history: match self.kept_snapshot(&own_io)? {
                Some(kept) => Box::new(KeptHistory::new(log, kept)),
                None => Box::new(log),
            },
            disk: Arc::clone(&self.env.disk),
            spool_dir: self.dir.spool(),
        })
        .map_err(|e| self.snapshot_error(e))?;
        {
            let mut list = self.cow.write().unwrap_or_else(PoisonError::into_inner);
            list.retain(|c| !c.is_done());
            list.push(Arc::clone(snapshot.copy_on_write()));
            self.cow_active.store(true, Ordering::Release);
        }
        Ok(snapshot)
    }

    fn snapshot_error(&self, e: SnapshotError) -> StoreError {
        match e {
            SnapshotError::Read { source, .. } => {
                StoreError::Io { what: "read of a page for a copy", source }
            }
            SnapshotError::Write(source) => StoreError::Io { what: "output of a copy", source },
            SnapshotError::Page { .. } => {
                let e = StoreError::Corrupt { what: "the database file", reason: e.to_string() };
                if self.env.gate.permit().is_none() {
                    self.ask_for_snapshot(&e);
                } else {
                    tracing::error!(db = %self.name, "{e}: the disk has lost or changed data");
                }
                e
            }
            other => StoreError::Corrupt { what: "a copy", reason: other.to_string() },
        }
    }
}
