//! Counts FUSE requests by kind.
//!
//! Owns: one relaxed counter per request kind. Does not own: exporting them. Tested with the round
//! trips per transaction in `tests/tests/fuse_adapter`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! ops {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A kind of request, or of event inside the adapter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // the label is the documentation
        pub enum Op { $($variant),* }

        impl Op {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Label for metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

ops! {
    Lookup "lookup", Forget "forget", Getattr "getattr", Setattr "setattr", Open "open", Create "create",
    Read "read", Write "write", Flush "flush", Fsync "fsync", Release "release", Unlink "unlink",
    Readdir "readdir", Fsyncdir "fsyncdir", Opendir "opendir", Access "access", Xattr "xattr", Statfs "statfs",
    Rename "rename", Other "other",
    Deferred "deferred", Refused "refused", InvalData "inval_data", InvalEntry "inval_entry",
}

/// How many of [`Op::ALL`] are round trips of an application; the rest are events.
const REQUESTS: usize = Op::Deferred as usize;

/// The counters of one mount.
#[derive(Debug)]
pub struct Stats([AtomicU64; Op::ALL.len()]);

impl Default for Stats {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Stats {
    /// Counts one.
    pub fn count(&self, op: Op) {
        self.0[op as usize].fetch_add(1, Relaxed);
    }

    /// How many so far.
    pub fn get(&self, op: Op) -> u64 {
        self.0[op as usize].load(Relaxed)
    }

    /// All counters, in the order of [`Op::ALL`].
    pub fn snapshot(&self) -> Vec<(Op, u64)> {
        Op::ALL.iter().map(|&op| (op, self.get(op))).collect()
    }

    /// All requests, without FORGET (nobody waits for it).
    pub fn requests(&self) -> u64 {
        self.snapshot()[..REQUESTS].iter().filter(|(op, _)| *op != Op::Forget).map(|(_, n)| n).sum()
    }
}
