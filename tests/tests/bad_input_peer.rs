//! A replica whose primary sends rubbish: every wrong LTX file, every wrong stream and every wrong answer
//! ends in a log line that says what it was, changes nothing, and is healed by the next right stream.
//! Needs root and /dev/fuse.

use std::time::Duration;

use litefs_tests::bad_input::ltx::{HEADER, RawLtx, chunked, frame, ltx_frame, sent};
use litefs_tests::bad_input::peer::{After, Behaviour, Front};
use litefs_tests::bad_input::{Before, assert_no_panic, names, rss_kb, wait_log};
use litefs_tests::image::assert_same;
use litefs_tests::node::{Node, SYNC_LIMIT, single};
use litefs_tests::sample::sixty_rows;
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, once};
use litefs_tests::watch::{Deadline, eventually};

/// A primary, a front, a replica behind it.
struct Site {
    primary: Node,
    replica: Node,
    front: Front,
    cluster: Option<String>,
    scratch: Scratch,
}

/// Whole files come in a few pieces, so that most errors are seen by what checks them, not by the reader.
const PIECE: usize = 9973;

const JOURNALS: [&str; 2] = ["wal", "delete"];

impl Site {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let primary = single(&scratch);
        for journal in JOURNALS {
            sixty_rows(&primary, journal, journal);
        }
        let front = Front::start(Behaviour::Forward(primary.port()));
        let mut replica = Node::replica(&scratch, "r", &primary);
        replica.set("lease.advertise-url", &front.url()).start();
        for journal in JOURNALS {
            replica.sync_with(&primary, journal);
        }
        let info = litefs_tests::http::get(&primary, "/info", Duration::from_secs(5)).unwrap();
        let cluster = info.header("litefs-cluster-id").map(str::to_owned);
        Self { primary, replica, front, cluster, scratch }
    }

    /// Lets the front misbehave until the replica says so, and checks that this was all.
    fn meets(&mut self, db: &str, what: &str, behaviour: Behaviour, words: &[&str]) {
        self.meets_then(db, what, behaviour, words, |_| ());
    }

    fn meets_then(
        &mut self,
        db: &str,
        what: &str,
        behaviour: Behaviour,
        words: &[&str],
        then: impl FnOnce(&mut Self),
    ) {
        let before = Before::of(&self.replica, db);
        let offset = self.replica.log_text().len();
        self.front.set(behaviour);
        wait_log(&self.replica, offset, words, what);
        before.assert_unchanged(&mut self.replica, what, &self.scratch);
        then(self);
        self.heals(db, what);
    }

    /// The right primary again: the next transaction arrives, nodes are equal.
    fn heals(&mut self, db: &str, what: &str) {
        self.front.set(Behaviour::Forward(self.primary.port()));
        once(self.primary.path(db), "INSERT INTO t(x) VALUES('healed'); DELETE FROM t WHERE x='healed'");
        self.replica.sync_with(&self.primary, db);
        assert_same(&self.primary, &self.replica, db, &self.scratch);
        assert!(self.replica.is_running(), "{what}");
        assert_no_panic(&self.replica);
    }

    fn streams(&self, body: Vec<u8>, after: After) -> Behaviour {
        Behaviour::Answer { status: 200, cluster: self.cluster.clone(), body, piece: PIECE, after }
    }

    fn next(&self, db: &str) -> RawLtx {
        let before = Before::of(&self.replica, db);
        RawLtx::following(before.pos, &before.image)
    }

    fn done(mut self) {
        // A clean stop and start finds nothing odd either.
        self.replica.stop().start();
        for db in JOURNALS {
            assert_same(&self.primary, &self.replica, db, &self.scratch);
        }
        let spool = self.replica.data.join("dbs/wal/spool");
        let left = if spool.exists() { names(&spool) } else { Vec::new() };
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// What the log says where no HTTP/2 answer came.
const NO_ANSWER: [&str; 4] =
    ["error: request to primary: ", "HTTP/2 handshake", "no response", "error: connect to primary"];

/// What is done to a right transaction.
type Spoil = fn(&mut RawLtx);

#[test]
fn wrong_transactions_are_named_and_not_applied() {
    let _deadline = Deadline::secs(240);
    let mut site = Site::new("badltx");
    let apply = "cannot apply transaction from primary";
    let cases: &[(&str, &[&str], Spoil)] = &[
        ("wrong post-apply checksum", &["checksum"], |x| x.post ^= 2),
        ("post-apply checksum without its flag", &["without a valid trailer"], |x| x.post &= !(1 << 63)),
        ("page beyond the end", &["beyond the last page"], |x| x.pages[0].0 = 4_000_000),
        ("descending pages", &["page 1 after page 2"], |x| {
            let page = x.pages[0].1.clone();
            x.pages.push((1, page));
        }),
        ("one page twice", &["page 2 after page 2"], |x| x.pages.push(x.pages[0].clone())),
        ("the lock page", &["is the lock page"], |x| {
            x.pages[0].0 = 262_145;
            x.commit(300_000);
        }),
        ("a database that grows by pages that are not sent", &["page", "checksum"], |x| {
            x.commit(u32::MAX);
        }),
        ("another page size in a transaction", &["page"], |x| {
            x.set(8, &512_u32.to_be_bytes());
            let page = x.pages[0].1[..512].to_vec();
            x.pages[0].1 = page;
        }),
        ("a page size that does not exist", &["page size 4095"], |x| {
            x.set(8, &4095_u32.to_be_bytes());
        }),
        ("unknown flags", &["unknown flags"], |x| {
            x.set(4, &0x80_u32.to_be_bytes());
        }),
        ("transaction range the wrong way", &["transaction range"], |x| {
            x.set(24, &1_u64.to_be_bytes());
        }),
        ("transaction zero", &["transaction range"], |x| {
            x.txids(0, 0);
        }),
        ("a transaction of the far future", &["position mismatch"], |x| {
            x.txids(1 << 60, 1 << 60);
        }),
        ("the last transaction there is", &["position mismatch", "transaction range"], |x| {
            x.txids(u64::MAX, u64::MAX);
        }),
        ("another history", &["position mismatch"], |x| {
            x.set(40, &0x8000_0000_0000_1234_u64.to_be_bytes());
        }),
        ("no pre-apply checksum", &["pre-apply"], |x| {
            x.set(40, &[0; 8]);
        }),
        ("no LTX file", &["not an LTX file"], |x| {
            x.set(0, b"GIF8");
        }),
        ("a snapshot with a page missing", &["snapshot ends", "page"], |x| {
            x.txids(1, 1 << 20).set(40, &[0; 8]);
            x.commit(2);
        }),
        ("a snapshot with a wrong checksum", &["snapshot checksum"], |x| {
            x.txids(1, 1 << 20).set(40, &[0; 8]);
            x.commit(1);
            x.pages[0].0 = 1;
        }),
        ("a drop with pages", &["beyond", "wrong length"], |x| {
            x.commit(0);
        }),
        ("a drop with a checksum", &["checksum"], |x| {
            x.commit(0);
            x.pages.clear();
        }),
    ];
    for (db, (what, words, spoil)) in JOURNALS.into_iter().cycle().zip(cases) {
        let mut file = site.next(db);
        spoil(&mut file);
        let body = [sent(db, &file.bytes()), frame(2, &[])].concat();
        let behaviour = site.streams(body, After::Hold);
        let offset = site.replica.log_text().len();
        site.meets(db, what, behaviour, words);
        let text = site.replica.log_text();
        let line = text[offset..].lines().find(|l| words.iter().any(|w| l.contains(w))).unwrap();
        let known = [apply, "disconnected from primary", "asks for a snapshot"];
        assert!(known.iter().any(|k| line.contains(k)), "{what}: {line}");
        assert!(line.contains(db), "{what}: the line does not name the database: {line}");
    }
    site.done();
}

#[test]
fn damaged_files_and_streams_end_in_a_clear_error() {
    let _deadline = Deadline::secs(240);
    let mut site = Site::new("badstream");
    let db = "wal";
    let good = |site: &Site| site.next(db).bytes();

    let mut file = good(&site);
    file[HEADER + 100] ^= 0x10;
    let b = site.streams(sent(db, &file), After::Hold);
    site.meets(db, "a flipped bit", b, &["file checksum mismatch"]);

    let file = good(&site);
    let b = site.streams(sent(db, &file[..file.len() - 20]), After::End);
    site.meets(db, "a truncated file", b, &["ends within", "checksum", "valid trailer"]);

    let file = good(&site);
    let b = site.streams(sent(db, &file[..60]), After::End);
    site.meets(db, "a file shorter than its header", b, &["wrong length"]);

    let b = site.streams(sent(db, &[]), After::End);
    site.meets(db, "an empty file", b, &["wrong length"]);

    let file = [good(&site), vec![7; 50]].concat();
    let b = site.streams(sent(db, &file), After::Hold);
    site.meets(db, "data after the trailer", b, &["after the LTX trailer", "without a valid trailer"]);

    let file = good(&site);
    let part = [ltx_frame(db.as_bytes()), chunked(&file[..1000])].concat();
    let b = site.streams(part.clone(), After::End);
    site.meets(db, "END_STREAM within a file", b, &["stream ended within a frame"]);
    let b = site.streams(part.clone(), After::Reset);
    site.meets(db, "RST_STREAM within a file", b, &["stream error", "reset"]);

    // A peer that stops within a file and stays connected is no error yet: it may be slow. It ends when the
    // connection does.
    let before = Before::of(&site.replica, db);
    let accepted = site.front.accepted();
    site.front.set(site.streams(part, After::Hold));
    eventually(Duration::from_secs(20), "the replica connects", || {
        (site.front.accepted() > accepted).then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    before.assert_unchanged(&mut site.replica, "half a file", &site.scratch);
    site.heals(db, "half a file");

    // What a primary of the original writes when its disk fails.
    let text = b"http: POST /stream: error: cannot stream: open database: input/output error\n";
    let b = site.streams([&text[..], &frame(3, &[])].concat(), After::End);
    site.meets(db, "error text between frames", b, &["unknown stream frame type 0x68747470", "\"http\""]);
    let text = [ltx_frame(db.as_bytes()), text.to_vec(), frame(3, &[])].concat();
    let b = site.streams(text, After::End);
    site.meets(db, "error text in a file", b, &["within a frame", "not an LTX file", "wrong length"]);

    for (what, body, words) in [
        ("an unknown frame", frame(99, b"?"), "unknown stream frame type"),
        ("frame 0", frame(0, &[0; 64]), "unknown stream frame type"),
        ("half a frame", frame(7, &[0; 3]), "ended within a frame"),
        ("half a type", vec![0, 0], "ended within a frame"),
        ("an oversize name", ltx_frame(&[b'a'; 5000]), "name of 5000 bytes"),
        (
            "the longest name there is",
            [&frame(1, &[0; 8])[..], &[0xff; 400]].concat(),
            "name of 4294967295 bytes",
        ),
        ("a name of 241 bytes", ltx_frame(&[b'a'; 241]), "invalid database name"),
        ("an empty name", ltx_frame(b""), "invalid database name"),
        ("a path", ltx_frame(b"../../evil"), "invalid database name"),
        ("a companion file", ltx_frame(b"wal-wal"), "invalid database name"),
        ("no UTF-8", ltx_frame(b"\xff\xfe"), "invalid database name"),
        ("a name with a zero", ltx_frame(b"a\0b"), "invalid database name"),
        ("a drop of a path", frame(4, b"\0\0\0\x02.."), "invalid database name"),
        ("a lease of control characters", frame(5, b"\0\0\0\x02\x01\x02"), "invalid lease id"),
    ] {
        let b = site.streams(body, After::End);
        site.meets(db, what, b, &[words]);
    }
    assert!(!site.replica.data.join("../evil").exists() && !site.replica.data.join("../../evil").exists());
    site.done();
}

#[test]
fn wrong_answers_and_wrong_clusters_are_refused() {
    let _deadline = Deadline::secs(240);
    let mut site = Site::new("badanswer");
    let db = "delete";
    // The body would be a right transaction: whoever does not look at the header applies it.
    let body = |site: &Site| sent(db, &site.next(db).bytes());
    let answer = |site: &Site, status, cluster: Option<&str>| Behaviour::Answer {
        status,
        cluster: cluster.map(str::to_owned),
        body: body(site),
        piece: PIECE,
        after: After::Hold,
    };
    let own = site.cluster.clone();
    if own.is_some() {
        let b = answer(&site, 200, None);
        site.meets(db, "no cluster id", b, &["different cluster id"]);
    }
    // A node takes the first cluster id that it is told; from then on it belongs there.
    site.replica.stop();
    let mine = own.clone().unwrap_or_else(|| "LFSC00000000000000AB".to_owned());
    std::fs::write(site.replica.data.join("clusterid"), format!("{mine}\n")).unwrap();
    site.replica.start();
    for (what, id) in [
        ("a foreign cluster", "LFSC0123456789ABCDEF"),
        ("half a cluster id", "LFSC"),
        ("a cluster id of control characters", "LFSC\t"),
        ("a long cluster id", &"LFSC0123456789ABCDEF".repeat(500)),
    ] {
        let b = answer(&site, 200, Some(id));
        if own.is_some() {
            site.meets(db, what, b, &["different cluster id"]);
        } else {
            let before = Before::of(&site.replica, db);
            let offset = site.replica.log_text().len();
            site.front.set(b);
            wait_log(&site.replica, offset, &["different cluster id"], what);
            before.assert_unchanged(&mut site.replica, what, &site.scratch);
        }
    }
    if own.is_none() {
        site.replica.stop();
        std::fs::remove_file(site.replica.data.join("clusterid")).unwrap();
        site.replica.start();
        site.heals(db, "the cluster again");
    }
    for status in [204, 301, 400, 404, 426, 500, 503, 599] {
        let b = answer(&site, status, own.as_deref());
        site.meets(db, "an HTTP error", b, &[&format!("invalid response: code={status}")]);
    }
    for (what, bytes, hold) in [
        ("HTTP/1.1", &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], false),
        ("HTTP/1.1 that stays", &b"HTTP/1.1 200 OK\r\n\r\n"[..], true),
        ("another protocol", &b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"[..], true),
        ("noise", &[0xA5; 3000][..], false),
        ("an oversize frame", &[0xff; 64][..], true),
        ("settings and silence", &[0, 0, 0, 4, 0, 0, 0, 0, 0][..], true),
        ("nothing", &[][..], true),
    ] {
        let b = Behaviour::Raw(bytes.to_vec(), hold);
        site.meets(db, what, b, &NO_ANSWER);
    }
    site.meets(db, "a closed door", Behaviour::Refuse, &NO_ANSWER);
    site.done();
}

/// Streams that never end: of chunks, of files, of frames. Memory stays bounded, and so does the disk.
#[test]
fn endless_streams_fill_neither_memory_nor_disk() {
    let _deadline = Deadline::secs(120);
    let mut site = Site::new("endless");
    let db = "wal";
    let before = rss_kb(site.replica.pid());
    // A file of one page whose pages never end.
    let file = site.next(db).bytes();
    let body = [ltx_frame(db.as_bytes()), chunked(&file[..HEADER])].concat();
    let b = site.streams(body, After::Repeat(chunked(&vec![0x5A; 600_000])));
    site.meets(db, "endless chunks", b, &["LTX file of wrong length"]);
    // The same bad file again and again: each is refused, the primary is asked again, not at once.
    let mut bad = site.next(db);
    bad.post ^= 4;
    let bad = sent(db, &bad.bytes());
    let b = site.streams(Vec::new(), After::Repeat(bad.repeat(20)));
    site.meets(db, "endless bad files", b, &["checksum", "position mismatch"]);
    // Files of a database that cannot be, and frames without meaning.
    let noise =
        [frame(6, b"\0\0\0\0\0\0\0\x09\0\0\0\x05ghost"), frame(7, &[0; 8]), frame(4, b"\0\0\0\x02no")];
    let accepted = site.front.accepted();
    let held = Before::of(&site.replica, db);
    site.front.set(site.streams(Vec::new(), After::Repeat(noise.concat().repeat(500))));
    eventually(Duration::from_secs(20), "the replica connects", || {
        (site.front.accepted() > accepted).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    held.assert_unchanged(&mut site.replica, "endless frames", &site.scratch);
    let grown = rss_kb(site.replica.pid()).saturating_sub(before);
    assert!(grown < 48 << 10, "the replica's memory grew by {grown} KiB");
    let log = std::fs::metadata(&site.replica.log).unwrap().len();
    assert!(log < 8 << 20, "a log of {log} bytes");
    site.heals(db, "endless frames");
    site.done();
}

/// A database that the replica has never seen, and whose first file is wrong, is not there afterwards.
#[test]
fn a_new_database_that_is_wrong_does_not_appear() {
    let _deadline = Deadline::secs(120);
    let mut site = Site::new("ghost");
    let image = Before::of(&site.replica, "delete").image;
    let right = RawLtx::snapshot(3, &image);
    let mut flipped = right.bytes();
    flipped[5000] ^= 1;
    let mut incomplete = right.clone();
    incomplete.pages.pop();
    let mut late = right.clone();
    late.txids(4, 4).set(40, &right.post.to_be_bytes());
    let cases = [
        ("a damaged snapshot", flipped, &["checksum"][..]),
        ("an incomplete snapshot", incomplete.bytes(), &["snapshot ends"][..]),
        ("a transaction in the middle", late.bytes(), &["position mismatch"][..]),
        ("noise", vec![0x77; 3000], &["not an LTX file"][..]),
    ];
    for (what, file, words) in cases {
        let b = site.streams(sent("ghost.db", &file), After::Hold);
        site.meets_then("delete", what, b, words, |site| {
            assert!(!site.replica.path("ghost.db").exists(), "{what}");
            let answer =
                litefs_tests::http::get(&site.replica, "/export?name=ghost.db", Duration::from_secs(5));
            assert_ne!(answer.unwrap().status, 200, "{what}");
            let list = site.replica.ctl_ok(&["databases"]);
            assert!(!list.contains("ghost"), "{what}: {list}");
        });
    }
    // Right, it does appear, and stays although the primary then does not have it (the original keeps it).
    site.front.set(site.streams([sent("ghost.db", &right.bytes()), frame(2, &[])].concat(), After::Hold));
    site.replica.wait_file("ghost.db");
    // The name is there before the snapshot is applied: until then readers find it locked or empty.
    eventually(SYNC_LIMIT, "the snapshot", || (site.replica.txid("ghost.db") > 0).then_some(()));
    site.front.set(Behaviour::Forward(site.primary.port()));
    let mut s = Session::open(site.replica.path("ghost.db"));
    s.exec("PRAGMA busy_timeout=5000");
    assert_eq!(s.one("SELECT count(*) FROM t"), "60");
    s.close();
    site.done();
}
