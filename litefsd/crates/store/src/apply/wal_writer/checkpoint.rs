//! Copying frames into the database file, by SQLite's rules (wal.c, `walCheckpoint`).
//!
//! Owns: how far may be copied, the copying, the truncation, the restart of a WAL that grew too long.
//! Does not own: when to do it, and the durability of the log (`before` in [`WalWriter::checkpoint`]).
//!
//! A checkpoint that runs beside an apply never catches up: there is always one more transaction, so the
//! WAL would never restart. Therefore a checkpoint of a WAL that grew too long stops the apply for its last,
//! short round, and while the last readers of older snapshots leave.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use litefs_sqlite::lock_bytes::Lock;
use litefs_sqlite::shm::READ_MARK_UNUSED;
use litefs_sqlite::wal::{frame_data_offset, frame_offset};
use litefs_types::PageSize;

use super::{CHECKPOINT_FRAMES, HARD_WAL_BYTES, State, WalWriter, index};
use crate::apply::image::ImageWriter;
use crate::apply::locks::Backoff;
use crate::apply::{ApplyError, Blocker, locks};
use crate::own_mount::{FileKind, LockKind, OwnMount};

/// Rounds of one checkpoint: beside a fast apply the last ones get shorter and shorter.
const ROUNDS: u32 = 8;
/// Most frames of a round that stops the apply: some milliseconds, and one sync of the database.
const LAST_ROUND_FRAMES: u32 = 2 * CHECKPOINT_FRAMES;
/// How long a checkpoint of somebody else is waited for.
const CKPT_WAIT: Duration = Duration::from_millis(10);
/// From so many frames on a checkpoint waits for readers to leave the WAL, so that it can restart.
pub(super) const RESTART_FRAMES: u32 = 10 * CHECKPOINT_FRAMES;
/// How long it waits, and the apply with it.
const RESTART_WAIT: Duration = Duration::from_millis(20);
/// If that was in vain: frames until it waits again.
const RESTART_AGAIN: u32 = RESTART_FRAMES / 4;

/// How far a checkpoint came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Frames that are in the database file, durably.
    pub backfilled: u32,
    /// Frames in the WAL when it ended.
    pub mx_frame: u32,
    /// Everything applied before the call is in the database file, durably.
    pub complete: bool,
    /// Who kept it from going further: the reader with the oldest snapshot, or another checkpoint.
    pub blocked_by: Option<Blocker>,
}

/// What one round copies, and the locks it holds: CKPT (all rounds), mark 0.
struct Round {
    from: u32,
    to: u32,
    n_pages: u32,
    /// (page, its newest frame up to `to`), ascending.
    pages: Vec<(u32, u32)>,
    /// Who kept it from reaching further.
    blocked: Option<Blocker>,
}

impl WalWriter {
    /// Whether there is enough for a checkpoint: [`CHECKPOINT_FRAMES`], or a WAL that should go.
    pub fn needs_checkpoint(&self) -> bool {
        let state = self.lock_state();
        state.attached
            && (state.header.mx_frame >= CHECKPOINT_FRAMES || state.chain_broken && state.header.mx_frame > 0)
    }

    /// Copies what no reader prevents from being copied. For a background task.
    ///
    /// `before` makes the log durable up to the last applied transaction: no page may reach the database
    /// file before. It must not call into this writer. A failure leaves the WAL in charge of every page
    /// that was being copied. [`ApplyError::Cancelled`]: the writer was wanted for something else.
    pub fn checkpoint(
        &self,
        mount: &dyn OwnMount,
        before: &dyn Fn() -> io::Result<()>,
    ) -> Result<Checkpoint, ApplyError> {
        let goal = {
            let mut state = self.lock_state();
            state.check_attached()?;
            if state.checkpointing {
                return state.blocked(mount, Blocker { lock: Lock::WalCkpt, pid: Some(std::process::id()) });
            }
            state.checkpointing = true;
            self.cancel.store(false, Ordering::Release);
            state.header.mx_frame
        };
        let locked = locks::acquire(mount, Lock::WalCkpt, LockKind::Exclusive, Instant::now() + CKPT_WAIT);
        let result = locked.and_then(|()| {
            let result = self.rounds(mount, before, goal);
            locks::unlock(mount, Lock::WalCkpt);
            result
        });
        let mut state = self.lock_state();
        state.checkpointing = false;
        match result {
            Err(ApplyError::Blocked(by)) => state.blocked(mount, by),
            result => result,
        }
    }

    fn rounds(
        &self,
        mount: &dyn OwnMount,
        before: &dyn Fn() -> io::Result<()>,
        goal: u32,
    ) -> Result<Checkpoint, ApplyError> {
        let mut state = self.lock_state();
        // With the apply stopped, new readers take the newest snapshot and the old ones only have to end.
        let patient = state.header.mx_frame >= state.wait_from || state.chain_broken;
        let mut patience = Backoff::new(Instant::now() + if patient { RESTART_WAIT } else { Duration::ZERO });
        let (mut backfilled, mut blocked) = (0, None);
        for n in 0..ROUNDS {
            match state.plan(mount)? {
                Plan::Nothing { backfilled: reached, blocked: by } => {
                    (backfilled, blocked) = (reached, by);
                    if by.is_none() || !patience.pause() {
                        break;
                    }
                }
                Plan::Round(round) => {
                    let copied = if patient && n > 0 && round.to - round.from <= LAST_ROUND_FRAMES {
                        copy(mount, before, &round, state.page_size, None)
                    } else {
                        let page_size = state.page_size;
                        drop(state);
                        let copied = copy(mount, before, &round, page_size, Some(&self.cancel));
                        state = self.lock_state();
                        copied
                    };
                    let ended = copied.and_then(|()| state.end_round(mount, &round));
                    locks::unlock(mount, Lock::WalRead(0));
                    ended?;
                    (backfilled, blocked) = (round.to, round.blocked);
                }
            }
        }
        let outcome = state.outcome(backfilled, goal, blocked);
        state.checkpointing = false;
        if patient {
            state.wait_from = state.header.mx_frame.saturating_add(RESTART_AGAIN);
            while backfilled == state.header.mx_frame
                && !state.restart_if_unused(mount, backfilled)?
                && patience.pause()
            {}
        }
        Ok(outcome)
    }
}

enum Plan {
    Round(Round),
    Nothing { backfilled: u32, blocked: Option<Blocker> },
}

impl State {
    fn blocked(&mut self, mount: &dyn OwnMount, by: Blocker) -> Result<Checkpoint, ApplyError> {
        let backfilled = self.refresh(mount)?.backfill;
        Ok(self.outcome(backfilled, self.header.mx_frame, Some(by)))
    }

    fn outcome(&self, backfilled: u32, goal: u32, blocked_by: Option<Blocker>) -> Checkpoint {
        if let Some(holder) = blocked_by
            && frame_offset(self.header.mx_frame, self.page_size) > HARD_WAL_BYTES
        {
            tracing::warn!(pid = holder.pid, lock = ?holder.lock, frames = self.header.mx_frame,
                "a reader keeps the WAL from being checkpointed");
        }
        Checkpoint { backfilled, mx_frame: self.header.mx_frame, complete: backfilled >= goal, blocked_by }
    }

    /// A whole round with the apply stopped. CKPT is held.
    pub(super) fn round_in_place(
        &mut self,
        mount: &dyn OwnMount,
        before: &dyn Fn() -> io::Result<()>,
    ) -> Result<(u32, Option<Blocker>), ApplyError> {
        let round = match self.plan(mount)? {
            Plan::Round(round) => round,
            Plan::Nothing { backfilled, blocked } => return Ok((backfilled, blocked)),
        };
        let ended =
            copy(mount, before, &round, self.page_size, None).and_then(|()| self.end_round(mount, &round));
        locks::unlock(mount, Lock::WalRead(0));
        ended?;
        Ok((round.to, round.blocked))
    }

    /// How far to copy. Takes mark 0 if there is something: its readers read the database file alone and
    /// must not see it change.
    fn plan(&mut self, mount: &dyn OwnMount) -> Result<Plan, ApplyError> {
        let info = self.refresh(mount)?;
        let from = info.backfill;
        let mut to = self.header.mx_frame;
        let mut blocked = None;
        if from >= to {
            return Ok(Plan::Nothing { backfilled: from, blocked });
        }
        for n in 1..5 {
            let mark = info.read_marks[n as usize];
            if mark >= to {
                continue;
            }
            if locks::try_lock(mount, Lock::WalRead(n), LockKind::Exclusive)? {
                // Nobody uses it: out of the way, for the next reader to move to the newest frame.
                let put = index::put_read_mark(mount, n, if n == 1 { to } else { READ_MARK_UNUSED });
                locks::unlock(mount, Lock::WalRead(n));
                put?;
            } else {
                to = mark;
                blocked = Some(locks::blocker(mount, Lock::WalRead(n), LockKind::Exclusive));
            }
        }
        if to <= from {
            return Ok(Plan::Nothing { backfilled: from, blocked });
        }
        if !locks::try_lock(mount, Lock::WalRead(0), LockKind::Exclusive)? {
            let blocked = Some(locks::blocker(mount, Lock::WalRead(0), LockKind::Exclusive));
            return Ok(Plan::Nothing { backfilled: from, blocked });
        }
        let planned = index::put_backfill_attempted(mount, to)
            .and_then(|()| index::pages_of(mount, from + 1, to))
            .map(|numbers| newest(&numbers, from + 1, self.header.n_pages));
        match planned {
            Ok(pages) => Ok(Plan::Round(Round { from, to, n_pages: self.header.n_pages, pages, blocked })),
            Err(e) => {
                locks::unlock(mount, Lock::WalRead(0));
                Err(e)
            }
        }
    }

    /// Truncation if everything is copied, durability, and then the news.
    fn end_round(&mut self, mount: &dyn OwnMount, round: &Round) -> Result<(), ApplyError> {
        debug_assert!(round.from < round.to, "a round copies something");
        if round.to == self.header.mx_frame {
            // Pages beyond the newest size: every snapshot that had them ended, its marks would be lower.
            let size = self.page_size.file_size(round.n_pages);
            if mount.len(FileKind::Database).map_err(ApplyError::io("size the database"))? > size {
                mount.set_len(FileKind::Database, size).map_err(ApplyError::io("truncate the database"))?;
                mount.sync(FileKind::Database).map_err(ApplyError::io("sync the database"))?;
            }
        }
        index::put_backfill(mount, round.to)
    }
}

/// The newest frame of each page up to `n_pages`, by page. `numbers` are those of frame `first` on.
fn newest(numbers: &[u32], first: u32, n_pages: u32) -> Vec<(u32, u32)> {
    let mut pages: Vec<(u32, u32)> = numbers
        .iter()
        .zip(first..)
        .filter(|(page, _)| **page != 0 && **page <= n_pages)
        .map(|(page, frame)| (*page, frame))
        .collect();
    pages.sort_unstable_by_key(|(page, frame)| (*page, std::cmp::Reverse(*frame)));
    pages.dedup_by_key(|(page, _)| *page);
    pages
}

fn copy(
    mount: &dyn OwnMount,
    before: &dyn Fn() -> io::Result<()>,
    round: &Round,
    page_size: PageSize,
    cancel: Option<&AtomicBool>,
) -> Result<(), ApplyError> {
    before().map_err(ApplyError::io("make the log durable"))?;
    let mut image = ImageWriter::new(mount);
    let mut data = vec![0; page_size.bytes()];
    for (page, frame) in &round.pages {
        if cancel.is_some_and(|c| c.load(Ordering::Acquire)) {
            return Err(ApplyError::Cancelled);
        }
        let n = mount
            .read_at(FileKind::Wal, &mut data, frame_data_offset(*frame, page_size))
            .map_err(ApplyError::io("read the WAL"))?;
        if n < data.len() {
            return Err(ApplyError::Damaged("the WAL ends before the last frame of its index"));
        }
        let offset = page_size.file_size(page - 1);
        image.put(offset, &data).map_err(ApplyError::io("write the database"))?;
    }
    image.flush().map_err(ApplyError::io("write the database"))?;
    mount.sync(FileKind::Database).map_err(ApplyError::io("sync the database"))
}
