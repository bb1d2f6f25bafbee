//! The verbs that ask a daemon, against the real control server over a daemon in memory.

// Helpers fail by panicking, and the modules that test programs share have more than each one uses.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../litefsd/tests/control/fake.rs"]
mod fake;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Ran, ctl, database, names, path, program, s};
use fake::Fake;
use litefsd::control::{ControlSocket, serve};
use tokio::sync::watch;

/// A daemon on a runtime of its own.
struct Daemon {
    fake: Arc<Fake>,
    dir: tempfile::TempDir,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (fake, stop) = (Fake::new(), watch::Sender::new(false));
        let (socket, backend, stopped) = (path(&dir, "api.sock"), fake.clone(), stop.subscribe());
        let (up, is_up) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let rt =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            rt.block_on(async {
                let bound = ControlSocket::bind(&socket).unwrap();
                up.send(()).unwrap();
                serve(bound, backend, stopped).await;
            });
        });
        is_up.recv().unwrap();
        Self { fake, dir, stop, thread: Some(thread) }
    }

    fn ctl(&self, args: &[&str]) -> Ran {
        program().arg("--socket").arg(path(&self.dir, "api.sock")).args(args).output().unwrap().into()
    }

    fn spawn(&self, args: &[&str]) -> Child {
        let mut c = program();
        c.arg("--socket").arg(path(&self.dir, "api.sock")).args(args);
        c.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

#[test]
fn status_for_people_and_for_programs() {
    let d = Daemon::start();
    d.fake.put("my.db", vec![0; 12288], 31);
    let text = d.ctl(&["status"]).ok();
    let expected = [
        "node     node1 (id 9FC2C35C50D4EE3A, pid ",
        "role     primary, ready",
        "primary  node1",
        "lease    static, held, candidate",
        "mount    /litefs",
        "data     /var/lib/litefs, 1.0 GiB free",
        "REPLICA           ADDRESS         CONNECTED  LAG  UNSENT  UNAPPLIED",
        "4830FFC82B0CA170  10.0.0.2:41234       5.0s  3ms    2 tx       3 tx",
        "4830FFC82B0CA170: my.db is not sent any more: why, and what to do",
        "my.db     12.0 KiB  4096  wal   000000000000001f  80000000",
    ];
    for line in expected {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains('\x1b'), "colors without a terminal");
    assert!(d.ctl(&["status", "--color", "always"]).ok().contains('\x1b'));
    let json: serde_json::Value = serde_json::from_str(&d.ctl(&["--json", "status"]).ok()).unwrap();
    assert_eq!(
        (json["role"].as_str(), json["databases"][0]["page_count"].as_u64()),
        (Some("primary"), Some(3))
    );
    d.fake.primary.store(false, Ordering::SeqCst);
    d.fake.ready.store(false, Ordering::SeqCst);
    let text = d.ctl(&["status"]).ok();
    assert!(
        text.contains("role     replica, not ready: catching up") && text.contains("lag      12ms"),
        "{text}"
    );
}

#[test]
fn watching_redraws_and_outlives_errors() {
    let d = Daemon::start();
    let mut child = d.spawn(&["status", "--watch", "--interval", "50ms"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let draws = lines.by_ref().map_while(Result::ok).filter(|l| l.contains("\x1b[H\x1b[2J")).take(3).count();
    assert_eq!(draws, 3);
    drop(d);
    let gone = lines.map_while(Result::ok).find(|l| l.contains("cannot connect"));
    assert!(gone.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn import_checks_then_replaces() {
    let d = Daemon::start();
    let file = path(&d.dir, "in put.db");
    let bytes = database(&file, 500);
    let ran = d.ctl(&["import", "--name", "a.db", s(&file)]);
    assert!(ran.err.starts_with("imported a.db ("), "{ran:?}");
    ran.ok();
    assert!(d.fake.databases.lock().unwrap()["a.db"].bytes == bytes);
    d.ctl(&["import", "--name", "a.db", s(&file)])
        .fails(4, "litefsctl: database \"a.db\" exists; use --replace to replace it");
    let ran = d.ctl(&["-q", "import", "-name=a.db", "--replace", s(&file)]);
    assert_eq!((ran.code, ran.err.as_str(), ran.out.as_str()), (0, "", ""));
    let json: serde_json::Value =
        serde_json::from_str(&d.ctl(&["--json", "import", "--name", "b", s(&file)]).ok()).unwrap();
    assert_eq!(json["size"].as_u64(), Some(bytes.len() as u64));
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "the source was changed");
}

#[test]
fn bad_files_never_reach_the_daemon() {
    let d = Daemon::start();
    let good = path(&d.dir, "good.db");
    let bytes = database(&good, 300);
    let file = path(&d.dir, "bad.db");
    let mut cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "it is empty"),
        (b"hello world".to_vec(), "not a SQLite database"),
        (vec![7; 8192], "not a SQLite database"),
        (bytes[..bytes.len() - 1].to_vec(), "no multiple of its page size"),
        (bytes[..bytes.len() - 4096].to_vec(), "it was cut off"),
    ];
    let mut page_size = bytes.clone();
    page_size[16..18].copy_from_slice(&[0x10, 0x01]);
    cases.push((page_size, "not a power of two"));
    let mut damaged = bytes.clone();
    let at = damaged.len() - 4096;
    damaged[at..at + 200].fill(0xff);
    cases.push((damaged.clone(), "is damaged: "));
    for (content, why) in cases {
        std::fs::write(&file, content).unwrap();
        let line = d.ctl(&["import", "--name", "x", s(&file)]).fails(1, "litefsctl: ");
        assert!(line.contains(why), "{why}: {line}");
    }
    d.ctl(&["import", "--name", "x", s(&path(&d.dir, "none"))]).fails(1, "litefsctl: cannot open ");
    d.ctl(&["import", "--name", "x", s(d.dir.path())]).fails(1, "litefsctl: ");
    assert!(d.fake.databases.lock().unwrap().is_empty());
    // The user may insist on a damaged file, not on one that is no database.
    std::fs::write(&file, damaged).unwrap();
    d.ctl(&["import", "--no-check", "--name", "x", s(&file)]).ok();
}

#[test]
fn a_database_in_use_is_refused() {
    let d = Daemon::start();
    let file = path(&d.dir, "wal.db");
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let line = d.ctl(&["import", "--name", "x", s(&file)]).fails(1, "litefsctl: ");
    assert!(line.contains("-wal holds changes") && line.contains("wal_checkpoint(TRUNCATE)"), "{line}");
    db.close().unwrap();
    d.ctl(&["import", "--name", "x", s(&file)]).ok();

    let file = path(&d.dir, "hot.db");
    database(&file, 10);
    std::fs::write(path(&d.dir, "hot.db-journal"), [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7, 0, 0])
        .unwrap();
    let line = d.ctl(&["import", "--name", "y", s(&file)]).fails(1, "litefsctl: ");
    assert!(line.contains("interrupted transaction"), "{line}");
    std::fs::write(path(&d.dir, "hot.db-journal"), [0; 512]).unwrap();
    d.ctl(&["import", "--name", "y", s(&file)]).ok();
}

#[test]
fn export_replaces_its_target_only_when_all_is_well() {
    let d = Daemon::start();
    let source = path(&d.dir, "source.db");
    let bytes = database(&source, 500);
    d.fake.put("a.db", bytes.clone(), 5);
    let out = tempfile::tempdir().unwrap();
    let target = path(&out, "t.db");
    let ran = d.ctl(&["export", "--name", "a.db", s(&target)]);
    assert!(ran.err.contains(" at 0000000000000005/"), "{ran:?}");
    ran.ok();
    assert!(std::fs::read(&target).unwrap() == bytes);

    std::fs::write(&target, "precious").unwrap();
    d.ctl(&["export", "--name", "none", s(&target)])
        .fails(3, "litefsctl: cannot export none: database \"none\" not found");
    d.fake.cut_exports.store(true, Ordering::SeqCst);
    d.ctl(&["export", "--name", "a.db", s(&target)]).fails(1, "litefsctl: ");
    d.fake.cut_exports.store(false, Ordering::SeqCst);
    d.fake.put("junk", vec![1; 4096], 1);
    let line = d.ctl(&["export", "--name", "junk", s(&target)]).fails(1, "litefsctl: ");
    assert!(line.contains("the target was left as it was"), "{line}");
    std::fs::write(path(&out, "t.db-wal"), "frames").unwrap();
    let line = d.ctl(&["export", "--name", "a.db", s(&target)]).fails(1, "litefsctl: ");
    assert!(line.contains("may be in use"), "{line}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    assert_eq!(names(out.path()), ["t.db", "t.db-wal"], "leftovers");

    d.ctl(&["export", "--force", "--name", "a.db", s(&target)]).ok();
    assert_eq!(names(out.path()), ["t.db"]);
    assert!(std::fs::read(&target).unwrap() == bytes);
    d.ctl(&["export", "--name", "a.db", s(out.path())]).fails(1, "litefsctl: ");
}

#[test]
fn databases_and_drop() {
    let d = Daemon::start();
    assert_eq!(d.ctl(&["databases"]).ok(), "no databases\n");
    d.fake.put("a.db", vec![0; 4096], 1);
    let text = d.ctl(&["databases"]).ok();
    assert!(text.starts_with("DATABASE") && text.lines().count() == 2, "{text}");
    d.ctl(&["drop", "a.db"]).fails(2, "litefsctl: drop asks before it drops");
    d.ctl(&["drop", "b.db", "--yes"]).fails(3, "litefsctl: database \"b.db\" not found");
    assert!(
        d.ctl(&["drop", "a.db", "--yes"]).err.starts_with("dropped a.db at transaction 0000000000000002")
    );
    assert!(d.fake.databases.lock().unwrap().is_empty());
}

#[test]
fn events_are_passed_on_as_they_are() {
    let d = Daemon::start();
    let mut child = d.spawn(&["events"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), r#"{"type":"init","data":{"isPrimary":true}}"#);
    let line = r#"{"type":"tx","db":"a","data":{"of":"the future"}}"#;
    d.fake.event(line);
    assert_eq!(lines.next().unwrap().unwrap(), line);
    d.fake.end_events();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn an_import_on_a_replica_goes_to_the_primary() {
    let d = Daemon::start();
    let file = path(&d.dir, "in.db");
    let bytes = database(&file, 50);
    d.fake.primary.store(false, Ordering::SeqCst);
    d.ctl(&["import", "--name", "a", s(&file)])
        .fails(4, "litefsctl: node2 is a replica; the primary is node1");
    let primary = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    *d.fake.primary_url.lock().unwrap() = Some(format!("http://{}", primary.local_addr().unwrap()));
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut c, _) = primary.accept().unwrap();
        let mut got = Vec::new();
        let mut buf = vec![0; 65536];
        c.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        while let Ok(n @ 1..) = c.read(&mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        c.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        got
    });
    d.ctl(&["import", "--name", "a", s(&file)]).ok();
    let got = server.join().unwrap();
    assert!(got.starts_with(b"POST /import?name=a HTTP/1.1\r\n") && got.ends_with(&bytes));
}

#[test]
fn the_log_of_a_database() {
    let d = Daemon::start();
    d.fake.put("a", vec![0; 4096], 3);
    d.fake.databases.lock().unwrap().get_mut("a").unwrap().log = vec![vec![1; 10]; 1500];
    let text = d.ctl(&["ltx", "list", "a"]).ok();
    assert_eq!(text.lines().count(), 1501, "all pages of the list");
    let json: serde_json::Value =
        serde_json::from_str(&d.ctl(&["--json", "ltx", "list", "a", "--from", "5db"]).ok()).unwrap();
    assert_eq!(json["entries"].as_array().unwrap().len(), 2);
    d.ctl(&["ltx", "dump", "--name", "a", "--txid", "1"]).fails(1, "litefsctl: a 0000000000000001: ");
    d.ctl(&["ltx", "list", "b"]).fails(3, "litefsctl: database \"b\" not found");
}

#[test]
fn nobody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let none = path(&dir, "none.sock");
    let line = ctl(&["--socket", s(&none), "status"]).fails(5, "litefsctl: cannot connect to ");
    assert!(line.contains("is litefsd running?"), "{line}");
    let config = path(&dir, "litefs.yml");
    std::fs::write(&config, format!("lease: {{type: static}}\napi: {{socket: {}}}\n", none.display()))
        .unwrap();
    let line = ctl(&["--config", s(&config), "status"]).fails(5, "litefsctl: ");
    assert!(line.contains(s(&none)), "the socket of the configuration: {line}");
}
