//! Room for the wal on disk before it is written.
//!
//! Owns: how far the backing file of the wal reaches behind what SQLite wrote. Does not own: the length
//! that the mount shows ([`OpenedFile::len`]). Tested by `tests/tests/mount_wal_room.rs` and the crash
//! matrix.
//!
//! A wal that grows makes each FSYNC of it a commit of the file system's own journal, which is slower than
//! the data and waits for whatever else that commit takes along. Into blocks that exist, an FSYNC writes data
//! only. So the publisher's thread, beside the commits, writes zeros behind the end, up to what a wal
//! reaches before SQLite checkpoints it. Zeros are no frames: no reader of the file takes them for any.

use super::files::OpenedFile;
use super::{Database, Inner};
use crate::disk::Op;
use crate::error::{Result, StoreError};
use crate::own_mount::FileKind;

const ROOM: Op = Op::new("wal.room");
const SYNC: Op = Op::new("wal.room-sync");

/// The first step: a database that is seldom written shall not take megabytes.
const FIRST: u64 = 256 * 1024;
/// The last one: a thousand frames of the default page size, where SQLite checkpoints and starts over.
const LAST: u64 = 4 * 1024 * 1024 + 256 * 1024;
/// Written under the lock at once: commits wait for it, about 30 µs.
const STEP: u64 = 128 * 1024;
static ZEROS: [u8; STEP as usize] = [0; STEP as usize];

/// What was made ready.
#[derive(Default)]
pub(super) struct WalRoom {
    /// The file has blocks up to here; 0: only those that SQLite wrote.
    end: u64,
    wanted: bool,
    /// The disk did not want to: not again for this file.
    given_up: bool,
}

impl WalRoom {
    /// The wal was cut or removed: what was behind is gone.
    pub(super) fn gone(&mut self) {
        *self = Self::default();
    }

    /// Whether there is something to do.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Where the file should end when `used` bytes are in use.
    fn target(&self, used: u64) -> u64 {
        let end = self.end.max(used);
        if self.given_up || used >= LAST || (self.end > 0 && used < self.end / 2) {
            return end;
        }
        let mut target = FIRST;
        while target / 2 < used {
            target *= 2;
        }
        target.clamp(end, LAST.max(end))
    }
}

impl Database {
    /// Frames were written.
    pub(super) fn watch_wal_room(g: &mut Inner, opened: &OpenedFile) {
        let used = opened.shown_len().unwrap_or_default();
        g.room.wanted = g.room.target(used) > g.room.end.max(used);
    }

    /// Makes it. For the publisher's thread.
    pub(super) fn make_wal_room(&self) -> Result<()> {
        let Ok(opened) = self.backing(FileKind::Wal) else {
            self.lock().room.wanted = false;
            return Ok(());
        };
        let mut wrote = false;
        let mut target = 0;
        loop {
            // Under the lock, so that no frame is written where the zeros go.
            let mut g = self.lock();
            let used = opened.shown_len().unwrap_or_default();
            // Decided at the first step: half of the way is enough room to begin with, but not to end.
            target = target.max(g.room.target(used));
            let from = g.room.end.max(used);
            let current = self.files.is_current(FileKind::Wal, &opened) && self.check_alive(&g).is_ok();
            if from >= target || !current {
                g.room.wanted = false;
                break;
            }
            let n = STEP.min(target - from);
            if let Err(error) = opened.file.write_all_at(ROOM, &ZEROS[..n as usize], from) {
                tracing::debug!(db = %self.name, %error, "no room ahead of the wal");
                g.room.given_up = true;
                g.room.wanted = false;
                break;
            }
            g.room.end = from + n;
            wrote = true;
        }
        if wrote && let Err(source) = opened.file.sync_data(SYNC) {
            // It may have been frames that did not reach the disk.
            self.poison(&mut self.lock(), format!("fsync of the wal failed: {source}"));
            return Err(StoreError::Io { what: "fsync of the wal", source });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_grows_with_the_wal_up_to_a_checkpoint() {
        let mut room = WalRoom::default();
        assert_eq!(room.target(32), FIRST);
        room.end = FIRST;
        assert_eq!(room.target(FIRST / 2 - 1), FIRST, "enough");
        assert_eq!(room.target(FIRST / 2 + 1), 2 * FIRST);
        room.end = 2 * FIRST;
        assert_eq!(room.target(3 * FIRST), 8 * FIRST, "overtaken");
        room.end = LAST;
        assert_eq!(room.target(LAST - 1), LAST);
        assert_eq!(room.target(100 * LAST), 100 * LAST, "a big transaction makes its own");
        room.given_up = true;
        room.end = 0;
        assert_eq!(room.target(32), 32);
    }
}
