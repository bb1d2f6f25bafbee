//! The log, transaction by transaction.

use serde::{Deserialize, Serialize};

/// One LTX file in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LtxEntry {
    /// First transaction in it.
    pub min_txid: String,
    /// Last transaction in it.
    pub max_txid: String,
    /// Database checksum before it; all zeros in a snapshot.
    pub pre_checksum: String,
    /// Database checksum after it.
    pub post_checksum: String,
    /// Bytes in a page.
    pub page_size: u32,
    /// Pages of the database after it.
    pub commit: u32,
    /// When it was made, RFC 3339.
    pub timestamp: String,
    /// Bytes of the LTX file.
    pub size: u64,
}

/// `GET /v1/databases/{name}/ltx`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LtxList {
    /// Oldest first.
    pub entries: Vec<LtxEntry>,
    /// Ask again with `from=` this for the rest; absent if this is all.
    pub next: Option<String>,
}
