//! The names of a database's files in the data directory. Nothing else in the store spells a path.
//!
//! Layout: see [`DbLayout`]. Owns no IO. Tested by everything that opens a database.

use std::path::{Path, PathBuf};

use litefs_types::DbName;

/// The data directory's own files.
#[derive(Clone, Debug)]
pub struct DataLayout {
    root: PathBuf,
}

impl DataLayout {
    /// Of the data directory `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `clusterid`: 20 characters and a newline.
    pub fn cluster_id(&self) -> PathBuf {
        self.root.join("clusterid")
    }

    /// `lock`: one daemon a directory.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// `dbs`: one directory a database.
    pub fn dbs(&self) -> PathBuf {
        self.root.join("dbs")
    }

    /// `quarantine`: what recovery set aside.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// `spool`: imports before their database exists. Swept at start.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// The files of one database.
    pub fn db(&self, name: &DbName) -> DbLayout {
        DbLayout::new(self.dbs().join(name.as_str()))
    }
}

/// One database's files.
#[derive(Clone, Debug)]
pub struct DbLayout {
    dir: PathBuf,
}

impl DbLayout {
    /// Of the database directory `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The database's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The SQLite file.
    pub fn database(&self) -> PathBuf {
        self.dir.join("database")
    }

    /// The rollback journal.
    pub fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The write-ahead log.
    pub fn wal(&self) -> PathBuf {
        self.dir.join("wal")
    }

    /// The WAL index.
    pub fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }

    /// A super-journal; `suffix` is what follows `-mj` in its name.
    pub fn super_journal(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("mj-{suffix}"))
    }

    /// The log's segments.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Page checksums.
    pub fn sums(&self) -> PathBuf {
        self.dir.join("sums")
    }

    /// LTX files of a directory that Go LiteFS wrote and that is not converted yet.
    pub fn go_ltx(&self) -> PathBuf {
        self.dir.join("ltx")
    }

    /// A verified snapshot that is being applied.
    pub fn snapshot(&self) -> PathBuf {
        self.dir.join("snapshot.ltx")
    }

    /// Temporary files, swept at start.
    pub fn spool(&self) -> PathBuf {
        self.dir.join("spool")
    }
}
