//! SQLite in a process of its own: POSIX locks of one process do not exclude each other.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection};

const DATABASE: &str = "LITEFS_TEST_CLIENT_DATABASE";
const READY: &str = "@@READY";
const END: &str = "@@END";

/// Which SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one that is linked into this test.
    Bundled,
    /// The system's command-line program.
    System,
}

pub struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Client {
    pub fn new(version: Version, db: &Path) -> Self {
        let mut command = match version {
            Version::Bundled => {
                let mut c = Command::new(std::env::current_exe().unwrap());
                c.args(["client::child", "--exact", "--nocapture", "--test-threads=1"]).env(DATABASE, db);
                c
            }
            Version::System => {
                let mut c = Command::new("stdbuf");
                c.args(["-oL", "sh", "-c", "exec sqlite3 \"$0\" 2>&1"]).arg(db);
                c
            }
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut client = Self { child, stdin, stdout };
        match version {
            Version::Bundled => {
                client.read_to(READY);
            }
            Version::System => {
                client.run(".timeout 0");
            }
        }
        client
    }

    /// The system's SQLite if it is installed.
    pub fn system(db: &Path) -> Option<Self> {
        let there = Command::new("sqlite3").arg("-version").output().is_ok();
        if !there {
            eprintln!("no sqlite3 program: the other SQLite version is not tested");
        }
        there.then(|| Self::new(Version::System, db))
    }

    /// Rows, columns separated by `|`; an error is a line with "Error" or "error".
    pub fn run(&mut self, sql: &str) -> Vec<String> {
        let mut sql = sql.replace('\n', " ");
        if !sql.starts_with('.') && !sql.ends_with(';') {
            sql.push(';');
        }
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{sql}\n.print {END}").unwrap();
        stdin.flush().unwrap();
        self.read_to(END)
    }

    /// The only value of the only row.
    pub fn one(&mut self, sql: &str) -> String {
        let rows = self.run(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows[0].clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in good order: the connection is closed.
    pub fn close(self) {
        drop(self);
    }

    fn read_to(&mut self, mark: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the client ended: {lines:?}");
            if line.trim_end().ends_with(mark) {
                return lines;
            }
            lines.push(line.trim_end().to_owned());
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// Not a test: the other process, when the variable is set.
#[test]
fn child() {
    let Ok(db) = std::env::var(DATABASE) else { return };
    let conn = Connection::open(db).unwrap();
    conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    println!("\n{READY}");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        if line.starts_with(".print") {
            println!("{END}");
        } else if let Err(e) = run(&conn, &line) {
            println!("Error: {e}");
        }
    }
}

fn run(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    let mut batch = Batch::new(conn, sql);
    while let Some(mut statement) = batch.next()? {
        let n = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut line = Vec::new();
            for i in 0..n {
                line.push(match row.get_ref(i)? {
                    rusqlite::types::ValueRef::Null => String::new(),
                    rusqlite::types::ValueRef::Integer(i) => i.to_string(),
                    rusqlite::types::ValueRef::Real(r) => r.to_string(),
                    rusqlite::types::ValueRef::Text(t) | rusqlite::types::ValueRef::Blob(t) => {
                        String::from_utf8_lossy(t).into_owned()
                    }
                });
            }
            println!("{}", line.join("|"));
        }
    }
    Ok(())
}
