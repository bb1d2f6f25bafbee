//! `snapshot.ltx`: the daemon stopped while it replaced a database by a received snapshot.
//!
//! The file was verified and synced before the first page was overwritten, so it is applied again,
//! however far that had come. Only if it cannot be read any more is there nothing left to trust.

use std::io::BufReader;

use litefs_core::page_sums::PageSums;
use litefs_ltx::Decoder;
use litefs_types::Pos;

use super::{OPEN, Recovery, SYNC, SYNC_DIR, Step, WRITE, anomaly, disk_error};
use crate::disk::OpenHow;

const BUFFER: usize = 256 * 1024;

impl Recovery {
    /// Applies the snapshot, if there is one. Returns the sums at its position.
    pub(super) fn snapshot(&mut self) -> Step<Option<(Pos, PageSums)>> {
        let path = self.dir.snapshot();
        if !self.exists(&path)? {
            return Ok(None);
        }
        let snap =
            self.disk.open(OPEN, &path, OpenHow::READ).map_err(disk_error("opening of the snapshot"))?;
        let read = || BufReader::with_capacity(BUFFER, FileReader { file: &*snap, at: 0 });
        let ok =
            litefs_ltx::verify(read()).map_err(|e| anomaly(format!("the snapshot being applied: {e}")))?;
        if !ok.header.is_snapshot() || ok.header.commit == 0 {
            return Err(anomaly("the snapshot being applied is none"));
        }
        let pos = Pos::new(ok.header.max_txid, ok.trailer.post_apply);
        let ps = ok.header.page_size;
        let reset = self.log.base() != pos;
        if reset {
            // They belong to what the snapshot replaces.
            for old in [self.dir.journal(), self.dir.wal(), self.dir.shm()] {
                self.remove(&old)?;
            }
            self.disk.sync_dir(SYNC_DIR, self.dir.dir()).map_err(disk_error("sync of the directory"))?;
        }
        let file = self.file()?;
        let mut sums = PageSums::new(ps);
        let mut all = Vec::new();
        let mut dec = Decoder::new(read()).map_err(|e| anomaly(e.to_string()))?;
        let mut page = Vec::new();
        while let Some(info) = dec.next_page(&mut page).map_err(|e| anomaly(e.to_string()))? {
            file.write_all_at(WRITE, &page, ps.offset(info.page)).map_err(disk_error("write of a page"))?;
            all.push((info.page, info.checksum));
        }
        let _ = sums.set_all(&all, ok.header.commit);
        file.set_len(WRITE, ps.file_size(ok.header.commit)).map_err(disk_error("cut of the database"))?;
        file.sync_all(SYNC).map_err(disk_error("sync of the database"))?;
        if reset {
            self.log.reset(pos, self.now)?;
        }
        self.db_pos = Some(pos);
        self.suspect = false;
        self.note(format!("applied the snapshot at {pos} again"));
        Ok(Some((pos, sums)))
    }
}

/// Reads a disk file from the start.
pub(crate) struct FileReader<'a> {
    pub(crate) file: &'a dyn crate::disk::DiskFile,
    pub(crate) at: u64,
}

impl std::io::Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
