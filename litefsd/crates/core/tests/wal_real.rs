//! The WAL tracker behind real SQLite: every write that SQLite makes, in its order, through random
//! workloads with a tiny cache, savepoints, rollbacks, restarts and VACUUM.

#![allow(clippy::unwrap_used)] // the lint knows `#[test]` functions, not their helpers

mod common;

use std::fs;
use std::path::Path;

use common::follower::Follower;
use common::recorder;
use common::writer::Request;
use litefs_sqlite::shm::IndexHeader;
use litefs_sqlite::wal::{FRAME_HEADER_LEN, WAL_HEADER_LEN, frame_len};
use litefs_types::PageSize;
use rusqlite::{Connection, OpenFlags};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

struct Replay {
    follower: Follower,
    page_size: PageSize,
    /// What the published transactions make of the database.
    image: Vec<u8>,
    /// The frame whose header, with a commit size, was written last.
    commit_frame: Option<u32>,
    /// Headers written behind which there was a frame already: second passes.
    rewrites: usize,
    end: u64,
    published: usize,
}

impl Replay {
    /// Feeds what SQLite just did, and publishes what the index shows.
    fn absorb(&mut self, shm: &Path, random: &mut Random) {
        for mut request in recorder::take() {
            if let Request::Write { offset, data, completes } = &mut request {
                *completes = self.completes(*offset, data);
            } else {
                self.end = 0;
            }
            let max = [7, 100, 600, usize::MAX][random.below(4) as usize];
            self.follower.request(&request, &mut || match max {
                usize::MAX => max,
                _ => random.below(max as u64) as usize + 1,
            });
        }
        let Some(index) = fs::read(shm).ok().and_then(|b| IndexHeader::decode_pair(&b)) else { return };
        let Some(generation) = self.follower.tracker.generation() else { return };
        if index.salt == generation.salt && index.mx_frame > self.follower.tracker.published_frames() {
            let broke = self.follower.index(index.mx_frame, index.n_pages, index.frame_checksum);
            assert!(!broke, "this SQLite commits with a whole chain");
        }
        assert!(self.follower.prepared.is_empty(), "nothing is prepared that is not visible");
        let ps = self.page_size;
        for logged in self.follower.published.drain(..) {
            self.image.resize(ps.file_size(logged.tx.commit) as usize, 0);
            for (page, content) in logged.content {
                let at = (page as usize - 1) * ps.bytes();
                self.image[at..at + ps.bytes()].copy_from_slice(&content);
            }
            self.published += 1;
        }
    }

    /// Which commit may be complete after this write.
    fn completes(&mut self, offset: u64, data: &[u8]) -> Option<u32> {
        let Some(body) = offset.checked_sub(WAL_HEADER_LEN as u64) else {
            self.end = 0;
            return None;
        };
        let frame = (body / frame_len(self.page_size)) as u32 + 1;
        if body % frame_len(self.page_size) < FRAME_HEADER_LEN as u64 {
            // A header cut by a sector boundary (psow=0) may be anything.
            let commit = data.get(4..8).is_none_or(|b| b != [0; 4]);
            self.commit_frame = commit.then_some(frame);
            self.rewrites += usize::from(offset < self.end && data.len() == FRAME_HEADER_LEN);
        }
        self.end = self.end.max(offset + data.len() as u64);
        self.commit_frame.filter(|f| *f == frame)
    }
}

fn workload(seed: u64, page_size: u32, psow: u8, sync: &str) -> Replay {
    recorder::register();
    let mut random = Random(seed * 7919 + 1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let shm = dir.path().join("db-shm");
    let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?psow={psow}", path.display());
    let db = Connection::open_with_flags_and_vfs(uri, flags, recorder::VFS).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
         PRAGMA synchronous={sync}; PRAGMA journal_size_limit=20000;
         PRAGMA cache_size=6; PRAGMA cache_spill=6;"
    ))
    .unwrap();
    let mut replay = Replay {
        follower: Follower::default(),
        page_size: PageSize::new(page_size).unwrap(),
        image: fs::read(&path).unwrap(),
        commit_frame: None,
        rewrites: 0,
        end: 0,
        published: 0,
    };
    let run = |replay: &mut Replay, random: &mut Random, sql: &str| {
        db.execute_batch(sql).unwrap();
        replay.absorb(&shm, random);
    };
    run(&mut replay, &mut random, "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b)");
    let size = page_size / 4;
    for _ in 0..25 {
        run(&mut replay, &mut random, "BEGIN");
        for _ in 0..random.below(12) {
            let (x, y) = (random.below(200), random.below(3));
            let sql = match random.below(10) {
                0..=3 => format!("INSERT OR REPLACE INTO t VALUES({x}, {y} || hex(randomblob({size}/2)))"),
                4 => format!("UPDATE t SET b = b || 'x' WHERE a % 5 = {y}"),
                5 => format!("UPDATE t SET b = {y} || substr(b, 2) WHERE a < {x}"),
                6 => format!("DELETE FROM t WHERE a BETWEEN {x} AND {x} + 10"),
                7 => "SAVEPOINT s".to_owned(),
                _ => "ROLLBACK TO s".to_owned(),
            };
            // ROLLBACK TO without a savepoint is an error of no interest.
            let _ = db.execute_batch(&sql);
            replay.absorb(&shm, &mut random);
        }
        let end = if random.below(4) == 0 { "ROLLBACK" } else { "COMMIT" };
        run(&mut replay, &mut random, end);
        match random.below(12) {
            0 => run(&mut replay, &mut random, "PRAGMA wal_checkpoint(PASSIVE)"),
            1 => run(&mut replay, &mut random, "PRAGMA wal_checkpoint(RESTART)"),
            2 => run(&mut replay, &mut random, "VACUUM"),
            3 => {
                run(&mut replay, &mut random, "PRAGMA wal_checkpoint(TRUNCATE)");
                assert!(fs::read(&path).unwrap() == replay.image, "captured is what SQLite has");
            }
            _ => {}
        }
    }
    run(&mut replay, &mut random, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(fs::read(&path).unwrap() == replay.image, "captured is what SQLite has");
    drop(db);
    recorder::take();
    replay
}

/// A few seeds of one configuration. Returns how many in-place rewrites of headers there were.
fn seeds(page_size: u32, psow: u8, sync: &str) -> usize {
    let replays: Vec<Replay> = (0..3).map(|seed| workload(seed, page_size, psow, sync)).collect();
    let published: usize = replays.iter().map(|r| r.published).sum();
    assert!(published > 30, "transactions: {published}");
    replays.iter().map(|r| r.rewrites).sum()
}

#[test]
fn small_pages() {
    let rewrites = seeds(512, 1, "FULL");
    assert!(rewrites > 100, "in-place rewrites must be part of it: {rewrites}");
}

#[test]
fn small_pages_with_copies_of_the_commit_frame() {
    let rewrites = seeds(512, 0, "FULL") + seeds(1024, 0, "FULL");
    assert!(rewrites > 100, "in-place rewrites must be part of it: {rewrites}");
}

#[test]
fn usual_pages() {
    seeds(4096, 1, "NORMAL");
    seeds(4096, 0, "FULL");
}

#[test]
fn large_pages() {
    seeds(65536, 0, "OFF");
}
