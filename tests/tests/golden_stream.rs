//! Replication streams recorded from LiteFS 0.5.14, and the requests that they answer.
//!
//! `vectors/stream/<case>.req` is a position map, `.posmap.json` the same in words, `.resp` the answer
//! up to where the client gave up, and `decoded.txt` what another decoder says is in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use litefs_core::stream::{
    Action, Event, Filter, Frame, FrameDecoder, FrameError, LogFacts, PosMap, PosMapDecoder, Session, Source,
    chunk, pos_map,
};
use litefs_ltx::{Compression, Decoder, verify};
use litefs_types::{DbName, Pos, Timestamp, Txid};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/stream")
}

fn read(name: &str) -> Vec<u8> {
    let path = dir().join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The cases that were answered by a stream.
fn cases() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir())
        .unwrap()
        .filter_map(|e| Some(e.unwrap().file_name().to_str()?.strip_suffix(".resp")?.to_owned()))
        .filter(|n| n != "on-replica-not-primary")
        .collect();
    names.sort();
    assert_eq!(names.len(), 8);
    names
}

/// A frame and where it starts; an LTX frame has its file in the pieces that it came in.
struct Recorded {
    at: usize,
    frame: Frame,
    chunks: Vec<Vec<u8>>,
}

/// Decodes a stream. `step` bytes are fed at once; with 0 all of them, so that pieces are chunks.
fn decode(bytes: &[u8], step: usize) -> Vec<Recorded> {
    let mut d = FrameDecoder::new();
    let mut out: Vec<Recorded> = Vec::new();
    let (mut used, mut start) = (0, 0);
    for piece in bytes.chunks(if step == 0 { bytes.len() } else { step }) {
        let mut input = piece;
        while let Some(event) = d.next(&mut input).unwrap() {
            match event {
                Event::Frame(frame) => out.push(Recorded { at: start, frame, chunks: Vec::new() }),
                Event::Data(data) => {
                    out.last_mut().unwrap().chunks.push(data.to_vec());
                    continue;
                }
                Event::LtxEnd => {}
            }
            start = used + piece.len() - input.len();
        }
        used += piece.len();
    }
    assert_eq!(d.finish(), Ok(()), "the recordings end between frames");
    out
}

/// A line of `decoded.txt` for a frame, without the hash at its end.
fn describe(r: &Recorded) -> String {
    let mut line = format!("   @{:6} ", r.at);
    match &r.frame {
        Frame::Ltx { db } => {
            let file = r.chunks.concat();
            let d = Decoder::new(&file[..]).unwrap();
            let flags = u8::from(d.compression() == Compression::Lz4);
            let v = verify(&file[..]).unwrap();
            let h = &v.header;
            let sizes: Vec<String> = r.chunks.iter().map(|c| c.len().to_string()).collect();
            write!(
                line,
                "type=1 LTX size_field=0 name={db} ltx_bytes={} chunks=[{}] magic=b'LTX1' flags=0x{flags} \
                 pgsz={} commit={} txid={}-{} ts={} pre={} trailer={}{}",
                file.len(),
                sizes.join(", "),
                h.page_size,
                h.commit,
                h.min_txid.get(),
                h.max_txid.get(),
                h.timestamp.millis(),
                h.pre_apply,
                v.trailer.post_apply,
                v.trailer.file_checksum,
            )
            .unwrap();
        }
        Frame::Ready => line.push_str("type=2 READY "),
        Frame::DropDb { db } => write!(line, "type=4 DROPDB b'{db}'").unwrap(),
        Frame::Hwm { db, txid } => {
            write!(line, "type=6 HWM txid={:016x} name={db}", txid.map_or(0, Txid::get)).unwrap();
        }
        Frame::Heartbeat(t) => write!(line, "type=7 HEARTBEAT ts_ms={}", t.millis()).unwrap(),
        other => panic!("not in the recordings: {other:?}"),
    }
    line
}

#[test]
fn streams_decode_to_what_is_recorded() {
    let decoded = String::from_utf8(read("decoded.txt")).unwrap();
    for case in cases() {
        let bytes = read(&format!("{case}.resp"));
        let heading = format!("### {case}.resp ({} bytes)\n", bytes.len());
        let (_, rest) = decoded.split_once(&heading).unwrap();
        let want: Vec<&str> = rest
            .lines()
            .take_while(|l| !l.starts_with("###"))
            .map(|l| l.split_once(" sha256=").map_or(l, |(l, _)| l))
            .collect();
        let got: Vec<String> = decode(&bytes, 0).iter().map(describe).collect();
        assert_eq!(got, want, "{case}");
    }
}

#[test]
fn encoding_again_gives_the_same_bytes() {
    for case in cases() {
        let bytes = read(&format!("{case}.resp"));
        let mut again = Vec::new();
        for r in decode(&bytes, 0) {
            r.frame.encode(&mut again);
            if matches!(r.frame, Frame::Ltx { .. }) {
                for (head, data) in r.chunks.iter().flat_map(|c| chunk::chunks(c)) {
                    again.extend(head);
                    again.extend(data);
                }
                again.extend(chunk::END);
            }
        }
        assert!(again == bytes, "{case}");
    }
}

#[test]
fn splits_and_ends_anywhere() {
    for case in cases() {
        let bytes = read(&format!("{case}.resp"));
        let whole: Vec<_> = decode(&bytes, 0).into_iter().map(|r| (r.frame, r.chunks.concat())).collect();
        for step in [1, 2, 3, 5, 64, 997] {
            let parts: Vec<_> =
                decode(&bytes, step).into_iter().map(|r| (r.frame, r.chunks.concat())).collect();
            assert!(parts == whole, "{case} {step}");
        }
        let boundaries: Vec<usize> = decode(&bytes, 0).iter().map(|r| r.at).chain([bytes.len()]).collect();
        for len in 0..bytes.len() {
            let mut d = FrameDecoder::new();
            let mut input = &bytes[..len];
            while d.next(&mut input).unwrap().is_some() {}
            let want = if boundaries.contains(&len) { Ok(()) } else { Err(FrameError::Truncated) };
            assert_eq!(d.finish(), want, "{case} {len}");
        }
    }
}

/// A refusal is text, not frames: nobody may take it for a stream.
#[test]
fn an_error_text_is_no_stream() {
    let mut input = &read("on-replica-not-primary.resp")[..];
    assert!(matches!(FrameDecoder::new().next(&mut input), Err(FrameError::Type(_))));
}

fn request(case: &str) -> PosMap {
    PosMapDecoder::decode(&read(&format!("{case}.req"))).unwrap()
}

#[test]
fn position_maps() {
    for case in cases() {
        let bytes = read(&format!("{case}.req"));
        let map = request(&case);
        assert!(pos_map::encode(&map) == bytes, "{case}");
        let words: BTreeMap<String, String> =
            serde_json::from_slice(&read(&format!("{case}.posmap.json"))).unwrap();
        let got: BTreeMap<String, String> = map.iter().map(|(n, p)| (n.to_string(), p.to_string())).collect();
        assert_eq!(got, words.into_iter().map(|(n, p)| (n, p.trim().to_owned())).collect(), "{case}");
    }
}

/// What the recorded primary had, taken from the files that it sent.
#[derive(Default)]
struct Primary {
    pos: BTreeMap<DbName, Pos>,
    log: BTreeMap<(DbName, Txid), LogFacts>,
}

impl Source for Primary {
    fn pos(&self, db: &DbName) -> Option<Pos> {
        self.pos.get(db).copied()
    }
    fn log(&self, db: &DbName, txid: Txid) -> Option<LogFacts> {
        self.log.get(&(db.clone(), txid)).copied()
    }
    fn hwm(&self, _db: &DbName) -> Option<Txid> {
        None
    }
}

impl Primary {
    fn learn(&mut self, r: &Recorded) {
        if let Frame::Ltx { db } = &r.frame {
            let v = verify(&r.chunks.concat()[..]).unwrap();
            let post = v.trailer.post_apply_pos(&v.header);
            self.pos.insert(db.clone(), post);
            self.log
                .insert((db.clone(), v.header.min_txid), LogFacts { pre_apply: v.header.pre_apply, post });
        }
    }
}

/// Up to the first heartbeat a stream depends on the request and the primary's state alone: our
/// session must ask for the same files and send the same frames (databases in any order).
#[test]
fn a_session_answers_like_the_original() {
    for case in cases() {
        let recorded = decode(&read(&format!("{case}.resp")), 0);
        let beat = recorded.iter().position(|r| matches!(r.frame, Frame::Heartbeat(_))).unwrap();
        let client = request(&case);
        let mut primary = Primary::default();
        // What was not sent did not differ.
        for (db, pos) in &client {
            if db.as_str() != "zz.db" {
                primary.pos.insert(db.clone(), *pos);
            }
        }
        recorded[..beat].iter().for_each(|r| primary.learn(r));
        let filter = Filter::parse(if case == "from-nothing-filter-d" { "d.db" } else { "" });
        let mut session = Session::new(client, filter, primary.pos.keys().cloned());
        let name = |r: &Recorded| match &r.frame {
            Frame::Ltx { db } => {
                let file = r.chunks.concat();
                format!("{db} {}", Decoder::new(&file[..]).unwrap().header().file_name())
            }
            frame => format!("{frame:?}"),
        };
        let (mut want, mut got) = (Vec::new(), Vec::new());
        want.extend(recorded[..=beat].iter().map(name));
        let Frame::Heartbeat(now) = recorded[beat].frame else { unreachable!() };
        loop {
            match session.next(now, &primary) {
                Action::Frame(f) => got.push(format!("{f:?}")),
                Action::Entry { db, txid } => {
                    got.push(format!("{db} {txid}-{txid}.ltx"));
                    session.sent(primary.log(&db, txid).unwrap().post, &primary);
                }
                Action::Snapshot { db, .. } => {
                    let pos = primary.pos(&db).unwrap();
                    got.push(format!("{db} {}-{}.ltx", Txid::FIRST, pos.txid().unwrap()));
                    session.sent(pos, &primary);
                }
                Action::Wait => break,
                Action::Close => panic!("{case}: closed"),
            }
        }
        assert_eq!(got[got.len() - 2..], want[want.len() - 2..], "{case}: Ready and heartbeat come last");
        got.sort();
        want.sort();
        assert_eq!(got, want, "{case}");
        // Then it is quiet until a second has passed.
        assert_eq!(session.next(now, &primary), Action::Wait);
        session.tick();
        let later = Timestamp::from_millis(now.millis() + 1000);
        assert_eq!(session.next(later, &primary), Action::Frame(Frame::Heartbeat(later)));
    }
}
