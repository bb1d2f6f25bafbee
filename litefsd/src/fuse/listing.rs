//! The listing of the root directory.
//!
//! Owns: order and cookies. OPENDIR answers ENOSYS, so there is no state between two READDIRs of one
//! listing; cookies must mean the same in the next one, whatever was created or removed meanwhile. Each
//! database gets a number when it is listed first, and the cookie is made of that number.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};

use fuser::FileType;
use litefs_store::own_mount::FileKind;
use litefs_types::DbName;

use super::model::{DatabaseFiles, FileSystemModel};
use super::names::{FileRef, LAG, PRIMARY};
use super::nodes::ROOT;
use super::ops::Core;

/// Cookies per database: its five files, and room.
const PER_DATABASE: u64 = 8;
/// Cookies for `.`, `..`, `.lag`, `.primary`.
const FIRST_DATABASE: u64 = 8;

/// Numbers of databases in the listing.
#[derive(Default)]
pub(crate) struct Numbers(Mutex<HashMap<DbName, u64>>);

/// An entry. `cookie` is where the listing goes on behind it.
pub(crate) struct Entry {
    pub(crate) cookie: u64,
    pub(crate) ino: u64,
    pub(crate) kind: FileType,
    pub(crate) name: OsString,
}

impl<M: FileSystemModel> Core<M> {
    /// Entries behind the cookie `after` (0: from the start), in order.
    pub(crate) fn list(&self, after: u64) -> Vec<Entry> {
        let mut out = Vec::new();
        let mut push = |cookie: u64, ino: u64, kind, name: &str| {
            if cookie > after {
                out.push(Entry { cookie, ino, kind, name: name.into() });
            }
        };
        push(1, ROOT, FileType::Directory, ".");
        push(2, ROOT, FileType::Directory, "..");
        push(3, self.ino_of(LAG), FileType::RegularFile, LAG);
        if self.view.primary_hostname().is_some() {
            push(4, self.ino_of(PRIMARY), FileType::RegularFile, PRIMARY);
        }
        for (number, db) in self.numbered() {
            if !db.listed() {
                // The kernel keeps this listing; it must be told when the database gets its first page.
                self.cache.hide();
                continue;
            }
            let base = FIRST_DATABASE + number * PER_DATABASE;
            let name = db.name().as_str();
            let file = |k: FileKind| FileRef::Kind(k).name_in_mount(name);
            push(base, self.ino_of(name), FileType::RegularFile, name);
            let pos = format!("{name}-pos");
            push(base + 1, self.ino_of(&pos), FileType::RegularFile, &pos);
            for (i, kind) in [FileKind::Journal, FileKind::Shm, FileKind::Wal].into_iter().enumerate() {
                if base + 2 + i as u64 > after && db.attr(FileRef::Kind(kind)).is_ok() {
                    push(base + 2 + i as u64, self.ino_of(&file(kind)), FileType::RegularFile, &file(kind));
                }
            }
        }
        out
    }

    fn numbered(&self) -> Vec<(u64, std::sync::Arc<M::Db>)> {
        let mut databases = self.model.databases();
        databases.sort_by(|a, b| a.name().cmp(b.name()));
        let mut numbers = self.numbers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = databases
            .into_iter()
            .map(|db| {
                let next = numbers.len() as u64;
                (*numbers.entry(db.name().clone()).or_insert(next), db)
            })
            .collect();
        list.sort_by_key(|(n, _)| *n);
        list
    }

    /// The number that `stat` shows, if the kernel knows the file; else one that is surely not a node's.
    fn ino_of(&self, name: &str) -> u64 {
        self.nodes.id_of(name).unwrap_or(u64::from(u32::MAX))
    }
}
