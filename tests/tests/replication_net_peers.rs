//! Replication with peers that stop, lie or vanish, and with streams recorded from the original.

mod replication_net_support;

use std::path::Path;
use std::time::{Duration, Instant};

use litefs_core::stream::{Frame, PosMapDecoder, pos_map};
use litefs_tests::bad_input::peer::{After, Behaviour, Front};
use litefs_types::{Checksum, NodeId, Pos, Txid};
use litefsd::http::Options;
use replication_net_support::client::{Sent, StreamReader};
use replication_net_support::{Node, db, eventually, ready, same, wait_ready};
use tokio::time::sleep;

/// Sends these bytes as the original's cluster would, whatever it is asked.
fn fake_primary(body: Vec<u8>, after: After) -> Front {
    let cluster = Some(GO_CLUSTER.to_owned());
    Front::start(Behaviour::Answer { status: 200, cluster, body, piece: 97, after })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_noticed_by_both_sides_within_ten_seconds() {
    let p = Node::primary().await;
    p.store.commit("d", 4096, 1, &[(1, 0)]);
    let front = Front::start(Behaviour::Forward(p.addr.port()));
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.follow(&front.addr().to_string(), &[]);
    same(&p, &r, "d").await;
    wait_ready(&r).await;
    assert_eq!((front.accepted(), p.app.changes.subscriber_count()), (1, 1));
    // Idle is not dead: nothing is dropped while both answer.
    sleep(Duration::from_secs(8)).await;
    assert_eq!((front.accepted(), p.app.changes.subscriber_count()), (1, 1));
    let start = Instant::now();
    front.set(Behaviour::Silent);
    eventually("the replica to try again", || front.accepted() > 1).await;
    eventually("the primary to forget it", || p.app.changes.subscriber_count() == 0).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    r.stop().await;
}

/// A replica that reads nothing holds back neither the primary nor other replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_read_holds_nobody_up() {
    let p = Node::primary().await;
    let pages: Vec<_> = (1..=4000u32).map(|n| (n, vec![n as u8; 4096])).collect();
    p.store.commit_pages("big", 4096, 4000, &pages);
    let idle = StreamReader::open(p.addr, "", vec![0; 4]).await;
    let mut r = Node::replica_of(&p).await;
    same(&p, &r, "big").await;
    p.store.commit("small", 4096, 1, &[(1, 1)]);
    same(&p, &r, "small").await;
    drop(idle);
    eventually("the reader's session to end", || p.app.changes.subscriber_count() == 1).await;
    r.stop().await;
}

fn recorded(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/stream").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Positions after a stream, from its files' trailers.
fn positions(map: &str) -> Vec<(String, Pos)> {
    let json: serde_json::Value = serde_json::from_slice(&recorded(map)).unwrap();
    let rows = json.as_object().unwrap().iter();
    rows.map(|(k, v)| (k.clone(), v.as_str().unwrap().trim().parse().unwrap())).collect()
}

const GO_CLUSTER: &str = "LFSCCBABF22CF1184E12";

/// Streams recorded from the original, replayed to our replica: it asks what the original's replica
/// asked, and comes to the recorded positions. Then the same node is primary and answers the recorded
/// requests as the original did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_streams_of_the_original() {
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    let go = fake_primary(recorded("from-nothing.resp"), After::Hold);
    r.follow(&go.addr().to_string(), &[]);
    wait_ready(&r).await;
    assert_eq!(go.asked()[0], recorded("from-nothing.req"));
    let pos = |name: &str| r.store.pos(name).to_string();
    assert_eq!(pos("d.db"), "0000000000000006/883fe09b8908c14b");
    assert_eq!(pos("w.db"), "0000000000000007/a48302a45780e5ca");
    assert_eq!(pos("imp.db"), "0000000000000001/e3cb549aa79e8910");
    assert_eq!(pos("gone.db"), "0000000000000002/8000000000000000");
    assert!(
        matches!(r.state.last_signal(), Some(t) if t.millis() == 1_795_395_508_935),
        "the last heartbeat"
    );
    for (name, at) in positions("two-behind.posmap.json") {
        assert_eq!(r.store.pos(&name), at, "{name}");
    }
    r.replica.take().unwrap().stop().await;
    // From here on with what the next recording begins with.
    let go = fake_primary(recorded("two-behind.resp"), After::Hold);
    r.follow(&go.addr().to_string(), &["d.db", "w.db", "gone.db", "imp.db"]);
    eventually("the two transactions", || {
        r.store.pos("d.db").txid_raw() == 7 && r.store.pos("w.db").txid_raw() == 8
    })
    .await;
    let asked = PosMapDecoder::decode(&go.asked()[0]).unwrap();
    for (name, at) in positions("two-behind.posmap.json") {
        assert_eq!(asked[name.as_str()], at);
    }
    assert_eq!(r.store.pos("d.db").to_string(), "0000000000000007/a305c7bcf76c4caf");
    assert_eq!(r.store.pos("w.db").to_string(), "0000000000000008/f68c5195a184273d");
    r.replica.take().unwrap().stop().await;

    r.state.become_primary();
    for (case, query) in [
        ("two-behind", ""),
        ("bad-checksum-behind", "?filter=d.db"),
        ("ahead-of-primary", "?filter=d.db"),
        ("unknown-db", "?filter=zz.db"),
    ] {
        let mut s = StreamReader::open(r.addr, query, recorded(&format!("{case}.req"))).await;
        let ours = s.round().await;
        let go = decode_all(&recorded(&format!("{case}.resp")));
        assert_eq!(outline(&ours), outline(&go), "{case}");
        for sent in &ours {
            // Transactions (not snapshots, which carry their time and node) are the same bytes.
            if let Sent::Ltx(name, file) = sent
                && !litefs_ltx::verify(&file[..]).unwrap().header.is_snapshot()
            {
                let same = go.iter().any(|g| matches!(g, Sent::Ltx(n, f) if n == name && f == file));
                assert!(same, "{case}: {name}");
            }
        }
    }
}

/// The frames of a recorded stream up to the first heartbeat.
fn decode_all(bytes: &[u8]) -> Vec<Sent> {
    use litefs_core::stream::{Event, FrameDecoder};
    let (mut d, mut input, mut out) = (FrameDecoder::new(), bytes, Vec::new());
    while let Some(event) = d.next(&mut input).unwrap() {
        match event {
            Event::Frame(Frame::Heartbeat(_)) => break,
            Event::Frame(Frame::Ltx { db }) => out.push(Sent::Ltx(db.to_string(), Vec::new())),
            Event::Data(b) => match out.last_mut() {
                Some(Sent::Ltx(_, file)) => file.extend_from_slice(b),
                _ => unreachable!(),
            },
            Event::LtxEnd => {}
            Event::Frame(f) => out.push(Sent::Frame(f)),
        }
    }
    out
}

/// What a stream says, without times and ids, and without the order of databases in the first burst.
fn outline(sent: &[Sent]) -> Vec<String> {
    let mut lines: Vec<String> = sent
        .iter()
        .map(|s| match s {
            Sent::Ltx(db, file) => {
                let v = litefs_ltx::verify(&file[..]).unwrap();
                let h = &v.header;
                format!("ltx {db} {}-{} {} {}", h.min_txid, h.max_txid, h.commit, v.trailer.post_apply)
            }
            Sent::Frame(f) => format!("{f:?}"),
        })
        .collect();
    lines.sort();
    lines
}

/// Peers that break the protocol: an error in the log, a new attempt later, nothing half-applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_garbage_changes_nothing() {
    let good = recorded("from-nothing-filter-d.resp");
    let frame = |kind: u8, rest: &[u8]| [&[0, 0, 0, kind][..], rest].concat();
    let named = |kind: u8, name: &[u8]| {
        let mut f = frame(kind, if kind == 1 { &[0; 8] } else { &[] });
        f.extend((name.len() as u32).to_be_bytes());
        f.extend(name);
        f
    };
    let mut flipped = good.clone();
    flipped[200] ^= 0x10;
    let mut bad_header = named(1, b"x");
    bad_header.extend([0, 100]);
    bad_header.extend([b'L'; 100]);
    let mut short = named(1, b"x");
    short.extend([0, 4, 1, 2, 3, 4, 0, 0]);
    // A header for one page, followed by more than one page.
    let mut long = named(1, b"x");
    let mut head = good[24..124].to_vec();
    head[12..16].copy_from_slice(&1u32.to_be_bytes());
    long.extend([0, 100]);
    long.extend(head);
    for _ in 0..3 {
        long.extend([0xff, 0xff]);
        long.extend(vec![0; 65535]);
    }
    let mut hole = recorded("two-behind.resp");
    hole.drain(..176);
    for (what, bytes, after) in [
        ("text", b"http: error: something\n".to_vec(), After::Hold),
        ("unknown frame", frame(9, b""), After::Hold),
        ("zero frame", vec![0; 64], After::Hold),
        ("huge name", frame(4, &[255, 255, 255, 255]), After::Hold),
        ("path", named(1, b"../../evil"), After::Hold),
        ("empty name", named(1, b""), After::Hold),
        ("flipped bit", flipped, After::Hold),
        ("no LTX header", bad_header, After::Hold),
        ("short file", short, After::Hold),
        ("longer than its header", long, After::Hold),
        ("does not continue", hole, After::Hold),
        ("end within a file", good[..300].to_vec(), After::End),
        ("reset within a file", good[..300].to_vec(), After::Reset),
        ("end within a frame", good[..6].to_vec(), After::End),
        ("file without its end mark", good[..416].to_vec(), After::End),
    ] {
        let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
        let fake = fake_primary(bytes, after);
        r.follow(&fake.addr().to_string(), &[]);
        eventually(&format!("another attempt after {what}"), || fake.accepted() >= 2).await;
        assert!(!ready(&r) && r.store.dbs.lock().unwrap().is_empty(), "{what}");
        assert!(r.state.role().hostname.is_empty() || fake.accepted() >= 2);
        r.stop().await;
    }
    // The same bytes whole, to be sure that the cases above fail for their own reason.
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    let fake = fake_primary(good, After::Hold);
    r.follow(&fake.addr().to_string(), &[]);
    wait_ready(&r).await;
    assert_eq!(r.store.pos("d.db").txid_raw(), 6);
    r.stop().await;
}

/// What is not an HTTP/2 server, or refuses: tried again with growing pauses, never a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_are_no_primary_are_tried_again() {
    let refusing = Node::listen("127.0.0.1:0", Options::default()).await;
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.follow(&refusing.addr.to_string(), &[]);
    sleep(Duration::from_millis(200)).await;
    assert!(!ready(&r));
    refusing.state.become_primary();
    wait_ready(&r).await;
    r.stop().await;

    let no_http2 = Front::start(Behaviour::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false));
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.follow(&no_http2.addr().to_string(), &[]);
    eventually("five attempts", || no_http2.accepted() >= 5).await;
    let t = no_http2.accepted_at();
    assert!(t[4] - t[3] > (t[1] - t[0]).mul_f64(2.0), "the pauses grow");
    r.stop().await;
}

/// A replica whose map names more than the primary has: it is told, and the rest goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_maps_may_hold_anything() {
    let p = Node::primary().await;
    p.store.commit("d", 4096, 1, &[(1, 0)]);
    let mut map = litefs_core::stream::PosMap::new();
    let any = Pos::new(Txid::new(u64::MAX).unwrap(), Checksum::new(1));
    for i in 0..5000 {
        map.insert(db(&format!("db{i}")), any);
    }
    map.insert(db("d"), any);
    let mut s = StreamReader::open(p.addr, "", pos_map::encode(&map)).await;
    let round = s.round().await;
    let drops = round.iter().filter(|s| matches!(s, Sent::Frame(Frame::DropDb { .. }))).count();
    let files = round.iter().filter(|s| matches!(s, Sent::Ltx(..))).count();
    assert_eq!((drops, files), (5000, 1));
    assert_eq!(p.app.changes.replicas()[0].node_id, NodeId::new(0xAA));
}
