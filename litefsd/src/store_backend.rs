//! What the cluster port reads from and writes to, over the store.
//!
//! A translation of types and errors; the store decides. Everything that may block is marked so in
//! [`crate::http::backend`] and called from threads that may.

use std::io::{self, Read, Write};
use std::sync::Arc;

use litefs_core::stream::Ack;
use litefs_store::database::{CheckedImport, Database, ReceivedLtx};
use litefs_store::own_mount::FileKind;
use litefs_store::spool::{SpoolWriter, Spooled};
use litefs_store::{Store, StoreError};
use litefs_types::{ClusterId, DbName, PageSize, Pos, Txid};

use crate::http::backend::{
    DbStats, Identity, ImportError, LogEntry, SinkError, SnapshotOptions, SourceError, Stats, StreamSink,
    StreamSource, Transfer,
};

/// Largest LTX file that is taken from a peer: a database has at most 2^32 pages, but a disk that is
/// filled by a broken peer is everybody's problem.
const MAX_RECEIVED: u64 = 1 << 40;
/// Disk space that spool files leave free.
const DISK_RESERVE: u64 = 256 << 20;

/// See the module documentation.
pub struct StoreBackend {
    store: Arc<Store>,
}

impl StoreBackend {
    /// Over this store.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    fn db(&self, name: &DbName) -> Result<Arc<Database>, SourceError> {
        self.store.database(name.as_str()).ok_or(SourceError::NotFound)
    }
}

impl Identity for StoreBackend {
    fn cluster_id(&self) -> Option<ClusterId> {
        self.store.cluster_id()
    }

    fn set_cluster_id(&self, id: &ClusterId) -> io::Result<()> {
        self.store.set_cluster_id(id.clone()).map_err(io::Error::other)
    }
}

fn source_error(e: StoreError) -> SourceError {
    match e {
        StoreError::Io { source, .. } => SourceError::Io(source),
        StoreError::NotFound => SourceError::NotFound,
        other => SourceError::Other(other.to_string()),
    }
}

impl StreamSource for StoreBackend {
    fn databases(&self) -> Vec<DbName> {
        self.store.databases().iter().map(|db| db.name().clone()).collect()
    }

    fn streamable(&self, db: &DbName) -> Option<Pos> {
        self.store.database(db.as_str()).map(|db| db.streamable_pos())
    }

    fn page_size(&self, db: &DbName) -> Option<PageSize> {
        self.store.database(db.as_str())?.page_size()
    }

    fn entry(&self, db: &DbName, txid: Txid) -> Result<Option<LogEntry>, SourceError> {
        let Some(entry) = self.db(db)?.log().get(txid).map_err(|e| SourceError::Other(e.to_string()))? else {
            return Ok(None);
        };
        // A peer asks for one transaction; a record of several (a received, compacted file) is no answer.
        if entry.min_txid() != entry.max_txid() {
            return Ok(None);
        }
        Ok(Some(LogEntry {
            pre: entry.pre().checksum(),
            post: entry.post(),
            len: entry.len(),
            reader: Box::new(entry.reader()),
        }))
    }

    fn write_snapshot(
        &self,
        db: &DbName,
        opts: SnapshotOptions,
        out: &mut dyn Write,
    ) -> Result<Pos, SourceError> {
        self.db(db)?.write_snapshot(opts.node_id, opts.compress, out).map_err(source_error)
    }

    fn damaged(&self, db: &DbName, txid: Txid, what: &str) {
        // The record is never sent; a replica that needs it gets a snapshot, made of pages that are
        // checked one by one.
        tracing::error!(%db, %txid, "a transaction in the log is damaged and was not sent: {what}");
    }
}

/// What the primary is told: a database that must not be continued has nothing.
fn stream_position(db: &Database) -> Pos {
    if db.wants_snapshot() { Pos::ZERO } else { db.pos() }
}

impl StreamSink for StoreBackend {
    fn positions(&self) -> Vec<(DbName, Pos)> {
        self.store.databases().iter().map(|db| (db.name().clone(), stream_position(db))).collect()
    }

    fn position(&self, db: &DbName) -> Pos {
        self.store.database(db.as_str()).map_or(Pos::ZERO, |db| stream_position(&db))
    }

    fn progress(&self, db: &DbName) -> Ack {
        let none = Ack { applied: Pos::ZERO, durable: Pos::ZERO };
        self.store
            .database(db.as_str())
            .map_or(none, |db| Ack { applied: db.pos(), durable: db.durable_pos() })
    }

    fn spool(&self, db: &DbName) -> SpoolWriter {
        self.store.spool(db, MAX_RECEIVED)
    }

    fn resync_wishes(&self) -> u64 {
        self.store.snapshot_wishes()
    }

    fn spool_budget(&self) -> u64 {
        nix::sys::statvfs::statvfs(&self.store.dir())
            .map(|s| s.blocks_available().saturating_mul(s.fragment_size()))
            .map_or(u64::MAX, |free| free.saturating_sub(DISK_RESERVE))
    }

    fn receive(&self, db: &DbName, ltx: Spooled) -> Result<Pos, SinkError> {
        let local = |e: StoreError| SinkError::Local(e.to_string());
        let failed = |e: StoreError| match e {
            StoreError::PositionMismatch { db, have, want } => SinkError::Mismatch { db, have, want },
            StoreError::Corrupt { .. } => SinkError::Invalid(e.to_string()),
            other => local(other),
        };
        // Before the name exists: rubbish under a new name leaves no database behind.
        let received = ReceivedLtx::check(ltx).map_err(failed)?;
        self.store.create_database(db).map_err(local)?.apply_checked(received).map_err(failed)
    }
}

impl Transfer for StoreBackend {
    fn exists(&self, db: &str) -> bool {
        self.store.database(db).is_some()
    }

    fn import(&self, db: &DbName, file: Spooled) -> Result<Pos, ImportError> {
        import(&self.store, db, file, true)
    }

    fn export(&self, db: &DbName, out: &mut dyn Write) -> Result<(), SourceError> {
        let db = self.db(db)?;
        if db.is_dropped() {
            return Err(SourceError::Dropped);
        }
        db.write_export(out).map(|_| ()).map_err(source_error)
    }
}

/// Makes a received file the content of a database; without `replace` it must not have pages yet.
pub fn import(store: &Store, db: &DbName, file: Spooled, replace: bool) -> Result<Pos, ImportError> {
    let failed = |e: StoreError| match e {
        StoreError::Refused { errno: libc::EACCES, .. } => ImportError::NotPrimary,
        StoreError::Corrupt { .. } | StoreError::Exists => ImportError::Invalid(e.to_string()),
        other => ImportError::Local(other.to_string()),
    };
    if !store.may_write() {
        return Err(ImportError::NotPrimary);
    }
    // Checked in the spool of the data directory before the name exists: a file that is no database
    // leaves nothing behind.
    let mut staged = store.import_file().map_err(failed)?;
    let mut reader = file.reader();
    let mut buf = vec![0; 1 << 20];
    loop {
        let n = reader.read(&mut buf).map_err(|e| ImportError::Local(e.to_string()))?;
        if n == 0 {
            break;
        }
        staged.write_all(&buf[..n]).map_err(|e| ImportError::Local(e.to_string()))?;
    }
    drop(reader);
    drop(file);
    let checked = CheckedImport::check(staged).map_err(failed)?;
    store.create_database(db).and_then(|db| db.import(checked, replace)).map_err(failed)
}

impl Stats for StoreBackend {
    fn databases_stats(&self) -> Vec<DbStats> {
        self.store
            .databases()
            .iter()
            .map(|db| {
                let c = db.counters();
                DbStats {
                    name: db.name().as_str().to_owned(),
                    pos: Some(db.pos()),
                    database_writes: c.writes(FileKind::Database),
                    journal_writes: c.writes(FileKind::Journal),
                    wal_writes: c.writes(FileKind::Wal),
                    shm_writes: c.writes(FileKind::Shm),
                    commits: c.commits(),
                    ltx_count: db.log().count(),
                    ltx_bytes: db.log().size_bytes(),
                    ltx_reaped: c.reaped(),
                    lag_seconds: c.lag_seconds(),
                }
            })
            .collect()
    }
}
