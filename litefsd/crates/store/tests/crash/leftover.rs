//! An import that is refused after it met what a dead writer left: the database is as it was, and the next
//! opener recovers nothing that the log does not have.

use litefs_store::disk::Op;
use litefs_store::sim_disk::{At, Crash, Fault, SimDisk};

use super::check::image;
use super::rollback::rows;
use super::run::{Failed, Look, Run};
use super::vfs::Visible;
use super::whole::{file, import};
use super::world::{Hang, Options, World};

/// Runs `leave`, refuses an import on a full disk, and looks at the database then and after a restart.
fn refused_import_behind(leave: impl Fn(&mut Run) -> Result<(), Failed>) {
    let disk = SimDisk::new();
    let mut r = Run::new(&disk, Options::default(), Look::Leave);
    leave(&mut r).unwrap();
    let db = r.world.db("db");
    let before = db.pos();
    let new = file("PRAGMA page_size=512; PRAGMA journal_mode=WAL;");
    disk.arm(At::NthOf(Op::new("log.append"), 0), Fault::Error(libc::ENOSPC));
    import(&r.world, &new, true).unwrap_err();
    disk.disarm();
    assert_eq!((db.poisoned(), db.pos(), db.log().tip()), (None, before, before));

    let world = World::open(&disk.crash(Crash::KeepAll), Options::default()).unwrap();
    assert_eq!(world.db("db").pos(), before, "recovery brought back what was dropped");
    image(&world.db("db"), "after a restart");
    drop(world);

    let visible = Visible::new(&r.world);
    let c = visible.connect("db").unwrap();
    let n: i64 =
        c.query_row("SELECT count(*) FROM t WHERE x NOT LIKE '%there%'", [], |row| row.get(0)).unwrap();
    assert_eq!(n, 0, "the next connection shows what was dropped");
    c.execute_batch("INSERT INTO t VALUES(1000, 'there')").unwrap();
    drop(c);
    r.world.publish();
    assert_eq!(db.pos().txid_raw(), before.txid_raw() + 1);
    image(&db, "and on");
}

#[test]
fn frames() {
    refused_import_behind(|r| {
        r.open(1, "db")?;
        r.sql(1, "PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")?;
        r.sql(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
        r.sql(1, "INSERT INTO t VALUES(1, 'there')")?;
        // Keeps the wal-index, which does not show what comes.
        r.open(2, "db")?;
        r.sql(2, "SELECT * FROM t")?;
        r.hangs_at(1, Hang::Sync, &rows(10, 9, "never seen"));
        r.kill(1);
        Ok(())
    });
}

#[test]
fn a_hot_journal() {
    refused_import_behind(|r| {
        r.open(1, "db")?;
        r.sql(1, "PRAGMA page_size=512; PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA")?;
        r.sql(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")?;
        r.sql(1, &rows(10, 9, "there"))?;
        r.hangs_at(1, Hang::Delete, "UPDATE t SET x = 'not committed'");
        r.kill(1);
        Ok(())
    });
}
