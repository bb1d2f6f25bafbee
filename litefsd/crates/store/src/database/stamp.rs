//! The page sums on disk: written now and then, so that a start reads them instead of the database.

use std::sync::{MutexGuard, PoisonError};

use super::Database;
use crate::disk::Op;
use crate::error::{Result, StoreError};
use crate::own_mount::FileKind;
use crate::sums_file::{FileId, SumsFile};

const SYNC: Op = Op::new("stamp.sync");

impl Database {
    pub(super) fn sums_file(&self) -> MutexGuard<'_, SumsFile> {
        self.sums_file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the sums file up to the published position. With `clean` nothing changes any more, and
    /// the next start trusts the database file by its size and times.
    ///
    /// Order: log durable, database file and its name durable up to what the stamp says, then sums, then stamp.
    pub(super) fn stamp(&self, clean: bool) -> Result<()> {
        let mut sums_file = self.sums_file();
        let (update, pos, db_pos) = {
            let mut g = self.lock();
            if g.tip != g.published || g.published.is_zero() {
                // The sums are ahead of the position; it is tried again.
                return Ok(());
            }
            (sums_file.collect(&mut g.sums), g.published, g.complete_at)
        };
        if !self.log_durable_to(pos) {
            self.sync_log()?;
        }
        let mut id = None;
        match self.backing(FileKind::Database) {
            Ok(f) => {
                f.file.sync_data(SYNC).map_err(|source| {
                    self.poison(&mut self.lock(), format!("fsync of the database failed: {source}"));
                    StoreError::Io { what: "sync of the database", source }
                })?;
                // Its name too: a replica's apply makes the file, and nobody syncs the directory.
                self.sync_dir()?;
                // And the end of journals: the log may forget now whose they were.
                self.sync_journal_file()?;
                if clean {
                    id = Some(FileId::from(
                        f.file.metadata().map_err(StoreError::io("size of the database"))?,
                    ));
                }
            }
            // Dropped.
            Err(StoreError::NotFound) => {}
            Err(e) => return Err(e),
        }
        sums_file.write(update, pos, db_pos, id).map_err(StoreError::io("write of the page sums"))
    }
}
