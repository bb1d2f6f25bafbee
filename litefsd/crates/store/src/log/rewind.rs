//! Taking back the unpublished tail, and starting again behind a snapshot.
//!
//! Tests: `tests`, `crash_tests`.

use std::collections::VecDeque;
use std::sync::Arc;

use litefs_types::{Pos, Timestamp, Txid};

use super::record::HEADER_LEN;
use super::segment::{Entry, Extent, SegFile, file_name};
use super::{Log, LogError, OpenSegment, RecordKind, Result, Sealed, View, lock, ops};

/// A segment, its index, and whether it is the open one.
type Holding = (Arc<SegFile>, Vec<Entry>, bool);

impl Log {
    /// Forgets every record after `to`, which must be a position in the log. When this returns, they do
    /// not come back, not even after a power loss. For records that nobody has seen: prepared and dropped.
    ///
    /// Costs an fdatasync; [`Log::rewind_lazily`] does not.
    pub fn rewind(&self, to: Pos) -> Result<()> {
        self.cut(to, true)
    }

    /// The same without waiting for the disk: after a power loss, and only until the next [`Log::sync`]
    /// returns, the forgotten records may be there again. Right for a prepared record that is written
    /// again at once, because its sync covers both.
    pub fn rewind_lazily(&self, to: Pos) -> Result<()> {
        self.cut(to, false)
    }

    fn cut(&self, to: Pos, durable: bool) -> Result<()> {
        let _append = lock(&self.append);
        self.check_usable()?;
        let tip = self.tip();
        if to == tip {
            return Ok(());
        }
        let first = to.next_txid();
        let bad = LogError::NotContiguous { txid: first, pre: to.checksum(), tip };
        if to.txid() > tip.txid() {
            return Err(bad);
        }
        // No sync may report the old tip durable after it is gone.
        self.enter_sync();
        let done = self.cut_in_segment(first, to, durable, bad);
        if matches!(done, Err(LogError::Io { .. })) {
            // Half cut: memory and disk disagree.
            self.poison();
        }
        self.leave_sync(|pos| {
            if pos.txid() > to.txid() {
                *pos = to;
            }
        });
        done
    }

    fn cut_in_segment(&self, first: Txid, to: Pos, durable: bool, bad: LogError) -> Result<()> {
        let err = || LogError::io(ops::REWIND);
        let (seg, mut entries, in_open) = self.holding(first)?.ok_or(LogError::Corrupt(first))?;
        let i = entries.partition_point(|e| e.min < first);
        let Some(e) = entries.get(i).copied().filter(|e| e.min == first) else { return Err(bad) };
        let h = seg.header_at(e.offset).map_err(err())?.ok_or(LogError::Corrupt(first))?;
        if h.pre != to.checksum() {
            return Err(bad);
        }
        entries.truncate(i);
        let (last_time, unmarked) = match entries.last() {
            None => (seg.head.created, None),
            Some(p) => {
                let p = (p.offset, seg.header_at(p.offset).map_err(err())?.ok_or(LogError::Corrupt(p.min))?);
                let marked = p.0 + p.1.stride().unwrap_or_default() != e.offset;
                let doubt = !marked && matches!(p.1.kind, Some(RecordKind::Rollback(_)));
                (p.1.time, doubt.then_some(p.1.max))
            }
        };
        let extent =
            Extent { count: i as u64, end: e.offset, last: to, last_crc: h.prev, last_time, unmarked };
        seg.file.write_all_at(ops::REWIND, &[0; HEADER_LEN], e.offset).map_err(err())?;
        let mut later = Vec::new();
        if !in_open {
            seg.unseal()?;
            let v = lock(&self.view);
            later.extend(v.sealed.iter().filter(|s| s.seq > seg.seq).map(|s| s.seq));
            later.extend(v.open.as_ref().map(|o| o.seg.seq));
        }
        if durable || !later.is_empty() {
            // Before later segments go: with them gone and this not durable, the tail would be back.
            seg.file.sync_data(ops::SYNC).map_err(LogError::io(ops::SYNC))?;
        }
        for seq in later.iter().rev() {
            self.disk.unlink(ops::REWIND, &self.dir.join(file_name(*seq))).map_err(err())?;
        }
        if !later.is_empty() {
            self.disk.sync_dir(ops::SYNC_DIR, &self.dir).map_err(LogError::io(ops::SYNC_DIR))?;
        }
        let mut v = lock(&self.view);
        v.sealed.retain(|s| s.seq < seg.seq);
        v.cache.retain(|(seq, _)| *seq < seg.seq);
        v.dirty.retain(|d| d.seq <= seg.seq);
        v.tip = to;
        v.open = Some(OpenSegment { seg: Arc::clone(&seg), extent, entries });
        v.touch(&seg);
        Ok(())
    }

    /// The segment in which transaction `txid` starts, with its index; whether it is the open one.
    fn holding(&self, txid: Txid) -> Result<Option<Holding>> {
        let seq = {
            let v = lock(&self.view);
            if let Some(o) = &v.open
                && o.entries.first().is_some_and(|e| e.min <= txid)
            {
                return Ok(Some((Arc::clone(&o.seg), o.entries.clone(), true)));
            }
            let i = v.sealed.partition_point(|s| s.extent.last.txid().is_none_or(|t| t < txid));
            match v.sealed.get(i) {
                Some(s) => s.seq,
                None => return Ok(None),
            }
        };
        Ok(self.loaded(seq)?.map(|l| (Arc::clone(&l.seg), l.entries.clone(), false)))
    }

    /// Empties the log; it goes on after `base`. Durable when it returns: after a crash either all of the
    /// old log is there or none. For the position of a snapshot that the database file already has, and
    /// which is durable there.
    pub fn reset(&self, base: Pos, now: Timestamp) -> Result<()> {
        let _append = lock(&self.append);
        self.check_usable()?;
        self.enter_sync();
        let done = self.reset_to(base, now);
        if matches!(done, Err(LogError::Io { op, .. }) if op == ops::SYNC || op == ops::SYNC_DIR) {
            self.poison();
        }
        let ok = done.is_ok();
        self.leave_sync(|pos| {
            if ok {
                *pos = base;
            }
        });
        done
    }

    fn reset_to(&self, base: Pos, now: Timestamp) -> Result<()> {
        let (seq, _) = self.take_seq();
        let seg = self.make_segment(seq, base, super::MIN_SEGMENT, false, true, now)?;
        seg.file.sync_data(ops::SYNC).map_err(LogError::io(ops::SYNC))?;
        self.disk.sync_dir(ops::SYNC_DIR, &self.dir).map_err(LogError::io(ops::SYNC_DIR))?;
        // From here on the old segments are void.
        let old = {
            let mut v = lock(&self.view);
            let v: &mut View = &mut v;
            let mut old: VecDeque<Sealed> = std::mem::take(&mut v.sealed);
            let mut seqs: Vec<u64> = old.drain(..).map(|s| s.seq).collect();
            seqs.extend(v.open.as_ref().map(|o| o.seg.seq));
            v.cache.clear();
            v.dirty.clear();
            v.tip = base;
            let extent = Extent::empty(&seg.head);
            v.open = Some(OpenSegment { seg: Arc::clone(&seg), extent, entries: Vec::new() });
            v.touch(&seg);
            seqs
        };
        for seq in old {
            // One that stays is removed at the next start.
            if let Err(e) = self.disk.unlink(ops::RESET, &self.dir.join(file_name(seq))) {
                tracing::warn!(dir = %self.dir.display(), error = %e, "could not remove a log segment");
            }
        }
        Ok(())
    }
}
