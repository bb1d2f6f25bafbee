//! Replacing a file: written beside it, checked, made durable, renamed. Until the rename the old file is
//! untouched, and after it the new one is complete.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::check::{beside, reason};
use crate::exit::Failure;

/// A new file beside its target. Dropped before [`Replacement::commit`], it goes away.
pub(crate) struct Replacement {
    target: PathBuf,
    temporary: PathBuf,
    file: File,
    done: bool,
}

impl Replacement {
    pub(crate) fn new(target: &Path) -> Result<Self, Failure> {
        let shown = target.display();
        if target.is_dir() {
            return Err(Failure::failed(format!("{shown} is a directory")).hint("name the file to write"));
        }
        let temporary = beside(target, &format!(".tmp-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary);
        let file =
            file.map_err(|e| Failure::failed(format!("cannot write beside {shown}: {}", reason(&e))))?;
        Ok(Self { target: target.to_owned(), temporary, file, done: false })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Refuses a target that has a WAL or journal: it may be in use, and SQLite would play them back
    /// into the new database.
    pub(crate) fn refuse_companions(&self) -> Result<(), Failure> {
        for suffix in ["-wal", "-journal"] {
            let path = beside(&self.target, suffix);
            if std::fs::symlink_metadata(&path).is_ok_and(|m| m.len() > 0) {
                return Err(Failure::failed(format!("{} exists: the target may be in use", path.display()))
                    .hint("close the application, write elsewhere, or use --force"));
            }
        }
        Ok(())
    }

    /// Removes what belongs to the old file and would be played back into the new one.
    pub(crate) fn remove_companions(&self) -> Result<(), Failure> {
        for suffix in ["-wal", "-journal", "-shm"] {
            let path = beside(&self.target, suffix);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::failed(format!("cannot remove {}: {}", path.display(), reason(&e))));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the content durable and puts it in the target's place.
    pub(crate) fn commit(mut self) -> Result<(), Failure> {
        let shown = self.target.display().to_string();
        let failed = |e: std::io::Error| Failure::failed(format!("cannot write {shown}: {}", reason(&e)));
        self.file.sync_all().map_err(failed)?;
        std::fs::rename(&self.temporary, &self.target).map_err(failed)?;
        self.done = true;
        let dir = self.target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|d| d.sync_all()).map_err(failed)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
