//! What the tests of the program share: scratch files, real databases, a run of the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A run's exit code, stdout and stderr.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Asserts success and gives stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Asserts the code, one line on stderr that starts as given, and gives that line.
    #[track_caller]
    pub fn fails(self, code: i32, start: &str) -> String {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with(start), "{self:?}");
        self.err
    }
}

pub fn program() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_litefsctl"));
    c.stdin(Stdio::null()).env_remove("LITEFS_SOCKET").env_remove("LITEFS_CLOUD_TOKEN");
    c
}

/// `litefsctl`
pub fn ctl(args: &[&str]) -> Ran {
    program().args(args).output().unwrap().into()
}

/// `litefs`: the same binary under its other name.
pub fn litefs(dir: &Path, args: &[&str]) -> Ran {
    let link = dir.join("litefs");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_litefsctl"), &link).unwrap();
    }
    Command::new(link).args(args).stdin(Stdio::null()).output().unwrap().into()
}

/// A real database of some pages.
pub fn database(path: &Path, rows: u32) -> Vec<u8> {
    let db = rusqlite::Connection::open(path).unwrap();
    db.execute_batch("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, x TEXT); CREATE INDEX IF NOT EXISTS i ON t (x);").unwrap();
    for n in 0..rows {
        db.execute("INSERT INTO t (x) VALUES (?)", [format!("row {n} {}", "x".repeat(200))]).unwrap();
    }
    db.close().unwrap();
    std::fs::read(path).unwrap()
}

/// The path as text.
pub fn s(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Everything in a directory, names sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut v: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    v.sort();
    v
}

pub fn path(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}
