//! The control socket with its real client, over a daemon in memory.

// Helpers fail by panicking, and the modules that test programs share have more than each one uses.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub)]

mod fake;

use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake::Fake;
use litefs_api::client::{Client, ClientError, Progress};
use litefs_api::{ErrorCode, Probe, Role};
use litefs_types::{DbName, Txid};
use litefsd::control::{BindError, ControlSocket, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

struct Daemon {
    fake: Arc<Fake>,
    client: Client,
    socket: PathBuf,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn start() -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/litefsd.sock");
    let fake = Fake::new();
    let stop = watch::Sender::new(false);
    let bound = ControlSocket::bind(&socket).unwrap();
    let task = tokio::spawn(serve(bound, fake.clone(), stop.subscribe()));
    Daemon { fake, client: Client::new(&socket), socket, stop, task, _dir: dir }
}

fn db(name: &str) -> DbName {
    name.parse().unwrap()
}

fn image(pages: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..pages * 4096).map(|i| (i % 251) as u8).collect();
    bytes[..16].copy_from_slice(b"SQLite format 3\0");
    bytes
}

fn code<T: std::fmt::Debug>(r: Result<T, ClientError>) -> ErrorCode {
    match r.unwrap_err() {
        ClientError::Api(e) => e.code,
        other => panic!("{other:?}"),
    }
}

async fn raw(socket: &PathBuf, request: &str) -> String {
    let mut s = tokio::net::UnixStream::connect(socket).await.unwrap();
    s.write_all(request.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(15), s.read_to_end(&mut out)).await;
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_databases_metrics() {
    let d = start();
    d.fake.put("z.db", image(2), 3);
    d.fake.put("a.db", image(1), 1);
    let s = d.client.status().await.unwrap();
    assert_eq!((s.role, s.databases.len()), (Role::Primary, 2));
    let names: Vec<_> = d.client.databases().await.unwrap().databases.into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["a.db", "z.db"]);
    assert_eq!(d.client.database(&db("z.db")).await.unwrap().size, 8192);
    assert_eq!(code(d.client.database(&db("none")).await), ErrorCode::NotFound);
    assert_eq!(d.client.metrics().await.unwrap(), "litefs_is_primary 1\n");
    assert!(d.client.status_text().await.unwrap().starts_with("{\"node\":"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_a_status_code_and_a_hanging_daemon_is_unhealthy() {
    let d = start();
    assert!(d.client.health(Probe::Live).await.unwrap().ok);
    assert!(!d.client.health(Probe::Replica).await.unwrap().ok);
    d.fake.ready.store(false, Ordering::SeqCst);
    let ready = d.client.health(Probe::Ready).await.unwrap();
    assert_eq!((ready.ok, ready.reasons), (false, vec!["not ready".to_owned()]));
    let text = raw(&d.socket, "GET /v1/health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    *d.fake.slow_health.lock().unwrap() = 5000;
    let live = d.client.health(Probe::Live).await.unwrap();
    assert!(!live.ok && live.reasons[0].contains("took longer"), "{live:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_json_with_the_fitting_status() {
    let d = start();
    for (request, status, word) in [
        ("GET /nope", 404, "not-found"),
        ("GET /v1/databases/..", 400, "bad-request"),
        ("POST /v1/status", 405, "method-not-allowed"),
        ("GET /v1/databases/a/wait", 400, "bad-request"),
        ("GET /v1/databases/a/wait?txid=zz", 400, "bad-request"),
        ("GET /v1/databases/a/wait?txid=0000000000000001&timeout=99h", 400, "bad-request"),
        ("GET /v1/databases/a/ltx?limit=0", 400, "bad-request"),
        ("DELETE /v1/databases/a", 404, "not-found"),
        ("PUT /v1/databases/a?replace=maybe", 400, "bad-request"),
    ] {
        let text =
            raw(&d.socket, &format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {text}");
        assert!(text.contains(&format!("{{\"code\":\"{word}\",\"message\":\"")), "{request}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn import_and_export_keep_every_byte() {
    struct Count(Arc<std::sync::Mutex<(u64, Option<u64>)>>);
    impl Progress for Count {
        fn advanced(&mut self, done: u64, total: Option<u64>) {
            *self.0.lock().unwrap() = (done, total);
        }
    }
    let d = start();
    let bytes = image(1500); // 6 MB: several batches
    let len = bytes.len() as u64;
    let seen = Arc::default();
    let progress = Count(Arc::clone(&seen));
    let done = d
        .client
        .import(&db("my db.sqlite"), io::Cursor::new(bytes.clone()), len, false, progress)
        .await
        .unwrap();
    assert_eq!((done.size, done.replaced), (len, false));
    assert_eq!(*seen.lock().unwrap(), (len, Some(len)));
    let mut out = Vec::new();
    let (pos, n) =
        d.client.export(&db("my db.sqlite"), &mut out, &mut Count(Arc::clone(&seen))).await.unwrap();
    assert_eq!((n, pos.unwrap().txid_raw()), (len, 1));
    assert!(out == bytes);
    assert_eq!(*seen.lock().unwrap(), (len, Some(len)));

    let name = db("my db.sqlite");
    let again = |replace| d.client.import(&name, io::Cursor::new(image(1)), 4096, replace, ());
    assert_eq!(code(again(false).await), ErrorCode::Exists);
    assert!(again(true).await.unwrap().replaced);
    assert_eq!(code(d.client.export(&db("none"), &mut Vec::new(), &mut ()).await), ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_import_answers_although_the_body_is_large() {
    let d = start();
    d.fake.primary.store(false, Ordering::SeqCst);
    let len = 100 << 20;
    let r = d.client.import(&db("a"), io::repeat(0).take(len), len, false, ()).await;
    assert_eq!(code(r), ErrorCode::NotPrimary);
    d.fake.primary.store(true, Ordering::SeqCst);
    let r = d.client.import(&db("a"), io::repeat(0).take(len), len, false, ()).await;
    assert_eq!(code(r), ErrorCode::InvalidDatabase);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_breaks_off_changes_nothing() {
    let d = start();
    // The file ends early, which the client notices.
    let r = d.client.import(&db("a"), io::Cursor::new(image(1)), 8192, false, ()).await;
    assert!(matches!(r, Err(ClientError::Local(_))), "{r:?}");
    // The connection ends early.
    let mut s = tokio::net::UnixStream::connect(&d.socket).await.unwrap();
    s.write_all(b"PUT /v1/databases/a HTTP/1.1\r\nHost: x\r\nContent-Length: 4096\r\n\r\nSQLite format 3\0")
        .await
        .unwrap();
    drop(s);
    let until = Instant::now() + Duration::from_secs(5);
    while !d.fake.sinks_dropped.load(Ordering::SeqCst) {
        assert!(Instant::now() < until, "the sink was not dropped");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(d.fake.databases.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_breaks_off_is_an_error() {
    let d = start();
    d.fake.put("a", image(100), 1);
    d.fake.cut_exports.store(true, Ordering::SeqCst);
    let r = d.client.export(&db("a"), &mut Vec::new(), &mut ()).await;
    assert!(matches!(r, Err(ClientError::Lost(_))), "{r:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting() {
    let d = start();
    d.fake.put("a", image(1), 5);
    let t = |n| Txid::new(n).unwrap();
    let done = d.client.wait(&db("a"), t(5), Duration::ZERO).await.unwrap();
    assert_eq!(done.position.txid, "0000000000000005");
    assert_eq!(code(d.client.wait(&db("a"), t(6), Duration::from_millis(50)).await), ErrorCode::Timeout);
    assert_eq!(code(d.client.wait(&db("b"), t(1), Duration::from_millis(50)).await), ErrorCode::NotFound);
    let fake = d.fake.clone();
    let later = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fake.put("b", image(1), 9);
    });
    let from = Instant::now();
    d.client.wait(&db("b"), t(9), Duration::from_secs(20)).await.unwrap();
    assert!(from.elapsed() < Duration::from_millis(900), "waited for the next recheck: {:?}", from.elapsed());
    later.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_their_end() {
    let d = start();
    let mut events = d.client.events().await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap(), r#"{"type":"init","data":{"isPrimary":true}}"#);
    d.fake.event(r#"{"type":"tx","db":"a","data":{}}"#);
    d.fake.event(r#"{"type":"tx","db":"b","data":{}}"#);
    assert!(events.next().await.unwrap().unwrap().contains("\"a\""));
    assert!(events.next().await.unwrap().unwrap().contains("\"b\""));
    d.fake.end_events();
    assert_eq!(events.next().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log() {
    let d = start();
    d.fake.put("a", image(1), 3);
    d.fake.databases.lock().unwrap().get_mut("a").unwrap().log = vec![vec![1; 10], vec![2; 20], vec![3; 30]];
    let list = d.client.ltx_list(&db("a"), None, 2).await.unwrap();
    assert_eq!((list.entries.len(), list.next.as_deref()), (2, Some("0000000000000003")));
    let list = d.client.ltx_list(&db("a"), Txid::new(3), 2).await.unwrap();
    assert_eq!((list.entries.len(), list.next), (1, None));
    let mut out = Vec::new();
    d.client.ltx(&db("a"), Txid::new(2).unwrap(), &mut out).await.unwrap();
    assert_eq!(out, [2; 20]);
    assert_eq!(code(d.client.ltx(&db("a"), Txid::new(9).unwrap(), &mut out).await), ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sockets_file() {
    let d = start();
    let meta = std::fs::symlink_metadata(&d.socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
    assert!(matches!(ControlSocket::bind(&d.socket), Err(BindError::InUse(_))));
    assert!(d.client.status().await.is_ok(), "the refused second daemon took the socket away");
    let dir = d.socket.parent().unwrap();
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1, "leftovers beside the socket");

    // Left over from a crash: nobody answers, so it is replaced.
    let stale = dir.join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    drop(ControlSocket::bind(&stale).unwrap());
    assert!(!stale.exists());

    let file = dir.join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(ControlSocket::bind(&file), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(matches!(ControlSocket::bind(&dir.join("x".repeat(120))), Err(BindError::TooLong(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_streams_and_removes_the_file() {
    let d = start();
    let mut events = d.client.events().await.unwrap();
    events.next().await.unwrap();
    let waiting = {
        let client = d.client.clone();
        tokio::spawn(async move { client.wait(&db("a"), Txid::FIRST, Duration::from_secs(60)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let from = Instant::now();
    d.stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(4), d.task).await.unwrap().unwrap();
    assert!(from.elapsed() < Duration::from_secs(3));
    assert!(!d.socket.exists());
    assert_eq!(events.next().await.unwrap(), None);
    assert_eq!(code(waiting.await.unwrap()), ErrorCode::NotReady);
    assert!(matches!(d.client.status().await, Err(ClientError::Unreachable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_does_not_hurt() {
    let d = start();
    for text in ["\0\0\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        raw(&d.socket, text).await;
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let mut s = UnixStream::connect(&d.socket).unwrap();
    let _ = io::Write::write_all(&mut s, long.as_bytes());
    drop(s);
    assert!(d.client.status().await.is_ok());
}
