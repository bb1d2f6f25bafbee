//! Random histories of one database, with a crash at every disk operation of each.
//!
//! What fails says its seed; `CRASH_SEED=n` runs that one alone.

use super::rollback::rows;
use super::run::{Failed, Rules, Run, matrix, soak};
use super::world::Options;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        // SplitMix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(n)) as u32
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u32) as usize]
    }
}

const JOURNALS: [&str; 5] = ["WAL", "WAL", "DELETE", "TRUNCATE", "PERSIST"];

fn change(r: &mut Random) -> String {
    let id = r.below(60);
    let n = r.below(12) + 1;
    match r.below(6) {
        0 | 1 => format!("DELETE FROM t WHERE id BETWEEN {id} AND {};", id + 20 + n) + &rows(id, n, "r"),
        2 => format!("UPDATE t SET x = 'u{n}' || id WHERE id % 7 = {};", n % 7),
        3 => format!("DELETE FROM t WHERE id > {id};"),
        4 => format!(
            "SAVEPOINT s; UPDATE t SET x = x || '{n}'; ROLLBACK TO s; RELEASE s; INSERT OR REPLACE INTO t VALUES({id}, zeroblob({}));",
            n * 90
        ),
        _ => format!("INSERT OR REPLACE INTO t VALUES({id}, 'one {n}');"),
    }
}

fn open(run: &mut Run, r: &mut Random) -> Result<(), Failed> {
    run.open(1, "db")?;
    let sync = r.of(&["FULL", "NORMAL", "EXTRA"]);
    let cache = r.of(&["4", "10", "100"]);
    run.sql(1, &format!("PRAGMA synchronous={sync}; PRAGMA cache_size={cache}; PRAGMA cache_spill={cache}"))
}

fn history(run: &mut Run, seed: u64) -> Result<(), Failed> {
    let r = &mut Random(seed);
    open(run, r)?;
    let journal = r.of(&JOURNALS);
    run.sql(1, &format!("PRAGMA page_size=512; PRAGMA journal_mode={journal}"))?;
    run.sql(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t(x)")?;
    for _ in 0..12 {
        match r.below(14) {
            0 => run.sql(1, &format!("PRAGMA journal_mode={}", r.of(&JOURNALS)))?,
            1 => run.sql(1, "VACUUM")?,
            2 => {
                run.close(1);
                open(run, r)?;
            }
            3 => {
                let how = r.of(&["PASSIVE", "RESTART", "TRUNCATE"]);
                run.sql(1, &format!("PRAGMA wal_checkpoint({how})"))?;
            }
            4 => run.step(|w| {
                w.store.tick();
                w.store.maintain();
                Ok(())
            })?,
            5 => run.sql(1, &format!("BEGIN; {} {} ROLLBACK", change(r), change(r)))?,
            6 | 7 => run.sql(1, &format!("BEGIN; {} {} {} COMMIT", change(r), change(r), change(r)))?,
            _ => run.sql(1, &change(r))?,
        }
    }
    run.close(1);
    Ok(())
}

/// How many times longer than usual; 1 in short runs.
fn factor() -> u64 {
    std::env::var("LITEFS_SOAK").map_or(1, |s| s.parse().unwrap_or(10))
}

#[test]
fn histories() {
    let seeds: Vec<u64> = match std::env::var("CRASH_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(one) => vec![one],
        None => (0..if soak() { 10 * factor() } else { 3 }).collect(),
    };
    for seed in seeds {
        let options = Options { eager: seed % 2 == 0, psow: seed % 5 != 0, ..Options::default() };
        eprintln!("CRASH_SEED={seed}");
        matrix(options, Rules::default(), &move |run| history(run, seed));
    }
}
