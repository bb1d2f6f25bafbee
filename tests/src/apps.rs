//! Applications that run by themselves: writers that say what was acknowledged, readers that check what
//! every reader may rely on, checkpointers. They keep a ledger (`sqlapp`, module `ledger`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::image::assert_same;
use crate::node::Node;
use crate::proc::{Proc, code};
use crate::scratch::Scratch;
use crate::session::Session;

/// A running `sqlapp`.
#[derive(Debug)]
pub struct App {
    proc: Proc,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl App {
    /// Starts `sqlapp MODE --db PATH ARGS…`.
    pub fn start(mode: &str, db: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(crate::bin("sqlapp"));
        command.arg(mode).arg("--db").arg(db).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut proc = Proc::spawn(&mut command);
        let stdout = proc.child().stdout.take().expect("a pipe");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().expect("lines").push(line);
            }
        });
        Self { proc, lines, reader: Some(reader) }
    }

    /// A writer of the ledger.
    pub fn writer(db: &Path, id: u32, args: &[&str]) -> Self {
        let id = id.to_string();
        let mut all = vec!["--writer", id.as_str()];
        all.extend(args);
        Self::start("ledger-write", db, &all)
    }

    /// A reader of the ledger.
    pub fn reader(db: &Path, args: &[&str]) -> Self {
        Self::start("ledger-read", db, args)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    /// What it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("lines").clone()
    }

    /// How many lines start with `word`.
    pub fn count(&self, word: &str) -> usize {
        self.lines.lock().expect("lines").iter().filter(|l| l.starts_with(word)).count()
    }

    /// Waits until it has printed `n` lines that start with `word`.
    pub fn wait_for(&mut self, word: &str, n: usize) {
        let ok = crate::watch::within(Duration::from_secs(60), || {
            self.count(word) >= n || self.proc.try_wait().is_some()
        });
        let _ = ok;
        assert!(self.count(word) >= n, "{n} × {word:?} from an application that says {:?}", self.last());
    }

    fn last(&self) -> Vec<String> {
        let lines = self.lines();
        lines[lines.len().saturating_sub(5)..].to_vec()
    }

    /// SIGKILL; what it had printed.
    pub fn kill9(mut self) -> Vec<String> {
        self.proc.kill9();
        self.join()
    }

    /// Asks it to stop (SIGTERM) and expects exit code 0; what it printed.
    pub fn stop(mut self) -> Vec<String> {
        self.proc.signal(nix::sys::signal::Signal::SIGTERM);
        self.finish(Duration::from_secs(30))
    }

    /// Waits for its end, which must be good; what it printed.
    pub fn finish(mut self, limit: Duration) -> Vec<String> {
        let status = self.proc.wait(limit);
        let Some(status) = status else {
            panic!("no end after {limit:?}: {}", crate::proc::where_it_sleeps(self.proc.pid()))
        };
        let lines = self.join();
        assert_eq!(code(status), 0, "an application ended badly: {:?}", lines.last());
        lines
    }

    /// Waits for its end, whatever it is: exit code and what it printed.
    pub fn outcome(mut self, limit: Duration) -> (i32, Vec<String>) {
        let status = self.proc.wait(limit).map_or(-1, code);
        (status, self.join())
    }

    fn join(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.lines()
    }
}

/// Creates the ledger: `accounts` accounts with 1000 each.
pub fn create_ledger(db: &Path, setup: &str) {
    let mut session = Session::open(db);
    session.exec(setup);
    session.exec(
        "BEGIN; CREATE TABLE acct(id INTEGER PRIMARY KEY, bal INT, pad TEXT); \
         CREATE TABLE log(w INT, seq INT, pad TEXT, PRIMARY KEY(w,seq)); \
         WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<100) \
         INSERT INTO acct SELECT i,1000,hex(zeroblob(40)) FROM c; COMMIT",
    );
    session.close();
}

/// A node's ledger `db` in a journal mode (a [`crate::sample::Make`]).
pub fn ledger(node: &Node, db: &str, journal: &str) {
    create_ledger(&node.path(db), &format!("PRAGMA journal_mode={journal}"));
}

/// The acknowledged transactions in what writers printed: writer → highest number.
pub fn acknowledged(outputs: &[Vec<String>]) -> BTreeMap<u32, u64> {
    let mut acks = BTreeMap::new();
    for line in outputs.iter().flatten() {
        let mut words = line.split(' ');
        if words.next() == Some("ack") {
            let mut number = || words.next().and_then(|w| w.parse::<u64>().ok()).unwrap_or_default();
            let (w, seq) = (number() as u32, number());
            let top = acks.entry(w).or_insert(0);
            *top = seq.max(*top);
        }
    }
    acks
}

/// Once the writers are done: both nodes have the same, and the replica's ledger is whole.
pub fn assert_same_ledger(
    primary: &Node,
    replica: &Node,
    db: &str,
    acks: &BTreeMap<u32, u64>,
    scratch: &Scratch,
) {
    assert_same(primary, replica, db, scratch);
    check_ledger(&replica.path(db), acks);
}

/// Checks the whole ledger: nothing acknowledged is missing, nothing is half there. The number of rows.
pub fn check_ledger(db: &Path, acks: &BTreeMap<u32, u64>) -> u64 {
    let mut session = Session::open(db);
    session.exec("PRAGMA busy_timeout=20000");
    assert_eq!(session.one("PRAGMA integrity_check"), "ok");
    assert_eq!(session.one("SELECT sum(bal) FROM acct"), "100000", "money was made or lost");
    let mut found = BTreeMap::new();
    for row in session.exec("SELECT w, max(seq), count(*) FROM log GROUP BY w") {
        let n: Vec<u64> = row.split('|').map(|v| v.parse().expect("a number")).collect();
        assert_eq!(n[1], n[2], "writer {}: {} of {} transactions", n[0], n[2], n[1]);
        found.insert(n[0] as u32, n[1]);
    }
    for (w, seq) in acks {
        let there = found.get(w).copied().unwrap_or(0);
        assert!(there >= *seq, "writer {w}: {seq} was acknowledged, {there} is there");
    }
    session.close();
    found.values().sum()
}
