//! A daemon under test: its litefs.yml, start, readiness, stop, crash, restart.
//!
//! Owns what the tests believe about `litefsd` as a program (its flags, exit codes, files). Not the
//! applications on the mount ([`crate::session`]) nor what two nodes should have in common
//! ([`crate::image`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use litefs_types::Pos;
use nix::sys::signal::Signal;

use crate::ports::Port;
use crate::proc::{Proc, code};
use crate::scratch::{self, Scratch};
use crate::watch::{eventually, within};

/// How long a daemon may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a clean stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long a replica may take to catch up in a test, unless the test says otherwise.
pub const SYNC_LIMIT: Duration = Duration::from_secs(30);

static LOGS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// One node: directories, configuration, and the process while it runs.
#[derive(Debug)]
pub struct Node {
    /// Its name, which is also its directory in the scratch directory.
    pub name: String,
    /// The mount point.
    pub mount: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// The API socket.
    pub socket: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
    /// What it writes to stderr and stdout, all starts of it.
    pub log: PathBuf,
    /// The network namespace it runs in, if not the common one.
    pub netns: Option<String>,
    /// The host to reach it at, as in a URL.
    pub host: String,
    port: u16,
    _claim: Option<Port>,
    settings: BTreeMap<String, String>,
    wrap: Vec<String>,
    proc: Option<Proc>,
}

impl Node {
    /// A node that is the primary (`lease.candidate: true`); not started.
    pub fn primary(scratch: &Scratch, name: &str) -> Self {
        let mut node = Self::new(scratch, name);
        let url = node.url();
        node.set("lease.candidate", "true").set("lease.hostname", name).set("lease.advertise-url", &url);
        node
    }

    /// A replica of `primary`; not started.
    pub fn replica(scratch: &Scratch, name: &str, primary: &Self) -> Self {
        let mut node = Self::new(scratch, name);
        node.set("lease.candidate", "false")
            .set("lease.hostname", &primary.name)
            .set("lease.advertise-url", &primary.url())
            .set("lease.reconnect-delay", "100ms");
        node
    }

    fn new(scratch: &Scratch, name: &str) -> Self {
        let dir = scratch.dir(name);
        let claim = Port::claim();
        let mut node = Self {
            name: name.to_owned(),
            mount: dir.join("mnt"),
            data: dir.join("data"),
            socket: dir.join("api.sock"),
            config: dir.join("litefs.yml"),
            log: dir.join("log"),
            netns: None,
            host: "127.0.0.1".to_owned(),
            port: claim.number(),
            _claim: Some(claim),
            settings: BTreeMap::new(),
            wrap: Vec::new(),
            proc: None,
        };
        let (mount, data) = (node.mount.display().to_string(), node.data.display().to_string());
        let (socket, addr) = (node.socket.display().to_string(), format!("127.0.0.1:{}", node.port));
        node.set("fuse.dir", &mount).set("data.dir", &data).set("api.socket", &socket);
        node.set("http.addr", &addr).set("lease.type", "static");
        if std::env::var_os("LITEFS_TEST_DEBUG").is_some() {
            node.set("log.debug", "true");
        }
        LOGS.lock().expect("list of logs").push(node.log.clone());
        node
    }

    /// Sets one key (`section.key`) of litefs.yml; takes effect at the next start.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Runs it in a network namespace, reachable at `host` there; the port is 20202.
    pub fn in_netns(&mut self, netns: &str, host: &str) -> &mut Self {
        self.netns = Some(netns.to_owned());
        host.clone_into(&mut self.host);
        self.port = 20202;
        let url = self.url();
        self.set("http.addr", ":20202");
        if self.settings["lease.candidate"] == "true" {
            self.set("lease.advertise-url", &url);
        }
        self
    }

    /// Puts a program before `litefsd` at the next start; it must keep the process id (`exec`, or
    /// `strace -D`).
    pub fn wrap(&mut self, words: &[&str]) -> &mut Self {
        self.wrap = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    /// The URL of its cluster port.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// The port of its cluster port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A path in its mount.
    pub fn path(&self, file: &str) -> PathBuf {
        self.mount.join(file)
    }

    /// A file of a database in the data directory.
    pub fn backing(&self, db: &str, file: &str) -> PathBuf {
        self.data.join("dbs").join(db).join(file)
    }

    /// Writes litefs.yml and starts the daemon, without waiting for anything.
    pub fn spawn(&mut self) -> &mut Self {
        crate::require_root_and_fuse();
        assert!(self.proc.is_none(), "{} runs already", self.name);
        std::fs::create_dir_all(&self.data).expect("create the data directory");
        std::fs::write(&self.config, self.yaml()).expect("write litefs.yml");
        let log = File::options().create(true).append(true).open(&self.log).expect("open the log");
        let mut words: Vec<String> = Vec::new();
        if let Some(ns) = &self.netns {
            // Not `ip netns exec`: that also makes a mount namespace, and the mount would be in it.
            words.extend(["nsenter".to_owned(), format!("--net=/run/netns/{ns}")]);
        }
        words.extend(self.wrap.iter().cloned());
        words.push(crate::bin("litefsd").display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--config").arg(&self.config);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        self.proc = Some(Proc::spawn(&mut command));
        self
    }

    /// Starts the daemon and waits until its mount and its port answer.
    pub fn start(&mut self) -> &mut Self {
        self.spawn();
        let end = Instant::now() + START_LIMIT;
        while !self.is_ready() {
            if let Some(status) = self.proc.as_mut().and_then(Proc::try_wait) {
                panic!("{} ended at start with {}:\n{}", self.name, code(status), self.log_tail(40));
            }
            assert!(Instant::now() < end, "{} is not ready:\n{}", self.name, self.log_tail(40));
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }

    /// As [`Node::start`], for a node that was just made.
    pub fn started(mut self) -> Self {
        self.start();
        self
    }

    /// Whether the mount is there and the port listens.
    pub fn is_ready(&self) -> bool {
        self.is_mounted()
            && crate::http::get(self, "/info", Duration::from_secs(2)).is_ok()
            && std::fs::metadata(&self.mount).is_ok()
    }

    /// Whether something is mounted on the mount point.
    pub fn is_mounted(&self) -> bool {
        scratch::mounts_below(&self.mount).contains(&self.mount)
    }

    /// SIGTERM; the daemon must end with 0 and take its mount with it.
    pub fn stop(&mut self) -> &mut Self {
        let mut proc = self.proc.take().expect("a running daemon");
        proc.signal(Signal::SIGTERM);
        let status = proc.wait(STOP_LIMIT);
        let text = || format!("{}:\n{}", self.name, self.log_tail(40));
        let Some(status) = status else { panic!("does not stop: {}", text()) };
        assert_eq!(code(status), 0, "exit code of a clean stop of {}", text());
        assert!(!self.is_mounted(), "the mount is left behind by {}", text());
        self
    }

    /// SIGKILL, and waits until the process is gone. Its dead mount stays, as after a real crash.
    pub fn kill9(&mut self) -> &mut Self {
        self.proc.take().expect("a running daemon").kill9();
        self
    }

    /// Waits until the daemon ends by itself; its exit code.
    pub fn wait_end(&mut self, limit: Duration) -> Option<i32> {
        let status = self.proc.as_mut().expect("a daemon").wait(limit)?;
        self.proc = None;
        Some(code(status))
    }

    /// Whether the process is alive.
    pub fn is_running(&mut self) -> bool {
        self.proc.as_mut().is_some_and(|p| p.try_wait().is_none())
    }

    /// Sends a signal to the daemon.
    pub fn signal(&mut self, signal: Signal) {
        self.proc.as_mut().expect("a running daemon").signal(signal);
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.proc.as_ref().expect("a running daemon").pid()
    }

    /// The content of `<db>-pos`; `None` if there is none.
    pub fn pos(&self, db: &str) -> Option<Pos> {
        let text = std::fs::read_to_string(self.path(&format!("{db}-pos"))).ok()?;
        Some(text.trim_end().parse().unwrap_or_else(|e| panic!("{}: {db}-pos is {text:?}: {e}", self.name)))
    }

    /// The number of the last transaction, 0 for none.
    pub fn txid(&self, db: &str) -> u64 {
        self.pos(db).map_or(0, Pos::txid_raw)
    }

    /// Waits until this node has what `primary` has now; the common position.
    pub fn sync_with(&self, primary: &Self, db: &str) -> Pos {
        self.sync_within(primary, db, SYNC_LIMIT)
    }

    /// As [`Node::sync_with`], within `limit`.
    pub fn sync_within(&self, primary: &Self, db: &str, limit: Duration) -> Pos {
        let mut seen = (None, None);
        let same = within(limit, || {
            seen = (primary.pos(db), self.pos(db));
            seen.0.is_some() && seen.0 == seen.1
        });
        assert!(
            same,
            "{} did not reach {} within {limit:?}: {seen:?}\n--- {}\n{}\n--- {}\n{}",
            self.name,
            primary.name,
            primary.name,
            primary.log_tail(25),
            self.name,
            self.log_tail(25)
        );
        seen.0.expect("a position")
    }

    /// Waits until a file is in the mount.
    pub fn wait_file(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        eventually(SYNC_LIMIT, &format!("{} on {}", name, self.name), || path.exists().then_some(()));
        path
    }

    /// Runs `litefsctl` against this node: exit code, stdout, stderr.
    pub fn ctl(&self, args: &[&str]) -> (i32, String, String) {
        let out = Command::new(crate::bin("litefsctl"))
            .arg("--socket")
            .arg(&self.socket)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("run litefsctl");
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (code(out.status), text(&out.stdout), text(&out.stderr))
    }

    /// As [`Node::ctl`], but it must succeed; its stdout.
    pub fn ctl_ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.ctl(args);
        assert_eq!(code, 0, "litefsctl {args:?}: {out}{err}\n{}", self.log_tail(20));
        out
    }

    /// The whole log.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// litefs.yml from the settings.
    fn yaml(&self) -> String {
        let mut sections: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        for (key, value) in &self.settings {
            let (section, rest) = key.split_once('.').unwrap_or(("", key));
            sections.entry(section).or_default().push((rest, value));
        }
        let mut text = String::new();
        for (section, keys) in sections {
            if !section.is_empty() {
                let _ = writeln!(text, "{section}:");
            }
            for (key, value) in keys {
                let bare = matches!(value, "true" | "false") || value.starts_with('[');
                let indent = if section.is_empty() { "" } else { "  " };
                let quote = if bare { "" } else { "\"" };
                let _ = writeln!(text, "{indent}{key}: {quote}{value}{quote}");
            }
        }
        text
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut proc) = self.proc.take() {
            if std::thread::panicking() {
                eprintln!("--- log of {}\n{}", self.name, self.log_tail(60));
            }
            proc.signal(Signal::SIGTERM);
            if proc.wait(Duration::from_secs(5)).is_none() {
                eprintln!("{} does not stop: {}", self.name, crate::proc::where_it_sleeps(proc.pid()));
                proc.signal(Signal::SIGKILL);
            }
        }
        for mount in scratch::mounts_below(&self.mount) {
            scratch::force_unmount(&mount);
        }
    }
}

/// A started primary with a started replica.
pub fn pair(scratch: &Scratch) -> (Node, Node) {
    let primary = single(scratch);
    let replica = Node::replica(scratch, "r", &primary).started();
    (primary, replica)
}

/// A started primary alone.
pub fn single(scratch: &Scratch) -> Node {
    Node::primary(scratch, "p").started()
}

/// Prints the ends of all logs: for the watchdog.
pub fn dump_logs() {
    for log in LOGS.lock().map(|l| l.clone()).unwrap_or_default() {
        eprintln!("--- {}\n{}", log.display(), tail(&log, 60));
    }
}

fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
