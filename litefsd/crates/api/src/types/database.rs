//! Databases.

use litefs_types::Pos;
use serde::{Deserialize, Serialize};

/// A position; both texts are 16 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The last transaction; all zeros: none yet.
    pub txid: String,
    /// Checksum of the database after it.
    pub checksum: String,
}

impl From<Pos> for Position {
    fn from(p: Pos) -> Self {
        Self { txid: format!("{:016x}", p.txid_raw()), checksum: p.checksum().to_string() }
    }
}

impl Position {
    /// As a checked value; `None` if the texts are no position.
    pub fn parse(&self) -> Option<Pos> {
        format!("{}/{}", self.txid, self.checksum).parse().ok()
    }
}

/// One database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// Its name.
    pub name: String,
    /// Its position, as `db-pos` shows it.
    pub position: Position,
    /// Bytes in a page; 0 while it has none.
    pub page_size: u32,
    /// Pages.
    pub page_count: u32,
    /// Bytes of the database.
    pub size: u64,
    /// `wal`, or `rollback` (DELETE, TRUNCATE or PERSIST: the file does not say which).
    pub journal_mode: String,
    /// It was dropped; only its position is left.
    pub dropped: bool,
    /// Its log of transactions.
    pub log: LogStatus,
    /// Files of it that are open in the mount, if known.
    pub open_handles: Option<u32>,
    /// Time stamp of its last transaction, RFC 3339.
    pub last_change: Option<String>,
    /// Why it takes no writes, or is behind; absent if all is well.
    pub trouble: Option<String>,
}

/// The log of a database.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LogStatus {
    /// Bytes on disk.
    pub bytes: u64,
    /// Oldest transaction in it.
    pub first_txid: Option<String>,
    /// Newest transaction in it.
    pub last_txid: Option<String>,
}

/// `GET /v1/databases`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseList {
    /// Sorted by name.
    pub databases: Vec<DatabaseStatus>,
}

/// `PUT /v1/databases/{name}`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Imported {
    /// The database.
    pub name: String,
    /// Its position after the import.
    pub position: Position,
    /// Bytes that were imported.
    pub size: u64,
    /// Whether there was one before.
    pub replaced: bool,
}

/// `DELETE /v1/databases/{name}`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dropped {
    /// The database.
    pub name: String,
    /// Position of the transaction that dropped it.
    pub position: Position,
}

/// `GET /v1/databases/{name}/wait`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Waited {
    /// The database.
    pub name: String,
    /// Its position, at or beyond the one that was waited for.
    pub position: Position,
}
