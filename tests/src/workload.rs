//! Random SQL scripts: a seed gives the same script for ever, and the script gives the same bytes.
//!
//! The script is text, so any SQLite can run it. Nothing in it depends on time, chance or the path, so
//! the database file it leaves on a plain directory is, byte for byte, what it must leave on a mount:
//! that is the oracle (`mount_random.rs`), and it needs no knowledge of capture.

use crate::rng::Rng;

/// How the script is mixed.
#[derive(Clone, Debug)]
pub struct Mix {
    /// The seed.
    pub seed: u64,
    /// How many top-level steps.
    pub steps: u32,
    /// `PRAGMA page_size` of the new database.
    pub page_size: u32,
    /// `PRAGMA journal_mode`.
    pub journal: &'static str,
    /// `PRAGMA synchronous`.
    pub sync: &'static str,
    /// `PRAGMA auto_vacuum`: 0 none, 1 full, 2 incremental.
    pub auto_vacuum: u32,
    /// Whether steps may switch the journal mode.
    pub switch_modes: bool,
    /// Whether VACUUM may change the page size.
    pub resize_pages: bool,
    /// Mostly savepoints, in-place rewrites and spills of one transaction (holes H2, H5, H6).
    pub savepoints: bool,
}

impl Mix {
    /// The usual mix for a seed.
    pub const fn new(seed: u64, journal: &'static str, page_size: u32) -> Self {
        Self {
            seed,
            steps: 60,
            page_size,
            journal,
            sync: "NORMAL",
            auto_vacuum: 0,
            switch_modes: false,
            resize_pages: false,
            savepoints: false,
        }
    }
}

const TABLES: u64 = 4;
const MODES: [&str; 4] = ["DELETE", "TRUNCATE", "PERSIST", "WAL"];

/// The script: one line is one call of the application, and none leaves a transaction open.
pub fn script(mix: &Mix) -> Vec<String> {
    let mut g = Generator { rng: Rng::new(mix.seed), mix, journal: mix.journal };
    let mut lines = vec![
        format!("PRAGMA page_size={}", mix.page_size),
        format!("PRAGMA auto_vacuum={}", mix.auto_vacuum),
        format!("PRAGMA journal_mode={}", mix.journal),
        format!("PRAGMA synchronous={}", mix.sync),
        "PRAGMA cache_size=6".to_owned(),
        "PRAGMA cache_spill=6".to_owned(),
        "PRAGMA wal_autocheckpoint=60".to_owned(),
    ];
    for t in 0..TABLES {
        lines.push(format!(
            "CREATE TABLE t{t}(id INTEGER PRIMARY KEY, a INT, b TEXT); CREATE INDEX i{t} ON t{t}(a)"
        ));
    }
    for _ in 0..mix.steps {
        lines.push(g.step());
    }
    lines
}

struct Generator<'a> {
    rng: Rng,
    mix: &'a Mix,
    journal: &'static str,
}

impl Generator<'_> {
    fn step(&mut self) -> String {
        let roll = self.rng.range(0, 100);
        if self.mix.savepoints && roll < 80 {
            return self.nested();
        }
        match roll {
            0..=29 => self.transaction(),
            30..=44 => self.nested(),
            45..=59 => self.change(),
            60..=64 => format!("BEGIN; {}; {}; ROLLBACK", self.bulk(), self.change()),
            65..=72 => self.checkpoint(),
            73..=77 => self.vacuum(),
            78..=84 => self.schema(),
            85..=88 => format!("PRAGMA cache_size={}", self.rng.range(3, 40)),
            89..=92 if self.mix.switch_modes => self.switch(),
            93..=96 => "SELECT count(*), sum(a) FROM t0; SELECT max(id) FROM t1".to_owned(),
            _ => self.bulk(),
        }
    }

    fn transaction(&mut self) -> String {
        let mut parts = vec!["BEGIN IMMEDIATE".to_owned()];
        for _ in 0..self.rng.range(1, 6) {
            parts.push(self.change());
        }
        parts.push("COMMIT".to_owned());
        parts.join("; ")
    }

    /// A spill, rewrites of the same pages in place, and roll backs to points before and after them.
    fn nested(&mut self) -> String {
        let mut parts = vec!["BEGIN".to_owned(), self.bulk()];
        for level in 0..self.rng.range(1, 5) {
            parts.push(format!("SAVEPOINT s{level}"));
            parts.push(self.bulk());
            parts.push(self.change());
            match self.rng.range(0, 3) {
                0 => parts.push(format!("ROLLBACK TO s{level}")),
                1 => parts.push(format!("ROLLBACK TO s{level}; RELEASE s{level}")),
                _ => parts.push(format!("RELEASE s{level}")),
            }
            parts.push(self.change());
        }
        parts.push(if self.rng.chance(85) { "COMMIT" } else { "ROLLBACK" }.to_owned());
        parts.join("; ")
    }

    fn table(&mut self) -> u64 {
        self.rng.range(0, TABLES)
    }

    /// Text of `len` characters that differs from call to call.
    fn text(&mut self, len: u64) -> String {
        format!("substr(replace(hex(zeroblob({})),'00','{:x}-'),1,{len})", len / 4 + 1, self.rng.next())
    }

    fn change(&mut self) -> String {
        let (t, k) = (self.table(), self.rng.range(1, 400));
        let len = self.rng.range(1, u64::from(self.mix.page_size) * 3 / 2);
        let text = self.text(len);
        match self.rng.range(0, 7) {
            0 | 1 => format!("INSERT INTO t{t}(a,b) VALUES({k},{text})"),
            2 | 3 => format!("UPDATE t{t} SET b={text} WHERE id%97={}", k % 97),
            4 => format!("UPDATE t{t} SET a=a+{k} WHERE id BETWEEN {k} AND {}", k + 30),
            5 => format!("DELETE FROM t{t} WHERE id%13={}", k % 13),
            _ => format!("INSERT OR REPLACE INTO t{t}(id,a,b) VALUES({k},{k},{text})"),
        }
    }

    fn bulk(&mut self) -> String {
        let (t, rows, k) = (self.table(), self.rng.range(5, 120), self.rng.range(1, 1000));
        let len = self.rng.range(10, 300);
        let text = self.text(len);
        format!(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<{rows}) \
             INSERT INTO t{t}(a,b) SELECT i*{k}%1009, i||{text} FROM c"
        )
    }

    fn checkpoint(&mut self) -> String {
        let kind = *self.rng.pick(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
        format!("PRAGMA wal_checkpoint({kind})")
    }

    fn vacuum(&mut self) -> String {
        if self.mix.auto_vacuum == 2 && self.rng.chance(50) {
            return format!("PRAGMA incremental_vacuum({})", self.rng.range(1, 50));
        }
        // SQLite changes the page size in rollback modes only.
        if self.mix.resize_pages && self.journal != "WAL" && self.rng.chance(60) {
            let size = *self.rng.pick(&[512, 1024, 2048, 4096, 8192, 65536]);
            return format!("PRAGMA page_size={size}; VACUUM");
        }
        "VACUUM".to_owned()
    }

    fn schema(&mut self) -> String {
        let n = self.rng.range(0, 3);
        match self.rng.range(0, 3) {
            0 => format!("CREATE TABLE IF NOT EXISTS x{n}(v); INSERT INTO x{n} SELECT b FROM t0 LIMIT 20"),
            1 => format!("DROP TABLE IF EXISTS x{n}"),
            _ => format!("DROP INDEX IF EXISTS j{n}; CREATE INDEX j{n} ON t{}(b)", self.rng.range(0, TABLES)),
        }
    }

    fn switch(&mut self) -> String {
        self.journal = MODES[self.rng.range(0, 4) as usize];
        format!("PRAGMA journal_mode={}", self.journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_script_for_ever() {
        let mix = Mix::new(11, "WAL", 4096);
        assert_eq!(script(&mix), script(&mix));
        assert_ne!(script(&mix), script(&Mix::new(12, "WAL", 4096)));
    }

    #[test]
    fn no_line_leaves_a_transaction_open() {
        for seed in 0..50 {
            for line in script(&Mix { savepoints: seed % 2 == 0, ..Mix::new(seed, "DELETE", 512) }) {
                let opens = line.matches("BEGIN").count();
                let closes = line.matches("COMMIT").count() + usize::from(line.ends_with("; ROLLBACK"));
                assert_eq!(opens, closes, "{line}");
            }
        }
    }
}
