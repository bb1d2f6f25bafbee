//! The ledger: money that is only moved, and a log in which each writer counts its transactions.
//!
//! Invariants any reader may check at any moment, on any node: the sum of all balances is 100 000; a
//! writer's log has no gap; what a connection has seen once, it sees for ever.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use litefs_tests::rng::Rng;
use rusqlite::{Connection, ErrorCode};

static STOP: AtomicBool = AtomicBool::new(false);

const TOTAL: i64 = 100_000;
const KINDS: [&str; 4] = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];

#[derive(Args)]
pub(crate) struct WriteArgs {
    /// A path or `file:` URI.
    #[arg(long)]
    db: String,
    /// This writer's number.
    #[arg(long, default_value_t = 1)]
    writer: i64,
    /// Stop after so many transactions (0: when told by SIGTERM).
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// Milliseconds between two.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Bytes of padding a log row: large ones spill.
    #[arg(long, default_value_t = 100)]
    pad: i64,
    /// Run once after opening (synchronous, cache_size, locking_mode…).
    #[arg(long, default_value = "")]
    setup: String,
    /// The seed for what is moved where.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End at the first error that is not BUSY instead of reopening (exit code 0, `error CODE` printed).
    #[arg(long)]
    stop_on_error: bool,
}

#[derive(Args)]
pub(crate) struct ReadArgs {
    /// A path or `file:` URI.
    #[arg(long)]
    db: String,
    /// Run once after opening.
    #[arg(long, default_value = "")]
    setup: String,
    /// Milliseconds each read transaction stays open between its two looks, which must be equal.
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// Stop after so many (0: when told).
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// Open a new connection for each.
    #[arg(long)]
    reopen: bool,
}

#[derive(Args)]
pub(crate) struct CheckpointArgs {
    /// A path or `file:` URI.
    #[arg(long)]
    db: String,
    /// Milliseconds between two.
    #[arg(long, default_value_t = 20)]
    pause: u64,
    /// Only this mode.
    #[arg(long)]
    only: Option<String>,
}

fn open(db: &str, setup: &str) -> rusqlite::Result<Connection> {
    let c = Connection::open(db)?;
    c.busy_timeout(Duration::from_secs(30))?;
    crate::shell::execute(&c, setup, &mut std::io::sink())?;
    Ok(c)
}

fn is_busy(e: &rusqlite::Error) -> bool {
    matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: the test is over.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        STOP.store(true, Ordering::Relaxed);
    }
}

fn stop_on_sigterm() -> Result<(), String> {
    use nix::sys::signal::{SigSet, Signal};
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.thread_block().map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        let _ = set.wait();
        STOP.store(true, Ordering::Relaxed);
    });
    Ok(())
}

fn running(done: u64, count: u64) -> bool {
    !STOP.load(Ordering::Relaxed) && (count == 0 || done < count)
}

pub(crate) fn write(args: &WriteArgs) -> Result<(), String> {
    stop_on_sigterm()?;
    let mut rng = Rng::new(args.seed ^ (args.writer as u64) << 32);
    let mut done = 0;
    let mut connection = None;
    while running(done, args.count) {
        let result = match &mut connection {
            None => open(&args.db, &args.setup).map(|c| {
                connection = Some(c);
                None
            }),
            Some(c) => transfer(c, args, &mut rng).map(Some),
        };
        match result {
            Ok(Some(seq)) => {
                done += 1;
                say(&format!("ack {} {seq}", args.writer));
                std::thread::sleep(Duration::from_millis(args.pause));
            }
            Ok(None) => say("open"),
            Err(e) if is_busy(&e) => say("busy"),
            Err(e) => {
                say(&format!("error {e}"));
                if args.stop_on_error {
                    return Ok(());
                }
                connection = None;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    Ok(())
}

fn transfer(c: &mut Connection, args: &WriteArgs, rng: &mut Rng) -> rusqlite::Result<i64> {
    let tx = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let seq: i64 =
        tx.query_row("SELECT coalesce(max(seq),0)+1 FROM log WHERE w=?1", [args.writer], |r| r.get(0))?;
    let (from, to) = (rng.range(1, 101) as i64, rng.range(1, 101) as i64);
    let amount = rng.range(1, 50) as i64;
    tx.execute("UPDATE acct SET bal=bal-?1 WHERE id=?2", [amount, from])?;
    tx.execute("UPDATE acct SET bal=bal+?1 WHERE id=?2", [amount, to])?;
    if rng.chance(20) {
        // What is rolled back to a savepoint must never be seen.
        tx.execute_batch("SAVEPOINT s; UPDATE acct SET bal=bal+1; ROLLBACK TO s; RELEASE s")?;
    }
    tx.execute(
        "INSERT INTO log(w,seq,pad) VALUES(?1,?2,hex(zeroblob(?3)))",
        [args.writer, seq, args.pad / 2],
    )?;
    tx.commit()?;
    Ok(seq)
}

pub(crate) fn read(args: &ReadArgs) -> Result<(), String> {
    stop_on_sigterm()?;
    let mut seen = BTreeMap::new();
    let mut done = 0;
    let mut connection = None;
    while running(done, args.count) {
        let result = match connection.take() {
            None => open(&args.db, &args.setup),
            Some(c) => Ok(c),
        }
        .and_then(|mut c| look_twice(&mut c, args.hold).map(|look| (c, look)));
        let (c, (sum, logs)) = match result {
            Ok(found) => found,
            Err(e) if is_busy(&e) => {
                say("busy");
                continue;
            }
            Err(e) => return Err(format!("reader: {e}")),
        };
        if sum != TOTAL {
            return Err(format!("the sum is {sum}"));
        }
        let mut rows = 0;
        for (w, max, count) in logs {
            if max != count {
                return Err(format!("writer {w}: {count} rows, highest {max}"));
            }
            let before = seen.insert(w, max).unwrap_or(0);
            if max < before {
                return Err(format!("writer {w} went back from {before} to {max}"));
            }
            rows += count;
        }
        done += 1;
        say(&format!("read {rows}"));
        if !args.reopen {
            connection = Some(c);
        }
    }
    Ok(())
}

type Look = (i64, Vec<(i64, i64, i64)>);

fn look_twice(c: &mut Connection, hold: u64) -> rusqlite::Result<Look> {
    let tx = c.transaction()?;
    let first = look(&tx)?;
    let end = Instant::now() + Duration::from_millis(hold);
    while Instant::now() < end && !STOP.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    if hold > 0 && look(&tx)? != first {
        return Err(rusqlite::Error::InvalidParameterName("a snapshot changed while it was read".into()));
    }
    tx.commit()?;
    Ok(first)
}

fn look(c: &Connection) -> rusqlite::Result<Look> {
    let sum = c.query_row("SELECT sum(bal) FROM acct", [], |r| r.get(0))?;
    let mut statement = c.prepare_cached("SELECT w, max(seq), count(*) FROM log GROUP BY w")?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
    Ok((sum, rows.collect::<Result<_, _>>()?))
}

pub(crate) fn checkpoint(args: &CheckpointArgs) -> Result<(), String> {
    stop_on_sigterm()?;
    let mut rng = Rng::new(u64::from(std::process::id()));
    let c = open(&args.db, "PRAGMA busy_timeout=1000").map_err(|e| e.to_string())?;
    while running(0, 0) {
        let mode = args.only.as_deref().unwrap_or_else(|| KINDS[rng.range(0, 4) as usize]);
        let result = c.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |r| r.get::<_, i64>(0));
        match result {
            Ok(busy) => say(&format!("checkpoint {mode} {busy}")),
            Err(e) if is_busy(&e) => say("busy"),
            Err(e) => return Err(format!("checkpoint {mode}: {e}")),
        }
        std::thread::sleep(Duration::from_millis(args.pause));
    }
    Ok(())
}
