//! Taking SQLite's locks in SQLite's order, by trying.
//!
//! Owns: the back-off, SHARED, the way to EXCLUSIVE, the way past readers of the WAL, and the protocol of the
//! "dead man switch". Does not own: what is done under them. Tested by everything in `tests/apply/`.
//!
//! Order: SHARED on the database, then either RESERVED, PENDING, EXCLUSIVE, or DMS, WRITE, CKPT,
//! RECOVER, READn. No lock of the index without SHARED: a connection in exclusive locking mode holds
//! nothing on the index, only the database file shows it.

use std::time::{Duration, Instant};

use litefs_sqlite::lock_bytes::{Lock, READ_MARKS};

use super::{ApplyError, Blocker};
use crate::own_mount::{FileKind, LockKind, OwnMount, Probe};

/// First pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// How long PENDING may keep new readers out while the old ones leave.
pub const PENDING_HELD: Duration = Duration::from_millis(50);
/// How long the readers get in between. Every fourth try in vain adds as much again, up to
/// [`PENDING_RELEASED_MAX`]: SQLite's busy handler sleeps up to 100 ms, a reader must not miss every gap.
pub const PENDING_RELEASED: Duration = Duration::from_millis(10);
/// The longest gap.
pub const PENDING_RELEASED_MAX: Duration = Duration::from_millis(100);

/// Pauses that grow, until a deadline.
#[derive(Debug)]
pub(super) struct Backoff {
    pause: Duration,
    deadline: Instant,
}

impl Backoff {
    pub(super) const fn new(deadline: Instant) -> Self {
        Self { pause: FIRST_PAUSE, deadline }
    }

    /// Sleeps; `false`, at once, if the deadline has passed.
    pub(super) fn pause(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// Who keeps `kind` on `lock` from being taken.
pub(super) fn blocker(mount: &dyn OwnMount, lock: Lock, kind: LockKind) -> Blocker {
    let pid = match mount.probe(lock, kind) {
        Probe::Held { pid, .. } => pid,
        _ => None,
    };
    Blocker { lock, pid }
}

pub(super) fn try_lock(mount: &dyn OwnMount, lock: Lock, kind: LockKind) -> Result<bool, ApplyError> {
    mount.try_lock(lock, kind).map_err(ApplyError::io("lock"))
}

pub(super) fn unlock(mount: &dyn OwnMount, lock: Lock) {
    if let Err(error) = mount.unlock(lock) {
        // Closing the descriptor, which detaching and unlinking do, releases it all the same.
        tracing::warn!(?lock, %error, "cannot release a lock");
    }
}

/// Takes `lock`, or says who has it at the deadline. Tries at least once.
pub fn acquire(
    mount: &dyn OwnMount,
    lock: Lock,
    kind: LockKind,
    deadline: Instant,
) -> Result<(), ApplyError> {
    let mut backoff = Backoff::new(deadline);
    loop {
        if try_lock(mount, lock, kind)? {
            return Ok(());
        }
        let blocker = blocker(mount, lock, kind);
        if !backoff.pause() {
            return Err(ApplyError::Blocked(blocker));
        }
    }
}

/// One try of SHARED as SQLite takes it: PENDING guards the way in, so that a writer that waits for the
/// readers to leave gets its turn.
fn try_shared(mount: &dyn OwnMount) -> Result<Result<(), Blocker>, ApplyError> {
    if !try_lock(mount, Lock::Pending, LockKind::Shared)? {
        return Ok(Err(blocker(mount, Lock::Pending, LockKind::Shared)));
    }
    let got = try_lock(mount, Lock::Shared, LockKind::Shared);
    unlock(mount, Lock::Pending);
    Ok(if got? { Ok(()) } else { Err(blocker(mount, Lock::Shared, LockKind::Shared)) })
}

/// Takes SHARED on the database.
pub fn shared(mount: &dyn OwnMount, deadline: Instant) -> Result<(), ApplyError> {
    let mut backoff = Backoff::new(deadline);
    loop {
        match try_shared(mount)? {
            Ok(()) => return Ok(()),
            Err(_) if backoff.pause() => {}
            Err(blocker) => return Err(ApplyError::Blocked(blocker)),
        }
    }
}

/// Joins those who have the index open (os_unix.c, `unixLockSharedMemory`): whoever finds nobody there
/// truncates it, so that nothing is taken from before a crash, and then stays for as long as it is open.
///
/// Truncates to 3 bytes, as SQLite does: a length that nobody takes for a valid index.
pub fn join_index(mount: &dyn OwnMount, deadline: Instant) -> Result<(), ApplyError> {
    const NOBODYS_LENGTH: u64 = 3;
    let mut backoff = Backoff::new(deadline);
    loop {
        match mount.probe(Lock::Dms, LockKind::Exclusive) {
            Probe::Free => {
                if try_lock(mount, Lock::Dms, LockKind::Exclusive)? {
                    mount
                        .set_len(FileKind::Shm, NOBODYS_LENGTH)
                        .map_err(ApplyError::io("truncate the WAL index"))?;
                    // From exclusive to shared without a gap.
                    if try_lock(mount, Lock::Dms, LockKind::Shared)? {
                        return Ok(());
                    }
                }
            }
            Probe::Held { kind: LockKind::Shared, .. } => {
                if try_lock(mount, Lock::Dms, LockKind::Shared)? {
                    return Ok(());
                }
            }
            Probe::Held { kind: LockKind::Exclusive, .. } => {}
            Probe::NoFile | Probe::NotOpen => {
                return Err(ApplyError::Damaged("the index went away under a shared lock"));
            }
        }
        if !backoff.pause() {
            return Err(ApplyError::Blocked(blocker(mount, Lock::Dms, LockKind::Shared)));
        }
    }
}

/// EXCLUSIVE on the database; released when dropped.
pub struct Exclusive<'m> {
    mount: &'m dyn OwnMount,
    keep_shared: bool,
}

impl<'m> Exclusive<'m> {
    /// RESERVED, PENDING, EXCLUSIVE. PENDING is held for [`PENDING_HELD`] at most; between two tries
    /// everything is released for [`PENDING_RELEASED`] or more, so that no reader fails for longer and nobody who
    /// waits for us to leave (a hot journal's player) waits for ever.
    ///
    /// With `have_shared` the caller holds SHARED already, and again when this is dropped.
    pub fn acquire(
        mount: &'m dyn OwnMount,
        have_shared: bool,
        deadline: Instant,
    ) -> Result<Self, ApplyError> {
        let mut tries = 0u32;
        loop {
            let blocker = match Self::try_once(mount, have_shared, deadline) {
                Ok(Ok(())) => return Ok(Self { mount, keep_shared: have_shared }),
                Ok(Err(blocker)) => blocker,
                Err(e) => {
                    release(mount, have_shared);
                    return Err(e);
                }
            };
            release(mount, have_shared);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ApplyError::Blocked(blocker));
            }
            let gap = PENDING_RELEASED.saturating_mul(1 + tries / 4).min(PENDING_RELEASED_MAX);
            std::thread::sleep(gap.min(left));
            tries = tries.saturating_add(1);
        }
    }

    fn try_once(
        mount: &dyn OwnMount,
        have_shared: bool,
        deadline: Instant,
    ) -> Result<Result<(), Blocker>, ApplyError> {
        if !have_shared && let Err(b) = try_shared(mount)? {
            return Ok(Err(b));
        }
        for lock in [Lock::Reserved, Lock::Pending] {
            if !try_lock(mount, lock, LockKind::Exclusive)? {
                return Ok(Err(blocker(mount, lock, LockKind::Exclusive)));
            }
        }
        let mut backoff = Backoff::new(deadline.min(Instant::now() + PENDING_HELD));
        loop {
            if try_lock(mount, Lock::Shared, LockKind::Exclusive)? {
                return Ok(Ok(()));
            }
            let blocker = blocker(mount, Lock::Shared, LockKind::Exclusive);
            if !backoff.pause() {
                return Ok(Err(blocker));
            }
        }
    }

    /// For a redo: EXCLUSIVE is still held from a try that left the database half written.
    pub(super) const fn still_held(mount: &'m dyn OwnMount, have_shared: bool) -> Self {
        Self { mount, keep_shared: have_shared }
    }

    /// Keeps the lock: the database is half written.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }

    /// Releases SHARED too.
    pub(super) fn release_all(mut self) {
        self.keep_shared = false;
    }
}

/// Back to SHARED, or to nothing. PENDING goes last, as in SQLite: a reader that gets in then gets
/// SHARED as well.
fn release(mount: &dyn OwnMount, keep_shared: bool) {
    if keep_shared {
        match mount.try_lock(Lock::Shared, LockKind::Shared) {
            Ok(true) => {}
            // A lock that is held can always be weakened.
            other => tracing::error!(?other, "cannot go back to a shared lock"),
        }
    } else {
        unlock(mount, Lock::Shared);
    }
    unlock(mount, Lock::Pending);
    unlock(mount, Lock::Reserved);
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        release(self.mount, self.keep_shared);
    }
}

/// CKPT and all read marks: with WRITE in hand too, nobody reads or writes through the index, and nobody
/// can begin. Idle connections, which keep SHARED for ever, may stay. Released when dropped.
pub(super) struct NoWalReaders<'m> {
    mount: &'m dyn OwnMount,
}

impl<'m> NoWalReaders<'m> {
    /// Everything or nothing at each try: a reader that finds all marks locked for long fails with
    /// SQLITE_PROTOCOL, and one that finds some locked takes another.
    pub(super) fn acquire(mount: &'m dyn OwnMount, deadline: Instant) -> Result<Self, ApplyError> {
        let all = Self::still_held(mount);
        let mut backoff = Backoff::new(deadline);
        loop {
            let Some(lock) = all.try_once()? else { return Ok(all) };
            let blocker = blocker(mount, lock, LockKind::Exclusive);
            all.release();
            if !backoff.pause() {
                return Err(ApplyError::Blocked(blocker));
            }
        }
    }

    /// The lock that could not be had.
    fn try_once(&self) -> Result<Option<Lock>, ApplyError> {
        for lock in Self::locks() {
            if !try_lock(self.mount, lock, LockKind::Exclusive)? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    fn locks() -> impl Iterator<Item = Lock> {
        std::iter::once(Lock::WalCkpt).chain((0..READ_MARKS).map(Lock::WalRead))
    }

    /// For a redo: they are still held, or EXCLUSIVE is.
    pub(super) const fn still_held(mount: &'m dyn OwnMount) -> Self {
        Self { mount }
    }

    /// Keeps the locks: the database is half written.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }

    fn release(&self) {
        Self::locks().for_each(|lock| unlock(self.mount, lock));
    }
}

impl Drop for NoWalReaders<'_> {
    fn drop(&mut self) {
        self.release();
    }
}
