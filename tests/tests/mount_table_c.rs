//! Table C of the design: what SQLite and the tools report for what is refused, and that nothing was
//! written when it was. Test D12, D13, D31 too. Needs root and /dev/fuse.

use litefs_tests::image::{assert_same, checked_export};
use litefs_tests::node::{Node, pair, single};
use litefs_tests::proc::tool;
use litefs_tests::sample::{BOTH_KINDS, table};
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, Sqlite, codes, once};
use litefs_tests::watch::Deadline;

fn uri(node: &Node, db: &str, query: &str) -> String {
    format!("file:{}?{query}", node.path(db).display())
}

/// The position and the content did not change, and the file still works.
fn untouched(node: &Node, db: &str, work: impl FnOnce()) {
    let before = checked_export(node, db);
    work();
    let after = checked_export(node, db);
    assert_eq!(before.0, after.0, "position of {db}");
    assert!(before.1 == after.1, "content of {db}");
    once(node.path(db), "INSERT INTO t(x) VALUES('still works')");
}

#[test]
fn writing_without_locks_is_refused() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("nolock");
    let node = single(&scratch);
    table(&node, "db", "delete");
    for query in ["nolock=1", "vfs=unix-none"] {
        for which in Sqlite::ALL {
            untouched(&node, "db", || {
                let mut s = Session::with(which, &uri(&node, "db", query));
                assert_eq!(s.one("SELECT count(*) FROM t WHERE x='one'"), "1", "{query} reads");
                let e = s.err("INSERT INTO t(x) VALUES('no')");
                assert!(
                    matches!(e.primary(), codes::READONLY | codes::CANTOPEN | codes::IOERR),
                    "{query}: {e:?}"
                );
                if which == Sqlite::Newest {
                    assert_eq!(e.code, codes::READONLY_DIRECTORY, "{query}: {e:?}");
                }
                s.close();
            });
        }
    }
}

#[test]
fn dotfile_locks_are_refused_and_unix_excl_is_captured() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("vfs");
    let (primary, replica) = pair(&scratch);
    table(&primary, "db", "delete");
    untouched(&primary, "db", || {
        let mut s = Session::with(Sqlite::Newest, &uri(&primary, "db", "vfs=unix-dotfile"));
        let e = s.err("INSERT INTO t(x) VALUES('no')");
        assert_eq!(e.primary(), codes::PERM, "{e:?}");
        s.close();
    });
    for journal in BOTH_KINDS {
        let db = format!("{journal}-excl");
        table(&primary, &db, journal);
        let mut s = Session::with(Sqlite::Newest, &uri(&primary, &db, "vfs=unix-excl"));
        s.exec("INSERT INTO t(x) VALUES('excl'); UPDATE t SET x=x||'!'");
        s.close();
        assert_same(&primary, &replica, &db, &scratch);
    }
}

#[test]
fn immutable_and_read_only_are_harmless() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("ro");
    let node = single(&scratch);
    for journal in BOTH_KINDS {
        table(&node, journal, journal);
        untouched(&node, journal, || {
            for query in ["immutable=1", "mode=ro"] {
                let mut s = Session::with(Sqlite::Newest, &uri(&node, journal, query));
                assert_eq!(s.one("SELECT count(*) FROM t WHERE x='one'"), "1", "{journal} {query}");
                assert_eq!(
                    s.err("INSERT INTO t(x) VALUES('no')").primary(),
                    codes::READONLY,
                    "{journal} {query}"
                );
                s.close();
            }
        });
    }
}

#[test]
fn journals_in_memory_are_refused_before_anything_is_written() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("memory");
    let node = single(&scratch);
    table(&node, "db", "delete");
    for journal in ["memory", "off"] {
        untouched(&node, "db", || {
            let backing = std::fs::read(node.backing("db", "database")).unwrap();
            let mut s = Session::open(node.path("db"));
            assert_eq!(s.one(&format!("PRAGMA journal_mode={journal}")), journal);
            let e = s.err("UPDATE t SET x='no'");
            assert_eq!(e.code, codes::IOERR_WRITE, "{journal}: {e:?}");
            s.close();
            assert!(
                backing == std::fs::read(node.backing("db", "database")).unwrap(),
                "{journal}: the file changed"
            );
            assert!(node.log_text().to_lowercase().contains("journal"), "the reason is logged");
        });
    }
}

#[test]
fn cp_of_a_new_database_is_an_import_and_over_an_existing_one_is_refused() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("cp");
    let (primary, replica) = pair(&scratch);
    for journal in BOTH_KINDS {
        let source = scratch.join(format!("{journal}-source.db"));
        once(
            &source,
            &format!(
                "PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t(x) SELECT hex(zeroblob(900)) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3)"
            ),
        );
        let db = format!("{journal}.db");
        let (ok, text) = tool("cp", &[&source, &primary.path(&db)]);
        assert!(ok, "cp: {text}\n{}", primary.log_tail(20));
        assert_eq!(primary.txid(&db), 1, "one transaction");
        assert_same(&primary, &replica, &db, &scratch);
        assert_eq!(std::fs::read(&source).unwrap(), checked_export(&primary, &db).1);
        once(primary.path(&db), "INSERT INTO t(x) VALUES('after')");
        untouched(&primary, &db, || {
            let (ok, _) = tool("cp", &[&source, &primary.path(&db)]);
            assert!(!ok, "cp over a database succeeded");
            assert!(primary.log_text().contains("litefsctl import"), "the message names the right command");
        });
        assert_same(&primary, &replica, &db, &scratch);
    }
}

#[test]
fn cp_of_something_else_leaves_no_database() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("cpbad");
    let node = single(&scratch);
    let cases: [(&str, Vec<u8>); 3] = [
        ("text", b"hello, I am no database\n".repeat(300)),
        ("short", b"SQLite format 3\0".to_vec()),
        ("zeros", vec![0; 8192]),
    ];
    for (name, bytes) in cases {
        let source = scratch.join(name);
        std::fs::write(&source, bytes).unwrap();
        // Whether cp itself hears of it depends on when it looks (RELEASE has no answer).
        let _ = tool("cp", &[&source, &node.path(name)]);
        assert_eq!(node.txid(name), 0, "{name} became a database");
    }
    // A name that was spoilt that way is usable.
    once(node.path("text"), "CREATE TABLE t(x)");
    assert_eq!(node.txid("text"), 1);
}

#[test]
fn directories_links_and_renames_are_refused() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("ops");
    let node = single(&scratch);
    table(&node, "db", "delete");
    table(&node, "other", "delete");
    let errno = |r: std::io::Result<()>| r.unwrap_err().raw_os_error();
    untouched(&node, "db", || {
        let eperm = Some(nix::errno::Errno::EPERM as i32);
        assert_eq!(errno(std::fs::create_dir(node.path("dir"))), eperm);
        assert_eq!(errno(std::fs::rename(node.path("other"), node.path("db"))), eperm);
        assert_eq!(errno(std::os::unix::fs::symlink("db", node.path("link"))), eperm);
        assert_eq!(errno(std::fs::hard_link(node.path("db"), node.path("hard"))), eperm);
        let outside = scratch.join("outside.db");
        once(&outside, "CREATE TABLE t(x)");
        assert!(std::fs::rename(&outside, node.path("db")).is_err(), "another file system");
    });
}

#[test]
fn special_names_are_neither_created_nor_harmful() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("names");
    let node = single(&scratch);
    table(&node, "db", "delete");
    for name in ["x-pos", "x-lock", "x-wal", "x-shm", "x-journal", ".primary", ".lag", "db-pos"] {
        let result = std::fs::File::create(node.path(name));
        assert!(result.is_err() || name == "db-pos" || name == ".lag", "{name} was created");
    }
    let long = "n".repeat(250);
    assert!(std::fs::File::create(node.path(&long)).is_err(), "a name too long for its companions");
    // The mount still creates files (the original's did not).
    table(&node, "new.db", "delete");
    untouched(&node, "db", || {});
}

/// D31 names `sqlite3_rsync`, too: it came with SQLite 3.47 and is in no package of Debian 12.
#[test]
fn copies_made_by_sqlite_itself_arrive() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("copies");
    let (primary, replica) = pair(&scratch);
    let outside = scratch.join("outside.db");
    once(
        &outside,
        "CREATE TABLE t(x); INSERT INTO t SELECT hex(zeroblob(500)) FROM (SELECT 1 UNION SELECT 2)",
    );
    once(&outside, &format!("VACUUM INTO '{}'", primary.path("into.db").display()));
    assert_same(&primary, &replica, "into.db", &scratch);
    let mut cli = Session::open_with(Sqlite::Debian, &outside);
    cli.exec(&format!(".backup '{}'", primary.path("backup.db").display()));
    assert_same(&primary, &replica, "backup.db", &scratch);
    // Over an existing one too: it goes through a journal and real locks.
    cli.exec("INSERT INTO t VALUES('more')");
    cli.exec(&format!(".backup '{}'", primary.path("backup.db").display()));
    cli.close();
    assert_same(&primary, &replica, "backup.db", &scratch);
    assert_eq!(once(replica.path("backup.db"), "SELECT count(*) FROM t"), ["3"]);
}

#[test]
fn a_database_in_use_is_not_dropped() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("busydrop");
    let node = single(&scratch);
    for journal in BOTH_KINDS {
        table(&node, journal, journal);
        let mut s = Session::open(node.path(journal));
        s.exec("BEGIN IMMEDIATE; INSERT INTO t(x) VALUES('mine')");
        let e = std::fs::remove_file(node.path(journal)).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(nix::errno::Errno::EBUSY as i32), "{journal}");
        s.exec("COMMIT");
        s.close();
        std::fs::remove_file(node.path(journal)).unwrap();
    }
}
