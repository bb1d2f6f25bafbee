//! Experiment E29: every parser meets damaged input, seeded, without special tools. No panic, no endless
//! loop, no memory that a number in the input asked for. A few seconds each; `make soak` runs them longer.

mod fuzz_support;

use std::io::Cursor;
use std::path::Path;

use fuzz_support::{Counting, as_it_is, fuzz, recorded, unpack};
use http::Method;
use litefs_core::capture::{RollbackCapture, WalEvent, WalTracker};
use litefs_core::stream::chunk::{ChunkDecoder, Piece};
use litefs_core::stream::{Event, FrameDecoder, PosMapDecoder};
use litefs_ltx::checksum::crc64;
use litefs_ltx::{
    Compression, Decoder, FileName, Format, HEADER_SIZE, Header, compact, detect, transcode, verify_any,
};
use litefs_sqlite::db_header::DbHeader;
use litefs_sqlite::journal::super_journal::super_journal_name;
use litefs_sqlite::journal::{JOURNAL_HEADER_LEN, JournalHeader, JournalIdentity, JournalReader};
use litefs_sqlite::shm::{CheckpointInfo, IndexHeader};
use litefs_sqlite::source::{ReadAt, ReadFailed};
use litefs_sqlite::wal::WalReader;
use litefs_sqlite::wal_index;
use litefs_tests::rng::Rng;
use litefs_types::{Checksum, ClusterId, DbName, NodeId, PageSize, Pos, Txid};

#[global_allocator]
static COUNTING: Counting = Counting;

/// LTX files of the original, small ones.
fn ltx_samples() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for set in ["delete-512-raw", "delete-512-lz4", "wal-4096-raw", "wal-4096-lz4", "extra-raw", "extra-lz4"]
    {
        let files = unpack(&format!("ltx/{set}.tar.gz"));
        all.extend(
            files
                .into_iter()
                .filter(|(n, d)| n.rsplit_once('.').is_some_and(|(_, end)| end == "ltx") && d.len() < 40_000)
                .map(|(_, d)| d),
        );
    }
    all.push(format3(512, 3));
    all.push(format3(4096, 1));
    all
}

/// A format-3 file of literals-only blocks. Its index is empty, so it is never accepted, but read far.
fn format3(page_size: usize, pages: u32) -> Vec<u8> {
    let mut out = b"LTX1\0\0\0\0".to_vec();
    out.extend((page_size as u32).to_be_bytes());
    out.extend(pages.to_be_bytes());
    out.extend(1_u64.to_be_bytes());
    out.extend(1_u64.to_be_bytes());
    out.resize(HEADER_SIZE, 0);
    for n in 1..=pages {
        let mut block = vec![0xf0];
        let mut rest = page_size - 15;
        while rest >= 255 {
            block.push(255);
            rest -= 255;
        }
        block.push(rest as u8);
        block.extend(vec![n as u8; page_size]);
        out.extend(n.to_be_bytes());
        out.extend([0, 1]);
        out.extend((block.len() as u32).to_be_bytes());
        out.extend(block);
    }
    out.extend([0; 30]);
    out
}

/// Puts the file checksum of an uncompressed file right, half of the time: what is behind it matters too.
#[allow(clippy::ptr_arg)] // the fuzzer's signature: a repair may change the length
fn right_sum(rng: &mut Rng, input: &mut Vec<u8>) {
    if input.len() > HEADER_SIZE + 16 && rng.chance(50) {
        let end = input.len() - 8;
        let sum = Checksum::new(crc64(&input[..end])).get();
        input[end..].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn ltx_files() {
    let samples = ltx_samples();
    let others = samples.clone();
    fuzz("ltx", &samples, right_sum, |input, rng| {
        for format in [Format::V1, Format::V2, Format::V3] {
            if let Ok(mut d) = Decoder::with_format(input, format) {
                let mut page = Vec::new();
                while let Ok(Some(info)) = d.next_page(&mut page) {
                    assert!(
                        info.page.get() <= d.header().commit && page.len() == d.header().page_size.bytes()
                    );
                }
                let _ = d.finish();
            }
        }
        let _ = detect(Cursor::new(input));
        if let Ok(v) = verify_any(Cursor::new(input)) {
            assert!(v.header.min_txid <= v.header.max_txid);
        }
        if let Some(head) = input.first_chunk::<HEADER_SIZE>() {
            let _ =
                Header::parse(head).map(|h| (h.file_name().to_string(), h.pre_apply_pos(), h.is_snapshot()));
        }
        let mut inputs: Vec<Decoder<&[u8]>> = Decoder::new(input).into_iter().collect();
        inputs.extend(Decoder::new(&rng.pick(&others)[..]));
        let compression = *rng.pick(&[Compression::None, Compression::Lz4]);
        let _ = compact(inputs, Vec::new(), compression);
        if let Ok(d) = Decoder::new(input) {
            let _ = transcode(d, Vec::new(), compression);
        }
        let _ = String::from_utf8_lossy(&input[..input.len().min(60)]).parse::<FileName>();
    });
}

/// Feeds `input` in random pieces.
fn pieces<'a>(input: &'a [u8], rng: &mut Rng) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let most = *rng.pick(&[1, 7, 100, 70_000]);
        let n = rng.range(1, 1 + most).min(rest.len() as u64) as usize;
        let (a, b) = rest.split_at(n);
        out.push(a);
        rest = b;
    }
    out
}

#[test]
fn stream_frames_and_chunks() {
    let samples = recorded("stream", ".resp");
    fuzz("frames", &samples, as_it_is, |input, rng| {
        let mut decoder = FrameDecoder::new();
        let mut data = 0;
        'all: for mut piece in pieces(input, rng) {
            loop {
                match decoder.next(&mut piece) {
                    Ok(Some(Event::Data(d))) => data += d.len(),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(e) => {
                        assert_eq!(decoder.next(&mut &[0_u8][..]), Err(e), "an error repeats");
                        break 'all;
                    }
                }
            }
        }
        assert!(data <= input.len());
        let _ = decoder.finish();
        let (mut chunks, mut total) = (ChunkDecoder::new(), 0);
        for mut piece in pieces(input, rng) {
            while let Some(found) = chunks.next(&mut piece) {
                if let Piece::Data(d) = found {
                    assert!(!d.is_empty());
                    total += d.len();
                }
            }
        }
        assert!(total <= input.len());
    });
}

#[test]
fn position_maps() {
    let samples = recorded("stream", ".req");
    fuzz("maps", &samples, as_it_is, |input, rng| {
        let whole = PosMapDecoder::decode(input);
        let mut decoder = PosMapDecoder::new();
        let mut got = None;
        for mut piece in pieces(input, rng) {
            match decoder.next(&mut piece) {
                Ok(None) => {}
                Ok(Some(map)) => {
                    got = Some(Ok(map));
                    break;
                }
                Err(e) => {
                    got = Some(Err(e));
                    break;
                }
            }
        }
        match got {
            Some(got) => assert_eq!(got, whole, "pieces must not matter"),
            None => assert!(whole.is_err()),
        }
    });
}

/// Database, hot journal, WAL and index that real SQLite wrote.
fn sqlite_samples(page_size: u32) -> [Vec<u8>; 4] {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, journal: &str| {
        let db = rusqlite::Connection::open(dir.path().join(name)).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode={journal}; PRAGMA cache_size=4; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t(a INTEGER PRIMARY KEY, b);
             WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<40) INSERT INTO t(b) SELECT hex(zeroblob(100)) FROM n;
             UPDATE t SET b=b||'x' WHERE a%3=0; BEGIN; UPDATE t SET b=b||'y'"
        ))
        .unwrap();
        db
    };
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let (a, b) = (make("r", "delete"), make("w", "wal"));
    let all = [read("r"), read("r-journal"), read("w-wal"), read("w-shm")];
    drop((a, b));
    all
}

#[test]
fn sqlite_files() {
    let samples: Vec<Vec<u8>> = [512, 4096].iter().flat_map(|ps| sqlite_samples(*ps)).collect();
    fuzz("sqlite", &samples, as_it_is, |input, rng| {
        if let Ok(mut h) = DbHeader::parse(input) {
            for size in [0, 1, input.len() as u64, u64::MAX] {
                let _ = h.page_count(size);
            }
            let _ = (h.journal_mode(), h.page_count_field(), h.text_encoding(), h.reserved());
            h.set_page_count(rng.next() as u32);
        }
        // A size that is not the file's: it may shrink under us.
        let sizes = [input.len() as u64, rng.range(0, 2 * input.len() as u64 + 1), u64::MAX];
        for size in sizes {
            let fallback = *rng.pick(&[None, PageSize::new(512).ok(), PageSize::new(65536).ok()]);
            if let Ok(Some(mut j)) = JournalReader::open(input, size, fallback) {
                let _ = (j.page_size(), j.original_pages(), j.super_journal(), j.identity());
                let mut page = Vec::new();
                while let Ok(Some(_)) = j.next_page(&mut page) {}
            }
            let _ = super_journal_name(&mut &input[..], size);
            if let Ok(Some(mut w)) = WalReader::open(input, size) {
                while let Ok(Some(t)) = w.next_transaction() {
                    assert!(t.last >= t.first && t.pages.windows(2).all(|p| p[0].0 < p[1].0));
                }
            }
        }
        if let Some(b) = input.first_chunk::<JOURNAL_HEADER_LEN>() {
            let _ = JournalHeader::parse(b);
        }
        let _ = JournalIdentity::of_first_sector(input);
        let _ = (IndexHeader::decode_pair(input), CheckpointInfo::decode(input));
        let mut block = input.to_vec();
        let n = rng.range(0, 4) as u32;
        for _ in 0..20 {
            let (page, frame) = (rng.next() as u32, rng.next() as u32);
            let _ = wal_index::lookup(&block, n, page, frame);
            let _ = wal_index::page_of(&block, n, frame % 9000);
            let _ = (
                wal_index::block_of(frame),
                wal_index::entries_in(n, frame),
                wal_index::frames_before(frame),
            );
        }
        let valid = rng.range(0, 5000) as u32;
        wal_index::clean(&mut block, n, valid);
        let mut changed = wal_index::Changed::default();
        for entry in valid..valid.saturating_add(50) {
            let _ = wal_index::insert(&mut block, n, entry, rng.next() as u32, &mut changed);
        }
    });
}

/// The backing file as the tracker reads it.
struct Backing(Vec<u8>);

impl ReadAt for Backing {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ReadFailed> {
        (&self.0[..]).read_at(offset, buf)
    }
}

#[test]
fn wal_writes_in_any_order() {
    let samples: Vec<Vec<u8>> = [512, 4096].iter().map(|ps| sqlite_samples(*ps)[2].clone()).collect();
    fuzz("tracker", &samples, as_it_is, |input, rng| {
        let mut tracker = WalTracker::new();
        let mut file = Backing(Vec::new());
        for _ in 0..rng.range(1, 60) {
            let at = match rng.range(0, 4) {
                0 => 0,
                1 => rng.range(0, input.len() as u64 + 1),
                // Where the file ends now: an ordinary append.
                _ => file.0.len().min(input.len()) as u64,
            };
            let most = *rng.pick(&[8, 33, 600, 5000, 70_000]);
            let len = rng.range(0, most).min(input.len() as u64 - at);
            let data = &input[at as usize..(at + len) as usize];
            // Far away now and then: offsets are a client's numbers.
            if rng.chance(3) {
                let far = *rng.pick(&[u64::MAX, u64::MAX - 4096, 1 << 63, 1 << 45, 1 << 33]);
                let _ = tracker.check_write(far, len);
                let _ = tracker.wrote(far, data, &mut file);
                let _ = tracker.check_truncate(far);
                continue;
            }
            if tracker.check_write(at, len).is_err() {
                continue;
            }
            let end = (at + len) as usize;
            if file.0.len() < end {
                file.0.resize(end, 0);
            }
            file.0[at as usize..end].copy_from_slice(data);
            let Ok(events) = tracker.wrote(at, data, &mut file) else { continue };
            for event in events {
                if let WalEvent::Commit(tx) = event {
                    assert!(
                        tx.first <= tx.last
                            && tx.pages.iter().all(|(p, f)| p.get() <= tx.commit && *f <= tx.last)
                    );
                    if rng.chance(50) {
                        tracker.publish(tx.last);
                    }
                }
            }
            match rng.range(0, 20) {
                0 => {
                    let size = rng.range(0, file.0.len() as u64 + 1);
                    if tracker.check_truncate(size).is_ok() {
                        file.0.truncate(size as usize);
                        tracker.truncated(size);
                    }
                }
                1 => {
                    let frames = rng.range(0, 300) as u32;
                    let _ = tracker.cover(frames, rng.next() as u32, [1, 2], &mut file);
                }
                2 => {
                    let n = tracker.frame_count();
                    tracker.publish(n);
                }
                3 if rng.chance(20) => {
                    tracker.removed();
                    file.0.clear();
                }
                _ => {}
            }
            assert!(tracker.published_frames() <= tracker.captured_frames().max(tracker.published_frames()));
        }
        let mut pages = RollbackCapture::new();
        let ps = PageSize::new(*rng.pick(&[512, 4096, 65536])).unwrap();
        for _ in 0..20 {
            pages.touch(rng.range(0, 1 << 40), rng.range(0, 1 << 20), ps);
            if rng.chance(10) {
                pages.truncate(rng.range(0, 1 << 30), ps);
            }
        }
        let dirty = pages.dirty_pages(rng.range(0, 9000) as u32, rng.range(0, 9000) as u32, ps);
        assert!(dirty.windows(2).all(|p| p[0] < p[1]));
    });
}

const YAML: &str = r#"
fuse: {dir: "/litefs", debug: false, allow-other: true}
data:
  dir: "/var/lib/litefs"   # a comment
  compress: true
  retention: "10m"
  max-log-size: 1GiB
exec:
  - cmd: "app -x ${PORT} ${HOME}"
    if-candidate: true
http: {addr: ":20202", snapshot-timeout: 1h2m3.5s}
lease:
  type: static
  candidate: ${A == 'b'}
  hostname: 'h''x'
  advertise-url: "http://${HOSTNAME}.vm.app.internal:20202"
  databases: &names [a.db, "b\n.db", 'c.db']
  promote: true
  reconnect-delay: 100ms
log: {format: json, level: DEBUG, debug: yes}
proxy:
  addr: ":8080"
  passthrough: ["*.ico", *names, "/a?b=${X!=Y}"]
tracing: {path: |
  x
}
"#;

#[test]
fn configuration_files() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n";
    let merge = "x: &x {fuse: {dir: /a}}\ny: {<<: *x}\n<<: *x\n";
    let deep = "[".repeat(100_000);
    let nested = format!("a: {}", "{a: ".repeat(20_000));
    let dashes = format!("a:\n{}", "- ".repeat(50_000));
    let samples: Vec<Vec<u8>> =
        [YAML, bomb, merge, &deep, &nested, &dashes].iter().map(|s| s.as_bytes().to_vec()).collect();
    let env: litefs_config::Env =
        [("A", "b"), ("PORT", "8080"), ("X", "${X}"), ("LONG", &"${LONG}".repeat(1000))]
            .into_iter()
            .collect();
    fuzz("config", &samples, as_it_is, |input, rng| {
        let text = String::from_utf8_lossy(input);
        let _ = litefs_config::check(&text, rng.chance(80), &env);
        let _ = litefs_config::env::expand(&text, &env);
        let _ = litefs_config::yaml::parse(&text);
        let word: String =
            text.chars().skip(rng.range(0, 900) as usize).take(rng.range(0, 30) as usize).collect();
        let _ = word.parse::<litefs_config::GoDuration>();
        let _ = word.parse::<litefs_config::ByteSize>();
        let _ = word.parse::<litefs_config::HttpUrl>();
        let _ = word.parse::<litefs_config::ListenAddr>();
        let _ = (litefs_config::yaml::parse_bool(&word), litefs_config::yaml::parse_int(&word));
    });
}

#[test]
fn names_routes_and_numbers() {
    let samples: Vec<Vec<u8>> = [
        "/v1/databases/my%20db.sqlite3/ltx/000000000000002a",
        "/v1/databases/a/export",
        "/v1/databases/../wait",
        "/v1/health/ready",
        "/v1/status",
        "db-mj0123459AB",
        "../../evil\0",
        "000000000000002a/8000000000000001",
        "LFSC0123456789ABCDEF",
        "[fd00::1%eth0]:20202",
    ]
    .iter()
    .map(|s| s.as_bytes().to_vec())
    .collect();
    let methods = [Method::GET, Method::PUT, Method::DELETE, Method::POST];
    fuzz("names", &samples, as_it_is, |input, rng| {
        let input = &input[..input.len().min(2000)];
        if let Ok(db) = DbName::try_from(input) {
            // One component that stays where it is joined to.
            let path = Path::new("/data/dbs").join(db.as_str());
            assert_eq!(path.parent(), Some(Path::new("/data/dbs")), "{db:?}");
            assert!(db.as_str().len() <= 240 && !db.as_str().contains('\0'));
            let back = litefs_api::decode_segment(&litefs_api::encode_segment(db.as_str()));
            assert_eq!(back.as_deref(), Some(db.as_str().as_bytes()));
        }
        let text = String::from_utf8_lossy(input);
        if let Ok(route) = litefs_api::Route::parse(rng.pick(&methods), &text) {
            assert_eq!(litefs_api::Route::parse(&route.method(), &route.path()), Ok(route));
        }
        let _ = litefs_api::decode_segment(&text);
        let _ =
            (text.parse::<Pos>(), text.parse::<Txid>(), text.parse::<ClusterId>(), text.parse::<NodeId>());
        let _ = text.parse::<litefsd::http::addr::HostPort>();
    });
}
