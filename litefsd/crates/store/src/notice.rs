//! What the store tells the rest of the daemon: a transaction became visible, a database went away.

use litefs_types::{DbName, PageSize, Pos, Timestamp};

/// One published change of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which database.
    pub db: DbName,
    /// Its position now. Everything up to it may be sent to replicas.
    pub pos: Pos,
    /// Page size of the database.
    pub page_size: PageSize,
    /// Pages after the change; 0 = dropped.
    pub commit: u32,
    /// Time stamp in the LTX header.
    pub timestamp: Timestamp,
    /// Made on this node (or received from the primary).
    pub local: bool,
}

/// Receives [`Change`]s, in order for each database. Must not block: it runs on commit paths.
pub trait ChangeNotice: Send + Sync {
    /// A transaction was published.
    fn changed(&self, change: Change);
}

/// Ignores everything.
impl ChangeNotice for () {
    fn changed(&self, _change: Change) {}
}
