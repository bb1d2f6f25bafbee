//! A mount over a plain directory, and SQLite applications in processes of their own.
//!
//! Applications must not live in the process that serves the mount: closing a file there would drop
//! their POSIX locks, and their mappings would make the process unkillable.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator as _;

use litefsd::fuse::access::Ownership;
use litefsd::fuse::mount::{MountOptions, Mounted, mount};
use litefsd::fuse::stats::Op;

use crate::model::{Knobs, PlainModel, View};

/// Environment variable that turns the test binary into an application or a daemon.
pub const CHILD: &str = "LITEFS_FUSE_TEST_CHILD";

pub struct Fixture {
    pub mount: Option<Mounted<PlainModel>>,
    pub model: Arc<PlainModel>,
    pub view: Arc<View>,
    pub dir: PathBuf,
    // Removed last.
    pub tmp: tempfile::TempDir,
}

pub fn options(root: &Path, allow_other: bool) -> MountOptions {
    MountOptions {
        low_latency: true,
        dir: root.join("mnt"),
        data_dir: root.join("data"),
        allow_other,
        ownership: Ownership { uid: 0, gid: 0, file_mode: 0o666 },
    }
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    pub fn with(change: impl FnOnce(&mut MountOptions)) -> Self {
        require_fuse();
        let tmp = tempfile::tempdir().unwrap();
        let mut options = options(tmp.path(), false);
        change(&mut options);
        std::fs::create_dir(&options.data_dir).unwrap();
        let (model, view) = (PlainModel::new(options.data_dir.clone()), Arc::new(View::default()));
        let mounted = mount(model.clone(), view.clone(), &options).unwrap();
        let dir = mounted.dir().to_owned();
        Self { mount: Some(mounted), model, view, dir, tmp }
    }

    pub fn knobs(&self) -> &Knobs {
        &self.model.knobs
    }

    pub fn mounted(&self) -> &Mounted<PlainModel> {
        self.mount.as_ref().unwrap()
    }

    pub fn requests(&self) -> u64 {
        self.mounted().core().stats().requests()
    }

    pub fn count(&self, op: Op) -> u64 {
        self.mounted().core().stats().get(op)
    }

    /// A SQLite application with the database open.
    pub fn app(&self, db: &str) -> App {
        App::start(&self.dir.join(db))
    }

    pub fn backing(&self, name: &str) -> PathBuf {
        self.model.dir.join(name)
    }
}

pub fn require_fuse() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a file system: run it as root");
    assert!(Path::new("/dev/fuse").exists(), "this test needs /dev/fuse (modprobe fuse)");
}

/// Runs this test binary again in another role.
pub fn respawn(role: &str, arg: &Path) -> Command {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(CHILD, role).env("ARG", arg);
    c.stdin(Stdio::piped()).stdout(Stdio::piped());
    c
}

/// A line-wise dialogue with a child: what it says is prefixed, to tell it from the test harness.
pub struct App {
    pub child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl App {
    pub fn start(db: &Path) -> Self {
        Self::of(respawn("app", db))
    }

    pub fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut app = Self { child, to, from };
        assert_eq!(app.answer(), "ready");
        app
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn send(&mut self, line: &str) {
        writeln!(self.to, "{}", line.replace('\n', " ")).unwrap();
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.from.read_line(&mut line).unwrap(), 0, "the application ended");
            if let Some((_, said)) = line.trim_end().split_once("@@") {
                return said.to_owned();
            }
        }
    }

    /// Runs SQL; all values of all rows, separated by blanks, or `error: …`.
    pub fn sql(&mut self, sql: &str) -> String {
        self.send(sql);
        self.answer()
    }

    /// Runs SQL that must not fail.
    pub fn ok(&mut self, sql: &str) -> String {
        let answer = self.sql(sql);
        assert!(!answer.starts_with("error"), "{sql}: {answer}");
        answer
    }

    pub fn has_ended(&self) -> bool {
        // Seen by its parent only when every thread is gone.
        let how = nix::sys::wait::WaitPidFlag::WNOHANG | nix::sys::wait::WaitPidFlag::WEXITED;
        let how = how | nix::sys::wait::WaitPidFlag::WNOWAIT;
        let pid = nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(self.child.id() as i32));
        nix::sys::wait::waitid(pid, how) != Ok(nix::sys::wait::WaitStatus::StillAlive)
    }

    pub fn end(mut self) {
        drop(self.to);
        assert!(self.child.wait().unwrap().success());
    }
}

/// What a child does with `ARG`.
pub fn child(role: &str) {
    let arg = PathBuf::from(std::env::var_os("ARG").unwrap());
    match role {
        "app" => application(&arg),
        "daemon" => daemon(&arg),
        "user" => user_daemon(&arg),
        other => panic!("no such role: {other}"),
    }
}

fn say(text: &str) {
    println!("@@{text}");
    std::io::stdout().flush().unwrap();
}

fn application(db: &Path) {
    let c = rusqlite::Connection::open(db).unwrap();
    say("ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let result = match line.strip_prefix("increment ") {
            Some(n) => increment(&c, n.parse().unwrap()).map(|()| String::new()),
            None => run(&c, &line),
        };
        say(&result.unwrap_or_else(|e| format!("error: {e}")));
    }
}

fn run(c: &rusqlite::Connection, sql: &str) -> rusqlite::Result<String> {
    let mut out = Vec::new();
    let mut batch = rusqlite::Batch::new(c, sql);
    while let Some(mut statement) = batch.next()? {
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for i in 0..columns {
                out.push(match row.get_ref(i)? {
                    rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                    rusqlite::types::ValueRef::Text(t) => String::from_utf8_lossy(t).into_owned(),
                    other => format!("{other:?}"),
                });
            }
        }
    }
    Ok(out.join(" "))
}

/// Read, think, write: lost updates show that locks do not work.
fn increment(c: &rusqlite::Connection, n: u32) -> rusqlite::Result<()> {
    c.busy_timeout(Duration::from_secs(60))?;
    for i in 0..n {
        c.execute_batch("BEGIN IMMEDIATE")?;
        let v: i64 = c.query_row("SELECT v FROM counter", [], |r| r.get(0))?;
        c.execute("UPDATE counter SET v = ?1", [v + 1])?;
        c.execute("INSERT INTO t(x) VALUES (randomblob(?1))", [i * 97 % 9000])?;
        c.execute("DELETE FROM t WHERE id % 7 = ?1", [i % 7])?;
        c.execute_batch("COMMIT")?;
    }
    Ok(())
}

/// Mounts; told to, opens own descriptors; then waits for its end.
fn daemon(root: &Path) {
    use litefs_store::own_mount::{FileKind, OwnMount};
    let options = options(root, false);
    let model = PlainModel::new(options.data_dir.clone());
    model.add("db");
    let mounted = mount(model, Arc::new(View::default()), &options).unwrap();
    let own = mounted.own_mounts().make(&"db".parse().unwrap());
    say("ready");
    for line in std::io::stdin().lines() {
        if line.unwrap() == "busy" {
            // Always some own request in flight, as while a replica applies.
            for i in 0..4 {
                let own = mounted.own_mounts().make(&"db".parse().unwrap());
                assert!(own.open(FileKind::Database, false).unwrap());
                std::thread::spawn(move || {
                    let data = vec![i; 65536];
                    loop {
                        own.write_all_at(FileKind::Database, &data, u64::from(i) << 20).unwrap();
                    }
                });
            }
            say("busy");
            continue;
        }
        for kind in [FileKind::Database, FileKind::Wal, FileKind::Shm] {
            assert!(own.open(kind, false).unwrap());
        }
        own.read_at(FileKind::Shm, &mut [0; 136], 0).unwrap();
        say("open");
    }
    mounted.unmount(Duration::from_secs(5));
}

/// Mounts as an ordinary user, with the setuid helper. The device's mode and `fuse.conf` are this
/// process's own, in a mount namespace.
fn user_daemon(root: &Path) {
    use litefsd::fuse::mount::MountError;
    use nix::mount::{MsFlags, mount as mount_fs};
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    const NONE: Option<&str> = None;
    // nobody: the helper wants a user with a name.
    const USER: u32 = 65534;

    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_fs(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
    let device = root.join("fuse");
    // Character device 10:229 is /dev/fuse by definition (devices.txt).
    mknod(&device, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 229)).unwrap();
    std::fs::set_permissions(&device, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    mount_fs(Some(&device), "/dev/fuse", NONE, MsFlags::MS_BIND, NONE).unwrap();
    let conf = root.join("fuse.conf");
    std::fs::write(&conf, "# nothing is allowed\n").unwrap();
    if Path::new("/etc/fuse.conf").exists() {
        mount_fs(Some(&conf), "/etc/fuse.conf", NONE, MsFlags::MS_BIND, NONE).unwrap();
    }
    for dir in ["", "data", "mnt"] {
        std::os::unix::fs::chown(root.join(dir), Some(USER), Some(USER)).unwrap();
    }
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(USER.into(), USER.into(), USER.into()).unwrap();
    nix::unistd::setresuid(USER.into(), USER.into(), USER.into()).unwrap();

    let mut options = options(root, true);
    options.ownership = Ownership { uid: USER, gid: USER, file_mode: 0o660 };
    let model = PlainModel::new(options.data_dir.clone());
    let refused = mount(model.clone(), Arc::new(View::default()), &options);
    assert!(matches!(refused.err(), Some(MountError::AllowOtherForbidden)));
    options.allow_other = false;
    let mounted = mount(model, Arc::new(View::default()), &options).unwrap();
    say("ready");
    let db = options.dir.join("db");
    std::fs::write(&db, "by a user").unwrap();
    let line = litefsd::fuse::mount_point::mounted_at(mounted.dir()).unwrap();
    say(&format!("{} {} {}", std::fs::read_to_string(db).unwrap(), line.fs_type, line.source));
    say(&format!("{:?}", mounted.unmount(Duration::from_secs(5))));
}

/// Whether it becomes true within five seconds.
pub fn eventually(what: impl Fn() -> bool) -> bool {
    (0..500).any(|i| {
        std::thread::sleep(Duration::from_millis(if i == 0 { 0 } else { 10 }));
        what()
    })
}
