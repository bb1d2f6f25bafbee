//! `make bench`: this mount against the raw directory beneath it, in one run.
//!
//! How it is kept fair: every row runs on both sides alternately, in rounds; the order of rows and of
//! the two sides is shuffled; `sync` comes before each run, so that nobody pays for the writes of the
//! one before; every run is a process of its own with a new database; medians are shown, with the
//! spread. Raw is a directory of the very file system that holds the data directory.
//!
//! Owns the order of things. What is measured is in [`worker`] (one process, one number), [`small`]
//! (rows with a raw side), [`latency`] and [`big`]; how it is shown in [`report`].

mod big;
mod latency;
mod report;
mod small;
mod worker;

use std::time::Instant;

use clap::{Parser, Subcommand};
use litefs_tests::node::Node;
use litefs_tests::proc::memory_kb;
use litefs_tests::rng::Rng;
use litefs_tests::scratch::Scratch;

use report::Row;

/// The names of all rows, in the order they are shown.
const NAMES: [&str; 20] = [
    "insert-wal-normal",
    "insert-wal-full",
    "insert-delete-full",
    "insert-truncate-full",
    "insert-persist-full",
    "tx1000-wal-full",
    "bulk-wal",
    "bulk-delete",
    "select-warm-primary",
    "select-warm-replica",
    "select-cold-primary",
    "select-cold-replica",
    "readers-beside-writer",
    "latency-p50",
    "latency-p99",
    "start-1gb",
    "rss",
    "import-1gb",
    "export-1gb",
    "snapshot-1gb",
];

#[derive(Parser)]
#[command(about = "Measures the mount against the raw directory beneath it")]
struct Args {
    #[command(subcommand)]
    worker: Option<Sub>,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Only these rows (names as in the table, separated by commas).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of the rows with a raw side.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Three short rounds and a tenth of the sizes: does it work, not how fast is it.
    #[arg(long)]
    quick: bool,
    /// The order of everything.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Sub {
    /// One measurement in a process of its own.
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
}

/// What all rows share.
pub(crate) struct Plan {
    scratch: Scratch,
    rounds: usize,
    quick: bool,
    only: Vec<String>,
    rng: Rng,
    rows: Vec<Row>,
    /// The largest VmHWM of any daemon so far, in kB.
    peak_kb: u64,
}

impl Plan {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|n| n == name)
    }

    fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|n| self.wants(n))
    }

    /// Notes how much memory a daemon has ever had; to be called before it stops.
    fn note_memory(&mut self, node: &Node) {
        self.peak_kb = self.peak_kb.max(memory_kb(node.pid(), "VmHWM"));
    }
}

fn main() {
    let args = Args::parse();
    if let Some(Sub::Worker(worker)) = args.worker {
        worker::run(&worker);
        return;
    }
    litefs_tests::require_root_and_fuse();
    for name in &args.only {
        assert!(NAMES.contains(&name.as_str()), "no row {name:?}; there are: {}", NAMES.join(" "));
    }
    let started = Instant::now();
    let mut plan = Plan {
        scratch: Scratch::new("bench"),
        rounds: if args.quick { args.rounds.min(3) } else { args.rounds },
        quick: args.quick,
        only: args.only,
        rng: Rng::new(args.seed),
        rows: Vec::new(),
        peak_kb: 0,
    };
    small::run(&mut plan);
    latency::run(&mut plan);
    big::run(&mut plan);
    plan.rows.sort_by_key(|r| NAMES.iter().position(|n| *n == r.name));
    if args.json {
        println!("{}", report::json(&plan.rows));
    } else {
        print!("{}", report::table(&plan.rows));
        println!("{} rounds, {:.0} s in all", plan.rounds, started.elapsed().as_secs_f64());
    }
}

/// Progress, on stderr: stdout is for the result.
pub(crate) fn note(text: &str) {
    eprintln!("bench: {text}");
}
