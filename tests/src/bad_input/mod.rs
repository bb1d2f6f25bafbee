//! What a hostile or broken peer sends: wrong LTX files ([`ltx`]), streams of them, and a front that
//! serves them in a primary's place and then lets the primary be heard again ([`peer`]).
//!
//! Used by `tests/tests/bad_input_*.rs` and `fuzz_*.rs`.

pub mod ltx;
pub mod mutate;
pub mod peer;

use std::path::Path;
use std::time::Duration;

use litefs_types::Pos;

use crate::image::{check_integrity, checked_export};
use crate::node::Node;
use crate::scratch::Scratch;
use crate::watch::eventually;

/// What a database was before it met the bad input: everything that must be the same afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The database.
    pub db: String,
    /// Its position.
    pub pos: Pos,
    /// Its bytes.
    pub image: Vec<u8>,
    /// The names in the mount.
    pub names: Vec<String>,
}

impl Before {
    /// Looks at a node.
    pub fn of(node: &Node, db: &str) -> Self {
        let (pos, image) = checked_export(node, db);
        Self { db: db.to_owned(), pos, image, names: names(&node.mount) }
    }

    /// As [`Before::assert_unchanged`], where names may have come to the mount since.
    pub fn assert_unchanged_but_names(&self, node: &mut Node, what: &str, scratch: &Scratch) {
        let now = Self { names: names(&node.mount), ..self.clone() };
        now.assert_unchanged(node, what, scratch);
    }

    /// The node runs, answers, and has what it had.
    pub fn assert_unchanged(&self, node: &mut Node, what: &str, scratch: &Scratch) {
        assert!(node.is_running(), "{what}: the daemon ended\n{}", node.log_tail(40));
        let after = Self::of(node, &self.db);
        assert_eq!(after.pos, self.pos, "{what}: the position moved\n{}", node.log_tail(20));
        assert!(after.image == self.image, "{what}: the content changed\n{}", node.log_tail(20));
        assert_eq!(after.names, self.names, "{what}: names in the mount");
        check_integrity(&after.image, scratch);
    }
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut all: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    // Files that come and go with a connection, of an application or to a primary, are not the point.
    all.retain(|n| !["-wal", "-shm", "-journal", ".primary", ".lag"].iter().any(|end| n.ends_with(end)));
    all.sort();
    all
}

/// Waits until the node's log, from `offset` on, has a line with one of `words`; that line.
pub fn wait_log(node: &Node, offset: usize, words: &[&str], what: &str) -> String {
    let found = eventually_or(Duration::from_secs(25), || {
        let text = node.log_text();
        let new = text.get(offset..).unwrap_or_default();
        new.lines().find(|l| words.iter().any(|w| l.contains(w))).map(str::to_owned)
    });
    found.unwrap_or_else(|| {
        let text = node.log_text();
        panic!("{what}: no line with {words:?} in\n{}", text.get(offset..).unwrap_or_default())
    })
}

fn eventually_or<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let mut found = None;
    crate::watch::within(limit, || {
        found = look();
        found.is_some()
    });
    found
}

/// No panic in the log: a thread of the daemon that dies leaves the rest up, and a test content.
pub fn assert_no_panic(node: &Node) {
    let text = node.log_text();
    let bad = text.lines().find(|l| l.contains("panicked at"));
    assert!(bad.is_none(), "{}: {bad:?}", node.name);
}

/// Memory of a process now, in KiB.
pub fn rss_kb(pid: u32) -> u64 {
    crate::proc::memory_kb(pid, "VmRSS")
}

/// Waits until what a test put into motion has come to rest: the descriptors of the daemon are as few
/// as they were.
pub fn wait_descriptors(node: &Node, at_most: usize) {
    let dir = format!("/proc/{}/fd", node.pid());
    eventually(Duration::from_secs(90), "descriptors are closed", || {
        let n = std::fs::read_dir(&dir).expect("descriptors of the daemon").count();
        (n <= at_most).then_some(())
    });
}
