//! How far replicas are, as they tell the primary; and peers of the original, which tell nothing and cannot take
//! everything.

mod replication_net_support;

use std::time::Duration;

use litefs_core::stream::ack::{self, Ack, MAX_ACK_BYTES};
use litefs_core::stream::pos_map;
use litefs_tests::bad_input::peer::{After, Behaviour, Front};
use litefs_types::{NodeId, Pos};
use litefsd::http::extensions::{EXTENSIONS, OURS, STREAM};
use replication_net_support::client::{Ask, Sent, StreamReader};
use replication_net_support::{Node, db, eventually, same, wait_ready};
use tokio::time::sleep;

/// What the primary knows of its only replica.
fn known(p: &Node, name: &str) -> (Pos, Option<Ack>) {
    let all = p.app.changes.replicas();
    let r = all.first().expect("a replica");
    (r.sent.get(&db(name)).copied().unwrap_or(Pos::ZERO), r.acked.get(&db(name)).copied())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_tells_what_it_has_applied_and_what_is_durable() {
    let mut p = Node::primary().await;
    p.store.commit("a", 4096, 1, &[(1, 1)]);
    p.store.commit("quiet", 4096, 1, &[(1, 1)]);
    let mut r = Node::replica_of(&p).await;
    same(&p, &r, "a").await;
    let both = |pos| Some(Ack { applied: pos, durable: pos });
    let first = p.store.pos("a");
    eventually("the first acknowledgement", || known(&p, "a") == (first, both(first))).await;

    // Sent is not applied: a reader is in the way.
    r.store.block("a");
    let second = p.store.commit("a", 4096, 1, &[(1, 2)]);
    eventually("it to be sent", || known(&p, "a").0 == second).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(known(&p, "a").1, both(first));
    // Applied is not durable; nobody tells when it is.
    *r.store.not_durable.lock().unwrap() = true;
    r.store.unblock();
    eventually("it to be applied", || known(&p, "a").1 == Some(Ack { applied: second, durable: Pos::ZERO }))
        .await;
    *r.store.not_durable.lock().unwrap() = false;
    eventually("it to be durable", || known(&p, "a").1 == both(second)).await;

    // A connection begins by telling everything.
    r.replica.take().unwrap().stop().await;
    eventually("the replica to be gone", || p.app.changes.replicas().is_empty()).await;
    r.follow(&p.addr.to_string(), &[]);
    let quiet = p.store.pos("quiet");
    eventually("all of it again", || {
        !p.app.changes.replicas().is_empty() && known(&p, "quiet").1 == both(quiet)
    })
    .await;
    p.stop().await;
    r.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_the_original_are_asked_nothing_and_told_nothing() {
    // As primary: one request, however much is applied.
    let p = Node::primary().await;
    let mut bytes = Vec::new();
    p.store.commit("a", 4096, 1, &[(1, 1)]);
    let file = p.store.dbs.lock().unwrap()[&db("a")].log[&1].clone();
    bytes.extend(litefs_core::stream::Frame::Ltx { db: db("a") }.to_bytes());
    for (head, body) in litefs_core::stream::chunk::chunks(&file) {
        bytes.extend(head);
        bytes.extend(body);
    }
    bytes.extend(litefs_core::stream::chunk::END);
    bytes.extend(litefs_core::stream::Frame::Ready.to_bytes());
    let cluster = Some("LFSC0123456789ABCDEF".to_owned());
    let after = After::Hold;
    let go = Front::start(Behaviour::Answer { status: 200, cluster, body: bytes, piece: 97, after });
    let mut r = Node::listen("127.0.0.1:0", litefsd::http::Options::default()).await;
    r.follow(&go.addr().to_string(), &[]);
    wait_ready(&r).await;
    assert_eq!(r.store.pos("a"), p.store.pos("a"));
    sleep(Duration::from_millis(400)).await;
    assert_eq!(go.asked().len(), 1, "a request that the original does not know");
    r.stop().await;

    // As replica: nothing is known of it.
    let answer = Ask::post(p.addr, true, "/stream", vec![0; 4])
        .headers(&[("litefs-id", "AA")])
        .response()
        .await
        .unwrap();
    assert!(!answer.headers().contains_key(STREAM));
    assert_eq!(known(&p, "a").1, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_of_nobody_change_nothing() {
    let p = Node::primary().await;
    let pos = p.store.commit("a", 4096, 1, &[(1, 1)]);
    let headers = [("litefs-id", "AA"), (EXTENSIONS, OURS)];
    let stream = Ask::post(p.addr, true, "/stream", vec![0; 4]).headers(&headers).response().await.unwrap();
    let number = stream.headers()[STREAM].to_str().unwrap().to_owned();
    eventually("it to be sent", || known(&p, "a").0 == pos).await;
    let rows = |name: &str| ack::encode(0, &[(db(name), Ack { applied: pos, durable: pos })]);
    let addr = p.addr;
    let post = |id: &'static str, number: String, body: Vec<u8>| async move {
        let headers = [("litefs-id", id), (STREAM, &*number)];
        Ask::post(addr, true, "/ack", body).headers(&headers).answer().await.status.as_u16()
    };
    assert_eq!(post("BB", number.clone(), rows("a")).await, 404, "of another node");
    assert_eq!(post("AA", "0123".into(), rows("a")).await, 404, "of another stream");
    assert_eq!(post("AA", "xyz".into(), rows("a")).await, 400);
    assert_eq!(post("AA", number.clone(), b"garbage".to_vec()).await, 400);
    assert_eq!(post("AA", number.clone(), vec![0; MAX_ACK_BYTES + 1]).await, 400);
    assert_eq!(Ask::get(p.addr, false, "/ack").answer().await.status.as_u16(), 405);
    assert_eq!(known(&p, "a").1, None);
    // Of a database that it was never sent there is nothing to compare with.
    assert_eq!(post("AA", number.clone(), rows("other")).await, 200);
    assert_eq!(post("AA", number.clone(), rows("a")).await, 200);
    let info = &p.app.changes.replicas()[0];
    assert_eq!((info.acked.len(), info.node_id), (1, NodeId::new(0xAA)));
    drop(stream);
    eventually("the stream to end", || p.app.changes.replicas().is_empty()).await;
    assert_eq!(post("AA", number, rows("a")).await, 404);
}

/// Names of the databases in files, until the next heartbeat.
async fn files(s: &mut StreamReader) -> Vec<String> {
    let name = |sent| match sent {
        Sent::Ltx(db, _) => Some(db),
        Sent::Frame(_) => None,
    };
    s.round().await.into_iter().filter_map(name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_the_original_is_spared_a_change_of_page_size() {
    let mut p = Node::primary().await;
    let mut ours = Node::replica_of(&p).await;
    p.store.commit("a", 512, 2, &[(1, 1), (2, 2)]);
    let old = p.store.commit("a", 512, 2, &[(2, 3)]);
    let b = p.store.commit("b", 512, 1, &[(1, 1)]);
    let map = |a: Pos| pos_map::encode(&[(db("a"), a), (db("b"), b)].into());
    let held = || {
        let all = p.app.changes.replicas();
        let go = all.into_iter().find(|r| r.node_id == NodeId::new(0xAA)).unwrap();
        go.held.get(&db("a")).cloned()
    };
    let mut go = StreamReader::open(p.addr, "", map(old)).await;
    assert_eq!(files(&mut go).await, [""; 0]);
    p.store.commit("a", 512, 2, &[(2, 4)]);
    assert_eq!(files(&mut go).await, ["a"]);
    assert_eq!(held(), None);
    // VACUUM, or an import. The other database goes on, and heartbeats too.
    let before = p.store.pos("a");
    p.store.commit("a", 1024, 1, &[(1, 5)]);
    p.store.commit("b", 512, 1, &[(1, 2)]);
    assert_eq!(files(&mut go).await, ["b"]);
    p.store.commit("a", 1024, 1, &[(1, 6)]);
    assert_eq!(files(&mut go).await, [""; 0]);
    let why = held().expect("status says so");
    for word in ["512", "1024", "dbs/a"] {
        assert!(why.contains(word), "{why}");
    }
    same(&p, &ours, "a").await;

    // It comes again, by the log and then, which is all that is left, by what this process has seen.
    for trimmed in [false, true] {
        if trimmed {
            p.store.trim("a");
        }
        for at in [old, before] {
            drop(go);
            go = StreamReader::open(p.addr, "", map(at)).await;
            // What it can take it gets.
            let expected: &[&str] = if at == old && !trimmed { &["a", "b"] } else { &["b"] };
            assert_eq!(files(&mut go).await, expected, "{at} trimmed {trimmed}");
            eventually("status to say so", || held().is_some()).await;
        }
    }
    // Without its copy it gets a new one, and what follows.
    drop(go);
    go = StreamReader::open(p.addr, "", map(Pos::ZERO)).await;
    assert_eq!(files(&mut go).await, ["a", "b"]);
    p.store.commit("a", 1024, 1, &[(1, 7)]);
    assert_eq!(files(&mut go).await, ["a"]);
    eventually("the earlier streams to be gone", || held().is_none()).await;
    p.stop().await;
    ours.stop().await;
}
