//! Pages of a received snapshot that is in the files only as frames of the wal yet.
//!
//! The log begins behind it, and the database file gets its pages with a checkpoint, which a reader may keep
//! waiting for long. Until then `snapshot.ltx` has them. Tested in `tests/crash/replica.rs`.

use std::io::{self, Read};
use std::sync::Arc;

use litefs_types::PageNo;

use super::history::{LogHistory, PageHistory, Record};
use crate::disk::DiskFile;

/// What the log has, and below it a received snapshot.
pub struct KeptHistory {
    log: LogHistory,
    file: Arc<dyn DiskFile>,
    /// Pages are asked for in ascending order: one pass is enough for all of them.
    at: Option<Record<FromStart>>,
}

impl KeptHistory {
    /// `file` is open: a checkpoint may remove its name meanwhile.
    pub fn new(log: LogHistory, file: Arc<dyn DiskFile>) -> Self {
        Self { log, file, at: None }
    }
}

impl PageHistory for KeptHistory {
    fn read(&mut self, page: PageNo, data: &mut [u8]) -> io::Result<bool> {
        if self.log.read(page, data)? {
            return Ok(true);
        }
        let mut record = match self.at.take() {
            Some(record) if !record.is_behind(page) => record,
            _ => Record::open(FromStart { file: Arc::clone(&self.file), at: 0 })?,
        };
        record.seek(page)?;
        let found = record.give(page, data);
        self.at = Some(record);
        Ok(found)
    }
}

/// A file of the disk, read from its start.
struct FromStart {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
