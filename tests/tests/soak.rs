//! The long runs that CI leaves out: `make soak`. Everything here is `#[ignore]`d and may take minutes.
//! Needs root and /dev/fuse.

use std::time::Duration;

use litefs_tests::apps::{App, acknowledged, assert_same_ledger, check_ledger, ledger};
use litefs_tests::image::assert_same;
use litefs_tests::node::pair;
use litefs_tests::rng::Rng;
use litefs_tests::sample::{BOTH_KINDS, JOURNALS, drop_everywhere, pair_with};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, once};
use litefs_tests::watch::{Deadline, soak_factor};

/// The lock page (byte 1 073 741 824) is page 16385 of 64 KiB pages. SQLite gets there without writing a
/// gigabyte of content: it allocates pages, and `zeroblob` leaves holes on the way… in the file, not in
/// the transaction. So it is slow, and `make soak` runs it.
#[test]
#[ignore = "writes more than a gigabyte; make soak"]
fn the_lock_page_is_skipped() {
    let _deadline = Deadline::secs(900);
    let scratch = Scratch::new("lockpage");
    let (primary, replica) = pair(&scratch);
    for journal in BOTH_KINDS {
        let db = format!("{journal}.db");
        let mut s = Session::open(primary.path(&db));
        s.exec(&format!(
            "PRAGMA page_size=65536; PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, x)"
        ));
        for _ in 0..11 {
            s.exec("INSERT INTO t(x) VALUES(zeroblob(100000000))");
        }
        s.exec("UPDATE t SET x='small' WHERE id=5; INSERT INTO t(x) VALUES('end')");
        replica.sync_within(&primary, &db, Duration::from_secs(300));
        for node in [&primary, &replica] {
            let file = scratch.join("export.db");
            node.ctl_ok(&["-q", "export", "--name", &db, &file.display().to_string()]);
            assert!(std::fs::metadata(&file).unwrap().len() > 1 << 30);
            assert_eq!(once(&file, "PRAGMA integrity_check"), ["ok"]);
            assert_eq!(once(&file, "SELECT x FROM t ORDER BY id DESC LIMIT 1"), ["end"]);
            std::fs::remove_file(&file).unwrap();
        }
        s.close();
        drop_everywhere(&primary, &replica, &db);
    }
}

/// E23, long: a reader holds its snapshot for ten minutes while transactions stream past it.
#[test]
#[ignore = "ten minutes; make soak"]
fn a_reader_of_ten_minutes_delays_nothing() {
    let _deadline = Deadline::secs(1200);
    let scratch = Scratch::new("longread");
    let (primary, replica) = pair_with(&scratch, &["wal"], ledger);
    let writer = App::writer(&primary.path("wal"), 1, &["--pause", "2"]);
    let reader = App::reader(&replica.path("wal"), &["--hold", "600000", "--count", "1"]);
    let mut others = App::reader(&replica.path("wal"), &[]);
    for minute in 0..10 {
        std::thread::sleep(Duration::from_secs(60));
        replica.sync_within(&primary, "wal", Duration::from_secs(10));
        others.wait_for("read", minute * 10);
    }
    reader.finish(Duration::from_secs(120));
    others.stop();
    let acks = acknowledged(&[writer.stop()]);
    assert_same_ledger(&primary, &replica, "wal", &acks, &scratch);
}

/// Kills everything at random for as long as `SOAK` says: applications, primary, replica.
#[test]
#[ignore = "minutes; make soak"]
fn random_kills_of_everything() {
    let minutes = soak_factor();
    let _deadline = Deadline::secs(minutes * 60 + 300);
    let seed = Rng::seed_or(u64::from(std::process::id()));
    eprintln!("LITEFS_SEED={seed}");
    let mut rng = Rng::new(seed);
    let scratch = Scratch::new("kills");
    let dbs = JOURNALS;
    let (mut primary, mut replica) = pair_with(&scratch, &dbs, ledger);
    let mut said: Vec<Vec<Vec<String>>> = vec![Vec::new(); dbs.len()];
    let end = std::time::Instant::now() + Duration::from_secs(minutes * 60);
    let (mut rounds, mut kills) = (0_u64, [0_u32; 3]);
    while std::time::Instant::now() < end {
        rounds += 1;
        let mut writers: Vec<Vec<App>> = Vec::new();
        for (i, db) in dbs.iter().enumerate() {
            let seed = rng.next().to_string();
            let args =
                ["--setup", "PRAGMA synchronous=FULL", "--pause", "1", "--seed", &seed, "--stop-on-error"];
            writers.push((0..2).map(|w| App::writer(&primary.path(db), i as u32 * 2 + w, &args)).collect());
        }
        let readers: Vec<App> = dbs.iter().map(|db| App::reader(&replica.wait_file(db), &[])).collect();
        std::thread::sleep(Duration::from_millis(rng.range(50, 2500)));
        match rng.range(0, 3) {
            0 => {
                kills[0] += 1;
                for (i, all) in writers.iter_mut().enumerate() {
                    said[i].push(all.remove(0).kill9());
                }
            }
            1 => {
                kills[1] += 1;
                primary.kill9();
            }
            _ => {
                kills[2] += 1;
                replica.kill9();
            }
        }
        std::thread::sleep(Duration::from_millis(rng.range(0, 500)));
        for (i, all) in writers.into_iter().enumerate() {
            said[i].extend(all.into_iter().map(App::kill9));
        }
        drop(readers);
        for node in [&mut primary, &mut replica] {
            if !node.is_running() {
                node.start();
            }
        }
        for (i, db) in dbs.iter().enumerate() {
            check_ledger(&primary.path(db), &acknowledged(&said[i]));
            assert_same(&primary, &replica, db, &scratch);
        }
    }
    println!(
        "{rounds} rounds in {minutes} min; killed: applications {}, primary {}, replica {}",
        kills[0], kills[1], kills[2]
    );
}
