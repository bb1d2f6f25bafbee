//! A SQLite application in a process of its own that does what the test says, statement by statement.
//!
//! Two kinds: the newest SQLite (`sqlapp shell`, bundled) and Debian's `sqlite3` command, 3.40.1 on
//! Debian 12, which still commits transactions with a broken frame chain (hole H2 of the design).
//! A process, not a connection in the test: locks belong to processes, and it must be possible to kill
//! an application without killing the test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::proc::Proc;

/// How long one statement may take unless the test says otherwise.
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);

/// Which SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sqlite {
    /// The one that rusqlite bundles.
    Newest,
    /// The `sqlite3` program of the distribution.
    Debian,
}

impl Sqlite {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Newest, Self::Debian];
}

/// An error as SQLite reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// The result code: extended with [`Sqlite::Newest`], primary with [`Sqlite::Debian`].
    pub code: i32,
    /// The message.
    pub text: String,
}

/// SQLITE_PERM, _BUSY, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN (primary result codes).
pub mod codes {
    /// Access denied.
    pub const PERM: i32 = 3;
    /// Locked by another connection.
    pub const BUSY: i32 = 5;
    /// Not writable.
    pub const READONLY: i32 = 8;
    /// A system call failed.
    pub const IOERR: i32 = 10;
    /// Malformed database.
    pub const CORRUPT: i32 = 11;
    /// No space.
    pub const FULL: i32 = 13;
    /// Cannot open a file.
    pub const CANTOPEN: i32 = 14;
    /// READONLY because a journal cannot be created in the directory (extended).
    pub const READONLY_DIRECTORY: i32 = READONLY + (6 << 8);
    /// IOERR in a write (extended).
    pub const IOERR_WRITE: i32 = IOERR + (3 << 8);
}

impl SqlError {
    /// The primary result code.
    pub const fn primary(&self) -> i32 {
        self.code & 0xff
    }
}

/// What a statement gave: its rows, columns joined by `|`.
pub type Rows = Result<Vec<String>, SqlError>;

/// A running application with one connection.
#[derive(Debug)]
pub struct Session {
    proc: Proc,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    which: Sqlite,
    marker: u64,
}

impl Session {
    /// Opens `path` (created if it is not there) with the newest SQLite.
    pub fn open(path: impl AsRef<Path>) -> Self {
        Self::open_with(Sqlite::Newest, path)
    }

    /// Opens `path` with the given SQLite.
    pub fn open_with(which: Sqlite, path: impl AsRef<Path>) -> Self {
        Self::with(which, &path.as_ref().display().to_string())
    }

    /// Opens a path or `file:` URI with the given SQLite.
    pub fn with(which: Sqlite, name: &str) -> Self {
        let mut command = match which {
            Sqlite::Newest => {
                let mut c = Command::new(crate::bin("sqlapp"));
                c.args(["shell", "--db", name]);
                c
            }
            Sqlite::Debian => {
                // Line-buffered, and errors in the same stream, so that they come in order.
                let mut c = Command::new("sh");
                c.args(["-c", "exec stdbuf -oL sqlite3 -init /dev/null -batch \"$0\" 2>&1", name]);
                c
            }
        };
        let mut proc = Proc::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let stdin = proc.child().stdin.take();
        let stdout = proc.child().stdout.take().expect("a pipe");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n') {
                let Ok(line) = line else { break };
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Self { proc, stdin, lines, which, marker: 0 }
    }

    /// Sends a statement without waiting for its end ([`Session::finish`]).
    pub fn start(&mut self, sql: &str) {
        self.marker += 1;
        let sql = sql.replace('\n', " ");
        let text = match self.which {
            Sqlite::Newest => format!("{sql}\n"),
            Sqlite::Debian if sql.starts_with('.') => format!("{sql}\n.print end-{}\n", self.marker),
            Sqlite::Debian => format!("{sql};\n.print end-{}\n", self.marker),
        };
        let stdin = self.stdin.as_mut().expect("an open pipe");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("the application reads");
    }

    /// The result of the statement sent last; `None` if it has none after `limit`.
    pub fn finish(&mut self, limit: Duration) -> Option<Rows> {
        let end = std::time::Instant::now() + limit;
        let (mut rows, mut error) = (Vec::new(), None);
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let line = self.lines.recv_timeout(left).ok()?;
            match self.which {
                Sqlite::Newest => {
                    if let Some(row) = line.strip_prefix("r ") {
                        rows.push(row.to_owned());
                    } else if line == "ok" {
                        return Some(Ok(rows));
                    } else if let Some(rest) = line.strip_prefix("err ") {
                        let (code, text) = rest.split_once(' ').unwrap_or((rest, ""));
                        let code = code.parse().unwrap_or(-1);
                        return Some(Err(SqlError { code, text: text.to_owned() }));
                    }
                }
                Sqlite::Debian => {
                    if line == format!("end-{}", self.marker) {
                        return Some(error.map_or(Ok(rows), Err));
                    }
                    match debian_error(&line) {
                        Some(e) => error = error.or(Some(e)),
                        None => rows.push(line),
                    }
                }
            }
        }
    }

    /// Runs a statement (or several, separated by `;`).
    pub fn try_exec(&mut self, sql: &str) -> Rows {
        self.start(sql);
        self.finish(STATEMENT_LIMIT).unwrap_or_else(|| {
            panic!("no answer to {sql}: {}", crate::proc::where_it_sleeps(self.proc.pid()))
        })
    }

    /// Runs a statement that must succeed.
    pub fn exec(&mut self, sql: &str) -> Vec<String> {
        self.try_exec(sql).unwrap_or_else(|e| panic!("{sql}: {} ({})", e.text, e.code))
    }

    /// The single value of a statement that must succeed.
    pub fn one(&mut self, sql: &str) -> String {
        let rows = self.exec(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.into_iter().next().unwrap_or_default()
    }

    /// The error of a statement that must fail.
    pub fn err(&mut self, sql: &str) -> SqlError {
        match self.try_exec(sql) {
            Err(e) => e,
            Ok(rows) => panic!("{sql} succeeded: {rows:?}"),
        }
    }

    /// The process id of the application.
    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    /// SIGKILL.
    pub fn kill9(mut self) {
        self.proc.kill9();
    }

    /// Closes the connection and waits for the application's end.
    pub fn close(mut self) {
        drop(self.stdin.take());
        let ended = self.proc.wait(Duration::from_secs(30)).is_some();
        assert!(ended, "the application does not close: {}", crate::proc::where_it_sleeps(self.proc.pid()));
    }
}

/// `Runtime error near line 3: database is locked (5)`, and the like.
fn debian_error(line: &str) -> Option<SqlError> {
    let rest = ["Runtime error", "Parse error", "Error:"].iter().find_map(|p| line.strip_prefix(p))?;
    let text = rest.split_once(": ").map_or(rest, |(_, t)| t).to_owned();
    let code = text.rsplit_once('(').and_then(|(_, c)| c.trim_end_matches(')').parse().ok()).unwrap_or(1);
    Some(SqlError { code, text })
}

/// Opens, runs one statement that must succeed, closes.
pub fn once(path: impl AsRef<Path>, sql: &str) -> Vec<String> {
    let mut session = Session::open(path);
    let rows = session.exec(sql);
    session.close();
    rows
}
