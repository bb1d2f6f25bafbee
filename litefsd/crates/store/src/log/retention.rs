//! Retention: old segments go, one is kept as the spare. And pins, which hold it back.
//!
//! A segment goes as a whole. A file that a reader still holds is removed, not recycled: its name goes,
//! its bytes stay until the reader is done. Tests: `tests`, `crash_tests`.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use litefs_types::{Timestamp, Txid};

use super::segment::file_name;
use super::{Log, LogError, MAX_SEGMENT, MIN_SEGMENT, Result, lock, ops};
use crate::disk::OpenHow;

/// The segment that is ready for use.
pub(super) const SPARE: &str = "spare";
/// The same, while it is made.
pub(super) const SPARE_TMP: &str = "spare.tmp";

/// Retention does not remove this transaction or later ones while the pin exists.
#[derive(Debug)]
pub struct Pin {
    pins: Arc<Mutex<BTreeMap<Txid, usize>>>,
    txid: Txid,
}

impl Pin {
    /// Moves the pin forward, or back within what the log still holds.
    pub fn advance(&mut self, txid: Txid) {
        let mut pins = lock(&self.pins);
        *pins.entry(txid).or_default() += 1;
        release(&mut pins, self.txid);
        self.txid = txid;
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        release(&mut lock(&self.pins), self.txid);
    }
}

fn release(pins: &mut BTreeMap<Txid, usize>, txid: Txid) {
    if let Some(n) = pins.get_mut(&txid) {
        *n -= 1;
        if *n == 0 {
            pins.remove(&txid);
        }
    }
}

/// What [`Log::trim`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trimmed {
    /// Segments that went.
    pub segments: u64,
    /// Records that went with them.
    pub records: u64,
    /// Something more would have gone, but for a pin.
    pub held_by_pin: bool,
}

impl Log {
    /// Keeps `txid` and everything after it.
    pub fn pin(&self, txid: Txid) -> Pin {
        *lock(&self.pins).entry(txid).or_default() += 1;
        Pin { pins: Arc::clone(&self.pins), txid }
    }

    /// Removes the oldest segments while their newest record is older than `max_age`, or all segments
    /// together exceed `max_size` bytes. Never removes what is after `floor` (recovery needs it), nor the
    /// segment that is appended to. Pins hold back the age limit, not the size limit: a reader that is
    /// so far behind finds its record gone, and an entry it already holds stays readable.
    pub fn trim(
        &self,
        now: Timestamp,
        max_age: Duration,
        max_size: Option<u64>,
        floor: Option<Txid>,
    ) -> Result<Trimmed> {
        let mut recycled = None;
        let done = self.trim_segments(now, max_age, max_size, floor, &mut recycled);
        if let Some(size) = recycled {
            // Before it is written again: or a crash could bring it back under its old name, with half
            // of its old records. Not under the locks, commits go on.
            if let Err(source) = self.disk.sync_dir(ops::SYNC_DIR, &self.dir) {
                self.poison();
                return Err(LogError::Io { op: ops::SYNC_DIR, source });
            }
            lock(&self.view).spare.get_or_insert(size);
        }
        done
    }

    fn trim_segments(
        &self,
        now: Timestamp,
        max_age: Duration,
        max_size: Option<u64>,
        floor: Option<Txid>,
        recycled: &mut Option<u64>,
    ) -> Result<Trimmed> {
        let _append = lock(&self.append);
        self.check_usable()?;
        let oldest_ms = now.millis().saturating_sub(i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX));
        let pinned = lock(&self.pins).keys().next().copied();
        let mut done = Trimmed::default();
        loop {
            let size = self.size_bytes();
            let mut v = lock(&self.view);
            let Some(s) = v.sealed.front() else { break };
            let last = s.extent.last.txid();
            let too_big = max_size.is_some_and(|m| size > m);
            if !(too_big || s.extent.last_time.millis() < oldest_ms)
                || last.is_some_and(|l| floor.is_none_or(|f| l > f))
            {
                break;
            }
            if !too_big && last.is_some_and(|l| pinned.is_some_and(|p| l >= p)) {
                done.held_by_pin = true;
                break;
            }
            let (seq, len, records) = (s.seq, s.file_len, s.extent.count);
            v.cache.retain(|(c, _)| *c != seq);
            let path = self.dir.join(file_name(seq));
            let unused = v.sealed.front().is_some_and(|s| s.file.strong_count() == 0)
                && !v.dirty.iter().any(|d| d.seq == seq);
            let recycle = unused
                && v.spare.is_none()
                && recycled.is_none()
                && (MIN_SEGMENT..=2 * MAX_SEGMENT).contains(&len);
            if recycle {
                let spare = self.dir.join(SPARE);
                self.disk.rename(ops::TRIM, &path, &spare).map_err(LogError::io(ops::TRIM))?;
                *recycled = Some(len.min(MAX_SEGMENT));
            } else {
                self.disk.unlink(ops::TRIM, &path).map_err(LogError::io(ops::TRIM))?;
            }
            v.sealed.pop_front();
            done.segments += 1;
            done.records += records;
        }
        Ok(done)
    }

    /// Makes the spare segment if there is none: allocated, zeroed and synced, so that later fdatasyncs
    /// have only data to write. Takes milliseconds and no lock meanwhile; for a background thread.
    /// `Ok(false)`: there was one.
    pub fn prepare_spare(&self) -> Result<bool> {
        self.check_usable()?;
        if lock(&self.view).spare.is_some() {
            return Ok(false);
        }
        // As big as the whole log is now: a small database does not pay for a big one's segments.
        let size = self.size_bytes().next_power_of_two().clamp(MIN_SEGMENT, MAX_SEGMENT);
        let tmp = self.dir.join(SPARE_TMP);
        let make = || -> io::Result<()> {
            let file = self.disk.open(ops::SPARE, &tmp, OpenHow::REPLACE.with_mode(0o600))?;
            let zeros = vec![0; MIN_SEGMENT as usize];
            for at in (0..size).step_by(zeros.len()) {
                file.write_all_at(ops::SPARE, &zeros, at)?;
            }
            file.sync_data(ops::SPARE)
        };
        if let Err(source) = make() {
            // A spare is a saving only: give the blocks back. Nothing in it counts, so a failed sync
            // of it does not matter either.
            let _ = self.disk.unlink(ops::SPARE, &tmp);
            return Err(LogError::Io { op: ops::SPARE, source });
        }
        let mut v = lock(&self.view);
        self.disk.rename(ops::SPARE, &tmp, &self.dir.join(SPARE)).map_err(LogError::io(ops::SPARE))?;
        v.spare = Some(size);
        Ok(true)
    }
}
