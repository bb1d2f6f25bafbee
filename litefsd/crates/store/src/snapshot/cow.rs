//! Saves pages that a snapshot still needs before they are overwritten.
//!
//! Called on write paths: cheap when the snapshot has passed the page or the file does not hold the
//! snapshot's version, one copy otherwise. A snapshot that cannot save a page dies; a write never does.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use litefs_core::page_sums::PageSums;
use litefs_ltx::checksum::page_checksum;
use litefs_types::{PageNo, PageSize};

use crate::disk::{Disk, DiskFile, Op, OpenHow};

/// Saved pages that are held in memory, in bytes; more go to a file without a name.
pub(super) const MEMORY: usize = 16 * 1024 * 1024;

const SPOOL: Op = Op::new("snapshot.spool");

/// Numbers the files of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Stands between the write path and one snapshot. See the module documentation.
pub struct CopyOnWrite {
    sums: Arc<PageSums>,
    /// The snapshot has this page and all before it; `u32::MAX` once it needs none any more.
    passed: AtomicU32,
    aborted: AtomicBool,
    saved: Mutex<Saved>,
    disk: Arc<dyn Disk>,
    spool_dir: PathBuf,
    memory: usize,
}

#[derive(Default)]
struct Saved {
    pages: HashMap<PageNo, Slot>,
    in_memory: usize,
    file: Option<Arc<dyn DiskFile>>,
    /// Slots of the file: how many there are, and those that are free again.
    slots: u32,
    free: Vec<u32>,
    reason: Option<String>,
}

enum Slot {
    Memory(Box<[u8]>),
    File(u32),
}

impl CopyOnWrite {
    pub(super) fn new(sums: Arc<PageSums>, disk: Arc<dyn Disk>, spool_dir: PathBuf) -> Self {
        Self {
            sums,
            passed: AtomicU32::new(0),
            aborted: AtomicBool::new(false),
            saved: Mutex::default(),
            disk,
            spool_dir,
            memory: MEMORY,
        }
    }

    /// Sets another limit of memory.
    #[cfg(test)]
    pub(super) fn set_memory(&mut self, bytes: usize) {
        self.memory = bytes;
    }

    /// Page size of the snapshot.
    pub fn page_size(&self) -> PageSize {
        self.sums.page_size()
    }

    /// Whether the snapshot may still need the file's content of this page: if not, the caller need not
    /// read it.
    pub fn wants(&self, page: PageNo) -> bool {
        page.get() > self.passed.load(Ordering::Acquire)
            && page.get() <= self.sums.page_count()
            && page != self.sums.page_size().lock_page()
    }

    /// The snapshot needs nothing any more: it is complete, was aborted or dropped. It can be taken off
    /// the list.
    pub fn is_done(&self) -> bool {
        self.passed.load(Ordering::Acquire) == u32::MAX
    }

    /// Ends the snapshot: its reader gets an error with this reason.
    pub fn abort(&self, reason: impl Into<String>) {
        self.lock().reason.get_or_insert_with(|| reason.into());
        self.aborted.store(true, Ordering::Release);
        self.finish();
    }

    /// To be called with the page as it is in the database file, before it is overwritten or cut off.
    /// Other content than the snapshot's is passed over, so calling it too often does no harm.
    pub fn preserve(&self, page: PageNo, old: &[u8]) {
        if !self.wants(page) || page_checksum(page, old) != self.sums.get(page) {
            return;
        }
        let mut saved = self.lock();
        if !self.wants(page) || saved.pages.contains_key(&page) {
            return;
        }
        if let Err(e) = self.save(&mut saved, page, old) {
            drop(saved);
            self.abort(format!("could not save a page that was overwritten: {e}"));
        }
    }

    fn save(&self, saved: &mut Saved, page: PageNo, old: &[u8]) -> io::Result<()> {
        if saved.in_memory + old.len() <= self.memory {
            saved.in_memory += old.len();
            saved.pages.insert(page, Slot::Memory(old.into()));
            return Ok(());
        }
        let file = if let Some(file) = &saved.file {
            Arc::clone(file)
        } else {
            let file = self.spool_file()?;
            saved.file = Some(Arc::clone(&file));
            file
        };
        let slot = saved.free.pop().unwrap_or_else(|| {
            saved.slots += 1;
            saved.slots - 1
        });
        file.write_all_at(SPOOL, old, u64::from(slot) * old.len() as u64)?;
        saved.pages.insert(page, Slot::File(slot));
        Ok(())
    }

    /// A file that goes away with its last handle, whatever happens.
    fn spool_file(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create_dir_all(SPOOL, &self.spool_dir)?;
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.spool_dir.join(format!("snapshot-{}-{n}", std::process::id()));
        let file = self.disk.open(SPOOL, &path, OpenHow::CREATE_NEW.with_mode(0o600))?;
        self.disk.unlink(SPOOL, &path)?;
        Ok(file)
    }

    /// Why the snapshot was ended from outside, if it was.
    pub(super) fn aborted(&self) -> Option<String> {
        if !self.aborted.load(Ordering::Acquire) {
            return None;
        }
        self.lock().reason.clone()
    }

    /// Takes a saved page.
    pub(super) fn take(&self, page: PageNo, data: &mut [u8]) -> io::Result<bool> {
        let mut saved = self.lock();
        match saved.pages.remove(&page) {
            None => return Ok(false),
            Some(Slot::Memory(old)) => {
                saved.in_memory -= old.len();
                data.copy_from_slice(&old);
            }
            Some(Slot::File(slot)) => {
                let Some(file) = saved.file.clone() else { return Ok(false) };
                file.read_exact_at(data, u64::from(slot) * data.len() as u64)?;
                saved.free.push(slot);
            }
        }
        Ok(true)
    }

    /// The snapshot has this page: neither a saved copy nor the file's content matters from here on.
    pub(super) fn pass(&self, page: PageNo) {
        // Not over the end mark, which another thread may have set.
        let _ = self
            .passed
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |p| (p != u32::MAX).then_some(page.get()));
        let mut saved = self.lock();
        match saved.pages.remove(&page) {
            Some(Slot::Memory(old)) => saved.in_memory -= old.len(),
            Some(Slot::File(slot)) => saved.free.push(slot),
            None => {}
        }
    }

    /// The snapshot needs nothing any more.
    pub(super) fn finish(&self) {
        self.passed.store(u32::MAX, Ordering::Release);
        let mut saved = self.lock();
        let reason = saved.reason.take();
        *saved = Saved { reason, ..Saved::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
