//! Experiment E29, the cluster port: a live daemon gets raw bytes, damaged HTTP/1.1 requests and damaged
//! HTTP/2 over TCP. It stays up, its memory stays bounded, its data stays what it was, and it goes on
//! serving. Needs root and /dev/fuse; `make soak` runs it longer.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use litefs_tests::bad_input::mutate::{mutate, noise};
use litefs_tests::bad_input::{Before, assert_no_panic, names, rss_kb, wait_descriptors};
use litefs_tests::http::get;
use litefs_tests::node::pair;
use litefs_tests::rng::Rng;
use litefs_tests::sample::sixty_rows;
use litefs_tests::scratch::Scratch;
use litefs_tests::session::once;
use litefs_tests::watch::{Deadline, soak_factor};

/// Largest growth of the daemon's memory, in KiB.
const MAX_GROWTH: u64 = 96 << 10;

fn h2_frame(kind: u8, flags: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let mut f = (body.len() as u32).to_be_bytes()[1..].to_vec();
    f.extend([kind, flags]);
    f.extend(id.to_be_bytes());
    f.extend(body);
    f
}

/// HPACK literals without indexing (RFC 7541, section 6.2.2).
fn h2_headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(text.len() as u8);
            out.extend(text.as_bytes());
        }
    }
    out
}

fn samples() -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let h2 = |path: &str, method: &str, body: &[u8]| {
        let head = h2_headers(&[
            (":method", method),
            (":path", path),
            (":scheme", "http"),
            (":authority", "x"),
            ("litefs-id", "00000000000000AA"),
        ]);
        [
            preface.clone(),
            h2_frame(4, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0]),
            h2_frame(8, 0, 0, &[0, 1, 0, 0]),
            h2_frame(1, 4, 1, &head),
            h2_frame(0, 1, 1, body),
            h2_frame(6, 0, 0, &[1; 8]),
            h2_frame(3, 0, 1, &[0, 0, 0, 8]),
            h2_frame(7, 0, 0, &[0; 8]),
        ]
        .concat()
    };
    let map = [
        &1_u32.to_be_bytes()[..],
        &2_u32.to_be_bytes(),
        b"db",
        &1_u64.to_be_bytes(),
        &(1_u64 << 63).to_be_bytes(),
    ]
    .concat();
    let mut database = b"SQLite format 3\0\x10\0\x01\x01\0\x40\x20\x20".to_vec();
    database.resize(4096, 0);
    let h1 = |line: &str, head: &str, body: &[u8]| {
        let length = body.len();
        [format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{head}\r\n").as_bytes(), body]
            .concat()
    };
    vec![
        h2("/stream", "POST", &map),
        h2("/stream?filter=db%2Cx", "POST", &[0; 4]),
        h2("/info", "GET", b""),
        h2("/export?name=db", "GET", b""),
        h2("/import?name=fuzzed", "POST", &database),
        h1("GET /info", "", b""),
        h1("GET /metrics", "Accept: text/plain\r\n", b""),
        h1("GET /debug/vars", "", b""),
        h1("GET /export?name=db", "Range: bytes=1-\r\n", b""),
        h1("POST /import?name=fuzzed", "Expect: 100-continue\r\n", &database),
        h1("POST /stream", "Litefs-Id: AA\r\n", &map),
        h1("POST /halt?name=db&id=9", "Connection: upgrade\r\nUpgrade: h2c\r\n", b""),
        h1("DELETE /halt?name=db&id=9", "", b""),
        h1("POST /tx?name=db&lockID=9", "", b"LTX1\0\0\0\0"),
        h1("POST /promote", "", b""),
        h1("POST /handoff?nodeID=AA", "", b""),
        b"POST /import?name=fuzzed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nSQLite format 3\0\r\n0\r\n\r\n".to_vec(),
    ]
}

/// Sends `input`, in two parts now and then, reads a little, and goes, politely or not.
fn attack(port: u16, input: &[u8], rng: &mut Rng) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(*rng.pick(&[1, 5, 30]))));
    let _ = stream.set_write_timeout(Some(Duration::from_secs(2)));
    let cut = rng.range(0, input.len() as u64 + 1) as usize;
    let _ = stream.write_all(&input[..cut]);
    if rng.chance(20) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = stream.write_all(&input[cut..]);
    if rng.chance(30) {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let _ = stream.read(&mut [0; 4096]);
}

#[test]
fn the_port_survives_damaged_requests() {
    let _deadline = Deadline::secs(120 + 20 * soak_factor());
    let scratch = Scratch::new("fuzzport");
    let (mut primary, mut replica) = pair(&scratch);
    sixty_rows(&primary, "db", "wal");
    replica.sync_with(&primary, "db");
    let before = Before::of(&primary, "db");
    let there = Before::of(&replica, "db");
    let (pid, ports) = (primary.pid(), [primary.port(), replica.port()]);
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let memory = rss_kb(pid);
    let seed = Rng::seed_or(0xE29);
    let end = Instant::now() + Duration::from_secs(5) * soak_factor() as u32;
    let samples = samples();
    let attackers: Vec<_> = (0..4_u64)
        .map(|n| {
            let samples = samples.clone();
            std::thread::spawn(move || {
                let mut inputs = 0_u64;
                while Instant::now() < end {
                    let mut rng = Rng::new(seed.wrapping_add(n << 48).wrapping_add(inputs));
                    let input = if rng.chance(10) {
                        noise(&mut rng, 20_000)
                    } else {
                        let (a, b) = (rng.pick(&samples).clone(), rng.pick(&samples).clone());
                        if rng.chance(5) { a } else { mutate(&mut rng, &a, &b, 100_000) }
                    };
                    attack(ports[usize::from(rng.chance(25))], &input, &mut rng);
                    inputs += 1;
                }
                inputs
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let at = Instant::now();
        assert_eq!(get(&primary, "/info", Duration::from_secs(20)).expect("still serving").status, 200);
        slowest = slowest.max(at.elapsed());
        let grown = rss_kb(pid).saturating_sub(memory);
        assert!(grown < MAX_GROWTH, "seed {seed}: the daemon's memory grew by {grown} KiB");
        std::thread::sleep(Duration::from_millis(200));
    }
    let inputs: u64 = attackers.into_iter().map(|a| a.join().expect("an attacker")).sum();
    eprintln!(
        "port: {inputs} connections, slowest answer {slowest:?}, memory +{} KiB",
        rss_kb(pid).saturating_sub(memory)
    );
    assert!(inputs > 100, "{inputs} connections");
    assert!(slowest < Duration::from_secs(10), "seed {seed}: an answer took {slowest:?}");
    // A damaged import may have become right again; the database that was there is none of its business.
    let there_now = names(&primary.mount);
    let known = |n: &String| before.names.contains(n) || n.chars().all(|c| c != '/' && !c.is_control());
    assert!(there_now.iter().all(known), "{there_now:?}");
    before.assert_unchanged_but_names(&mut primary, &format!("seed {seed}"), &scratch);
    assert!(replica.is_running(), "seed {seed}: {}", replica.log_tail(30));
    assert_eq!(Before::of(&replica, "db").pos, there.pos);
    assert_no_panic(&primary);
    assert_no_panic(&replica);
    once(primary.path("db"), "INSERT INTO t(x) VALUES('after')");
    litefs_tests::image::assert_same(&primary, &replica, "db", &scratch);
    wait_descriptors(&primary, descriptors + 16);
    replica.stop();
    primary.stop();
}
