//! Bits that change on the disk under a daemon that runs (E15): whoever reads, through the mount or from
//! another node, gets what was committed or an error, the log says so, and a peer can heal it. What is
//! damaged while a node is stopped is tested in `mount_faults.rs` and `bad_input_files.rs`. Needs root and
//! /dev/fuse.

use std::path::{Path, PathBuf};
use std::time::Duration;

use litefs_tests::bad_input::{assert_no_panic, wait_log};
use litefs_tests::faults::{copy_tree, files_to_damage, flip_bit, restore};
use litefs_tests::http;
use litefs_tests::image::{assert_same, checked_export, checksum};
use litefs_tests::node::Node;
use litefs_tests::rng::Rng;
use litefs_tests::sample::{BOTH_KINDS, pair_with, sixty_rows};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, codes, once};
use litefs_tests::watch::{Deadline, within};

const ALL: &str = "SELECT id, x FROM t ORDER BY id";

/// Makes the kernel forget a file of the mount, so that the next reader asks the daemon.
fn forget(node: &Node, file: &str) {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    if let Ok(open) = std::fs::File::open(node.path(file)) {
        posix_fadvise(&open, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("fadvise");
    }
}

/// What a new application reads: `right`, or an error that it cannot take for an answer. Whether it was right.
///
/// A frame in a live wal is the exception: nobody checks it when an application reads it, SQLite neither
/// (it does when it recovers the file). What leaves the node is checked all the same.
fn reads_right(node: &Node, db: &str, right: &[String], what: &str) -> bool {
    forget(node, db);
    forget(node, &format!("{db}-wal"));
    let mut s = Session::open(node.path(db));
    let result = s.try_exec(ALL);
    s.kill9();
    match result {
        Ok(rows) => {
            let unchecked = what.contains("in dbs/wal/wal at") && db == "wal";
            assert!(rows == right || unchecked, "{what}: {} read something else from {db}", node.name);
            rows == right
        }
        Err(e) => {
            let known = matches!(e.primary(), codes::IOERR | codes::CORRUPT | codes::BUSY);
            assert!(known, "{what}: {} {db}: {e:?}", node.name);
            false
        }
    }
}

/// What a peer or a tool is sent: an image that is what the position says, or an error.
fn export_is_true(node: &Node, db: &str, what: &str) -> Option<Vec<u8>> {
    let before = node.pos(db)?;
    let answer = http::get(node, &format!("/export?name={db}"), Duration::from_secs(20)).ok()?;
    if answer.status != 200 || node.pos(db) != Some(before) {
        return None;
    }
    assert_eq!(checksum(&answer.body), before.checksum().get(), "{what}: {} exports another {db}", node.name);
    Some(answer.body)
}

/// A page is found when somebody reads it, and asked for again at once.
fn heals(primary: &Node, replica: &Node, db: &str, what: &str) {
    let healed = within(Duration::from_secs(20), || {
        once(primary.path(db), "UPDATE t SET x=x||'.' WHERE id=1");
        replica.sync_with(primary, db);
        let right = once(primary.path(db), ALL);
        let image = export_is_true(replica, db, what);
        image.is_some_and(|i| i == http::export(primary, db)) && reads_right(replica, db, &right, what)
    });
    assert!(healed, "{what}: {db} stays damaged\n{}", replica.log_tail(30));
}

/// The files of a running node that a disk can damage. The wal-index is shared memory: what changes there
/// no disk has done.
fn files_on_the_disk(node: &Node) -> Vec<PathBuf> {
    let names = files_to_damage(&node.data).into_iter().map(|(name, _)| name);
    names.filter(|name| !name.ends_with("shm")).collect()
}

/// Flips a bit in a file of a running node, if it is there and not empty; what was done. Segments are zeros
/// behind their end: what is used is damaged.
fn flip(node: &Node, name: &Path, rng: &mut Rng) -> Option<String> {
    let path = node.data.join(name);
    let size = std::fs::metadata(&path).ok()?.len();
    if size == 0 {
        return None;
    }
    let what = format!("bit flipped in {} at {}", name.display(), flip_bit(&path, 0, size.min(6000), rng));
    eprintln!("{what}");
    Some(what)
}

/// Each class of file was among those that were damaged.
fn assert_every_class(damaged: &[PathBuf]) {
    for class in ["database", "sums", "wal", "log"] {
        let found = damaged.iter().any(|p| p.components().skip(2).any(|c| c.as_os_str() == class));
        assert!(found, "no {class} among {damaged:?}");
    }
}

#[test]
fn a_bit_flipped_under_a_running_replica_is_healed_from_the_primary() {
    let _deadline = Deadline::secs(300);
    let scratch = Scratch::new("rotrepl");
    let (primary, mut replica) = pair_with(&scratch, &BOTH_KINDS, sixty_rows);
    // Something in every file: entries in the logs, frames in the wal.
    let traffic = |replica: &Node| {
        for db in BOTH_KINDS {
            for _ in 0..3 {
                once(primary.path(db), "UPDATE t SET x=x||'.' WHERE id<40");
            }
            replica.sync_with(&primary, db);
        }
    };
    traffic(&replica);
    let mut rng = Rng::new(Rng::seed_or(17));
    let mut damaged = Vec::new();
    for name in files_on_the_disk(&replica) {
        traffic(&replica);
        let Some(what) = flip(&replica, &name, &mut rng) else { continue };
        damaged.push(name);
        for db in BOTH_KINDS {
            let right = once(primary.path(db), ALL);
            let first = reads_right(&replica, db, &right, &what);
            export_is_true(&replica, db, &what);
            heals(&primary, &replica, db, &format!("{what}, at first read {first}"));
        }
        // What it does not read while it runs, it reads when it starts; or when somebody asks for it.
        replica.stop().start();
        for db in BOTH_KINDS {
            heals(&primary, &replica, db, &format!("{what}, after a restart"));
            assert_same(&primary, &replica, db, &scratch);
        }
        assert_no_panic(&replica);
    }
    assert_every_class(&damaged);
}

/// There is nobody to heal a primary from by itself; but neither applications nor replicas get anything
/// false from it, and what it cannot give is said in its log.
#[test]
fn a_bit_flipped_under_a_running_primary_reaches_nobody() {
    let _deadline = Deadline::secs(300);
    let scratch = Scratch::new("rotprim");
    let (mut primary, mut replica) = pair_with(&scratch, &BOTH_KINDS, sixty_rows);
    let rights = BOTH_KINDS.map(|db| once(primary.path(db), ALL));
    let hold = |primary: &Node| BOTH_KINDS.map(|db| Session::open(primary.path(db)));
    let write =
        |holds: &mut [Session; 2]| holds.each_mut().map(|s| s.exec("INSERT INTO t VALUES(1000,'later')"));
    replica.stop();
    primary.stop();
    // What a stopped node has, and what only a running one has.
    let mut files = files_on_the_disk(&primary);
    files.push(Path::new("dbs/wal/wal").to_owned());
    let good = [&primary, &replica].map(|node| {
        let saved = scratch.join(format!("good-{}", node.name));
        copy_tree(&node.data, &saved);
        saved
    });
    let mut rng = Rng::new(Rng::seed_or(18));
    let mut damaged = Vec::new();
    for (round, name) in files.into_iter().enumerate() {
        restore(&primary, &good[0]);
        restore(&replica, &good[1]);
        primary.start();
        replica.start();
        // In the wal and in the log there is something that only they have.
        replica.stop();
        let mut holds = hold(&primary);
        write(&mut holds);
        let what = flip(&primary, &name, &mut rng);
        damaged.extend(what.is_some().then_some(name));
        let what = what.unwrap_or_else(|| "nothing damaged".to_owned());
        let offset = primary.log_text().len();
        let mut late = Node::replica(&scratch, &format!("late{round}"), &primary).started();
        replica.start();
        let mut missing = Vec::new();
        for (db, right) in BOTH_KINDS.iter().zip(&rights) {
            let right: Vec<String> = right.iter().cloned().chain(["1000|later".to_owned()]).collect();
            let read = reads_right(&primary, db, &right, &what);
            if export_is_true(&primary, db, &what).is_none() || !(read || what.contains("wal/wal at")) {
                missing.push(format!("{db} of the primary"));
            }
            for node in [&replica, &late] {
                let there = within(Duration::from_secs(5), || {
                    node.pos(db).is_some() && node.pos(db) == primary.pos(db)
                });
                if node.pos(db).is_some() {
                    checked_export(node, db);
                }
                if there {
                    // Their disks are good: no exception for them.
                    assert!(reads_right(node, db, &right, "a peer"), "{what}: {db} on {}", node.name);
                } else {
                    missing.push(format!("{db} of {}", node.name));
                }
            }
        }
        if !missing.is_empty() {
            let words = ["not what was committed", "damaged", "checksum", "mismatch", "corrupt"];
            wait_log(&primary, offset, &words, &format!("{what}: missing {missing:?}"));
        }
        assert!(primary.is_running() && replica.is_running() && late.is_running(), "{what}");
        assert_no_panic(&primary);
        late.stop();
        replica.stop();
        holds.into_iter().for_each(Session::close);
        primary.stop();
    }
    assert_every_class(&damaged);
}

/// What the log advises when a page of a primary has rotted.
#[test]
fn a_primary_is_healed_with_the_copy_of_its_replica() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("rotadvice");
    let (primary, replica) = pair_with(&scratch, &["delete"], sixty_rows);
    let right = once(primary.path("delete"), ALL);
    let offset = primary.log_text().len();
    flip_bit(&primary.backing("delete", "database"), 5000, 8000, &mut Rng::new(Rng::seed_or(19)));
    assert!(!reads_right(&primary, "delete", &right, "a rotten page"), "it reads the page that is damaged");
    let line = wait_log(&primary, offset, &["not what was committed"], "a rotten page");
    assert!(line.contains("litefsctl import --replace"), "{line}");
    assert!(reads_right(&replica, "delete", &right, "the replica"), "the replica has its own disk");
    let file = scratch.join("good.db").display().to_string();
    replica.ctl_ok(&["-q", "export", "--name", "delete", &file]);
    primary.ctl_ok(&["-q", "import", "--name", "delete", "--replace", &file]);
    assert!(reads_right(&primary, "delete", &right, "imported"), "{}", primary.log_tail(20));
    once(primary.path("delete"), "INSERT INTO t(x) VALUES('goes on')");
    assert_same(&primary, &replica, "delete", &scratch);
}
