//! The harness itself, on a plain directory: what the mount tests rely on must be true without a mount.
//!
//! If one of these fails, no mount test means anything.

use std::collections::BTreeMap;
use std::time::Duration;

use litefs_tests::apps::{App, acknowledged, check_ledger, create_ledger};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, Sqlite, codes, once};
use litefs_tests::watch::Deadline;
use litefs_tests::workload::{Mix, script};

const JOURNALS: [&str; 4] = ["DELETE", "TRUNCATE", "PERSIST", "WAL"];

fn play(which: Sqlite, db: &std::path::Path, mix: &Mix) -> Vec<u8> {
    let mut session = Session::with(which, &db.display().to_string());
    for line in script(mix) {
        session.exec(&line);
    }
    assert_eq!(session.one("PRAGMA integrity_check"), "ok");
    session.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    session.close();
    std::fs::read(db).unwrap()
}

#[test]
fn a_script_gives_the_same_bytes_each_time() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("script");
    for (seed, journal) in JOURNALS.into_iter().enumerate() {
        for which in Sqlite::ALL {
            let mix = Mix {
                switch_modes: seed % 2 == 1,
                resize_pages: true,
                savepoints: seed % 2 == 0,
                auto_vacuum: seed as u32 % 3,
                ..Mix::new(seed as u64, journal, [512, 1024, 4096, 65536][seed])
            };
            let a = play(which, &scratch.join(format!("a{seed}{which:?}")), &mix);
            let b = play(which, &scratch.join(format!("b{seed}{which:?}")), &mix);
            litefs_tests::image::assert_same_bytes(&a, &b, &format!("{which:?} {mix:?}"));
            assert!(a.len() > 16 * 1024, "the script does something: {} bytes", a.len());
        }
    }
}

#[test]
fn both_applications_report_rows_and_errors() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("session");
    for which in Sqlite::ALL {
        let db = scratch.join(format!("{which:?}.db")).display().to_string();
        let mut a = Session::with(which, &db);
        a.exec("CREATE TABLE t(x); INSERT INTO t VALUES(1),('two')");
        assert_eq!(a.exec("SELECT x, typeof(x) FROM t"), ["1|integer", "two|text"]);
        let mut b = Session::with(which, &db);
        a.exec("BEGIN IMMEDIATE");
        assert_eq!(b.err("INSERT INTO t VALUES(3)").primary(), codes::BUSY);
        b.start("PRAGMA busy_timeout=20000; INSERT INTO t VALUES(4)");
        assert_eq!(b.finish(Duration::from_millis(200)), None);
        a.exec("COMMIT");
        assert!(b.finish(Duration::from_secs(20)).unwrap().is_ok());
        assert!(b.err("SELECT nothing").text.contains("nothing"));
        a.kill9();
        assert_eq!(b.one("SELECT count(*) FROM t"), "3");
        b.close();
    }
}

#[test]
fn the_ledger_holds_under_kills() {
    let _deadline = Deadline::secs(120);
    let scratch = Scratch::new("ledger");
    for journal in JOURNALS {
        let db = scratch.join(journal);
        create_ledger(&db, &format!("PRAGMA journal_mode={journal}"));
        let mut writers: Vec<App> = (1..4).map(|w| App::writer(&db, w, &["--pause", "5"])).collect();
        let mut reader = App::reader(&db, &["--hold", "20"]);
        let checkpointer = App::start("checkpoint", &db, &[]);
        for w in &mut writers {
            w.wait_for("ack", 5);
        }
        reader.wait_for("read", 3);
        let mut said = vec![writers.remove(0).kill9()];
        said.extend(writers.into_iter().map(App::stop));
        reader.stop();
        checkpointer.stop();
        let acks = acknowledged(&said);
        assert_eq!(acks.len(), 3);
        assert!(check_ledger(&db, &acks) >= acks.values().sum());
    }
}

#[test]
fn a_broken_ledger_is_found() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("broken");
    let db = scratch.join("db");
    create_ledger(&db, "PRAGMA journal_mode=WAL");
    once(&db, "INSERT INTO log VALUES(1,1,''),(1,3,'')");
    let (code, lines) = App::reader(&db, &["--count", "3"]).outcome(Duration::from_secs(20));
    assert_eq!(code, 1, "{lines:?}");
    once(&db, "DELETE FROM log; UPDATE acct SET bal=bal+1 WHERE id=7");
    let (code, lines) = App::reader(&db, &["--count", "3"]).outcome(Duration::from_secs(20));
    assert!(code == 1 && lines.iter().any(|l| l.contains("the sum is 100001")), "{lines:?}");
    let lost = std::panic::catch_unwind(|| check_ledger(&db, &BTreeMap::from([(1, 9)])));
    assert!(lost.is_err(), "a lost acknowledged transaction is noticed");
}
