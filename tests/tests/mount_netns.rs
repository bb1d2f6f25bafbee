//! Two nodes in network namespaces that have IPv6 only, as a cloud's private network; and a cable that is
//! pulled out. Needs root, /dev/fuse and network namespaces.

use std::time::{Duration, Instant};

use litefs_tests::image::assert_same;
use litefs_tests::netns::{HOSTS, Pair};
use litefs_tests::node::Node;
use litefs_tests::scratch::Scratch;
use litefs_tests::session::once;
use litefs_tests::watch::{Deadline, eventually, within};

fn two_nodes(scratch: &Scratch, net: &Pair) -> (Node, Node) {
    let mut primary = Node::primary(scratch, "p");
    primary.in_netns(net.name(0), HOSTS[0]).start();
    let mut replica = Node::replica(scratch, "r", &primary);
    replica.in_netns(net.name(1), HOSTS[1]).start();
    (primary, replica)
}

#[test]
fn the_main_job_over_ipv6_alone() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("v6");
    let net = Pair::new();
    let (mut primary, mut replica) = two_nodes(&scratch, &net);
    for journal in ["delete", "wal"] {
        once(
            primary.path(journal),
            &format!("PRAGMA journal_mode={journal}; CREATE TABLE t(x); INSERT INTO t VALUES(1)"),
        );
        eventually(Duration::from_secs(20), "it arrives", || {
            (replica.txid(journal) == primary.txid(journal)).then_some(())
        });
        assert_eq!(once(replica.path(journal), "SELECT x FROM t"), ["1"]);
        assert_same(&primary, &replica, journal, &scratch);
    }
    replica.stop();
    primary.stop();
}

#[test]
fn a_pulled_cable_is_noticed_within_ten_seconds_and_healed() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("cable");
    let net = Pair::new();
    let (primary, replica) = two_nodes(&scratch, &net);
    once(primary.path("db"), "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    replica.sync_with(&primary, "db");
    assert!(replica.path(".primary").exists());
    net.set_link(false);
    let start = Instant::now();
    let noticed = within(Duration::from_secs(12), || !replica.path(".primary").exists());
    assert!(noticed, "the replica believes in a primary that is silent since {:?}", start.elapsed());
    once(primary.path("db"), "INSERT INTO t VALUES(2)");
    assert_eq!(once(replica.path("db"), "SELECT count(*) FROM t"), ["1"]);
    net.set_link(true);
    replica.sync_with(&primary, "db");
    assert_same(&primary, &replica, "db", &scratch);
}
