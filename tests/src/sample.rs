//! The databases that tests start from, and the pairs of nodes that have them.
//!
//! Nothing here is tested by itself; every `mount_*` and `bad_input_*` test begins with it.

use crate::node::{Node, SYNC_LIMIT, pair};
use crate::scratch::Scratch;
use crate::session::once;
use crate::watch::eventually;

/// Every journal mode that SQLite has on a mount.
pub const JOURNALS: [&str; 4] = ["delete", "truncate", "persist", "wal"];

/// A rollback mode and WAL: for tests that look at what a mode does not change.
pub const BOTH_KINDS: [&str; 2] = ["delete", "wal"];

/// The primary key and a value: what nearly every test writes to.
const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x)";

/// SQL that inserts `rows` rows, each with the value of `expression`, in which `i` counts from 1.
pub fn insert_rows(rows: u32, expression: &str) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows}) \
         INSERT INTO t(x) SELECT {expression} FROM n"
    )
}

/// A database with table `t` and no row.
pub fn empty_table(node: &Node, db: &str, journal: &str) {
    once(node.path(db), &format!("PRAGMA journal_mode={journal}; {TABLE}"));
}

/// A database with one row, `one`.
pub fn table(node: &Node, db: &str, journal: &str) {
    once(node.path(db), &format!("PRAGMA journal_mode={journal}; {TABLE}; INSERT INTO t(x) VALUES('one')"));
}

/// A database of several pages: sixty rows that do not compress.
pub fn sixty_rows(node: &Node, db: &str, journal: &str) {
    let rows = insert_rows(60, "hex(randomblob(200))");
    once(node.path(db), &format!("PRAGMA journal_mode={journal}; {TABLE}; {rows}"));
}

/// What [`pair_with`] makes in a node: database name, journal mode.
pub type Make = fn(&Node, &str, &str);

/// A started pair with a database for each journal mode, named after it, which the replica has, too.
pub fn pair_with(scratch: &Scratch, journals: &[&str], make: Make) -> (Node, Node) {
    let (primary, replica) = pair(scratch);
    for journal in journals {
        make(&primary, journal, journal);
        replica.sync_with(&primary, journal);
    }
    (primary, replica)
}

/// Drops a database where applications do, and waits until the replica has dropped it.
pub fn drop_everywhere(primary: &Node, replica: &Node, db: &str) {
    std::fs::remove_file(primary.path(db)).expect("drop the database");
    wait_gone(replica, db);
}

/// Waits until a name is no longer in the mount.
pub fn wait_gone(node: &Node, name: &str) {
    let gone = || (!node.path(name).exists()).then_some(());
    eventually(SYNC_LIMIT, &format!("{name} is gone from {}", node.name), gone);
}
