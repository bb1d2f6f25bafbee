//! How far replicas are, as they tell the primary; and peers of the original, which tell nothing and cannot take
//! everything.

mod replication_net_support;

use std::time::Duration;

use litefs_core::stream::ack::{self, Ack, MAX_ACK_BYTES};
use litefs_types::{NodeId, Pos};
use litefsd::http::extensions::{EXTENSIONS, OURS, STREAM};
use replication_net_support::client::{ask, start};
use replication_net_support::fake::{After, FakePrimary};
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
    let go = FakePrimary::start("LFSC0123456789ABCDEF", bytes, After::Hold).await;
    let mut r = Node::listen("127.0.0.1:0", litefsd::http::Options::default()).await;
    r.follow(&go.addr.to_string(), &[]);
    wait_ready(&r).await;
    assert_eq!(r.store.pos("a"), p.store.pos("a"));
    sleep(Duration::from_millis(400)).await;
    assert_eq!(go.maps.lock().unwrap().len(), 1, "a request that the original does not know");
    r.stop().await;

    // As replica: nothing is known of it.
    let answer = start(p.addr, true, "POST", "/stream", &[("litefs-id", "AA")], vec![0; 4]).await;
    assert!(!answer.headers().contains_key(STREAM));
    assert_eq!(known(&p, "a").1, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_of_nobody_change_nothing() {
    let p = Node::primary().await;
    let pos = p.store.commit("a", 4096, 1, &[(1, 1)]);
    let headers = [("litefs-id", "AA"), (EXTENSIONS, OURS)];
    let stream = start(p.addr, true, "POST", "/stream", &headers, vec![0; 4]).await;
    let number = stream.headers()[STREAM].to_str().unwrap().to_owned();
    eventually("it to be sent", || known(&p, "a").0 == pos).await;
    let rows = |name: &str| ack::encode(0, &[(db(name), Ack { applied: pos, durable: pos })]);
    let addr = p.addr;
    let post = |id: &'static str, number: String, body: Vec<u8>| async move {
        let headers = [("litefs-id", id), (STREAM, &*number)];
        ask(addr, true, "POST", "/ack", &headers, body).await.status.as_u16()
    };
    assert_eq!(post("BB", number.clone(), rows("a")).await, 404, "of another node");
    assert_eq!(post("AA", "0123".into(), rows("a")).await, 404, "of another stream");
    assert_eq!(post("AA", "xyz".into(), rows("a")).await, 400);
    assert_eq!(post("AA", number.clone(), b"garbage".to_vec()).await, 400);
    assert_eq!(post("AA", number.clone(), vec![0; MAX_ACK_BYTES + 1]).await, 400);
    assert_eq!(ask(p.addr, false, "GET", "/ack", &[], "").await.status.as_u16(), 405);
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
