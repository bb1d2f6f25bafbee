//! The rows with a raw side: inserts, bulk writes, point reads, readers beside a writer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use litefs_tests::node::{Node, pair};
use litefs_tests::proc::{Proc, code};
use litefs_tests::scratch::remove_database;

use crate::report::{Row, Sample};
use crate::{Plan, note};

/// One row: what a worker does, and where.
struct Job {
    name: &'static str,
    unit: &'static str,
    kind: &'static str,
    journal: &'static str,
    sync: &'static str,
}

const WRITES: [Job; 8] = [
    job(["insert-wal-normal", "tx/s", "insert", "wal", "normal"]),
    job(["insert-wal-full", "tx/s", "insert", "wal", "full"]),
    job(["insert-delete-full", "tx/s", "insert", "delete", "full"]),
    job(["insert-truncate-full", "tx/s", "insert", "truncate", "full"]),
    job(["insert-persist-full", "tx/s", "insert", "persist", "full"]),
    job(["tx1000-wal-full", "tx/s", "thousand", "wal", "full"]),
    job(["bulk-wal", "MB/s", "bulk", "wal", "full"]),
    job(["bulk-delete", "MB/s", "bulk", "delete", "full"]),
];

const READS: [Job; 5] = [
    job(["select-warm-primary", "SELECT/s", "select", "wal", "full"]),
    job(["select-warm-replica", "SELECT/s", "select", "wal", "full"]),
    job(["select-cold-primary", "SELECT/s", "select-cold", "wal", "full"]),
    job(["select-cold-replica", "SELECT/s", "select-cold", "wal", "full"]),
    job(["readers-beside-writer", "SELECT/s", "select", "wal", "full"]),
];

const fn job([name, unit, kind, journal, sync]: [&'static str; 5]) -> Job {
    Job { name, unit, kind, journal, sync }
}

pub(crate) fn run(plan: &mut Plan) {
    writes(plan);
    reads(plan);
}

/// Rounds of all jobs, each on both sides, in random order. `measure` is told job, side and round.
fn rounds(plan: &mut Plan, jobs: &[&Job], mut measure: impl FnMut(&mut Plan, &Job, bool, usize) -> Sample) {
    let mut rows: Vec<Row> =
        jobs.iter().map(|j| Row { name: j.name, unit: j.unit, raw: Vec::new(), mount: Vec::new() }).collect();
    for round in 0..plan.rounds {
        note(&format!("round {} of {}", round + 1, plan.rounds));
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        plan.rng.shuffle(&mut order);
        for i in order {
            let mut sides = [false, true];
            plan.rng.shuffle(&mut sides);
            for on_mount in sides {
                let sample = measure(plan, jobs[i], on_mount, round);
                if on_mount { &mut rows[i].mount } else { &mut rows[i].raw }.push(sample);
            }
        }
    }
    plan.rows.extend(rows);
}

/// Rows that write run with the primary alone: a replica on the same two cores would be measured too.
fn writes(plan: &mut Plan) {
    let jobs: Vec<&Job> = WRITES.iter().filter(|j| plan.wants(j.name)).collect();
    if jobs.is_empty() {
        return;
    }
    note("writing rows");
    let raw = plan.scratch.dir("raw");
    let mut primary = Node::primary(&plan.scratch, "w").started();
    let quick = plan.quick;
    rounds(plan, &jobs, |plan, job, on_mount, round| {
        let dir = if on_mount { &primary.mount } else { &raw };
        let db = dir.join(format!("{}-{round}.db", job.name));
        let millis = if quick { "200" } else { "700" };
        let amount = if quick { "10" } else { "100" };
        let seed = plan.rng.next().to_string();
        let sample = worker(&[
            job.kind,
            &db.display().to_string(),
            "--journal",
            job.journal,
            "--sync",
            job.sync,
            "--millis",
            millis,
            "--amount",
            amount,
            "--seed",
            &seed,
        ]);
        remove_database(&db);
        sample
    });
    plan.note_memory(&primary);
    primary.stop();
}

fn reads(plan: &mut Plan) {
    let jobs: Vec<&Job> = READS.iter().filter(|j| plan.wants(j.name)).collect();
    if jobs.is_empty() {
        return;
    }
    note("reading rows");
    let rows = if plan.quick { 10_000 } else { 100_000 }.to_string();
    let raw = plan.scratch.dir("raw").join("read.db");
    let (mut primary, mut replica) = pair(&plan.scratch);
    for db in [raw.clone(), primary.path("read.db")] {
        // A writer of its own for `readers-beside-writer` would change what the others read.
        fill(&db, &rows);
        fill(&beside(&db), &rows);
    }
    replica.sync_with(&primary, "read.db");
    replica.sync_with(&primary, "read.db.beside");
    let quick = plan.quick;
    rounds(plan, &jobs, |plan, job, on_mount, _| {
        let node = if job.name.ends_with("replica") { &replica } else { &primary };
        let db = if on_mount { node.path("read.db") } else { raw.clone() };
        let seed = plan.rng.next().to_string();
        // A cold run that lasts becomes a warm one.
        let millis = if quick || job.kind == "select-cold" { 200 } else { 600 };
        if job.name == "readers-beside-writer" {
            return readers_beside_writer(&beside(&db), &rows, millis);
        }
        if job.kind == "select-cold" {
            drop_caches();
        }
        worker(&[
            job.kind,
            &db.display().to_string(),
            "--millis",
            &millis.to_string(),
            "--amount",
            &rows,
            "--seed",
            &seed,
        ])
    });
    plan.note_memory(&primary);
    plan.note_memory(&replica);
    replica.stop();
    primary.stop();
    remove_database(&raw);
    remove_database(&beside(&raw));
}

fn beside(db: &Path) -> PathBuf {
    db.with_file_name("read.db.beside")
}

fn fill(db: &Path, rows: &str) {
    let db = db.display().to_string();
    spawn(&["fill", &db, "--amount", rows, "--sync", "off"]).done(Duration::from_secs(120));
}

/// Two readers while a writer commits with FULL: the sum of what the readers do.
fn readers_beside_writer(db: &Path, rows: &str, millis: u64) -> Sample {
    let db = db.display().to_string();
    // The writer writes to a table of its own, which goes again, so that the readers' stays as it is.
    litefs_tests::session::once(
        Path::new(&db),
        "DROP TABLE IF EXISTS tick; CREATE TABLE tick(id INTEGER PRIMARY KEY, pad)",
    );
    nix::unistd::sync();
    let time = millis.to_string();
    let args = ["select", &db, "--amount", rows, "--millis", &time];
    // Writes until it is killed, below.
    let writer = spawn(&["ticks", &db, "--amount", "1000000000", "--millis", "0"]);
    let readers = [spawn(&args), spawn(&args)];
    let samples = readers.map(|r| parse(&r.done(Duration::from_secs(60))));
    drop(writer);
    Sample {
        value: samples.iter().map(|s| s.value).sum(),
        p99_us: samples.iter().filter_map(|s| s.p99_us).reduce(f64::max),
    }
}

/// Nothing of any file is in memory any more: neither the backing files' nor the mount's pages.
fn drop_caches() {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("drop the caches (as root)");
}

/// A worker that runs.
pub(crate) struct Running(Proc);

/// Starts this program again as a worker.
pub(crate) fn spawn(args: &[&str]) -> Running {
    let exe = std::env::current_exe().expect("the path of this program");
    let mut command = Command::new(exe);
    Running(Proc::spawn(command.arg("worker").args(args).stdin(Stdio::null()).stdout(Stdio::piped())))
}

impl Running {
    /// Waits for its end; what it printed. It prints little, so the pipe does not fill.
    pub(crate) fn done(mut self, limit: Duration) -> String {
        use std::io::Read as _;
        let mut text = String::new();
        let mut out = self.0.child().stdout.take().expect("a pipe");
        out.read_to_string(&mut text).expect("the worker's output");
        let status = self.0.wait(limit).expect("a worker that ends");
        assert_eq!(code(status), 0, "a worker failed");
        text
    }
}

fn worker(args: &[&str]) -> Sample {
    nix::unistd::sync();
    parse(&spawn(args).done(Duration::from_secs(120)))
}

fn parse(text: &str) -> Sample {
    let v: serde_json::Value = serde_json::from_str(text).expect("the worker's JSON");
    Sample { value: v["value"].as_f64().expect("a value"), p99_us: v["p99"].as_f64() }
}
