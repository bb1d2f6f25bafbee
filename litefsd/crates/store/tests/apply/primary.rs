//! The other side: a database that SQLite changes, cut into transactions by comparing images.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use litefs_store::apply::{ApplyError, PageSink, PageSource};
use litefs_store::own_mount::FileKind;
use litefs_store::plain_mount::PlainMount;
use litefs_types::{PageNo, PageSize};
use rusqlite::Connection;

/// The pages that changed, and the size after it.
#[derive(Clone, Debug)]
pub struct Tx {
    pub pages: Vec<(PageNo, Vec<u8>)>,
    pub commit: u32,
}

impl Tx {
    pub fn source(&self) -> &[(PageNo, Vec<u8>)] {
        &self.pages
    }
}

/// A source that fails after so many pages of the transaction.
pub struct CutShort<'a>(pub &'a Tx, pub usize);

impl PageSource for CutShort<'_> {
    fn for_each(&mut self, f: PageSink<'_>) -> Result<(), ApplyError> {
        self.0.pages.iter().take(self.1).try_for_each(|(page, data)| f(*page, data))?;
        Err(ApplyError::Source("the file is short".into()))
    }
}

pub struct Primary {
    _dir: tempfile::TempDir,
    path: PathBuf,
    pub conn: Connection,
    pub page_size: PageSize,
    pub image: Vec<u8>,
}

/// One row that says what all the others must add up to: a reader that sees half a transaction notices.
pub const CHECK: &str = "SELECT CASE WHEN (SELECT n FROM meta)=(SELECT count(*) FROM t)
     AND (SELECT total FROM meta)=(SELECT total(v) FROM t) THEN 'ok' ELSE 'WRONG' END, (SELECT gen FROM meta)";

impl Primary {
    /// A database with the tables that [`CHECK`] reads.
    pub fn new(page_size: u32, mode: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("primary");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA synchronous=off; PRAGMA journal_mode={mode};
             CREATE TABLE meta(gen INTEGER, n INTEGER, total REAL); INSERT INTO meta VALUES(0,0,0);
             CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER, pad BLOB);"
        ))
        .unwrap();
        Self { _dir: dir, path, conn, page_size: PageSize::new(page_size).unwrap(), image: Vec::new() }
    }

    /// What changed since the last call; everything at the first.
    pub fn cut(&mut self) -> Tx {
        let _ = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        let image = std::fs::read(&self.path).unwrap();
        let ps = self.page_size.bytes();
        let mut pages = Vec::new();
        for (i, page) in image.chunks(ps).enumerate() {
            if self.image.get(i * ps..(i + 1) * ps) != Some(page) {
                pages.push((PageNo::new(i as u32 + 1).unwrap(), page.to_vec()));
            }
        }
        let commit = (image.len() / ps) as u32;
        self.image = image;
        Tx { pages, commit }
    }

    /// Everything, as a snapshot has it.
    pub fn snapshot(&mut self) -> Tx {
        self.image.clear();
        self.cut()
    }

    /// A transaction of the check tables: rows `ids` get new values and `pad` bytes.
    pub fn update(&mut self, ids: impl Iterator<Item = u32>, pad: usize) -> Tx {
        let tx = self.conn.transaction().unwrap();
        {
            let mut s = tx.prepare_cached("INSERT OR REPLACE INTO t VALUES(?1, random()%1000, ?2)").unwrap();
            for id in ids {
                s.execute((id, vec![b'x'; pad])).unwrap();
            }
            let new = "gen=gen+1, n=(SELECT count(*) FROM t), total=(SELECT total(v) FROM t)";
            tx.execute(&format!("UPDATE meta SET {new}"), []).unwrap();
        }
        tx.commit().unwrap();
        self.cut()
    }

    /// Removes rows and gives the space back.
    pub fn shrink(&mut self, below: u32) -> Tx {
        let new = "gen=gen+1, n=(SELECT count(*) FROM t), total=(SELECT total(v) FROM t)";
        self.conn
            .execute_batch(&format!("DELETE FROM t WHERE id<{below}; UPDATE meta SET {new}; VACUUM;"))
            .unwrap();
        self.cut()
    }
}

/// A directory for the copy.
pub struct Replica {
    pub dir: tempfile::TempDir,
    pub mount: PlainMount,
}

impl Replica {
    pub fn new() -> Self {
        // In memory where there is such a directory: how fast the disk of a test machine syncs decides
        // otherwise how often a checkpoint gets its turn.
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let mount = PlainMount::new(dir.path().to_owned(), "db".parse().unwrap());
        Self { dir, mount }
    }

    pub fn path(&self) -> PathBuf {
        self.mount.path(FileKind::Database)
    }

    pub fn image(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    pub fn has(&self, file: FileKind) -> bool {
        self.mount.path(file).exists()
    }

    /// The committed content as SQLite would recover it from a copy of database and WAL without index.
    pub fn recovered(&self) -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        for file in [FileKind::Database, FileKind::Wal] {
            let from = self.mount.path(file);
            std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
        }
        let conn = Connection::open(dir.path().join("db")).unwrap();
        (dir, conn)
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

pub fn in_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

/// Set when dropped, so that a failed assertion ends the threads that wait for it.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
