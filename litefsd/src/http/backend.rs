//! What the network needs of the store, as traits.
//!
//! Owns the seam between the two, nothing else: the daemon implements these over the store, the tests
//! over memory. Methods marked *may block* are called from threads that may block, never from a
//! network task; all others must return at once (a short mutex is fine, the disk is not).
//! Exercised by everything in `tests/tests/http_port.rs` and `replication_net.rs`.

use std::io::{self, Read, Write};

use litefs_core::stream::Ack;
use litefs_store::spool::{SpoolWriter, Spooled};
use litefs_types::{Checksum, ClusterId, DbName, NodeId, PageSize, Pos, Txid};

/// The identity of the cluster, kept in the data directory.
pub trait Identity: Send + Sync {
    /// The cluster this data belongs to; `None` before the first contact with one.
    fn cluster_id(&self) -> Option<ClusterId>;
    /// Persists the id of the cluster this node joined. *May block.* Called only while there is none.
    fn set_cluster_id(&self, id: &ClusterId) -> io::Result<()>;
}

/// One transaction of a database's log, to be sent to a replica.
pub struct LogEntry {
    /// Checksum of the database before it (LTX header).
    pub pre: Checksum,
    /// Position after it.
    pub post: Pos,
    /// Bytes that `reader` gives.
    pub len: u64,
    /// The LTX file, format 1. Must stay readable while the reader lives, whatever retention does.
    pub reader: Box<dyn Read + Send>,
}

/// Why a snapshot, an entry or an export could not be given.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No database of this name was ever here.
    #[error("database not found")]
    NotFound,
    /// The database was dropped: it has a position, but no file.
    #[error("database was dropped")]
    Dropped,
    /// The disk, or the reader of the output, failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Anything else; the text is for the log and the client.
    #[error("{0}")]
    Other(String),
}

/// Where the streams to replicas read from.
pub trait StreamSource: Send + Sync {
    /// Every database that has a name here, also those without a transaction and dropped ones.
    fn databases(&self) -> Vec<DbName>;
    /// How far replicas may come (`streamable`): durable here. `None`: no such database.
    fn streamable(&self, db: &DbName) -> Option<Pos>;
    /// Its page size now; `None` if it has no pages, or nobody knows.
    fn page_size(&self, _db: &DbName) -> Option<PageSize> {
        None
    }
    /// The log entry that holds exactly the transaction `txid`; `None` if retention removed it. *May block.*
    fn entry(&self, db: &DbName, txid: Txid) -> Result<Option<LogEntry>, SourceError>;
    /// Writes a snapshot as an LTX file of format 1 from a consistent read view and returns its position
    /// (a dropped database: no pages, commit 0). *May block*, also in `out`, for as long as the peer
    /// takes; an error of `out` must be passed on at once.
    fn write_snapshot(
        &self,
        db: &DbName,
        opts: SnapshotOptions,
        out: &mut dyn Write,
    ) -> Result<Pos, SourceError>;
    /// Highest transaction known to be in the backup, for the HWM frame; 0 without a backup.
    fn high_water_mark(&self, _db: &DbName) -> u64 {
        0
    }
    /// A log entry failed its verification and was not sent: heal the log. Must not block.
    fn damaged(&self, db: &DbName, txid: Txid, what: &str);
}

/// How a snapshot is to be encoded.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotOptions {
    /// Goes into the LTX header.
    pub node_id: NodeId,
    /// LZ4.
    pub compress: bool,
}

/// Why a received LTX file was not applied.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It does not continue the database's position: ask the primary again.
    #[error("position mismatch on db {db:?}: {have} <> {want}")]
    Mismatch {
        /// Which database.
        db: DbName,
        /// Where it is.
        have: Pos,
        /// Where the LTX file starts.
        want: Pos,
    },
    /// It is damaged or breaks a rule of the format. Nothing was written.
    #[error("invalid LTX: {0}")]
    Invalid(String),
    /// The local side failed; the same file may work later.
    #[error("{0}")]
    Local(String),
}

/// Where the stream of a primary goes to.
pub trait StreamSink: Send + Sync {
    /// The position of every database known here, also zero positions and dropped databases.
    fn positions(&self) -> Vec<(DbName, Pos)>;
    /// The position of one database, published or not, as far as its log goes; `ZERO` if unknown.
    fn position(&self, db: &DbName) -> Pos;
    /// How far this database is here, to tell the primary: what readers see, and what survives a power loss.
    fn progress(&self, db: &DbName) -> Ack {
        Ack { applied: self.position(db), durable: Pos::ZERO }
    }
    /// A spool for data of this database (which may not exist yet). Must not block: it touches the disk
    /// only when more comes than it keeps in memory.
    fn spool(&self, db: &DbName) -> SpoolWriter;
    /// A number that changes when a position was taken back (the content turned out to be damaged): the
    /// primary must be told again. Must not block.
    fn resync_wishes(&self) -> u64 {
        0
    }
    /// Bytes that spool files may take now, e.g. free disk less a reserve. *May block.*
    fn spool_budget(&self) -> u64 {
        u64::MAX
    }
    /// Verifies the LTX file wholly, appends it to the log, applies it and returns the new position.
    /// Creates the database if it is missing. *May block*, for as long as readers of the database do.
    /// Calls for one database come one after the other, for several at the same time.
    fn receive(&self, db: &DbName, ltx: Spooled) -> Result<Pos, SinkError>;
    /// The primary told its high-water mark. Must not block.
    fn set_high_water_mark(&self, _db: &DbName, _txid: u64) {}
}

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// This node may not write (any more).
    #[error("lease expired")]
    NotPrimary,
    /// The file is no database, or cannot be taken; the client's mistake.
    #[error("{0}")]
    Invalid(String),
    /// The local side failed.
    #[error("{0}")]
    Local(String),
}

/// Whole databases in and out.
pub trait Transfer: Send + Sync {
    /// Whether this name was ever used here. (For `404 database not found`.)
    fn exists(&self, db: &str) -> bool;
    /// Checks the file and replaces the database with it, as one transaction. *May block.*
    fn import(&self, db: &DbName, file: Spooled) -> Result<Pos, ImportError>;
    /// Writes a consistent copy. *May block*, also in `out`.
    fn export(&self, db: &DbName, out: &mut dyn Write) -> Result<(), SourceError>;
}

/// Counters of one database for `/metrics` and `/debug/vars`.
#[derive(Clone, Debug, Default)]
pub struct DbStats {
    /// Its name.
    pub name: String,
    /// Its position.
    pub pos: Option<Pos>,
    /// WRITE requests on the database file since the daemon started.
    pub database_writes: u64,
    /// On the journal.
    pub journal_writes: u64,
    /// On the WAL.
    pub wal_writes: u64,
    /// On the shm file.
    pub shm_writes: u64,
    /// Local commits since the daemon started.
    pub commits: u64,
    /// Transactions in the log.
    pub ltx_count: u64,
    /// Bytes in the log.
    pub ltx_bytes: u64,
    /// Transactions removed by retention since the daemon started.
    pub ltx_reaped: u64,
    /// Seconds from the time stamp of the last applied LTX file to its apply; 0 on the primary.
    pub lag_seconds: f64,
}

/// Numbers for people.
pub trait Stats: Send + Sync {
    /// One row for every database with a name here. Must not block.
    fn databases_stats(&self) -> Vec<DbStats>;
}

/// All of the above: what a server and a replica are started with.
pub trait Backend: Identity + StreamSource + StreamSink + Transfer + Stats + 'static {}

impl<T: Identity + StreamSource + StreamSink + Transfer + Stats + 'static> Backend for T {}
