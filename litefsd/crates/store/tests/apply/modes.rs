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

    // Another page size cannot be had as frames.
    let mut other = Primary::new(1024, "wal");
    for i in 0..7 {
        other.update(1..50 + i, 60);
    }
    let image = other.snapshot();
    let error = replace(&image, &other, 80).unwrap_err();
    assert_eq!(error.blocker().and_then(|b| b.pid), Some(c.pid()));
    assert_eq!(c.one(CHECK), "ok|3");
    c.close();
    assert_eq!(replace(&image, &other, 5000).unwrap(), Replaced::InPlace { wal_mode: true });
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
    let error = drop_files(&r.mount, Some(&w), in_ms(80)).unwrap_err();
    assert!(matches!(error, ApplyError::Blocked(b) if b.pid == Some(c.pid())), "{error}");
    write(&r, &w, &p.update(1..60, 71));
    assert_eq!(c.one(CHECK), "ok|3");
    c.close();
    drop_files(&r.mount, Some(&w), soon()).unwrap();
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
