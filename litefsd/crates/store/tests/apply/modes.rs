//! Mode switches and whole images.

use litefs_store::apply::wal_writer::WalWriter;
use litefs_store::apply::{ApplyError, Replaced, drop_files, replace_all, rollback_writer};
use litefs_store::own_mount::FileKind;

use crate::client::{Client, Version};
use crate::primary::{CHECK, Primary, Tx, in_ms, soon};
use crate::wal::{log_is_durable, start, write};

fn switch(p: &mut Primary, mode: &str) -> Tx {
    p.conn.query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(())).unwrap();
    p.cut()
}

#[test]
fn wal_to_rollback_and_back_with_a_reader_in_the_way() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    let mut stays = Client::new(Version::Bundled, &r.path());
    stays.run("PRAGMA mmap_size=10000000");
    assert_eq!(stays.one(CHECK), "ok|1");
    write(&r, &w, &p.update(1..60, 70));

    // Page 1 says "rollback" now, in a frame. A connection that has the WAL open blocks the switch, and
    // transactions go on as frames; new connections follow the WAL too.
    write(&r, &w, &switch(&mut p, "delete"));
    let error = w.leave_wal(&r.mount, &log_is_durable, in_ms(80)).unwrap_err();
    assert_eq!(error.blocker().and_then(|b| b.pid), Some(stays.pid()), "{error}");
    write(&r, &w, &p.update(1..60, 71));
    let mut new = Client::new(Version::Bundled, &r.path());
    let mut old = Client::system(&r.path());
    assert_eq!((stays.one(CHECK), new.one(CHECK)), ("ok|3".into(), "ok|3".into()));
    if let Some(c) = &mut old {
        assert_eq!(c.one(CHECK), "ok|3");
    }
    // With page 1 in the file as well.
    w.checkpoint(&r.mount, &log_is_durable).unwrap();
    write(&r, &w, &p.update(1..60, 72));
    assert_eq!((stays.one(CHECK), new.one(CHECK)), ("ok|4".into(), "ok|4".into()));
    stays.close();
    new.close();
    drop(old);
    assert!(r.has(FileKind::Wal));
    w.leave_wal(&r.mount, &log_is_durable, soon()).unwrap();
    assert!(!w.is_attached() && !r.has(FileKind::Wal) && !r.has(FileKind::Shm));
    assert_eq!(r.image(), p.image);

    // Rollback transactions, then the one that says WAL, in the old mode.
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one(CHECK), "ok|4");
    for tx in [p.update(1..60, 73), switch(&mut p, "wal")] {
        rollback_writer::apply(&r.mount, &mut tx.source(), p.page_size, tx.commit, soon()).unwrap();
    }
    assert_eq!(c.one(CHECK), "ok|5");
    let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
    write(&r, &w, &p.update(1..60, 74));
    assert_eq!((c.one(CHECK), c.one("PRAGMA integrity_check")), ("ok|6".into(), "ok".into()));
    assert_eq!(c.one("PRAGMA journal_mode"), "wal");
}

/// The daemon as one more writer of a primary's database: import, and whatever else is not an application.
#[test]
fn daemon_and_applications_take_turns() {
    let mut p = Primary::new(1024, "wal");
    let (r, w) = start(&mut p);
    w.detach(&r.mount, soon()).unwrap();
    let mut clients = vec![Client::new(Version::Bundled, &r.path())];
    clients.extend(Client::system(&r.path()));
    for (i, c) in clients.iter_mut().enumerate() {
        c.run(&format!(
            "PRAGMA busy_timeout=1000; PRAGMA wal_autocheckpoint={}; SELECT * FROM meta",
            20 + 40 * i
        ));
    }
    let (mut rows, mut restarts) = (0, 0);
    for round in 0..60u32 {
        let turn = round as usize % clients.len();
        let said = clients[turn].run(&format!(
            "INSERT INTO t VALUES({},0,zeroblob({}))",
            10_000 + round,
            50 * round
        ));
        assert_eq!(said, Vec::<String>::new());
        rows += 1;
        if round % 7 == 0 {
            let mut dies = Client::new(Version::Bundled, &r.path());
            dies.run("PRAGMA cache_size=2; BEGIN; UPDATE t SET pad=zeroblob(400);");
            dies.kill();
        }
        // What the daemon writes follows from the state that it finds under WRITE.
        let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
        assert!(!w.position().chain_broken);
        let (dir, conn) = r.recovered();
        let image = |conn: &rusqlite::Connection| {
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            std::fs::read(dir.path().join("db")).unwrap()
        };
        let before = image(&conn);
        conn.execute("INSERT INTO t VALUES(?1, 1, zeroblob(900))", [20_000 + round]).unwrap();
        rows += 1;
        let after = image(&conn);
        let mut tx = Tx { pages: Vec::new(), commit: (after.len() / 1024) as u32 };
        for (n, page) in (1..).zip(after.chunks(1024)) {
            if before.get((n as usize - 1) * 1024..n as usize * 1024) != Some(page) {
                tx.pages.push((litefs_types::PageNo::new(n).unwrap(), page.to_vec()));
            }
        }
        restarts += u32::from(write(&r, &w, &tx).restarted);
        if round % 5 == 0 {
            w.checkpoint(&r.mount, &log_is_durable).unwrap();
        }
        w.detach(&r.mount, soon()).unwrap();
        for c in &mut clients {
            let n = c.one("SELECT count(*) FROM t WHERE id>=10000");
            assert_eq!(n, rows.to_string(), "round {round}");
        }
    }
    assert!(restarts > 3, "{restarts}");
    for c in &mut clients {
        assert_eq!(c.one("PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn a_snapshot_replaces_the_database_in_place_or_as_frames() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    write(&r, &w, &p.update(1..900, 400));
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one(CHECK), "ok|2");

    // A connection is there: frames, which shrink the database too.
    p.shrink(850);
    let snapshot = p.snapshot();
    let replace = |tx: &Tx, p: &Primary, ms| {
        replace_all(&r.mount, Some(&w), &mut tx.source(), p.page_size, tx.commit, in_ms(ms), false)
    };
    assert!(matches!(replace(&snapshot, &p, 80), Ok(Replaced::AsFrames(_))));
    assert_eq!((c.one(CHECK), c.one("PRAGMA integrity_check")), ("ok|3".into(), "ok".into()));

    // Another page size cannot be had as frames, nor while somebody reads.
    let mut other = Primary::new(1024, "wal");
    for i in 0..7 {
        other.update(1..50 + i, 60);
    }
    let image = other.snapshot();
    c.run("BEGIN");
    assert_eq!(c.one(CHECK), "ok|3");
    let error = replace(&image, &other, 80).unwrap_err();
    assert_eq!(error.blocker().and_then(|b| b.pid), Some(c.pid()));
    assert_eq!(c.one(CHECK), "ok|3");
    c.run("COMMIT");
    // Nor can WAL mode end while a connection is there, idle or not.
    let mut rollback = Primary::new(1024, "delete");
    let error = replace(&rollback.update(1..50, 60), &rollback, 80).unwrap_err();
    assert_eq!(error.blocker().and_then(|b| b.pid), Some(c.pid()));
    assert_eq!(c.one(CHECK), "ok|3");
    // An idle one, which keeps SHARED, goes on with the new page size.
    assert_eq!(replace(&image, &other, 5000).unwrap(), Replaced::InPlace { wal_mode: true });
    assert_eq!((c.one(CHECK), c.one("PRAGMA integrity_check")), ("ok|7".into(), "ok".into()));
    c.close();
    assert_eq!(r.image(), other.image);
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one(CHECK), "ok|7");
    assert!(w.is_attached());
    write(&r, &w, &other.update(1..70, 61));
    assert_eq!((c.one(CHECK), c.one("PRAGMA integrity_check")), ("ok|8".into(), "ok".into()));
    let (_dir, recovered) = r.recovered();
    let generation: i64 = recovered.query_row("SELECT gen FROM meta", [], |r| r.get(0)).unwrap();
    assert_eq!(generation, 8);
    c.close();

    // An image that is not in WAL mode ends the WAL.
    let mut third = Primary::new(512, "delete");
    let image = third.update(1..50, 60);
    assert_eq!(replace(&image, &third, 5000).unwrap(), Replaced::InPlace { wal_mode: false });
    assert!(!w.is_attached() && !r.has(FileKind::Wal) && !r.has(FileKind::Shm));
    assert_eq!(r.image(), third.image);
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one(CHECK), "ok|1");
    // And in place without a writer, while the connection is idle.
    let image = p.snapshot();
    assert!(matches!(replace(&image, &p, 5000), Ok(Replaced::InPlace { wal_mode: true })));
    assert_eq!((c.one(CHECK), r.image() == p.image), ("ok|3".into(), true));
}

#[test]
fn a_wal_database_is_dropped_when_nobody_has_it_open() {
    let mut p = Primary::new(4096, "wal");
    let (r, w) = start(&mut p);
    write(&r, &w, &p.update(1..60, 70));
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one(CHECK), "ok|2");
    let error = drop_files(&r.mount, Some(&w), in_ms(80), false).unwrap_err();
    assert!(matches!(error, ApplyError::Blocked(b) if b.pid == Some(c.pid())), "{error}");
    write(&r, &w, &p.update(1..60, 71));
    assert_eq!(c.one(CHECK), "ok|3");
    c.close();
    drop_files(&r.mount, Some(&w), soon(), false).unwrap();
    assert!(!r.has(FileKind::Wal) && !r.has(FileKind::Shm) && r.image().is_empty());
    assert!(!w.is_attached());
    let mut c = Client::new(Version::Bundled, &r.path());
    assert_eq!(c.one("SELECT count(*) FROM sqlite_schema"), "0");
    // An empty database cannot be written through a WAL: SQLite would delete it.
    let w = WalWriter::attach(&r.mount, p.page_size, soon()).unwrap();
    let tx = p.snapshot();
    assert!(matches!(
        w.write_tx(&r.mount, &mut tx.source(), tx.commit, litefs_store::apply::wal_writer::WalSync::No),
        Err(ApplyError::Damaged(_))
    ));
}
