//! When a prepared transaction becomes visible, and when replicas may have it: rules W5–W9.
//!
//! One thread a database, started at its first commit. It asks the wal-index through the own mount
//! (never a handler thread does), publishes what `mxFrame` covers, makes the log durable where SQLite's
//! own fsync did not already make the transaction durable, and only then tells the streams.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use litefs_sqlite::lock_bytes::Lock;
use litefs_sqlite::shm::{HEADER_LEN, IndexHeader, PREFIX_LEN};
use litefs_types::Pos;

use super::wal::Backing;
use super::{Database, DurableBy, Inner, Pending, Prepared};
use crate::error::{Result, StoreError};
use crate::notice::Change;
use crate::own_mount::{FileKind, LockKind, Probe};

/// First look after a commit frame, and after an FSYNC of the wal: SQLite updates the index within
/// microseconds of either.
const FIRST_LOOK: Duration = Duration::from_micros(50);
/// Look while one transaction follows the other: they share a sync, and a thread that looks more often
/// only takes time from those that commit.
const BUSY_LOOK: Duration = Duration::from_millis(1);
/// Look while a sync is waited for that SQLite makes right after the commit.
const SYNC_LOOK: Duration = Duration::from_micros(200);
/// Longest pause between two looks while a writer may be in its FSYNC.
const SLOW_LOOK: Duration = Duration::from_millis(10);
/// How long a transaction of a rollback mode may wait for the sync of the next one.
const MARKER_PATIENCE: Duration = Duration::from_millis(3);
/// A transaction that nobody shows for this long is a leftover of a dead writer: settle it (rule W9).
const LEFTOVER_AFTER: Duration = Duration::from_secs(1);
/// Pause between two looks at a leftover that cannot be settled because somebody holds WAL_WRITE.
const LEFTOVER_LOOK: Duration = Duration::from_secs(1);
/// A writer without a wal-index in shared memory that still holds X after this long has committed (W8 d).
const HEAP_INDEX_AFTER: Duration = Duration::from_millis(20);

/// What else proves that a transaction was committed by a writer without a shared wal-index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    Index,
    /// A checkpoint writes, or the wal ends: had it not been committed, neither would come.
    WalEnds,
}

impl Database {
    /// The position after asking the wal-index: for `db-pos`, exports and status. Blocks; never on a
    /// handler thread.
    pub fn resolve_pos(&self) -> Pos {
        let unsettled = !self.lock().settled();
        if unsettled && let Err(e) = self.resolve_with(Evidence::Index) {
            tracing::debug!(db = %self.name, "cannot tell what the wal-index shows: {e}");
        }
        self.pos()
    }

    /// Publishes what is committed, at the end of a wal or before a checkpoint. Worker threads only.
    pub(super) fn resolve(&self) -> Result<()> {
        self.resolve_with(Evidence::WalEnds)
    }

    pub(super) fn resolve_with(&self, evidence: Evidence) -> Result<()> {
        let mut header = self.read_index();
        let mut g = self.lock();
        if header.is_some_and(|h| Some(h.salt) != g.wal.generation().map(|w| w.salt)) {
            // Perhaps the descriptor is of an index that has been removed; `open` notices that.
            drop(g);
            if let Some(own) = self.own() {
                own.open(FileKind::Shm, false).map_err(StoreError::io("open of the wal-index"))?;
            }
            header = self.read_index();
            g = self.lock();
        }
        self.check_alive(&g)?;
        let salt = g.wal.generation().map(|w| w.salt);
        match header {
            Some(h) if Some(h.salt) == salt => {
                if h.mx_frame > g.wal.verified_frames() {
                    self.cover(&mut g, &h)?;
                }
                self.publish_covered(&mut g, h.mx_frame, h.frame_checksum);
            }
            _ => self.publish_by_heap_index(&mut g, evidence),
        }
        Ok(())
    }

    /// The wal-index header, if there is a valid one.
    pub(super) fn read_index(&self) -> Option<IndexHeader> {
        let own = self.own()?;
        let mut b = [0u8; PREFIX_LEN];
        // A writer may be between its two copies: that lasts nanoseconds.
        for _ in 0..3 {
            // Usually open; looking whether it is costs more than the read.
            if !own.read_at(FileKind::Shm, &mut b, 0).is_ok_and(|n| n >= 2 * HEADER_LEN) {
                if !own.open(FileKind::Shm, false).ok()? {
                    return None;
                }
                if own.read_at(FileKind::Shm, &mut b, 0).ok()? < 2 * HEADER_LEN {
                    return None;
                }
            }
            if let Some(h) = IndexHeader::decode_pair(&b) {
                return Some(h);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Rule W7: the index shows frames whose checksum chain is broken on disk (SQLite before 3.51 after
    /// `ROLLBACK TO`). They are committed for everybody, so they are captured; but SQLite's own recovery
    /// would lose them, so this wal is checkpointed and reset soon.
    fn cover(&self, g: &mut Inner, h: &IndexHeader) -> Result<()> {
        // While `inner` is held no wal header can be written, and frames up to mxFrame are never rewritten.
        let opened = self.backing(FileKind::Wal)?;
        let covered = g.wal.cover(h.mx_frame, h.n_pages, h.frame_checksum, &mut Backing(&*opened.file));
        // Committed for everybody here, and nobody could tell the replicas.
        let covered = covered.map_err(|e| {
            self.poison(g, format!("frames that the wal-index shows could not be captured: {e}"))
        })?;
        for tx in covered {
            tracing::info!(
                db = %self.name,
                frames = tx.last + 1 - tx.first,
                "captured a commit whose checksum chain is broken in the wal (a fault of SQLite before 3.51.1); the wal will be reset",
            );
            g.wal_needs_reset = true;
            self.prepare_wal(g, &opened, &tx, false, None)?;
        }
        Ok(())
    }

    /// Publishes every prepared transaction up to frame `mx`.
    fn publish_covered(&self, g: &mut Inner, mx: u32, chain: [u32; 2]) {
        while let Some(p) = g.prepared.front() {
            if p.last_frame > mx || (p.last_frame == mx && p.chain != chain) {
                break;
            }
            if let Some(p) = g.prepared.pop_front() {
                self.publish(g, p);
            }
        }
    }

    fn publish(&self, g: &mut Inner, p: Prepared) {
        g.wal.publish(p.last_frame);
        let Some(logged) = p.logged else { return };
        self.counters.committed();
        g.published = p.pos;
        g.published_pages = p.pages;
        g.last_timestamp = Some(logged.timestamp);
        let Some(page_size) = g.page_size else { return };
        g.pending.push_back(Pending {
            change: Change {
                db: self.name.clone(),
                pos: p.pos,
                page_size,
                commit: p.pages,
                timestamp: logged.timestamp,
                local: true,
            },
            // After a reset the frames are gone; and what `cover` captured cannot be read from the wal again.
            durable: if g.wal_needs_reset { DurableBy::Record } else { DurableBy::Frame(p.last_frame) },
            since: Instant::now(),
        });
    }

    /// Rule W8: no wal-index to ask. X must have been held at the commit.
    fn publish_by_heap_index(&self, g: &mut Inner, evidence: Evidence) {
        while let Some(p) = g.prepared.front() {
            if !p.heap_index {
                break;
            }
            let committed = evidence == Evidence::WalEnds
                || g.wal_synced >= p.last_frame
                || g.wal.verified_frames() > p.last_frame
                || p.at.elapsed() >= HEAP_INDEX_AFTER
                || !self.x_held_now();
            if !committed {
                break;
            }
            if let Some(p) = g.prepared.pop_front() {
                self.publish(g, p);
            }
        }
    }

    fn x_held_now(&self) -> bool {
        self.own().is_some_and(|own| matches!(own.probe(Lock::Shared, LockKind::Shared), Probe::Held { .. }))
    }

    /// Whether the log is durable up to what is published.
    pub(super) fn log_durable(&self, g: &Inner) -> bool {
        // Frames that the daemon writes (a replica) are visible a moment before they are published.
        let shown = if g.wal.generation().is_some() { g.published } else { self.log.tip() };
        self.log_durable_to(shown)
    }

    pub(super) fn log_durable_to(&self, pos: Pos) -> bool {
        self.log.durable().txid_raw() >= pos.txid_raw()
    }

    /// Makes the log durable; a failure poisons the database.
    pub(super) fn sync_log(&self) -> Result<()> {
        match self.log.sync() {
            Ok(_) => Ok(()),
            Err(e) => {
                let mut g = self.lock();
                self.poison(&mut g, format!("fsync of the log failed: {e}"));
                Err(e.into())
            }
        }
    }

    /// One turn of the publisher, on this thread; see [`crate::Store::drive_by_hand`].
    #[cfg(any(test, feature = "sim"))]
    pub fn publish_now(&self) -> Result<()> {
        let (ask, room) = {
            let g = self.lock();
            (g.ask_index(), g.room.is_wanted())
        };
        if room {
            self.make_wal_room()?;
        }
        if ask {
            self.resolve_with(Evidence::Index)?;
        }
        self.announce().map(|_| ())
    }

    /// Tells the publisher that there is work.
    pub(super) fn wake_publisher(&self) {
        #[cfg(any(test, feature = "sim"))]
        if self.env.by_hand.load(Ordering::Relaxed) {
            return;
        }
        if !self.publisher.started.load(Ordering::Acquire) {
            self.start_publisher();
        }
        // While it is awake it looks by itself, soon: a futex call a commit would cost more than the commit.
        if self.publisher.idle.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    fn ring(&self) {
        let mut bell = self.publisher.bell_lock.lock().unwrap_or_else(PoisonError::into_inner);
        bell.rung = true;
        drop(bell);
        self.publisher.bell.notify_one();
    }

    /// Whether the publisher thread runs.
    pub(super) fn publisher_alive(&self) -> bool {
        self.publisher.started.load(Ordering::Acquire)
    }

    /// Ends the publisher thread after what is published has been made durable and announced.
    pub(crate) fn stop_publisher(&self) {
        let mut bell = self.publisher.bell_lock.lock().unwrap_or_else(PoisonError::into_inner);
        bell.stop = true;
        drop(bell);
        self.publisher.bell.notify_one();
    }

    fn start_publisher(&self) {
        if self.publisher.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let me = self.me.clone();
        let spawned = std::thread::Builder::new().name(format!("pub-{}", self.name)).spawn(move || run(&me));
        if let Err(e) = spawned {
            let mut g = self.lock();
            self.poison(&mut g, format!("no thread to publish transactions: {e}"));
        }
    }

    /// Waits for the bell; with no deadline only while there is nothing to do. Returns whether to stop.
    fn wait(&self, pause: Option<Duration>) -> bool {
        // A short pause is not worth ringing for. Announce first, then look once more: a commit between
        // the look and the wait finds `idle` set and rings.
        let ringable = pause.is_none_or(|p| p > BUSY_LOOK);
        self.publisher.idle.store(ringable, Ordering::SeqCst);
        let busy = pause.is_none() && {
            let g = self.lock();
            self.check_alive(&g).is_ok()
                && (g.ask_index() || !g.pending.is_empty() || g.warm.is_wanted() || g.room.is_wanted())
        };
        // `inner` is free again: commits ring while they hold it.
        let mut bell = self.publisher.bell_lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy {
            bell = match pause {
                None => self
                    .publisher
                    .bell
                    .wait_while(bell, |b| !b.rung && !b.stop)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(pause) => {
                    self.publisher
                        .bell
                        .wait_timeout_while(bell, pause, |b| !b.rung && !b.stop)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        self.publisher.idle.store(false, Ordering::SeqCst);
        bell.rung = false;
        bell.stop
    }

    /// Makes published transactions durable where they are not, and announces them. Returns whether
    /// there were any.
    pub(super) fn announce(&self) -> Result<bool> {
        self.announce_when(true)
    }

    /// The same; without `now` a sync of the log that a running transaction will make anyway is waited for.
    fn announce_when(&self, now: bool) -> Result<bool> {
        let _in_order = self.publisher.announcing.lock().unwrap_or_else(PoisonError::into_inner);
        let sync = {
            let g = self.lock();
            // Also at the stop: what a failed sync or marker left in doubt, recovery judges.
            self.check_alive(&g)?;
            match g.pending.iter().find(|p| !self.is_durable(&g, p)) {
                None => false,
                // The FSYNC of the database in the transaction that goes on covers this one's marker too, and in
                // two modes SQLite syncs the end of the journal; two syncs at a time only wait for each other.
                Some(p) => {
                    let soon = matches!(p.durable, DurableBy::Marker(_))
                        && (g.journal.live || self.journal_end_is_synced_by_sqlite(&g));
                    now || !soon || p.since.elapsed() >= MARKER_PATIENCE
                }
            }
        };
        if sync {
            self.sync_log()?;
        }
        let mut ready = Vec::new();
        {
            let mut g = self.lock();
            while g.pending.front().is_some_and(|p| self.is_durable(&g, p)) {
                if let Some(p) = g.pending.pop_front() {
                    g.streamable = p.change.pos;
                    ready.push(p.change);
                }
            }
        }
        let some = !ready.is_empty();
        if let Some(last) = ready.last() {
            self.show_listing(last.commit > 0);
        }
        for change in ready {
            self.env.notice.changed(change);
        }
        Ok(some)
    }

    fn is_durable(&self, g: &Inner, p: &Pending) -> bool {
        match p.durable {
            DurableBy::Frame(frame) => frame <= g.wal_synced || self.log_durable_to(p.change.pos),
            DurableBy::Record => self.log_durable_to(p.change.pos),
            DurableBy::Marker(lsn) => self.journal_is_over(g, lsn) && self.log_durable_to(p.change.pos),
        }
    }

    /// The kernel caches directory listings, which show databases that have pages.
    pub(super) fn show_listing(&self, listed: bool) {
        if self.listed.swap(listed, Ordering::AcqRel) != listed
            && let Some(m) = self.env.mounted.get()
        {
            m.invalidator.virtual_files(Some(&self.name));
        }
    }
}

fn run(me: &Weak<Database>) {
    let mut pause = FIRST_LOOK;
    // Since when the index has been asked in vain.
    let mut asked: Option<Instant> = None;
    loop {
        let Some(db) = me.upgrade() else { return };
        let db: Arc<Database> = db;
        // Before the look: who commits behind it rings, and a long pause does not begin.
        db.publisher.idle.store(pause > BUSY_LOOK, Ordering::SeqCst);
        let (warm, room, ask, oldest, pending, poisoned) = {
            let g = db.lock();
            (
                g.warm.is_wanted(),
                g.room.is_wanted(),
                g.ask_index(),
                g.prepared.front().map(|p| p.at),
                !g.pending.is_empty(),
                db.check_alive(&g).is_err(),
            )
        };
        if warm {
            db.warm_wal_now();
            continue;
        }
        if room && !poisoned {
            if let Err(e) = db.make_wal_room() {
                tracing::error!(db = %db.name, "publisher: {e}");
            }
            continue;
        }
        let nothing = (!ask && !pending) || poisoned;
        if nothing {
            pause = FIRST_LOOK;
        }
        if !ask {
            asked = None;
        }
        // What is the first after a pause goes out at once; in a stream of them they share a sync.
        if !pending || nothing || pause > FIRST_LOOK {
            let how_long = (!nothing).then_some(pause);
            if db.wait(how_long) {
                if let Err(e) = db.announce() {
                    tracing::error!(db = %db.name, "at the stop: {e}");
                }
                db.publisher.started.store(false, Ordering::Release);
                return;
            }
        }
        if poisoned {
            continue;
        }
        let step = || -> Result<bool> {
            let before = db.pos();
            if ask {
                db.resolve_with(Evidence::Index)?;
            }
            let announced = db.announce_when(false)?;
            Ok(announced || db.pos() != before)
        };
        match step() {
            Ok(true) => {
                pause = BUSY_LOOK;
                asked = None;
            }
            // For a sync that somebody else is about to make.
            Ok(false) if pending => pause = SYNC_LOOK,
            Ok(false) => {
                let since = oldest.unwrap_or_else(|| *asked.get_or_insert_with(Instant::now));
                let age = since.elapsed();
                if age > LEFTOVER_AFTER {
                    pause = LEFTOVER_LOOK;
                    if let Err(e) = db.settle_leftover() {
                        tracing::warn!(db = %db.name, "cannot settle an abandoned transaction: {e}");
                    }
                } else {
                    pause = (pause * 3 / 2).min(SLOW_LOOK);
                }
            }
            Err(e) => {
                tracing::error!(db = %db.name, "publisher: {e}");
                pause = SLOW_LOOK;
            }
        }
    }
}
