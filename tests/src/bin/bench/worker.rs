//! One measurement in a process of its own: prepared statements in a tight loop, nothing else.
//!
//! It knows a path and never whether LiteFS is behind it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use litefs_tests::rng::Rng;
use rusqlite::Connection;
use serde_json::json;

use crate::report::percentile;

#[derive(Args)]
pub(crate) struct WorkerArgs {
    kind: Kind,
    /// The database.
    db: String,
    /// `PRAGMA journal_mode`.
    #[arg(long, default_value = "wal")]
    journal: String,
    /// `PRAGMA synchronous`.
    #[arg(long, default_value = "full")]
    sync: String,
    /// How long, in milliseconds.
    #[arg(long, default_value_t = 700)]
    millis: u64,
    /// Rows of the table that is read; MB that are written; commits.
    #[arg(long, default_value_t = 1000)]
    amount: u64,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// One row a transaction.
    Insert,
    /// A thousand rows a transaction.
    Thousand,
    /// `amount` MB in one transaction.
    Bulk,
    /// Makes the table that `Select` reads: `amount` rows of about 1 kB.
    Fill,
    /// Makes a large database: `amount` MB.
    FillBig,
    /// Random rows by key, one SELECT a transaction.
    Select,
    /// As `Select`, without reading anything first.
    SelectCold,
    /// `amount` commits, and the time of each on stdout.
    Ticks,
    /// When each of `amount` commits is first seen, on stdout.
    Watch,
}

fn open(args: &WorkerArgs) -> Connection {
    let c = Connection::open(&args.db).expect("open the database");
    c.busy_timeout(Duration::from_secs(10)).expect("busy_timeout");
    c
}

fn set_up(c: &Connection, args: &WorkerArgs) {
    let mode: String = c
        .query_row(&format!("PRAGMA journal_mode={}", args.journal), [], |r| r.get(0))
        .expect("set the journal mode");
    assert_eq!(mode, args.journal, "journal mode");
    c.execute_batch(&format!("PRAGMA synchronous={}", args.sync)).expect("set synchronous");
}

pub(crate) fn run(args: &WorkerArgs) {
    match args.kind {
        Kind::Insert => insert(args, 1),
        Kind::Thousand => insert(args, 1000),
        Kind::Bulk => bulk(args),
        Kind::Fill => fill(args, 1000),
        Kind::FillBig => fill(args, 20_000),
        Kind::Select => select(args, true),
        Kind::SelectCold => select(args, false),
        Kind::Ticks => ticks(args),
        Kind::Watch => watch(args),
    }
}

/// Repeats `operation` for the given time and prints rate and percentiles.
fn measure(args: &WorkerArgs, warm_up: u32, mut operation: impl FnMut()) {
    for _ in 0..warm_up {
        operation();
    }
    let limit = Duration::from_millis(args.millis);
    let mut each = Vec::with_capacity(1 << 20);
    let start = Instant::now();
    let mut last = start;
    loop {
        operation();
        let now = Instant::now();
        each.push((now - last).as_secs_f64() * 1e6);
        last = now;
        if now - start >= limit {
            break;
        }
    }
    let value = each.len() as f64 / (last - start).as_secs_f64();
    println!("{}", json!({ "value": value, "p99": percentile(&mut each, 99.0) }));
}

fn insert(args: &WorkerArgs, rows: u32) {
    let c = open(args);
    set_up(&c, args);
    c.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b TEXT)").expect("create");
    let text = "x".repeat(100);
    let mut statement = c.prepare("INSERT INTO t(a,b) VALUES(?1,?2)").expect("prepare");
    let mut begin = c.prepare("BEGIN IMMEDIATE").expect("prepare");
    let mut commit = c.prepare("COMMIT").expect("prepare");
    let mut n = 0_i64;
    measure(args, if rows == 1 { 20 } else { 2 }, || {
        if rows > 1 {
            begin.execute([]).expect("begin");
        }
        for _ in 0..rows {
            n += 1;
            statement.execute((n, &text)).expect("insert");
        }
        if rows > 1 {
            commit.execute([]).expect("commit");
        }
    });
}

fn bulk(args: &WorkerArgs) {
    let mut c = open(args);
    set_up(&c, args);
    c.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)").expect("create");
    // Not compressible and different in each row, as real data is.
    let mut rng = Rng::new(args.seed);
    let block: Vec<u8> = (0..20_000 / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
    let rows = args.amount * 1_000_000 / block.len() as u64;
    let start = Instant::now();
    let tx = c.transaction().expect("begin");
    {
        let mut statement = tx.prepare("INSERT INTO t(b) VALUES(?1)").expect("prepare");
        let mut block = block;
        for i in 0..rows {
            block[..8].copy_from_slice(&i.to_le_bytes());
            statement.execute([&block]).expect("insert");
        }
    }
    tx.commit().expect("commit");
    let value = args.amount as f64 / start.elapsed().as_secs_f64();
    println!("{}", json!({ "value": value }));
}

/// `amount` rows of 1 kB, or `amount` MB in larger rows; not timed.
fn fill(args: &WorkerArgs, row: usize) {
    let mut c = open(args);
    set_up(&c, args);
    c.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)").expect("create");
    let mut rng = Rng::new(args.seed);
    let mut block = vec![0_u8; row - row / 20];
    let rows = if row == 1000 { args.amount } else { args.amount * 1_000_000 / row as u64 };
    let mut left = rows;
    while left > 0 {
        let tx = c.transaction().expect("begin");
        let now = left.min(20_000_000 / row as u64);
        for _ in 0..now {
            block.chunks_exact_mut(8).for_each(|b| b.copy_from_slice(&rng.next().to_le_bytes()));
            tx.prepare_cached("INSERT INTO t(b) VALUES(?1)")
                .expect("prepare")
                .execute([&block])
                .expect("insert");
        }
        tx.commit().expect("commit");
        left -= now;
    }
    let _ = c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

fn select(args: &WorkerArgs, warm: bool) {
    let c = open(args);
    let mut statement = c.prepare("SELECT b FROM t WHERE id=?1").expect("prepare");
    let mut rng = Rng::new(args.seed);
    let rows = args.amount;
    if warm {
        // Every page once, so that the kernel has it.
        let n: i64 = c.query_row("SELECT sum(length(b)) FROM t", [], |r| r.get(0)).expect("read all");
        assert!(n > 0);
    }
    measure(args, if warm { 1000 } else { 0 }, || {
        let id = rng.range(1, rows + 1) as i64;
        let size = statement.query_row([id], |r| Ok(r.get_ref(0)?.as_blob()?.len())).expect("the row");
        assert!(size > 0);
    });
}

fn now_us() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64() * 1e6
}

fn ticks(args: &WorkerArgs) {
    let c = open(args);
    c.execute_batch(&format!("PRAGMA synchronous={}", args.sync)).expect("set synchronous");
    let mut statement = c.prepare("INSERT INTO tick(pad) VALUES(?1)").expect("prepare");
    let pad = "x".repeat(100);
    let mut times = Vec::new();
    for _ in 0..args.amount {
        statement.execute([&pad]).expect("insert");
        times.push((c.last_insert_rowid(), now_us()));
        std::thread::sleep(Duration::from_millis(args.millis));
    }
    println!("{}", json!(times));
}

fn watch(args: &WorkerArgs) {
    let c = open(args);
    let mut statement = c.prepare("SELECT coalesce(max(id),0) FROM tick").expect("prepare");
    let (mut seen, mut times) = (0_i64, Vec::new());
    let end = Instant::now() + Duration::from_secs(120);
    while (seen as u64) < args.amount {
        assert!(Instant::now() < end, "only {seen} of {} commits arrived", args.amount);
        let top: i64 = statement.query_row([], |r| r.get(0)).expect("select");
        let now = now_us();
        for id in seen + 1..=top {
            times.push((id, now));
        }
        if top == seen {
            // Long enough to leave the daemons a core, short against what is measured.
            std::thread::sleep(Duration::from_micros(20));
        }
        seen = top;
    }
    println!("{}", json!(times));
}
