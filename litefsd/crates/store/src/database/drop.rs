//! Dropping a database: its last transaction has no pages; name, position and log stay.
//!
//! Disk order: record in the log, durable → files removed. A crash between is completed by recovery.

use litefs_core::page_sums::PageSums;
use litefs_ltx::{Compression, Encoder, Header};
use litefs_types::{Checksum, PageSize, Pos};

use super::files::{Caller, HandleId};
use super::{Database, JournalMode};
use crate::disk::Op;
use crate::error::{Result, StoreError};
use crate::log::{RecordKind, RecordMeta};
use crate::own_mount::FileKind;

const UNLINK: Op = Op::new("drop.unlink");

impl Database {
    /// UNLINK of the database's name in the mount.
    pub(super) fn unlink_database(&self, caller: &Caller) -> Result<()> {
        self.require_permit("removal of the database")?;
        if let Some(lock) = self.unlocked_by_others(caller)? {
            tracing::info!(db = %self.name, pid = caller.pid, "refused to drop a database that is in use ({lock:?} is held)");
            return Err(StoreError::refused(libc::EBUSY, "the database is in use"));
        }
        self.settle_before_wal_end(caller)?;
        // Not waited for: the kernel holds the directory for this request, and an import may need it.
        let Some(_own_io) = self.try_lock_own() else {
            return Err(StoreError::refused(libc::EBUSY, "the daemon itself is writing the database"));
        };
        self.drop_locally()
    }

    /// Drops the database on behalf of an operator. Worker threads only.
    pub fn drop_database(&self) -> Result<Pos> {
        let caller = Caller { own: false, may_block: true, pid: 0, handle: HandleId(0) };
        self.unlink_database(&caller)?;
        if let Some(m) = self.env.mounted.get() {
            for kind in [FileKind::Database, FileKind::Journal, FileKind::Wal, FileKind::Shm] {
                m.invalidator.entry(&self.name, kind);
            }
        }
        self.announce()?;
        Ok(self.pos())
    }

    fn drop_locally(&self) -> Result<()> {
        let mut g = self.lock();
        self.check_alive(&g)?;
        // A `cp` under way ends with the name that it writes to.
        g.import = None;
        // What dead writers left: nobody has seen it, and it must not come back in the next database.
        let from = g.wal.published_frames() + 1;
        self.drop_prepared(&mut g, from)?;
        if self.take_back_rollback(&mut g)? {
            self.forget_for_good(&mut g)?;
        }
        self.end_of_journal(&mut g);
        if g.sums.page_count() == 0 {
            // Created, never written: there is no transaction to take back.
            drop(g);
            return self.remove_files();
        }
        let page_size = g.page_size.unwrap_or(PageSize::DEFAULT);
        let (pre, txid, timestamp) = (g.tip, g.tip.next_txid(), self.env.now());
        let mut header = Header::new(page_size, 0, txid, pre.checksum());
        header.timestamp = timestamp;
        header.node_id = self.env.node_id;
        let meta = RecordMeta {
            kind: RecordKind::Plain,
            min: txid,
            max: txid,
            pre: pre.checksum(),
            time: timestamp,
            len: Some(litefs_ltx::raw_size(page_size, 0)),
        };
        let failed =
            |e: litefs_ltx::LtxError| StoreError::Corrupt { what: "the drop", reason: e.to_string() };
        let appender = self.log.append(meta)?;
        let enc = Encoder::new(appender, header, Compression::None).map_err(failed)?;
        let (_, appender) = enc.finish(Checksum::EMPTY).map_err(failed)?;
        let pos = appender.finish(Checksum::EMPTY)?;
        if let Err(e) = self.log.sync() {
            return Err(self.poison(&mut g, format!("fsync of the log failed: {e}")));
        }
        g.tip = pos;
        g.sums = PageSums::new(page_size);
        g.page_size = None;
        g.mode = JournalMode::Rollback;
        let _ = g.wal.removed();
        self.wal_ended(&mut g);
        self.publish_own(&mut g, pos, page_size, 0, timestamp);
        g.complete_at = pos;
        drop(g);
        self.remove_files()?;
        self.wake_publisher();
        Ok(())
    }

    /// Removes what the mount shows of the database.
    pub(super) fn remove_files(&self) -> Result<()> {
        for kind in [FileKind::Journal, FileKind::Wal, FileKind::Shm, FileKind::Database] {
            self.remove_name(kind, UNLINK)?;
        }
        self.sync_dir()
    }
}
