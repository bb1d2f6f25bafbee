//! A transaction that another node made: verified, logged, written into the files (rules B.5–B.7).
//!
//! Disk order: received bytes complete and verified (file checksum, page order and bounds, resulting
//! database checksum) → record in the log → [rollback mode: log durable] → files. In WAL mode the files
//! are frames, and the log becomes durable before a checkpoint copies them into the database file.
//! A snapshot is kept as `snapshot.ltx` until the database file holds it.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use litefs_core::page_sums::PageSums;
use litefs_ltx::{Decoder, Header};
use litefs_types::{Checksum, PageNo, Pos};

use super::{Database, Inner, JournalMode, OwnIo, Version};
use crate::apply::wal_writer::{WalSync, WalWriter};
use crate::apply::{ApplyError, PageSource, Replaced, drop_files, replace_all, rollback_writer};
use crate::disk::Op;
use crate::error::{Result, StoreError, with_causes};
use crate::log::{LogEntry, RecordKind, RecordMeta};
use crate::notice::Change;
use crate::own_mount::FileKind;
use crate::spool::Spooled;

/// One try for the locks of a rollback database; in between the wait is reported.
const LOCK_TRY: Duration = Duration::from_secs(2);
/// How long readers may hold an apply up before it is given up and asked for again.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Pause before a half written database is written again.
const TORN_PAUSE: Duration = Duration::from_secs(1);
/// Buffer for decoding.
pub(super) const BUFFER: usize = 256 * 1024;

/// A verified transaction.
pub(super) struct Incoming {
    pub(super) header: Header,
    pub(super) sums: Vec<(PageNo, Checksum)>,
    pub(super) post: Checksum,
    /// What page 1 says, if it is among the pages.
    pub(super) mode: Option<JournalMode>,
}

/// A received LTX file that is right in itself: complete, in order, with the checksums it says.
pub struct ReceivedLtx {
    incoming: Incoming,
    file: Spooled,
}

impl ReceivedLtx {
    /// Reads the file to its end. Whether it follows a database's position, [`Database::apply_checked`] finds.
    pub fn check(file: Spooled) -> Result<Self> {
        Ok(Self { incoming: read_and_verify(&file)?, file })
    }
}

/// The pages of an LTX file that was verified before.
pub(super) struct LtxPages<F>(pub(super) F);

impl<R: Read, F: FnMut() -> io::Result<R>> PageSource for LtxPages<F> {
    fn for_each(
        &mut self,
        f: &mut dyn FnMut(PageNo, &[u8]) -> std::result::Result<(), ApplyError>,
    ) -> std::result::Result<(), ApplyError> {
        let source = |e: litefs_ltx::LtxError| ApplyError::Source(Box::new(e));
        let reader = (self.0)().map_err(|e| ApplyError::Source(Box::new(e)))?;
        let mut dec = Decoder::new(BufReader::with_capacity(BUFFER, reader)).map_err(source)?;
        let mut page = Vec::new();
        while let Some(info) = dec.next_page(&mut page).map_err(source)? {
            f(info.page, &page)?;
        }
        // Changed on the disk since it was verified: the caller repeats from a healthy copy.
        dec.finish().map(|_| ()).map_err(source)
    }
}

fn pages_of(entry: LogEntry) -> impl PageSource {
    LtxPages(move || Ok(entry.reader()))
}

impl Database {
    /// Verifies a received LTX file and makes it this database's next transaction (or, if it is a
    /// snapshot, its content). Returns the new position. Worker threads only; waits for readers in
    /// rollback mode.
    pub fn apply(&self, received: Spooled) -> Result<Pos> {
        self.apply_checked(ReceivedLtx::check(received)?)
    }

    /// As [`Database::apply`], of a file that was checked before this database existed.
    pub fn apply_checked(&self, received: ReceivedLtx) -> Result<Pos> {
        let ReceivedLtx { incoming, file: received } = received;
        let mut own_io = self.lock_own();
        let as_frames = {
            let g = self.lock();
            let wal = g.mode == JournalMode::Wal || own_io.writer.as_ref().is_some_and(|w| w.is_attached());
            wal && g.sums.page_count() > 0
                && g.page_size == Some(incoming.header.page_size)
                && incoming.header.commit > 0
                && !incoming.header.is_snapshot()
        };
        let _rewriting = (!as_frames).then(|| self.rewriting());
        let pos = if incoming.header.is_snapshot() && incoming.header.commit > 0 {
            self.apply_snapshot(&mut own_io, incoming, &received)?
        } else {
            self.apply_one(&mut own_io, incoming, received)?
        };
        Ok(pos)
    }

    fn apply_one(&self, own_io: &mut OwnIo, incoming: Incoming, received: Spooled) -> Result<Pos> {
        let Incoming { header, sums, post, mode } = incoming;
        let before = {
            let g = self.lock();
            self.check_alive(&g)?;
            let is_drop = header.commit == 0 && header.is_snapshot();
            if !is_drop && header.pre_apply_pos() != g.tip {
                return Err(StoreError::PositionMismatch {
                    db: self.name.clone(),
                    have: g.tip,
                    want: header.pre_apply_pos(),
                });
            }
            if let Err(e) = self.check_post(&g, &header, &sums, post) {
                // The file is what was sent, and it follows our position, yet it leads elsewhere: one of the
                // two databases is not what its position says. A snapshot settles it.
                self.ask_for_snapshot(&e);
                return Err(e);
            }
            g.tip
        };
        let pos = Pos::new(header.max_txid, post);
        // A drop of what we know nothing of: there is no log to continue.
        let foreign_drop = header.is_snapshot();
        if !foreign_drop {
            let meta = RecordMeta {
                kind: RecordKind::Applied,
                min: header.min_txid,
                max: header.max_txid,
                pre: header.pre_apply,
                time: self.env.now(),
                len: Some(received.len()),
            };
            self.log.append_spooled(meta, received, post)?;
        }
        let in_file = match self.write_applied(own_io, &header, &sums) {
            Ok(in_file) => in_file,
            Err(e) if !half_written(&e) => {
                // What readers see has not changed: it is asked for again.
                if !foreign_drop {
                    self.log.rewind(before)?;
                }
                return Err(e);
            }
            Err(e) => {
                let mut g = self.lock();
                return Err(self.poison(
                    &mut g,
                    format!("a received transaction could not be written to the database: {e}"),
                ));
            }
        };
        if foreign_drop && let Err(e) = self.log.reset(pos, header.timestamp) {
            // The files are gone, the log has what was in them: nothing may follow before recovery.
            return Err(self.poison(&mut self.lock(), format!("the log could not start at a drop: {e}")));
        }
        self.applied(&header, &sums, pos, mode, in_file);
        Ok(pos)
    }

    /// From now on this database asks for a snapshot, until it has got one.
    pub(super) fn ask_for_snapshot(&self, why: &StoreError) {
        if !self.wants_snapshot.swap(true, Ordering::AcqRel) {
            self.env.snapshot_wishes.fetch_add(1, Ordering::Release);
            tracing::error!(db = %self.name, "asks for a snapshot from the primary: {why}");
        }
    }

    /// Whether the local content is not to be continued: the primary must send a snapshot.
    pub fn wants_snapshot(&self) -> bool {
        self.wants_snapshot.load(Ordering::Acquire)
    }

    /// The database checksum that the transaction leads to, by the sums of its pages.
    fn check_post(
        &self,
        g: &Inner,
        header: &Header,
        sums: &[(PageNo, Checksum)],
        post: Checksum,
    ) -> Result<()> {
        let corrupt = |reason: String| StoreError::Corrupt { what: "a received transaction", reason };
        let other_size = g.sums.page_size() != header.page_size;
        if other_size || header.commit == 0 {
            let lock = header.page_size.lock_page().get();
            let want = header.commit - u32::from(header.commit >= lock);
            if header.commit > 0 && sums.len() as u64 != u64::from(want) {
                return Err(corrupt("it changes the page size but does not hold every page".into()));
            }
            let sum = sums.iter().fold(Checksum::EMPTY, |c, (_, s)| c.replace(Checksum::NONE, *s));
            return if sum == post {
                Ok(())
            } else {
                Err(corrupt(format!("checksum {sum}, it says {post}")))
            };
        }
        let plan = litefs_core::apply::Incoming {
            page_size: header.page_size,
            snapshot: false,
            commit: header.commit,
            pre: if g.tip.is_zero() { g.sums.checksum() } else { header.pre_apply },
            post,
        };
        litefs_core::apply::plan(&g.sums, &plan, sums).map_err(|e| corrupt(e.to_string()))
    }

    /// Brings a logged transaction into the files. Whether the database file holds it, durably.
    fn write_applied(
        &self,
        own_io: &mut OwnIo,
        header: &Header,
        sums: &[(PageNo, Checksum)],
    ) -> Result<bool> {
        if header.commit == 0 {
            return self.drop_applied(own_io).map(|()| true);
        }
        let entry = self.log.get(header.max_txid)?.ok_or(StoreError::NotFound)?;
        let (known, pages) = {
            let g = self.lock();
            (g.page_size, g.sums.page_count())
        };
        let whole = pages == 0 || known != Some(header.page_size);
        let Some(own) = self.own().cloned() else {
            return self.write_direct(&mut pages_of(entry), header).map(|()| true);
        };
        self.create_own(FileKind::Database)?;
        if whole {
            self.sync_log()?;
            return self.wait_for_readers(|deadline, redo| {
                let writer = own_io.writer.as_deref();
                let mut pages = pages_of(entry.clone());
                replace_all(&*own, writer, &mut pages, header.page_size, header.commit, deadline, redo)
                    .map(|how| matches!(how, Replaced::InPlace { .. }))
            });
        }
        if self.lock().mode == JournalMode::Wal || own_io.writer.as_ref().is_some_and(|w| w.is_attached()) {
            let writer = self.attached(own_io)?;
            let txid = header.max_txid.get();
            // Before the first reader sees a frame: a checkpoint may copy it at once (rule C2), and then the
            // database file has pages that the page sums do not know yet.
            note_frames(&mut self.lock(), sums, header.commit, txid);
            let written = writer.write_tx(&*own, &mut pages_of(entry), header.commit, WalSync::No)?;
            if written.restarted {
                let mut g = self.lock();
                g.wal_versions.clear();
                g.wal_sizes.clear();
                note_frames(&mut g, sums, header.commit, txid);
            }
            return Ok(false);
        }
        // No page of the database file before the log explains it: a crash inside is redone from there.
        self.sync_log()?;
        self.wait_for_readers(|deadline, redo| {
            let mut pages = pages_of(entry.clone());
            if redo {
                rollback_writer::redo(&*own, &mut pages, header.page_size, header.commit)
            } else {
                rollback_writer::apply(&*own, &mut pages, header.page_size, header.commit, deadline)
            }
            .map(|_| true)
        })
    }

    /// The daemon as the WAL writer of this database (rule P1), attached on first use.
    pub(super) fn attached(&self, own_io: &mut OwnIo) -> Result<Arc<WalWriter>> {
        if let Some(writer) = own_io.writer.as_ref().filter(|w| w.is_attached()) {
            return Ok(Arc::clone(writer));
        }
        let own = self.own().cloned().ok_or(StoreError::NotFound)?;
        let page_size = self.lock().page_size.ok_or(StoreError::NotFound)?;
        self.create_own(FileKind::Database)?;
        let writer = WalWriter::attach(&*own, page_size, Instant::now() + LOCK_TRY)?;
        Ok(Arc::clone(own_io.writer.insert(Arc::new(writer))))
    }

    /// Tries again while readers are in the way, and says who they are. Half written (a full disk), the
    /// database stays locked and the same is written again; `apply` is told so by its second argument.
    pub(super) fn wait_for_readers<T>(
        &self,
        mut apply: impl FnMut(Instant, bool) -> std::result::Result<T, ApplyError>,
    ) -> Result<T> {
        let give_up = Instant::now() + LOCK_WAIT;
        let mut torn = false;
        loop {
            match apply(Instant::now() + LOCK_TRY, torn) {
                Ok(done) => return Ok(done),
                Err(ApplyError::Blocked(b)) if Instant::now() < give_up => {
                    tracing::warn!(db = %self.name, "replication waits for a reader: {b}");
                }
                Err(e @ ApplyError::Torn(_)) if Instant::now() < give_up => {
                    tracing::error!(db = %self.name, "{e}; it is written again in {TORN_PAUSE:?}");
                    torn = true;
                    std::thread::sleep(TORN_PAUSE);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Without a mount nobody reads: straight into the file.
    pub(super) fn write_direct(&self, source: &mut dyn PageSource, header: &Header) -> Result<()> {
        const DIRECT: Op = Op::new("apply.direct");
        let file = self.backing_or_create(FileKind::Database, false)?.file;
        self.sync_log()?;
        source.for_each(&mut |page, data| {
            file.write_all_at(DIRECT, data, header.page_size.offset(page))
                .map_err(ApplyError::io("write the database"))
        })?;
        file.set_len(DIRECT, header.page_size.file_size(header.commit))
            .map_err(StoreError::io("size of the database"))?;
        file.sync_data(DIRECT).map_err(StoreError::io("sync of the database"))
    }

    fn drop_applied(&self, own_io: &mut OwnIo) -> Result<()> {
        self.sync_log()?;
        if let Some(own) = self.own().cloned() {
            self.wait_for_readers(|deadline, redo| {
                drop_files(&*own, own_io.writer.as_deref(), deadline, redo)
            })?;
        }
        own_io.writer = None;
        // They are empty by now: recovery completes it.
        self.remove_files().map_err(|e| {
            StoreError::Apply(ApplyError::Torn(Box::new(match e {
                StoreError::Io { what, source } => ApplyError::Io { what, source },
                other => ApplyError::Source(Box::new(other)),
            })))
        })?;
        if let Some(m) = self.env.mounted.get() {
            for kind in [FileKind::Database, FileKind::Journal, FileKind::Wal, FileKind::Shm] {
                m.invalidator.entry(&self.name, kind);
            }
        }
        Ok(())
    }

    /// The transaction is in log and files: it is this database's state now.
    fn applied(
        &self,
        header: &Header,
        sums: &[(PageNo, Checksum)],
        pos: Pos,
        mode: Option<JournalMode>,
        in_file: bool,
    ) {
        let mut g = self.lock();
        if header.commit == 0 {
            g.sums = PageSums::new(header.page_size);
            g.page_size = None;
            g.mode = JournalMode::Rollback;
        } else {
            if g.sums.page_size() != header.page_size {
                g.sums = PageSums::new(header.page_size);
            }
            // Replicas take nothing back: what is applied is published.
            let _ = g.sums.set_all(sums, header.commit);
            g.page_size = Some(header.page_size);
            g.mode = mode.unwrap_or(g.mode);
        }
        self.counters.applied_after(self.env.now().millis().saturating_sub(header.timestamp.millis()));
        self.now_at(&mut g, header, pos);
        if in_file {
            g.complete_at = pos;
            g.wal_versions.clear();
            g.wal_sizes.clear();
        }
        drop(g);
        self.show_listing(header.commit > 0);
        self.env.notice.changed(change_of(&self.name, header, pos));
    }

    pub(super) fn now_at(&self, g: &mut Inner, header: &Header, pos: Pos) {
        g.tip = pos;
        g.published = pos;
        g.streamable = pos;
        g.published_pages = header.commit;
        g.last_timestamp = Some(header.timestamp);
    }
}

/// Frames with these page sums are about to be in the wal.
pub(super) fn note_frames(g: &mut Inner, sums: &[(PageNo, Checksum)], commit: u32, txid: u64) {
    for (page, sum) in sums {
        let versions = g.wal_versions.entry(*page).or_default();
        // The psow copies and rewrites of a page repeat what it held.
        if versions.last().is_none_or(|v| v.sum != *sum) {
            versions.push(Version { sum: *sum, txid });
        }
    }
    if g.wal_sizes.last() != Some(&commit) {
        g.wal_sizes.push(commit);
    }
}

/// Whether the database file holds a part of what was being written.
pub(super) fn half_written(e: &StoreError) -> bool {
    matches!(e, StoreError::Apply(ApplyError::Torn(_)))
}

pub(super) fn change_of(name: &litefs_types::DbName, header: &Header, pos: Pos) -> Change {
    Change {
        db: name.clone(),
        pos,
        page_size: header.page_size,
        commit: header.commit,
        timestamp: header.timestamp,
        local: false,
    }
}

fn read_and_verify(received: &Spooled) -> Result<Incoming> {
    let corrupt = |e: litefs_ltx::LtxError| StoreError::Corrupt {
        what: "a received transaction",
        reason: with_causes(&e),
    };
    let mut dec = Decoder::new(BufReader::with_capacity(BUFFER, received.reader())).map_err(corrupt)?;
    let header = dec.header().clone();
    let mut sums = Vec::new();
    let mut page = Vec::new();
    let mut mode = None;
    while let Some(info) = dec.next_page(&mut page).map_err(corrupt)? {
        if info.page == PageNo::FIRST {
            mode = Some(super::commit::mode_of(&page));
        }
        sums.push((info.page, info.checksum));
    }
    let verified = dec.finish().map_err(corrupt)?;
    Ok(Incoming { header, sums, post: verified.trailer.post_apply, mode })
}
