//! Replication over loopback between nodes in one process, with stores in memory.
//!
//! What happens on real files and mounts is tested elsewhere; here it is the protocol, the limits, and
//! peers that stop, lie or vanish.

mod replication_net_support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use litefs_core::stream::{Frame, PosMapDecoder, pos_map};
use litefs_types::{Checksum, NodeId, Pos, Txid};
use litefsd::http::Options;
use litefsd::http::node::Lag;
use replication_net_support::client::{Sent, StreamReader};
use replication_net_support::fake::{After, FakePrimary};
use replication_net_support::{Node, db, eventually, now, same};
use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

fn ready(n: &Node) -> bool {
    *n.state.watch_ready().borrow()
}

async fn wait_ready(n: &Node) {
    eventually("ready", || ready(n)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_follows_commits_drops_and_new_databases() {
    for addr in ["127.0.0.1:0", "[::1]:0", ":0"] {
        for compress in [false, true] {
            let mut p = Node::listen(addr, Options { compress, ..Options::default() }).await;
            p.state.become_primary();
            p.store.set_cluster(Some("LFSC0123456789ABCDEF"));
            p.store.commit("a", 4096, 2, &[(1, 1), (2, 2)]);
            p.store.commit("a", 4096, 3, &[(3, 3)]);
            let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
            assert_eq!(r.state.lag(now()), Lag::NeverSynced);
            let port = p.addr.port();
            let target =
                if addr == "[::1]:0" { format!("[::1]:{port}") } else { format!("localhost:{port}") };
            r.follow(&target, &[]);
            same(&p, &r, "a").await;
            wait_ready(&r).await;
            assert_eq!(r.store.dbs.lock().unwrap()[&db("a")].log.len(), 1, "a snapshot, not two entries");
            assert_eq!(r.state.role().hostname, "primaryhost");
            p.store.commit("a", 4096, 1, &[(1, 9)]);
            p.store.commit("b", 512, 5, &[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
            same(&p, &r, "a").await;
            same(&p, &r, "b").await;
            assert_eq!(r.store.dbs.lock().unwrap()[&db("a")].log.len(), 2, "an entry, no snapshot");
            p.store.drop_db("b");
            same(&p, &r, "b").await;
            assert!(r.store.bytes("b").is_empty());
            p.store.commit("b", 512, 1, &[(1, 7)]);
            same(&p, &r, "b").await;
            eventually("a heartbeat", || matches!(r.state.lag(now()), Lag::Millis(ms) if ms.abs() < 1500))
                .await;
            p.stop().await;
            eventually("the primary to be gone", || r.state.role().hostname.is_empty()).await;
            r.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_cannot_follow_the_log_gets_a_snapshot() {
    let p = Node::primary().await;
    p.store.commit("trimmed", 4096, 1, &[(1, 1)]);
    p.store.commit("trimmed", 4096, 1, &[(1, 2)]);
    p.store.trim("trimmed");
    for name in ["diverged", "history", "ahead", "unknown", "behind"] {
        if name != "unknown" {
            for i in 0..3 {
                p.store.commit(name, 4096, 2, &[(1, i), (2, 77)]);
            }
        }
    }
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.store.commit("trimmed", 4096, 1, &[(1, 1)]);
    for i in 0..3 {
        r.store.commit("diverged", 4096, 2, &[(1, i), (2, 78)]);
    }
    r.store.commit("history", 4096, 2, &[(1, 0), (2, 79)]);
    for i in 0..9 {
        r.store.commit("ahead", 4096, 2, &[(1, i), (2, 77)]);
    }
    let kept = r.store.commit("unknown", 4096, 1, &[(1, 1)]);
    r.store.commit("behind", 4096, 2, &[(1, 0), (2, 77)]);
    r.follow(&p.addr.to_string(), &[]);
    for name in ["trimmed", "diverged", "history", "ahead", "behind"] {
        same(&p, &r, name).await;
        let logs = r.store.dbs.lock().unwrap()[&db(name)].log.len();
        assert_eq!(logs, if name == "behind" { 3 } else { 1 }, "{name}");
    }
    wait_ready(&r).await;
    assert_eq!(r.store.pos("unknown"), kept, "a database that the primary does not have is kept");
    r.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_lets_only_its_databases_through() {
    let p = Node::primary().await;
    for name in ["a b&=+", "b", "c"] {
        p.store.commit(name, 4096, 1, &[(1, 1)]);
    }
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.follow(&p.addr.to_string(), &["a b&=+", "c"]);
    same(&p, &r, "a b&=+").await;
    same(&p, &r, "c").await;
    wait_ready(&r).await;
    p.store.commit("b", 4096, 1, &[(1, 2)]);
    p.store.commit("c", 4096, 1, &[(1, 2)]);
    same(&p, &r, "c").await;
    assert!(r.store.pos("b").is_zero());
    r.stop().await;
}

/// More than fits into memory, in one transaction and as a snapshot, with and without compression.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transactions_go_through_files_that_do_not_stay() {
    for compress in [false, true] {
        let p = Node::listen("127.0.0.1:0", Options { compress, ..Options::default() }).await;
        p.state.become_primary();
        let mut seed = 1u64;
        let mut page = |n: u32| {
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n.into());
                (seed >> 56) as u8
            })
            .take(4096)
            .collect();
            (n, noise)
        };
        let pages: Vec<_> = (1..=2000).map(&mut page).collect();
        p.store.commit_pages("big", 4096, 2000, &pages);
        let mut r = Node::replica_of(&p).await;
        same(&p, &r, "big").await;
        let pages: Vec<_> = (1..=1500).map(&mut page).collect();
        p.store.commit_pages("big", 4096, 2000, &pages);
        p.store.commit("big", 4096, 2000, &[(1, 1)]);
        same(&p, &r, "big").await;
        assert_eq!(r.store.dbs.lock().unwrap()[&db("big")].log.len(), 3);
        assert_eq!(std::fs::read_dir(r.store.spool_dir()).unwrap().count(), 0);
        r.stop().await;
    }
}

/// A database whose readers block its apply: the others go on, nothing is lost, and the node does not
/// claim to be in sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_database_stalls_no_other() {
    let p = Node::primary().await;
    p.store.commit("blocked", 4096, 1, &[(1, 0)]);
    p.store.commit("free", 4096, 1, &[(1, 0)]);
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.store.block("blocked");
    r.follow(&p.addr.to_string(), &[]);
    same(&p, &r, "free").await;
    // More than the queue holds in bytes.
    for i in 0..2500 {
        p.store.commit("blocked", 4096, 1, &[(1, i as u8)]);
        if i % 100 == 0 {
            p.store.commit("free", 4096, 1, &[(1, i as u8)]);
        }
    }
    same(&p, &r, "free").await;
    assert!(r.store.pos("blocked").is_zero() && !ready(&r));
    assert_eq!(r.state.lag(now()), Lag::NeverSynced);
    r.store.unblock();
    same(&p, &r, "blocked").await;
    wait_ready(&r).await;
    p.store.commit("blocked", 4096, 1, &[(1, 200)]);
    same(&p, &r, "blocked").await;
    r.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_that_fails_is_tried_again_while_the_others_go_on() {
    let p = Node::primary().await;
    p.store.commit("bad", 4096, 1, &[(1, 0)]);
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.store.failing.lock().unwrap().insert(db("bad"), 1);
    r.follow(&p.addr.to_string(), &[]);
    p.store.commit("good", 4096, 1, &[(1, 0)]);
    p.store.commit("bad", 4096, 1, &[(1, 1)]);
    same(&p, &r, "good").await;
    same(&p, &r, "bad").await;
    wait_ready(&r).await;
    r.stop().await;
}

/// No room for a large transaction: its database waits, the others go on, and it comes when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_on_the_replica_heals() {
    let p = Node::primary().await;
    let mut r = Node::replica_of(&p).await;
    wait_ready(&r).await;
    *r.store.spool_budget.lock().unwrap() = 0;
    let pages: Vec<_> = (1..=600u32).map(|n| (n, vec![n as u8; 4096])).collect();
    p.store.commit_pages("big", 4096, 600, &pages);
    p.store.commit("small", 4096, 1, &[(1, 1)]);
    same(&p, &r, "small").await;
    // A snapshot of this is small when compressed; here it is not.
    assert!(r.store.pos("big").is_zero());
    *r.store.spool_budget.lock().unwrap() = u64::MAX;
    same(&p, &r, "big").await;
    r.stop().await;
}

/// A log entry that changed on the primary's disk is reported, never sent, and not in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_entry_is_not_sent() {
    for pages in [1u32, 700] {
        let p = Node::primary().await;
        p.store.commit("d", 4096, 1, &[(1, 0)]);
        let mut r = Node::replica_of(&p).await;
        same(&p, &r, "d").await;
        let before = r.store.pos("d");
        r.stop().await;
        let data: Vec<_> = (1..=pages).map(|n| (n, vec![n as u8; 4096])).collect();
        p.store.commit_pages("d", 4096, pages, &data);
        {
            let mut dbs = p.store.dbs.lock().unwrap();
            let file = dbs.get_mut(&db("d")).unwrap().log.get_mut(&2).unwrap();
            let n = file.len();
            file[n - 300] ^= 1;
        }
        r.follow(&p.addr.to_string(), &[]);
        // Reported, and replaced by a snapshot: at once, or after a reset if some of it was sent already.
        same(&p, &r, "d").await;
        assert_eq!(r.store.dbs.lock().unwrap()[&db("d")].log.len(), 1);
        let reports = p.store.damaged.lock().unwrap().clone();
        assert!(reports.len() == 1 && reports[0].starts_with("d 2 "), "{reports:?}");
        assert_ne!(r.store.pos("d"), before);
        p.store.commit_pages("d", 4096, pages, &data);
        same(&p, &r, "d").await;
        r.stop().await;
    }
}

/// A snapshot that fails under way resets the stream; the replica keeps what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_snapshot_resets_the_stream() {
    let p = Node::primary().await;
    p.store.commit("d", 4096, 1, &[(1, 0)]);
    for n in [0, 300_000] {
        *p.store.break_snapshots.lock().unwrap() = Some(n);
        let mut s = StreamReader::open(p.addr, "", vec![0; 4]).await;
        assert!(s.next().await.is_err(), "{n}");
    }
    let mut r = Node::replica_of(&p).await;
    sleep(Duration::from_millis(100)).await;
    assert!(r.store.pos("d").is_zero() && !ready(&r));
    *p.store.break_snapshots.lock().unwrap() = None;
    same(&p, &r, "d").await;
    r.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_id_is_adopted_once_and_then_compared() {
    let p = Node::primary().await;
    p.store.commit("d", 4096, 1, &[(1, 0)]);
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.store.set_cluster(Some("LFSCAAAAAAAAAAAAAAAA"));
    r.follow(&p.addr.to_string(), &[]);
    for primary in [None, Some("LFSCBBBBBBBBBBBBBBBB")] {
        p.store.set_cluster(primary);
        sleep(Duration::from_millis(150)).await;
        assert!(!ready(&r) && r.store.pos("d").is_zero());
        assert!(r.state.role().hostname.is_empty());
    }
    p.store.set_cluster(Some("LFSCAAAAAAAAAAAAAAAA"));
    same(&p, &r, "d").await;
    r.stop().await;
    let mut r = Node::replica_of(&p).await;
    same(&p, &r, "d").await;
    use litefsd::http::backend::Identity as _;
    assert_eq!(r.store.cluster_id().unwrap().as_str(), "LFSCAAAAAAAAAAAAAAAA");
    r.stop().await;
}

/// What carries the replica's own node id was made there: it is verified and ignored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_transactions_are_not_applied_again() {
    let p = Node::primary().await;
    p.store.commit("d", 4096, 1, &[(1, 0)]);
    let mut r = Node::replica_of(&p).await;
    same(&p, &r, "d").await;
    wait_ready(&r).await;
    let before = r.store.pos("d");
    {
        let mut dbs = p.store.dbs.lock().unwrap();
        let d = dbs.get_mut(&db("d")).unwrap();
        d.pages[0] = vec![5; 4096];
        let post = d.checksum();
        let header = litefs_ltx::Header {
            node_id: r.state.id,
            ..litefs_ltx::Header::new(
                litefs_types::PageSize::DEFAULT,
                1,
                Txid::new(2).unwrap(),
                before.checksum(),
            )
        };
        let mut enc = litefs_ltx::Encoder::new(Vec::new(), header, litefs_ltx::Compression::None).unwrap();
        enc.page(litefs_types::PageNo::FIRST, &[5; 4096]).unwrap();
        d.log.insert(2, enc.finish(post).unwrap().1);
        d.pos = Some(Pos::new(Txid::new(2).unwrap(), post));
    }
    p.store.commit("other", 4096, 1, &[(1, 0)]);
    use litefs_store::notice::ChangeNotice as _;
    p.app.changes.changed(litefs_store::notice::Change {
        db: db("d"),
        pos: p.store.pos("d"),
        page_size: litefs_types::PageSize::DEFAULT,
        commit: 1,
        timestamp: now(),
        local: false,
    });
    same(&p, &r, "other").await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(r.store.pos("d"), before);
    assert_eq!(r.state.role().hostname, "primaryhost", "still connected");
    r.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_ends_cleanly_when_the_role_or_the_server_does() {
    let mut p = Node::primary().await;
    p.store.commit("d", 4096, 1, &[(1, 0)]);
    let mut a = StreamReader::open(p.addr, "", vec![0; 4]).await;
    let round = a.round().await;
    assert!(matches!(&round[0], Sent::Ltx(name, _) if name == "d"));
    assert_eq!(round[1], Sent::Frame(Frame::Ready));
    p.state.follow_nobody();
    assert_eq!(a.next().await, Ok(Some(Sent::Frame(Frame::End))));
    assert_eq!(a.next().await, Ok(None));
    p.state.become_primary();
    let mut b = StreamReader::open(p.addr, "?filter=none", vec![0; 4]).await;
    assert_eq!(b.round().await, [Sent::Frame(Frame::Ready)]);
    let started = Instant::now();
    let ((), ended) = tokio::join!(p.stop(), async { (b.next().await, b.next().await) });
    assert_eq!(ended, (Ok(Some(Sent::Frame(Frame::End))), Ok(None)));
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(TcpStream::connect(p.addr).await.is_err());
}

/// Writes without a pause must not keep a new replica from being told that it is ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_busy_primary_still_makes_replicas_ready() {
    let p = Node::primary().await;
    p.store.commit("busy", 4096, 1, &[(1, 0)]);
    p.store.commit("quiet", 4096, 1, &[(1, 0)]);
    let stop = Arc::new(AtomicUsize::new(0));
    let writer = {
        let (stop, store) = (Arc::clone(&stop), Arc::clone(&p.store));
        tokio::task::spawn_blocking(move || {
            let mut n = 0u8;
            while stop.load(Ordering::Relaxed) == 0 {
                n = n.wrapping_add(1);
                store.commit("busy", 4096, 1, &[(1, n)]);
                std::thread::sleep(Duration::from_micros(200));
            }
        })
    };
    let mut r = Node::replica_of(&p).await;
    wait_ready(&r).await;
    assert_eq!(r.store.pos("quiet"), p.store.pos("quiet"));
    stop.store(1, Ordering::Relaxed);
    writer.await.unwrap();
    same(&p, &r, "busy").await;
    r.stop().await;
}

/// From the change notice on the primary to the notice on the replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_reaches_the_replica_without_waiting_for_anything() {
    let p = Node::primary().await;
    p.store.commit("d", 4096, 1, &[(1, 0)]);
    let mut r = Node::replica_of(&p).await;
    same(&p, &r, "d").await;
    let mut rx = r.state.subscribe_events().unwrap();
    rx.recv().await.unwrap();
    let mut times = Vec::new();
    for i in 0..200 {
        let start = Instant::now();
        p.store.commit("d", 4096, 1, &[(1, i)]);
        rx.recv().await.unwrap();
        times.push(start.elapsed());
        sleep(Duration::from_millis(1)).await;
    }
    times.sort();
    println!("commit to apply: p50 {:?}, p99 {:?}", times[100], times[198]);
    // Far above what it takes, far below any timer or delayed acknowledgement (40 ms) in the path.
    assert!(times[100] < Duration::from_millis(15), "{:?}", times[100]);
    r.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_comes_back_is_found_again() {
    let mut p = Node::primary().await;
    p.store.commit("d", 4096, 1, &[(1, 0)]);
    let mut r = Node::replica_of(&p).await;
    same(&p, &r, "d").await;
    for i in 1..3 {
        p.stop().await;
        p.store.commit("d", 4096, 1, &[(1, i)]);
        let mut back = Node::listen(&p.addr.to_string(), Options::default()).await;
        back.state.become_primary();
        *back.store.dbs.lock().unwrap() = p.store.dbs.lock().unwrap().clone();
        p = std::mem::replace(&mut back, p);
        same(&p, &r, "d").await;
    }
    r.stop().await;
    p.stop().await;
}

/// Forwards to `to` until told to be silent: from then on the connections stand still, as with a stopped
/// process or a cable that was pulled.
async fn proxy(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let silent = tokio::sync::watch::Sender::new(false);
    let (counter, mut silence) = (Arc::clone(&count), silent.subscribe());
    tokio::spawn(async move {
        loop {
            let (a, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let mut silence_here = silence.clone();
            silence.mark_unchanged();
            tokio::spawn(async move {
                let b = TcpStream::connect(to).await.unwrap();
                let ((mut ar, mut aw), (mut br, mut bw)) = (a.into_split(), b.into_split());
                tokio::select! {
                    _ = copy(&mut ar, &mut bw) => {}
                    _ = copy(&mut br, &mut aw) => {}
                    _ = async { silence_here.wait_for(|s| *s).await.map(|_| ()) } => {
                        // Open, but nothing moves.
                        sleep(Duration::from_secs(60)).await;
                    }
                }
            });
        }
    });
    (addr, count, silent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_noticed_by_both_sides_within_ten_seconds() {
    let p = Node::primary().await;
    p.store.commit("d", 4096, 1, &[(1, 0)]);
    let (addr, connections, silent) = proxy(p.addr).await;
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.follow(&addr.to_string(), &[]);
    same(&p, &r, "d").await;
    wait_ready(&r).await;
    assert_eq!((connections.load(Ordering::SeqCst), p.app.changes.subscriber_count()), (1, 1));
    // Idle is not dead: nothing is dropped while both answer.
    sleep(Duration::from_secs(8)).await;
    assert_eq!((connections.load(Ordering::SeqCst), p.app.changes.subscriber_count()), (1, 1));
    let start = Instant::now();
    silent.send_replace(true);
    eventually("the replica to try again", || connections.load(Ordering::SeqCst) > 1).await;
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
    let go = FakePrimary::start(GO_CLUSTER, recorded("from-nothing.resp"), After::Hold).await;
    r.follow(&go.addr.to_string(), &[]);
    wait_ready(&r).await;
    assert_eq!(go.maps.lock().unwrap()[0], recorded("from-nothing.req"));
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
    let go = FakePrimary::start(GO_CLUSTER, recorded("two-behind.resp"), After::Hold).await;
    r.follow(&go.addr.to_string(), &["d.db", "w.db", "gone.db", "imp.db"]);
    eventually("the two transactions", || {
        r.store.pos("d.db").txid_raw() == 7 && r.store.pos("w.db").txid_raw() == 8
    })
    .await;
    let asked = PosMapDecoder::decode(&go.maps.lock().unwrap()[0]).unwrap();
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
        let fake = FakePrimary::start(GO_CLUSTER, bytes, after).await;
        r.follow(&fake.addr.to_string(), &[]);
        eventually(&format!("another attempt after {what}"), || fake.connections.load(Ordering::SeqCst) >= 2)
            .await;
        assert!(!ready(&r) && r.store.dbs.lock().unwrap().is_empty(), "{what}");
        assert!(r.state.role().hostname.is_empty() || fake.connections.load(Ordering::SeqCst) >= 2);
        r.stop().await;
    }
    // The same bytes whole, to be sure that the cases above fail for their own reason.
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    let fake = FakePrimary::start(GO_CLUSTER, good, After::Hold).await;
    r.follow(&fake.addr.to_string(), &[]);
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

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    tokio::spawn(async move {
        loop {
            let (mut s, _) = listener.accept().await.unwrap();
            seen.lock().unwrap().push(Instant::now());
            let _ = tokio::io::AsyncWriteExt::write_all(&mut s, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let mut r = Node::listen("127.0.0.1:0", Options::default()).await;
    r.follow(&addr.to_string(), &[]);
    eventually("five attempts", || times.lock().unwrap().len() >= 5).await;
    let t = times.lock().unwrap().clone();
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
