//! The matrix finds what it is for: each sync that matters is left out once, and then it must complain.

use std::sync::{Arc, Mutex};

use litefs_store::disk::Op;
use litefs_store::sim_disk::SimDisk;

use super::check::check_going_on;
use super::run::{Rules, Run, Script, Seen, Then, learn, look_again};
use super::world::Options;
use super::{rollback, wal, whole};

fn found_without(sync: &'static str, script: &Script) {
    let learned = Arc::new(learn(&SimDisk::new(), Options::default(), script));
    let disk = SimDisk::new();
    disk.lie(Op::new(sync));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let then = Arc::new(check_going_on) as Arc<Then>;
    look_again(&disk, Options::default(), Rules::default(), script, &learned, &seen, &then);
    let seen = seen.lock().unwrap();
    assert!(!seen.wrong.is_empty(), "nobody noticed that {sync} is missing: {:?}", seen.operations);
}

#[test]
fn a_missing_sync_of_the_log() {
    found_without("log.sync", &|r: &mut Run| rollback::small(r, "DELETE", "FULL"));
    found_without("log.sync", &|r: &mut Run| wal::commits(r, "NORMAL"));
}

#[test]
fn a_missing_sync_of_the_journal() {
    found_without("journal.sync", &|r: &mut Run| rollback::small(r, "TRUNCATE", "FULL"));
}

#[test]
fn a_missing_sync_of_the_wal() {
    found_without("wal.sync", &|r: &mut Run| wal::commits(r, "FULL"));
}

#[test]
fn a_missing_sync_of_a_directory() {
    found_without("log.sync-dir", &|r: &mut Run| rollback::small(r, "DELETE", "FULL"));
    found_without("data.dir", &|r: &mut Run| rollback::small(r, "DELETE", "FULL"));
    found_without("db.sync_dir", &|r: &mut Run| rollback::small(r, "DELETE", "EXTRA"));
}

#[test]
fn a_missing_sync_of_a_stamp() {
    found_without("stamp.sync", &|r: &mut Run| whole::upkeep(r, "WAL", "OFF"));
}
