//! Hostile requests at a primary's port: names, bodies, headers, position maps, and clients without
//! manners. Each is refused with words that say why, nothing is left behind, and the next client is served.
//! Needs root and /dev/fuse.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use litefs_tests::bad_input::{Before, assert_no_panic, names, rss_kb, wait_descriptors};
use litefs_tests::http::{get, import, raw, request};
use litefs_tests::node::{Node, pair, single};
use litefs_tests::sample::{insert_rows, sixty_rows};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::once;
use litefs_tests::watch::{Deadline, within};

const LIMIT: Duration = Duration::from_secs(20);

/// A database file of SQLite's own making.
fn database(scratch: &Scratch, page_size: u32) -> Vec<u8> {
    let path = scratch.join(format!("made-{page_size}.db"));
    once(
        &path,
        &format!(
            "PRAGMA page_size={page_size}; CREATE TABLE t(id INTEGER PRIMARY KEY, x); {}",
            insert_rows(60, "'made'||i")
        ),
    );
    std::fs::read(&path).unwrap()
}

/// Everything beneath the data directory's parent: a name that leads out of it shows here.
fn directories(scratch: &Scratch) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![scratch.path().to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) && !entry.path().ends_with("mnt") {
                // Made when first needed.
                if entry.file_name() != "spool" {
                    all.push(entry.path().display().to_string());
                    todo.push(entry.path());
                }
            }
        }
    }
    all.sort();
    all
}

#[test]
fn hostile_names_are_refused_and_leave_nothing() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("badnames");
    let mut primary = single(&scratch);
    sixty_rows(&primary, "db", "wal");
    let body = database(&scratch, 4096);
    let before = Before::of(&primary, "db");
    let dirs = directories(&scratch);
    let long = "a".repeat(241);
    let huge = "a".repeat(20_000);
    for (name, words) in [
        ("", "name required"),
        ("..%2F..%2Fevil", "invalid database name"),
        ("../../evil", "invalid database name"),
        ("%2Fetc%2Fevil", "invalid database name"),
        (".", "invalid database name"),
        ("..", "invalid database name"),
        ("a%00b", "invalid database name"),
        ("a%0Ab", "invalid database name"),
        ("%1b%5b2J", "invalid database name"),
        ("db-wal", "invalid database name"),
        ("db-journal", "invalid database name"),
        ("db-shm", "invalid database name"),
        ("db-pos", "invalid database name"),
        ("db-lock", "invalid database name"),
        ("db-mj0123459AB", "invalid database name"),
        (".primary", "invalid database name"),
        (".lag", "invalid database name"),
        (long.as_str(), "invalid database name"),
        (huge.as_str(), "invalid database name"),
        // Neither decodes: as with the original it is as if there were none.
        ("%zz", "name required"),
        ("%ff%fe", "name required"),
    ] {
        let answer = import(&primary, name, &body);
        assert_eq!(answer.status, 400, "import of {name:?}: {}", answer.text());
        assert!(answer.text().contains(words), "import of {name:?}: {}", answer.text());
        let answer = get(&primary, &format!("/export?name={name}"), LIMIT).unwrap();
        let want = if words == "name required" { 400 } else { 404 };
        assert_eq!(answer.status, want, "export of {name:?}: {}", answer.text());
        assert_eq!(directories(&scratch), dirs, "{name:?}");
    }
    for path in ["/import", "/import?", "/import?nam=x", "/import?name", "/import?;name=x"] {
        let answer = request(&primary, "POST", path, &body, LIMIT).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (400, "name required\n"), "{path}");
    }
    // Odd, but names: they work, through every door.
    for (coded, name) in
        [("%C3%A4%20%25%3D.db", "ä %=.db"), ("-rf", "-rf"), ("~", "~"), ("%E2%80%AE", "\u{202e}")]
    {
        let answer = import(&primary, coded, &body);
        assert_eq!(answer.status, 200, "{name:?}: {}", answer.text());
        assert_eq!(once(primary.path("").join(name), "SELECT count(*) FROM t"), ["60"], "{name:?}");
        assert_eq!(get(&primary, &format!("/export?name={coded}"), LIMIT).unwrap().status, 200);
        std::fs::remove_file(primary.path("").join(name)).unwrap();
    }
    let mut after = before.clone();
    after.names = names(&primary.mount);
    after.assert_unchanged(&mut primary, "names", &scratch);
    primary.stop().start();
    after.assert_unchanged(&mut primary, "names, after a restart", &scratch);
    assert_no_panic(&primary);
}

/// A body and the words of its refusal.
type Case = (&'static str, Vec<u8>, &'static str);

fn wrong_bodies(good: &[u8]) -> Vec<Case> {
    let with = |at: usize, bytes: &[u8]| {
        let mut b = good.to_vec();
        b[at..at + bytes.len()].copy_from_slice(bytes);
        b
    };
    vec![
        ("empty", Vec::new(), "read database header: EOF"),
        ("one byte", b"S".to_vec(), "invalid database header"),
        ("a header cut short", good[..99].to_vec(), "invalid database header"),
        ("text", b"hello world\n".repeat(5000), "invalid database header"),
        ("zeros", vec![0; 1 << 20], "invalid database header"),
        ("an encrypted or wrong magic", with(0, b"SQLite format 4\0"), "invalid database header"),
        ("a header alone", good[..100].to_vec(), "whole number of pages"),
        ("half a page", good[..good.len() - 2048].to_vec(), "whole number of pages"),
        ("pages missing", good[..4096].to_vec(), "the header says"),
        ("one byte more", [good, &[0]].concat(), "whole number of pages"),
        ("page size 0", with(16, &[0, 0]), "page size"),
        ("page size 3", with(16, &[0, 3]), "page size"),
        ("page size 256", with(16, &[1, 0]), "page size"),
        ("page size 65535", with(16, &[0xff, 0xff]), "page size"),
        ("page size 32768 of a file of 4096", with(16, &[0x80, 0]), "pages"),
        // A count that is marked as valid (offset 92 = offset 24) and a lie.
        ("more pages than there are", with(28, &[0xff; 4]), "the header says"),
        ("reserved space beyond the page", with(16, &[2, 0, 1, 1, 255]), "reserved"),
        ("payload fractions", with(21, &[1, 2, 3]), "fraction"),
    ]
}

#[test]
fn bodies_that_are_no_databases_are_refused() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("badbodies");
    let (mut primary, mut replica) = pair(&scratch);
    for journal in ["wal", "delete"] {
        sixty_rows(&primary, journal, journal);
        replica.sync_with(&primary, journal);
    }
    let good = database(&scratch, 4096);
    for db in ["wal", "delete", "new.db"] {
        let existing = if db == "new.db" { "wal" } else { db };
        let (before, there) = (Before::of(&primary, existing), Before::of(&replica, existing));
        for (what, body, words) in wrong_bodies(&good) {
            let answer = import(&primary, db, &body);
            let text = answer.text();
            assert!(answer.status >= 400, "{db}: {what}: {} {text}", answer.status);
            assert!(text.contains(words), "{db}: {what}: {} {text}", answer.status);
            before.assert_unchanged(&mut primary, what, &scratch);
        }
        there.assert_unchanged(&mut replica, "wrong imports", &scratch);
        // The right file goes in after all of that, under a running application.
        assert_eq!(import(&primary, db, &good).status, 200);
        assert_eq!(once(primary.path(db), "SELECT count(*), max(x) FROM t"), ["60|made9"]);
        litefs_tests::image::assert_same(&primary, &replica, db, &scratch);
    }
    // A page count of 0 in the header means: the size of the file (SQLite before 3.7.0 wrote none).
    let mut old = good.clone();
    old[28..32].fill(0);
    assert_eq!(import(&primary, "old.db", &old).status, 200);
    assert_eq!(once(primary.path("old.db"), "PRAGMA integrity_check"), ["ok"]);
    // Another page size replaces the whole.
    for size in [512, 65536] {
        let other = database(&scratch, size);
        assert_eq!(import(&primary, "wal", &other).status, 200, "{size}");
        assert_eq!(
            once(primary.path("wal"), "PRAGMA page_size; SELECT count(*) FROM t"),
            [size.to_string(), "60".into()]
        );
        litefs_tests::image::assert_same(&primary, &replica, "wal", &scratch);
    }
    // On the replica nothing of it is even read.
    let answer = import(&replica, "wal", &good);
    assert_eq!((answer.status, answer.text().as_str()), (503, "lease expired\n"));
    assert_no_panic(&primary);
    assert_no_panic(&replica);
}

fn position_map(entries: &[(&[u8], u64, u64)]) -> Vec<u8> {
    let mut out = (entries.len() as u32).to_be_bytes().to_vec();
    for (name, txid, sum) in entries {
        out.extend((name.len() as u32).to_be_bytes());
        out.extend(*name);
        out.extend(txid.to_be_bytes());
        out.extend(sum.to_be_bytes());
    }
    out
}

/// `POST /stream` over HTTP/2 by curl; the status and what came within two seconds.
fn stream(node: &Node, scratch: &Scratch, map: &[u8]) -> (u32, Vec<u8>) {
    let (body, out) = (scratch.join("map"), scratch.join("answer"));
    std::fs::write(&body, map).unwrap();
    let _ = std::fs::remove_file(&out);
    let run = std::process::Command::new("curl")
        .args(["-sS", "--http2-prior-knowledge", "--max-time", "2", "-w", "%{http_code}", "-o"])
        .arg(&out)
        .args(["-H", "Litefs-Id: 00000000000000AA", "--data-binary"])
        .arg(format!("@{}", body.display()))
        .arg(format!("{}/stream", node.url()))
        .output()
        .expect("run curl");
    let status = String::from_utf8_lossy(&run.stdout).trim().parse().unwrap_or(0);
    (status, std::fs::read(&out).unwrap_or_default())
}

#[test]
fn position_maps_have_limits() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("badmaps");
    let mut primary = single(&scratch);
    sixty_rows(&primary, "db", "delete");
    let before = Before::of(&primary, "db");
    let count = u32::MAX.to_be_bytes();
    let long_name = [&1_u32.to_be_bytes()[..], &4097_u32.to_be_bytes(), &[b'a'; 5000]].concat();
    let negative = [&1_u32.to_be_bytes()[..], &[0xff; 4]].concat();
    let twice = position_map(&[(b"db", 1, 1 << 63), (b"db", 1, 1 << 63)]);
    let good = position_map(&[(b"db", before.pos.txid_raw(), before.pos.checksum().get())]);
    for (what, map, words) in [
        ("no map", Vec::new(), "EOF"),
        ("half a count", vec![0, 0], "EOF"),
        ("a huge count", count.to_vec(), "position map of 4294967295 entries"),
        ("a count beyond the limit", 1_000_001_u32.to_be_bytes().to_vec(), "position map of 1000001 entries"),
        ("a million entries that do not come", 1_000_000_u32.to_be_bytes().to_vec(), "EOF"),
        ("a long name", long_name, "name of 4097 bytes"),
        ("the longest name", negative, "name of 4294967295 bytes"),
        ("a map cut short", good[..good.len() - 3].to_vec(), "EOF"),
        ("a database twice", twice, "twice"),
    ] {
        let (status, text) = stream(&primary, &scratch, &map);
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(status, 400, "{what}: {text}");
        assert!(text.contains(words), "{what}: {text}");
    }
    // Names that cannot be, positions that cannot be: they get what they lack, that is all.
    for map in [
        position_map(&[(b"../../etc", 7, 1 << 63), (b"a\0b", 0, 0), (b"", 5, 5), (b"\xff", 1, 1)]),
        position_map(&[(b"db", u64::MAX, u64::MAX)]),
        position_map(&[(b"db", 1, 0)]),
        position_map(&[(b"db", 0, 1 << 63)]),
    ] {
        let (status, sent) = stream(&primary, &scratch, &map);
        assert_eq!(status, 200);
        assert!(sent.windows(4).any(|w| w == b"LTX1"), "a snapshot");
    }
    before.assert_unchanged(&mut primary, "position maps", &scratch);
    assert_no_panic(&primary);
}

#[test]
fn clients_without_manners_hold_nobody_up() {
    let _deadline = Deadline::secs(150);
    let scratch = Scratch::new("manners");
    let mut primary = single(&scratch);
    sixty_rows(&primary, "db", "wal");
    let before = Before::of(&primary, "db");
    let memory = rss_kb(primary.pid());
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", primary.pid())).unwrap().count();
    let quick = Duration::from_millis(700);
    let big = format!("GET /info HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET /info HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(50_000));
    let path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(300_000));
    for (what, bytes) in [
        ("oversize header", big.as_bytes()),
        ("a great many headers", many.as_bytes()),
        ("an oversize path", path.as_bytes()),
        ("no HTTP", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
        ("a method that is none", b"\0\0\0\0\r\n\r\n"),
        ("a version that is none", b"GET / HTTP/9.9\r\n\r\n"),
        ("two lengths", b"POST /import?name=x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
        ("length and chunks", b"POST /import?name=x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a length below zero", b"POST /import?name=x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
        ("a chunk without end", b"POST /import?name=x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
        ("a length of 2^63", b"POST /import?name=x HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775808\r\n\r\nSQLite"),
    ] {
        let answer = raw(&primary, bytes, quick);
        let text = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
        let status: u32 = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        assert!(status == 0 || status >= 400, "{what}: {text}");
        assert_eq!(get(&primary, "/info", LIMIT).unwrap().status, 200, "{what}");
    }
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let frame = |len: usize, kind: u8, flags: u8, id: u32, body: &[u8]| {
        let mut f = (len as u32).to_be_bytes()[1..].to_vec();
        f.extend([kind, flags]);
        f.extend(id.to_be_bytes());
        f.extend(body);
        f
    };
    let settings = frame(0, 4, 0, 0, &[]);
    for (what, frames) in [
        ("preface and noise", vec![0xAA; 5000]),
        ("half a preface", Vec::new()),
        ("a frame of 16 MiB", frame(0xff_ffff, 0, 0, 1, &[0; 100])),
        ("data on an idle stream", [settings.clone(), frame(4, 0, 0, 1, b"abcd")].concat()),
        ("a window of 0", [settings.clone(), frame(4, 8, 0, 0, &[0; 4])].concat()),
        ("headers that do not decode", [settings.clone(), frame(4, 1, 5, 1, &[0xff; 4])].concat()),
        ("continuation without headers", [settings.clone(), frame(4, 9, 4, 1, &[0x82; 4])].concat()),
        ("settings of odd length", frame(5, 4, 0, 0, &[0; 5])),
        ("pings without number", [settings.clone(), frame(8, 6, 0, 0, &[7; 8]).repeat(20_000)].concat()),
        ("settings without number", settings.repeat(20_000)),
        (
            "endless headers",
            [settings.clone(), frame(1, 1, 0, 1, &[0x82]), frame(4, 9, 0, 1, &[0x84; 4]).repeat(30_000)]
                .concat(),
        ),
        (
            "resets without number",
            [
                settings.clone(),
                (0..10_000_u32)
                    .flat_map(|n| {
                        let id = 2 * n + 1;
                        [frame(3, 1, 4, id, &[0x83, 0x86, 0x84]), frame(4, 3, 0, id, &[0, 0, 0, 8])].concat()
                    })
                    .collect(),
            ]
            .concat(),
        ),
    ] {
        let start = if what == "half a preface" { &preface[..10] } else { preface };
        raw(&primary, &[start, &frames].concat(), quick);
        assert_eq!(get(&primary, "/info", LIMIT).unwrap().status, 200, "{what}");
    }
    // Slow ones: a byte now and then, on many connections, for headers, bodies, prefaces and maps.
    let mut slow: Vec<TcpStream> = Vec::new();
    let starts: [&[u8]; 4] = [
        b"GET /in",
        preface,
        b"POST /import?name=slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nSQLite format 3\0",
        b"PRI * HT",
    ];
    for n in 0..200 {
        let mut s = TcpStream::connect(("127.0.0.1", primary.port())).unwrap();
        s.write_all(starts[n % 4]).unwrap();
        slow.push(s);
    }
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        for (n, s) in slow.iter_mut().enumerate() {
            if n % 4 == 0 {
                let _ = s.write_all(b"x");
            }
        }
        let at = Instant::now();
        assert_eq!(get(&primary, "/info", LIMIT).unwrap().status, 200);
        assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
        once(primary.path("db"), "INSERT INTO t(x) VALUES('beside'); DELETE FROM t WHERE x='beside'");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Headers have half a minute: then the connections without any are closed.
    assert!(
        within(Duration::from_secs(45), || {
            let mut closed = 0;
            for (_, s) in slow.iter().enumerate().filter(|(n, _)| n % 4 == 3) {
                s.set_nonblocking(true).unwrap();
                let mut s = s;
                closed += usize::from(matches!(s.read(&mut [0; 10]), Ok(0)));
            }
            closed == 50
        }),
        "half a preface is for ever"
    );
    drop(slow);
    wait_descriptors(&primary, descriptors + 8);
    let grown = rss_kb(primary.pid()).saturating_sub(memory);
    assert!(grown < 64 << 10, "the primary's memory grew by {grown} KiB");
    let mut after = Before::of(&primary, "db");
    assert_eq!(after.names, before.names);
    after.assert_unchanged(&mut primary, "no manners", &scratch);
    // And a clean stop is not held up by any of them.
    primary.stop().start();
    after.names = names(&primary.mount);
    after.assert_unchanged(&mut primary, "after a restart", &scratch);
    assert_no_panic(&primary);
}
