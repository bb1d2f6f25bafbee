//! `litefs`, the original's command line, against a cluster port that records what it is asked.

// Helpers fail by panicking, and the modules that test programs share have more than each one uses.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use common::{Ran, database, litefs, names, path, s};

/// Answers one request with `answer` and records it.
struct Port {
    url: String,
    seen: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Port {
    fn answering(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let (mut c, _) = listener.accept().unwrap();
            *record.lock().unwrap() = request(&mut c);
            c.write_all(&answer).unwrap();
        });
        Self { url, seen, thread }
    }

    fn request(self) -> Vec<u8> {
        self.thread.join().unwrap();
        self.seen.lock().unwrap().clone()
    }
}

/// Head and body of a request with a Content-Length, or none.
fn request(c: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buf = vec![0; 65536];
    loop {
        let n = c.read(&mut buf).unwrap();
        got.extend_from_slice(&buf[..n]);
        let Some(head) = got.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&got[..head]).to_ascii_lowercase();
        let len: usize = text
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "))
            .map_or(0, |v| v.trim().parse().unwrap());
        if got.len() >= head + 4 + len || n == 0 {
            return got;
        }
    }
}

fn status(line: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {line}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// As the original answers an export: chunked, octets.
fn chunked(body: &[u8], end: bool) -> Vec<u8> {
    let mut a =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for part in body.chunks(5000) {
        a.extend(format!("{:x}\r\n", part.len()).into_bytes());
        a.extend_from_slice(part);
        a.extend_from_slice(b"\r\n");
    }
    if end {
        a.extend_from_slice(b"0\r\n\r\n");
    }
    a
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self, args: &[&str]) -> Ran {
        litefs(self.0.path(), args)
    }
}

#[test]
fn import() {
    let d = Scratch::new();
    let file = path(&d.0, "my file.db");
    let bytes = database(&file, 300);
    let port = Port::answering(status("200 OK", ""));
    let out = d.run(&["import", "-url", &port.url, "-name", "my db", s(&file)]).ok();
    assert!(out.starts_with("Import of database \"my db\" in ") && out.ends_with("s\n"), "{out}");
    let got = port.request();
    assert!(
        got.starts_with(b"POST /import?name=my%20db HTTP/1.1\r\n"),
        "{:?}",
        String::from_utf8_lossy(&got[..60])
    );
    assert!(got.ends_with(&bytes));
}

#[test]
fn refused_imports() {
    let d = Scratch::new();
    let file = path(&d.0, "f.db");
    database(&file, 300);
    for (line, body, message) in [
        ("503 Service Unavailable", "lease expired\n", "ERROR: invalid response: code=503"),
        ("400 Bad Request", "name required\n", "ERROR: invalid response: code=400"),
    ] {
        let port = Port::answering(status(line, body));
        // A missing -name is for the server to notice.
        let err = d.run(&["import", "-url", &port.url, s(&file)]).fails(1, message);
        assert!(err.contains(body.trim()), "the server's words: {err}");
        assert!(port.request().starts_with(b"POST /import?name= HTTP/1.1\r\n"));
    }
    std::fs::write(&file, "no database").unwrap();
    d.run(&["import", "-url", "http://127.0.0.1:1", "-name", "x", s(&file)]).fails(1, "ERROR: ");
    database(&path(&d.0, "g.db"), 1);
    d.run(&["import", "-url", "http://127.0.0.1:1", "-name", "x", s(&path(&d.0, "g.db"))])
        .fails(1, "ERROR: cannot connect to 127.0.0.1:1: ");
    d.run(&["import", "-url", "localhost:20202", "-name", "x", s(&file)])
        .fails(1, "ERROR: invalid URL scheme");
}

#[test]
fn export() {
    let d = Scratch::new();
    let bytes = database(&path(&d.0, "src.db"), 300);
    let out = tempfile::tempdir().unwrap();
    let target = path(&out, "t.db");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        std::fs::write(path(&out, &format!("t.db{suffix}")), "old").unwrap();
    }
    let port = Port::answering(chunked(&bytes, true));
    let text = d.run(&["export", "--url", &port.url, "-name=a.db", s(&target)]).ok();
    assert!(text.starts_with("Export of database \"a.db\" in "), "{text}");
    assert!(port.request().starts_with(b"GET /export?name=a.db HTTP/1.1\r\n"));
    assert!(std::fs::read(&target).unwrap() == bytes);
    assert_eq!(names(out.path()), ["t.db"]);
}

#[test]
fn a_failed_export_leaves_its_target() {
    let d = Scratch::new();
    let bytes = database(&path(&d.0, "src.db"), 300);
    let out = tempfile::tempdir().unwrap();
    let target = path(&out, "t.db");
    std::fs::write(&target, "precious").unwrap();
    std::fs::write(path(&out, "t.db-wal"), "frames").unwrap();
    // The original appends an error's text to the body of a failed export: no multiple of a page.
    let mut poisoned = bytes.clone();
    poisoned.extend_from_slice(b"write snapshot: EOF\n");
    for (answer, message) in [
        (status("404 Not Found", "database not found\n"), "ERROR: database not found\n"),
        (status("500 Internal Server Error", "boom\n"), "ERROR: invalid response: code=500"),
        (chunked(&bytes, false), "ERROR: connection lost"),
        (chunked(&poisoned, true), "ERROR: the copy is no good"),
        (chunked(&bytes[..bytes.len() - 4096], true), "ERROR: the copy is no good"),
    ] {
        let port = Port::answering(answer);
        d.run(&["export", "-url", &port.url, "-name", "a.db", s(&target)]).fails(1, message);
        port.request();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(names(out.path()), ["t.db", "t.db-wal"]);
    }
}

#[test]
fn version_usage_and_unknown_words() {
    let d = Scratch::new();
    assert!(d.run(&["version"]).ok().starts_with(concat!(
        "LiteFS v",
        env!("CARGO_PKG_VERSION"),
        ", commit="
    )));
    for args in [&[][..], &["help"], &["-h"], &["--version"], &["-foo", "import"]] {
        let ran = d.run(args);
        assert!(ran.code == 2 && ran.out.contains("Usage:"), "{args:?}: {ran:?}");
    }
    for args in
        [&["import"][..], &["export"], &["import", "-h"], &["export", "-help"], &["import", "-name", "x"]]
    {
        let ran = d.run(args);
        assert!(
            ran.code == 2 && ran.out.contains("Usage:") && ran.err.contains("-url string"),
            "{args:?}: {ran:?}"
        );
    }
    d.run(&["foo"]).fails(1, "ERROR: litefs foo: unknown command");
    d.run(&["import", "a", "b"]).fails(1, "ERROR: too many arguments");
    let ran = d.run(&["import", "-foo", "x"]);
    assert!(ran.code == 1 && ran.err.ends_with("ERROR: flag provided but not defined: -foo\n"), "{ran:?}");
    for command in ["mount", "run"] {
        d.run(&[command]).fails(1, &format!("ERROR: litefs {command}: not available in this version"));
    }
}
