//! What the control socket needs of the daemon.

use std::io::{self, Read, Write};

use bytes::Bytes;
use litefs_api::{ApiError, DatabaseStatus, Health, Imported, LtxList, Probe, Status};
use litefs_types::{DbName, Pos, Txid};
use tokio::sync::{mpsc, watch};

/// The daemon as its tools see it. Every method *may block*: they run on threads that may; only
/// [`ControlBackend::changes`] and [`ControlBackend::events`] must return at once.
///
/// Errors are told as they are to the user: one line, what failed and why, with a hint what to do.
pub trait ControlBackend: Send + Sync + 'static {
    /// Everything about the node. Must not wait for the network or for SQLite locks: it is asked for
    /// when things hang.
    fn status(&self) -> Status;

    /// All databases with a name here, dropped ones included, in any order.
    fn databases(&self) -> Vec<DatabaseStatus> {
        self.status().databases
    }

    /// One database; `None` if the name was never used here.
    fn database(&self, name: &DbName) -> Option<DatabaseStatus> {
        self.databases().into_iter().find(|d| d.name == name.as_str())
    }

    /// The published position of a database, resolved as for `db-pos`. `None`: no such database.
    fn position(&self, name: &DbName) -> Option<Pos>;

    /// A number that changes after every published transaction of any database (a counter).
    fn changes(&self) -> watch::Receiver<u64>;

    /// A new subscription to the event stream, whole lines, `init` first. `None`: too many of them.
    fn events(&self) -> Option<mpsc::Receiver<Bytes>>;

    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> String;

    /// The answer to a health probe.
    fn health(&self, probe: Probe) -> Health;

    /// Begins an import. Refused at once: not the primary (`NotPrimary`, with the primary in the hint),
    /// the name exists and `replace` is false (`Exists`), no room for `len` bytes (`DiskFull`).
    fn import(&self, name: &DbName, len: Option<u64>, replace: bool)
    -> Result<Box<dyn ImportSink>, ApiError>;

    /// A consistent copy of a database.
    fn export(&self, name: &DbName) -> Result<Export, ApiError>;

    /// Drops a database on all nodes; the position of the transaction that did it.
    fn drop_database(&self, name: &DbName) -> Result<Pos, ApiError>;

    /// The log from transaction `from` (default: its start), at most `limit` entries.
    fn ltx_list(&self, name: &DbName, from: Option<Txid>, limit: usize) -> Result<LtxList, ApiError>;

    /// The LTX file that holds a transaction.
    fn ltx(&self, name: &DbName, txid: Txid) -> Result<LtxFile, ApiError>;
}

/// Takes the bytes of a database that is imported. Dropped unfinished, nothing has happened.
pub trait ImportSink: Send {
    /// The next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError>;
    /// All bytes are there: checks them and replaces the database, as one transaction.
    fn finish(self: Box<Self>) -> Result<Imported, ApiError>;
}

/// Writes an export; an error of its argument must be passed on at once.
pub type WriteExport = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// See [`ControlBackend::export`].
pub struct Export {
    /// Position of the copy.
    pub pos: Pos,
    /// Bytes it has.
    pub len: u64,
    /// Writes exactly that many. Read locks it holds go with it.
    pub write: WriteExport,
}

/// See [`ControlBackend::ltx`].
pub struct LtxFile {
    /// Bytes it has.
    pub len: u64,
    /// Gives exactly that many, whatever retention does meanwhile.
    pub reader: Box<dyn Read + Send>,
}
