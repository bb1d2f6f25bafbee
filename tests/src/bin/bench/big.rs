//! The rows about a large database: import, export, first snapshot, start, memory.

use std::time::{Duration, Instant};

use litefs_tests::node::Node;
use litefs_tests::scratch::remove_database;

use crate::report::Row;
use crate::small::spawn;
use crate::{Plan, note};

const NAMES: [&str; 5] = ["start-1gb", "rss", "import-1gb", "export-1gb", "snapshot-1gb"];

pub(crate) fn run(plan: &mut Plan) {
    if !plan.wants_any(&NAMES) {
        return;
    }
    let megabytes = if plan.quick { 100 } else { 1000 };
    // A gigabyte nine times over would be most of the ten minutes; the spread shows whether three do.
    let rounds = if plan.quick { 1 } else { 3 };
    note(&format!("a database of {megabytes} MB"));
    let source = plan.scratch.join("source.db");
    let path = source.display().to_string();
    let amount = megabytes.to_string();
    spawn(&["fill-big", &path, "--amount", &amount, "--journal", "delete", "--sync", "off"])
        .done(Duration::from_secs(300));
    let size = std::fs::metadata(&source).expect("the source").len() as f64 / 1e6;

    let mut primary = Node::primary(&plan.scratch, "bp").started();
    let (mut import, mut export, mut snapshot, mut start) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        note(&format!("import, export, snapshot: {} of {rounds}", round + 1));
        let rate = timed(size, || primary.ctl_ok(&["-q", "import", "--name", "big.db", "--replace", &path]));
        import.push(rate);
        let target = plan.scratch.join("export.db");
        let to = target.display().to_string();
        let rate = timed(size, || primary.ctl_ok(&["-q", "export", "--name", "big.db", &to]));
        export.push(rate);
        remove_database(&target);
        let mut replica = Node::replica(&plan.scratch, &format!("br{round}"), &primary);
        let rate = timed(size, || {
            replica.start();
            replica.sync_within(&primary, "big.db", Duration::from_secs(180));
        });
        snapshot.push(rate);
        plan.note_memory(&replica);
        replica.stop();
        std::fs::remove_dir_all(&replica.data).expect("remove the replica's data");
    }
    note("start");
    for _ in 0..plan.rounds {
        plan.note_memory(&primary);
        primary.stop();
        nix::unistd::sync();
        let begin = Instant::now();
        primary.start();
        // Ready is when an application can open it and read.
        let rows = litefs_tests::session::once(primary.path("big.db"), "SELECT count(*) FROM sqlite_schema");
        assert_eq!(rows, ["1"]);
        start.push(begin.elapsed().as_secs_f64());
    }
    plan.note_memory(&primary);
    primary.stop();
    let rss = [plan.peak_kb as f64 / 1000.0];
    for (name, unit, values) in [
        ("start-1gb", "s", &start[..]),
        ("rss", "MB", &rss[..]),
        ("import-1gb", "MB/s", &import[..]),
        ("export-1gb", "MB/s", &export[..]),
        ("snapshot-1gb", "MB/s", &snapshot[..]),
    ] {
        if plan.wants(name) {
            plan.rows.push(Row::alone(name, unit, values));
        }
    }
}

/// How many MB a second `work` moves.
fn timed<T>(megabytes: f64, work: impl FnOnce() -> T) -> f64 {
    nix::unistd::sync();
    let start = Instant::now();
    work();
    megabytes / start.elapsed().as_secs_f64()
}
