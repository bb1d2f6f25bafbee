//! Child processes that cannot outlive the test, and are only ever ended by their own id.

use std::fmt::Write as _;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a killed process may take to end: a request that is under way ends first, and with it a sync of
/// a disk that stalls.
const KILL_LIMIT: Duration = Duration::from_secs(30);
static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A running program; killed when the value goes.
#[derive(Debug)]
pub struct Proc {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Proc {
    /// Starts `command`; the kernel kills it should this process die first.
    pub fn spawn(command: &mut Command) -> Self {
        let parent = nix::unistd::getpid();
        // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid).
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before the line above.
                if nix::unistd::getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::Other.into()) }
            });
        }
        let child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        CHILDREN.lock().expect("list of children").push(child.id());
        Self { child, ended: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub const fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal, unless it has been waited for (its id may be another's by now).
    pub fn signal(&mut self, signal: Signal) {
        if self.try_wait().is_none() {
            let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
        }
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ended = Some(status);
            let pid = self.child.id();
            if let Ok(mut list) = CHILDREN.lock() {
                list.retain(|p| *p != pid);
            }
        }
        self.ended
    }

    /// Waits for its end; `None` after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        crate::watch::within(limit, || self.try_wait().is_some());
        self.ended
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.signal(Signal::SIGCONT);
        assert!(
            self.wait(KILL_LIMIT).is_some(),
            "process {} does not die of SIGKILL: {}",
            self.pid(),
            where_it_sleeps(self.pid())
        );
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            self.signal(Signal::SIGKILL);
            if self.wait(Duration::from_secs(5)).is_none() {
                eprintln!("process {} hangs: {}", self.pid(), where_it_sleeps(self.pid()));
            }
        }
    }
}

/// The kernel's stacks of a process, for a message about one that hangs.
pub fn where_it_sleeps(pid: u32) -> String {
    let mut text = String::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find(|l| l.starts_with("State")).unwrap_or_default();
        let name = task.file_name();
        let _ = write!(
            text,
            "\n  task {}: {state}, {}\n{}",
            name.to_string_lossy(),
            read("wchan"),
            read("stack")
        );
    }
    text
}

/// Kills everything this process started: for the watchdog.
pub fn kill_all() {
    let pids = CHILDREN.lock().map(|l| l.clone()).unwrap_or_default();
    for pid in pids {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
}

/// Runs a program to its end and gives its output; fails unless it succeeds.
pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("run {command:?}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}\n{text}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Runs a program on some paths: whether it succeeded, and what it complained of.
pub fn tool(program: &str, paths: &[&Path]) -> (bool, String) {
    let out = Command::new(program).args(paths).output().unwrap_or_else(|e| panic!("run {program}: {e}"));
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Memory of a process in KiB, by the name of its line in `/proc/PID/status`: `VmRSS`, now; `VmHWM`, at most.
pub fn memory_kb(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status of the process");
    let found = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
    let number = found.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {line} in {status}"))
}

/// The exit code as a shell shows it: 128 + signal for a death by signal.
pub fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(-1)
}
