//! Replication latency: from the moment COMMIT returns on the primary until a SELECT on the replica
//! shows it. Two processes, one clock.

use std::collections::BTreeMap;
use std::time::Duration;

use litefs_tests::node;
use litefs_tests::session::once;

use crate::report::{Row, percentile};
use crate::small::spawn;
use crate::{Plan, note};

pub(crate) fn run(plan: &mut Plan) {
    if !plan.wants_any(&["latency-p50", "latency-p99"]) {
        return;
    }
    note("replication latency");
    let (mut primary, mut replica) = node::pair(&plan.scratch);
    let setup = "PRAGMA journal_mode=WAL; CREATE TABLE tick(id INTEGER PRIMARY KEY, pad)";
    once(primary.path("lat.db"), setup);
    replica.sync_with(&primary, "lat.db");
    nix::unistd::sync();
    let amount = if plan.quick { "300" } else { "3000" };
    let watch = spawn(&["watch", &replica.path("lat.db").display().to_string(), "--amount", amount]);
    let write = spawn(&[
        "ticks",
        &primary.path("lat.db").display().to_string(),
        "--amount",
        amount,
        "--millis",
        "2",
        "--sync",
        "full",
    ]);
    let written = times(&write.done(Duration::from_secs(120)));
    let seen = times(&watch.done(Duration::from_secs(120)));
    // The first ones pay for connections and caches.
    let mut each: Vec<f64> =
        written.iter().skip(50).map(|(id, at)| ((seen[id] - at) / 1000.0).max(0.0)).collect();
    let p50 = percentile(&mut each, 50.0);
    let p99 = percentile(&mut each, 99.0);
    for (name, value) in [("latency-p50", p50), ("latency-p99", p99)] {
        if plan.wants(name) {
            plan.rows.push(Row::alone(name, "ms", &[value]));
        }
    }
    plan.note_memory(&primary);
    plan.note_memory(&replica);
    replica.stop();
    primary.stop();
}

fn times(text: &str) -> BTreeMap<i64, f64> {
    let all: Vec<(i64, f64)> = serde_json::from_str(text).expect("the worker's JSON");
    all.into_iter().collect()
}
