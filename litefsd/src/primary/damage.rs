//! Log entries that were found damaged: not sent again, so that replicas get a snapshot in their place.
//!
//! Owns the memory of them, which ends with the process; healing the log is the store's. Tested in
//! `tests/tests/replication_net.rs`.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use litefs_types::{DbName, Txid};

use crate::http::backend::StreamSource;

/// Entries that are remembered. A disk with more than this is beyond what snapshots can heal.
const MAX_KNOWN: usize = 4096;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Damage(Mutex<BTreeSet<(DbName, Txid)>>);

impl Damage {
    /// Whether this entry was found damaged before.
    pub(super) fn is_known(&self, db: &DbName, txid: Txid) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !known.is_empty() && known.contains(&(db.clone(), txid))
    }

    /// Remembers an entry and tells the store, once.
    pub(super) fn report<S: StreamSource + ?Sized>(&self, store: &S, db: &DbName, txid: Txid, what: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_KNOWN && known.insert((db.clone(), txid)) {
            store.damaged(db, txid, what);
        }
    }
}
