//! Replication over loopback between nodes in one process, with stores in memory.
//!
//! What happens on real files and mounts is tested elsewhere; here it is the protocol and the limits.
//! Peers that stop, lie or vanish: `replication_net_peers.rs`.

mod replication_net_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use litefs_core::stream::Frame;
use litefs_types::{Pos, Txid};
use litefsd::http::Options;
use litefsd::http::node::Lag;
use replication_net_support::client::{Sent, StreamReader};
use replication_net_support::{Node, db, eventually, now, ready, same, wait_ready};
use tokio::net::TcpStream;
use tokio::time::sleep;

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
        if let Ok(mut s) = StreamReader::try_open(p.addr, "", vec![0; 4]).await {
            assert!(s.next().await.is_err(), "{n}");
        }
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
