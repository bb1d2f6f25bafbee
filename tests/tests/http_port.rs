//! The cluster port as clients see it: recorded requests of the original, limits, and bad manners.

mod replication_net_support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderMap;
use litefsd::http::Options;
use replication_net_support::client::Ask;
use replication_net_support::{Node, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/http")
}

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(vectors().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A database file that passes for one in memory.
fn database(pages: u8) -> Vec<u8> {
    let mut file = Vec::new();
    for n in 0..pages {
        file.extend(vec![n; 4096]);
    }
    file[..16].copy_from_slice(b"SQLite format 3\0");
    file[16..18].copy_from_slice(&[16, 0]);
    file
}

struct Recorded {
    h2: bool,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    status: u16,
    answer_headers: BTreeMap<String, String>,
    answer: String,
}

/// Reads a curl line and what it got.
fn recorded(name: &str) -> Recorded {
    let cmd = String::from_utf8(vector(&format!("{name}.cmd"))).unwrap();
    let line = cmd.lines().find(|l| l.contains("curl")).unwrap();
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
        rest = &rest[start..];
        let (word, left) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').unwrap(),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = left;
    }
    let mut r = Recorded {
        h2: false,
        method: "GET".into(),
        path: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
        status: 0,
        answer_headers: BTreeMap::new(),
        answer: String::from_utf8_lossy(&vector(&format!("{name}.body"))).into_owned(),
    };
    let mut words = words.into_iter();
    while let Some(w) = words.next() {
        match w.as_str() {
            "--http2-prior-knowledge" => r.h2 = true,
            "-X" => r.method = words.next().unwrap(),
            "-H" => {
                let h = words.next().unwrap();
                let (k, v) = h.split_once(": ").unwrap();
                r.headers.push((k.to_owned(), v.to_owned()));
            }
            "--data-binary" => {
                let data = words.next().unwrap();
                r.body = if data.starts_with('@') { database(2) } else { data.into_bytes() };
            }
            w if w.starts_with("http://") => {
                r.path = w.splitn(4, '/').nth(3).map_or("/".into(), |p| format!("/{p}"));
            }
            _ => {}
        }
    }
    let hdr = String::from_utf8(vector(&format!("{name}.hdr"))).unwrap();
    let mut lines = hdr.lines();
    r.status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    for line in lines.filter(|l| !l.is_empty()) {
        let (k, v) = line.split_once(": ").unwrap();
        r.answer_headers.insert(k.to_ascii_lowercase(), v.trim_end().to_owned());
    }
    r
}

fn header<'a>(h: &'a HeaderMap, name: &str) -> Option<&'a str> {
    h.get(name).map(|v| v.to_str().unwrap())
}

/// Every recorded request is answered with the same status, headers and text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_requests_are_answered_as_the_original_did() {
    let cluster = "LFSCCBABF22CF1184E12";
    let primary = Node::primary().await;
    let replica = Node::listen("127.0.0.1:0", Options::default()).await;
    replica.state.follow("primaryhost");
    for node in [&primary, &replica] {
        node.store.set_cluster(Some(cluster));
        node.store.commit("d.db", 4096, 2, &[(1, 1), (2, 2)]);
        node.store.commit("w.db", 4096, 2, &[(1, 3), (2, 4)]);
        node.store.commit("gone.db", 4096, 1, &[(1, 1)]);
        node.store.drop_db("gone.db");
    }
    // What a lease that can move, and the halt lock, would answer is no part of this version.
    let not_yet = ["primary-halt-acquire", "replica-halt-acquire"];
    let mut names: Vec<String> = std::fs::read_dir(vectors())
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".cmd").map(str::to_owned))
        .filter(|n| !n.ends_with("metrics") && vectors().join(format!("{n}.body")).exists())
        .collect();
    names.sort();
    assert!(names.len() > 40, "{}", names.len());
    for name in names {
        let r = recorded(&name);
        let node = if name.starts_with("primary") { &primary } else { &replica };
        let headers: Vec<(&str, &str)> = r.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let got = Ask::new(node.addr, r.h2, &r.method, &r.path)
            .headers(&headers)
            .body(r.body.clone())
            .answer()
            .await;
        let id = node.state.id.to_string();
        assert_eq!(header(&got.headers, "litefs-id"), Some(id.as_str()), "{name}");
        assert_eq!(header(&got.headers, "litefs-cluster-id"), Some(cluster), "{name}");
        if not_yet.contains(&name.as_str()) {
            assert_eq!((got.status.as_u16(), got.text().as_str()), (501, "not supported by this version\n"));
            continue;
        }
        if name == "primary-promote" {
            // The recorded primary was a candidate.
            assert_eq!(got.status, 409);
            continue;
        }
        assert_eq!(got.status.as_u16(), r.status, "{name}: {}", got.text());
        for key in ["content-type", "x-content-type-options", "content-encoding"] {
            let want = r.answer_headers.get(key).map(String::as_str);
            assert_eq!(header(&got.headers, key), want, "{name}: {key}");
        }
        let has_length = r.answer_headers.contains_key("content-length");
        assert_eq!(got.headers.contains_key("content-length"), has_length, "{name}: content-length");
        if r.status >= 400 {
            let strip = |s: &str| s.replace("/data/dbs", "/dbs").replace("RUN/gp", "").replace("RUN/gr", "");
            assert_eq!(strip(&got.text()), strip(&r.answer), "{name}");
        } else if name.contains("info") {
            let own = format!("host-{id}");
            let want = r.answer.replace("RUN/gp/data", "/data").replace("RUN/gr/data", "/data");
            let want = want.replace("\"candidate\": true", "\"candidate\": false");
            let want = if name.starts_with("primary") { want.replace("primaryhost", &own) } else { want };
            assert_eq!(got.text(), want, "{name}");
        }
    }
}

/// The page has the series of the original with their types and labels (but for `go_*`), and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_the_names_types_and_labels_of_the_original() {
    let mut primary = Node::primary().await;
    for name in ["d.db", "gone.db", "w.db"] {
        primary.store.commit(name, 4096, 1, &[(1, 1)]);
    }
    let mut replica = Node::replica_of(&primary).await;
    eventually("the replica", || replica.store.pos("w.db") == primary.store.pos("w.db")).await;
    primary.store.commit("d.db", 4096, 1, &[(1, 2)]);
    eventually("the replica", || replica.store.pos("d.db") == primary.store.pos("d.db")).await;
    let got = Ask::get(primary.addr, false, "/metrics").answer().await;
    assert_eq!(header(&got.headers, "content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(header(&got.headers, "litefs-id"), None);
    let series = |text: &str| -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let mut kind = String::new();
        for line in text.lines().filter(|l| !l.is_empty()) {
            if let Some(t) = line.strip_prefix("# TYPE ") {
                kind = t.split_once(' ').unwrap().1.to_owned();
            } else if !line.starts_with('#') {
                out.insert(line.rsplit_once(' ').unwrap().0.to_owned(), kind.clone());
            }
        }
        out.retain(|name, _| !name.starts_with("go_"));
        // The recorded databases were written to in different ways.
        out.retain(|name, _| !name.contains("_write_count") || name.contains("\"w.db\""));
        out
    };
    let want = series(&String::from_utf8(vector("primary-metrics.body")).unwrap());
    assert_eq!(series(&got.text()), want);
    let help = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|l| l.starts_with("# HELP") && !l.contains(" go_"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(help(&got.text()), help(&String::from_utf8(vector("primary-metrics.body")).unwrap()));
    let text = got.text();
    assert!(text.contains("litefs_http_frame_send_count{db=\"d.db\",type=\"ltx\"} 1\n"), "{text}");
    assert!(text.contains("litefs_http_frame_send_count{db=\"d.db\",type=\"ltx:snapshot\"} 1\n"), "{text}");
    assert!(text.contains("litefs_is_primary 1\n") && text.contains("litefs_subscriber_count 1\n"), "{text}");
    let vars = Ask::get(primary.addr, false, "/debug/vars").answer().await;
    let vars: serde_json::Value = serde_json::from_slice(&vars.body).unwrap();
    assert_eq!(vars["store"]["dbs"]["d.db"]["txid"], "0000000000000002");
    replica.stop().await;
    primary.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn import_and_export_move_whole_databases() {
    let primary = Node::primary().await;
    let file = database(200);
    for h2 in [false, true] {
        for size in [2, 200] {
            let body = database(size);
            let got = Ask::post(primary.addr, h2, "/import?name=i.db", body.clone()).answer().await;
            assert_eq!((got.status.as_u16(), got.text().as_str()), (200, ""));
            let got = Ask::get(primary.addr, h2, "/export?name=i.db").answer().await;
            assert_eq!(got.status, 200);
            assert!(got.body == body);
        }
    }
    // More than fits into memory goes through a file, which does not stay.
    let big = file.repeat(8);
    let got = Ask::post(primary.addr, true, "/import?name=i.db", big.clone()).answer().await;
    assert_eq!(got.status, 200);
    assert!(Ask::get(primary.addr, false, "/export?name=i.db").answer().await.body == big);
    assert_eq!(std::fs::read_dir(primary.store.spool_dir()).unwrap().count(), 0);
    let imports = *primary.store.imports.lock().unwrap();
    for (name, body, status, text) in [
        ("a%2Fb", database(1), 400, "invalid database name: "),
        ("..%2F..%2Fevil", database(1), 400, "invalid database name: "),
        ("x-wal", database(1), 400, "invalid database name: "),
        ("x", Vec::new(), 500, "read database header: EOF\n"),
        ("x", database(1)[..99].to_vec(), 500, "read database header: invalid database header\n"),
        ("x", vec![0; 2 << 20], 500, "read database header: invalid database header\n"),
    ] {
        let got = Ask::post(primary.addr, true, &format!("/import?name={name}"), body).answer().await;
        assert!(got.status == status && got.text().starts_with(text), "{name}: {got:?}");
    }
    *primary.store.spool_budget.lock().unwrap() = 1 << 20;
    let got = Ask::post(primary.addr, true, "/import?name=i.db", big).answer().await;
    assert_eq!(got.status, 413);
    assert_eq!(*primary.store.imports.lock().unwrap(), imports, "nothing of these reached the store");
}

/// A client that goes away in the middle of an import changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_breaks_off_is_no_import() {
    let primary = Node::primary().await;
    let mut s = TcpStream::connect(primary.addr).await.unwrap();
    s.write_all(b"POST /import?name=i.db HTTP/1.1\r\nHost: x\r\nContent-Length: 8192\r\n\r\n").await.unwrap();
    s.write_all(&database(1)).await.unwrap();
    s.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = s.read_to_string(&mut answer).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(*primary.store.imports.lock().unwrap(), 0);
}

/// An export that fails under way is cut off, so that no client takes it for a database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_export_is_never_a_complete_answer() {
    use http_body_util::BodyExt as _;
    let primary = Node::primary().await;
    primary.store.commit("d.db", 4096, 1, &[(1, 1)]);
    for (after, h2) in [(200_000, true), (200_000, false), (0, true), (0, false)] {
        *primary.store.break_snapshots.lock().unwrap() = Some(after);
        let Ok(r) = Ask::get(primary.addr, h2, "/export?name=d.db").response().await else {
            assert!(after > 0 && h2);
            continue;
        };
        if after == 0 {
            assert_eq!(r.status(), 500);
            let text = r.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(&text[..], b"write snapshot: disk on fire\n");
        } else {
            assert_eq!(r.status(), 200);
            assert!(r.into_body().collect().await.is_err(), "h2: {h2}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_streamed_as_they_happen() {
    use http_body_util::BodyExt as _;
    let primary = Node::primary().await;
    for h2 in [false, true] {
        let r = Ask::get(primary.addr, h2, "/events").response().await.unwrap();
        assert_eq!(header(r.headers(), "content-type"), Some("application/json"));
        let mut body = r.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let recorded = String::from_utf8(vector("events-primary.out")).unwrap();
        assert_eq!(first, format!("{}\n", recorded.lines().next().unwrap()));
        let pos = primary.store.commit("e.db", 4096, 1, &[(1, 1)]);
        let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let event: serde_json::Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(event["db"], "e.db");
        assert_eq!(event["data"]["txID"], format!("{:016x}", pos.txid_raw()));
    }
}

/// Any split of the first bytes is understood, and a client that says nothing keeps nobody waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_clients() {
    let primary = Node::primary().await;
    let _silent = TcpStream::connect(primary.addr).await.unwrap();
    let mut s = TcpStream::connect(primary.addr).await.unwrap();
    s.set_nodelay(true).unwrap();
    for b in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        s.write_all(&[*b]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut head = [0; 9];
    s.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "a SETTINGS frame");
    let mut s = TcpStream::connect(primary.addr).await.unwrap();
    for b in b"GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" {
        s.write_all(&[*b]).await.unwrap();
    }
    let mut answer = String::new();
    s.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nLitefs-Id: "), "{answer}");
    let mut s = TcpStream::connect(primary.addr).await.unwrap();
    s.write_all(&vec![b'x'; 200_000]).await.ok();
    let mut answer = Vec::new();
    let _ = s.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

/// Position maps beyond the limits, cut off or nonsensical are refused with 400.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_position_maps_are_refused() {
    let primary = Node::primary().await;
    let long_name = [&[0, 0, 0, 1, 0, 1, 0, 0][..], &vec![b'a'; 70_000]].concat();
    for (map, text) in [
        (Vec::new(), "EOF\n"),
        (vec![0, 0, 0], "unexpected EOF\n"),
        (vec![0, 0, 0, 2, 0, 0, 0, 1], "unexpected EOF\n"),
        (vec![255; 64], "position map of 4294967295 entries\n"),
        (long_name, "name of 65536 bytes in the position map\n"),
    ] {
        let got = Ask::post(primary.addr, true, "/stream", map).answer().await;
        assert_eq!((got.status.as_u16(), got.text().as_str()), (400, text));
    }
    let own = primary.state.id.to_string();
    let got =
        Ask::post(primary.addr, true, "/stream", vec![0; 4]).headers(&[("litefs-id", &own)]).answer().await;
    assert_eq!((got.status.as_u16(), got.text().as_str()), (400, "cannot connect to self\n"));
    primary.state.follow_nobody();
    let got = Ask::post(primary.addr, true, "/stream", vec![0; 4]).answer().await;
    assert_eq!((got.status.as_u16(), got.text().as_str()), (503, "lease expired\n"));
}
