//! Peers of the original do not survive a change of a database's page size: they exit in apply, and again after
//! each start. So it is not sent to them; their other databases go on.
//!
//! Owns what is known of the page sizes of such a peer's copies. A copy's page size is that of the
//! transaction the peer is at, by the log; where the log does not reach back as far, by the changes of page
//! size that this process has seen ([`super::changes`]). Of a copy of which neither is known, nothing is held
//! back. A peer without a copy takes any page size. Tested in `tests/tests/replication_net_acks.rs`.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use litefs_ltx::{HEADER_SIZE, Header};
use litefs_types::{DbName, PageSize, Pos};

use crate::http::App;
use crate::http::backend::LogEntry;

/// A change of page size that the peer cannot follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// Of the peer's copy.
    pub(super) from: PageSize,
    /// Of what it would be sent.
    pub(super) to: PageSize,
}

impl Changed {
    /// Why, and what to do.
    pub(super) fn explain(self, db: &DbName) -> String {
        let Self { from, to } = self;
        format!(
            "its page size changed from {from} to {to} bytes, which LiteFS 0.5 does not survive; upgrade that node, or stop it, remove dbs/{db} in its data directory and start it again"
        )
    }
}

/// The copies of one peer of the original.
#[derive(Default)]
pub(super) struct Copies(BTreeMap<DbName, PageSize>);

impl Copies {
    /// Whether the peer, which is at `at`, can be sent pages of size `to`.
    pub(super) fn check(&mut self, app: &App, db: &DbName, at: Pos, to: PageSize) -> Result<(), Changed> {
        match self.page_size(app, db, at) {
            Some(from) if from != to => Err(Changed { from, to }),
            _ => Ok(()),
        }
    }

    /// The peer was sent pages of this size.
    pub(super) fn sent(&mut self, db: &DbName, size: PageSize) {
        self.0.insert(db.clone(), size);
    }

    fn page_size(&mut self, app: &App, db: &DbName, at: Pos) -> Option<PageSize> {
        // Also of a copy that was dropped since: the original remembers.
        if let Some(size) = self.0.get(db) {
            return Some(*size);
        }
        let txid = at.txid()?;
        let entry = app.backend.entry(db, txid).ok().flatten().filter(|e| e.post == at);
        let size = match entry.map(peek) {
            Some(Ok((_, header))) => header.page_size,
            _ => app.changes.page_size_at(db, txid)?,
        };
        self.sent(db, size);
        Some(size)
    }
}

/// The header of a log entry, and the entry again from its start.
pub(super) fn peek(mut entry: LogEntry) -> Result<(LogEntry, Header), String> {
    let mut head = [0; HEADER_SIZE];
    entry.reader.read_exact(&mut head).map_err(|e| e.to_string())?;
    let header = Header::parse(&head).map_err(|e| e.to_string())?;
    entry.reader = Box::new(Cursor::new(head).chain(entry.reader));
    Ok((entry, header))
}
