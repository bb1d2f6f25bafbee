//! Whole pages of the wal in the kernel's cache, for fewer and larger requests.
//!
//! Owns: which part of the wal was made whole. Does not own: correctness; all of this is a hint. Tested by
//! `fewer_requests_once_the_wal_is_reused` in `tests/tests/mount_modes.rs`.
//!
//! A frame begins 24 bytes behind the last one, so SQLite's writes end inside pages. The kernel ends a WRITE
//! request at a page that it does not have whole: three requests a frame in place of two. And a page that it
//! has in part is read alone, without read-ahead: a checkpoint makes a request for each page it copies.
//!
//! So when a checkpoint begins, what was written to the wal since is dropped from the cache, and read
//! through the mount at once: the checkpoint finds it there, and as the next generation of the wal goes
//! over the same bytes, its WRITEs find whole pages.

use litefs_core::capture::frame_data_offset;

use super::{Database, Inner};
use crate::own_mount::FileKind;

/// Less is not worth a notification and a read.
const AT_LEAST: u64 = 64 * 1024;
/// More than a wal normally grows to (SQLite checkpoints at 1000 pages): only dropped, read by the
/// checkpoint's own read-ahead.
const AT_MOST: u64 = 8 * 1024 * 1024;
/// One READ request of the largest size.
const STEP: usize = 1024 * 1024;

/// What to do, and what was done.
#[derive(Default)]
pub(super) struct WarmWal {
    /// Bytes from the start of the wal that were made whole.
    done: u64,
    wanted: Option<(u64, u64)>,
}

impl WarmWal {
    /// The wal is only `len` bytes long now.
    pub(super) fn cut(&mut self, len: u64) {
        self.done = self.done.min(len);
        self.wanted = None;
    }

    /// Whether there is something to do.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }
}

impl Database {
    /// A checkpoint is under way.
    pub(super) fn warm_wal(&self, g: &mut Inner) {
        let Some(generation) = g.wal.generation() else { return };
        let end = frame_data_offset(g.wal.captured_frames() + 1, generation.page_size);
        if end < g.warm.done + AT_LEAST || g.warm.wanted.is_some() {
            return;
        }
        g.warm.wanted = Some((g.warm.done, end));
        g.warm.done = end;
        self.wake_publisher();
    }

    /// Does it. For the publisher's thread: it reads the own mount.
    pub(super) fn warm_wal_now(&self) {
        let Some((from, to)) = self.lock().warm.wanted.take() else { return };
        let (Some(own), Some(m)) = (self.own(), self.env.mounted.get()) else { return };
        m.invalidator.data(&self.name, FileKind::Wal, from, to - from);
        if to - from > AT_MOST || !own.open(FileKind::Wal, false).unwrap_or(false) {
            return;
        }
        let mut buf = vec![0; STEP.min((to - from) as usize)];
        let mut at = from;
        while at < to {
            match own.read_at(FileKind::Wal, &mut buf, at) {
                Ok(n) if n > 0 => at += n as u64,
                // Gone, or cut meanwhile.
                _ => return,
            }
        }
    }
}
