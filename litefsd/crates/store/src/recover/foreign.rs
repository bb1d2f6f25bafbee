//! What is in a database's directory although neither the daemon nor SQLite put it there.
//!
//! Two cases, both set aside and never used: a directory where a file belongs (or the other way round),
//! which would end every start with an error of the system; and a journal, wal or snapshot that appeared
//! after a clean stop. A clean stop leaves none behind, so what such a file says is about another database,
//! or another time. Tests: `tests`, and `bad_input_files` in the workspace's `tests` package.

use std::path::{Path, PathBuf};

use litefs_sqlite::journal::is_live;
use litefs_types::{DbName, Timestamp};

use super::{OPEN, Recovery, Step, disk_error};
use crate::disk::{Disk, OpenHow};
use crate::error::{Result, StoreError};
use crate::layout::{DataLayout, DbLayout};
use crate::quarantine;

/// Ending of a log segment's name.
const SEGMENT: &str = ".seg";
/// Longest start of a journal that is looked at.
const MAGIC_LEN: usize = 8;

/// Sets aside whatever is a directory and should be a file, and the other way round.
pub(super) fn set_aside_wrong_kinds(
    disk: &dyn Disk,
    layout: &DataLayout,
    name: &DbName,
    now: Timestamp,
    notes: &mut Vec<String>,
) -> Result<()> {
    let dir = layout.db(name);
    let entries =
        disk.read_dir(OPEN, dir.dir()).map_err(StoreError::io("listing of the database's directory"))?;
    let mut wrong: Vec<(PathBuf, bool)> = entries
        .iter()
        .map(|e| (dir.dir().join(&e.name), e.is_dir))
        .filter(|(path, is_dir)| belongs(&dir, path).is_some_and(|want_dir| want_dir != *is_dir))
        .collect();
    let log = dir.log();
    if entries.iter().any(|e| e.is_dir && dir.dir().join(&e.name) == log) {
        let segments = disk.read_dir(OPEN, &log).map_err(StoreError::io("listing of the log"))?;
        wrong.extend(
            segments
                .iter()
                .filter(|e| e.is_dir && e.name.to_string_lossy().ends_with(SEGMENT))
                .map(|e| (log.join(&e.name), true)),
        );
    }
    for (path, is_dir) in wrong {
        let to = quarantine::move_file(disk, layout, name, &path, now)
            .map_err(StoreError::io("setting a wrong directory entry aside"))?;
        let (is, want) = if is_dir { ("directory", "file") } else { ("file", "directory") };
        notes.push(format!(
            "{} is a {is} where a {want} belongs; set aside as {}",
            path.display(),
            to.display()
        ));
    }
    Ok(())
}

/// Whether a path of ours is to be a directory; `None`: not ours.
fn belongs(dir: &DbLayout, path: &Path) -> Option<bool> {
    let files = [dir.database(), dir.journal(), dir.wal(), dir.shm(), dir.sums(), dir.snapshot()];
    let directories = [dir.log(), dir.spool(), dir.go_ltx()];
    if files.iter().any(|f| f == path) {
        return Some(false);
    }
    directories.iter().any(|d| d == path).then_some(true)
}

impl Recovery {
    /// After a clean stop, with an untouched database file: sets aside what else would be believed.
    pub(super) fn set_aside_late_comers(&mut self) -> Step<()> {
        let mut late = Vec::new();
        if self.exists(&self.dir.snapshot())? {
            late.push(self.dir.snapshot());
        }
        // One that says nothing, or nothing new (its removal was lost), is no news.
        if let Some(wal) = self.read_wal()?
            && self.known_by_offset(&wal)? != Some(wal.transactions.len())
        {
            late.push(self.dir.wal());
        }
        let journal = self.dir.journal();
        // One that is over (PERSIST, TRUNCATE) stays behind a clean stop too.
        if self.exists(&journal)? {
            let file = self
                .disk
                .open(OPEN, &journal, OpenHow::READ)
                .map_err(disk_error("opening of the journal"))?;
            let mut start = [0; MAGIC_LEN];
            let n = file.read_at(&mut start, 0).map_err(disk_error("read of the journal"))?;
            if is_live(&start[..n]) {
                late.push(journal);
            }
        }
        for path in late {
            let to = quarantine::move_file(&*self.disk, &self.root, &self.name, &path, self.now)
                .map_err(disk_error("setting a file aside"))?;
            self.note(format!(
                "{} appeared while the daemon was stopped; not used, set aside as {}",
                path.display(),
                to.display()
            ));
        }
        Ok(())
    }
}
