//! Hostile names and files through the mount: names that belong to companions, that are too long, that
//! hold control characters; copies of what is no database; page-size changes. Needs root and /dev/fuse.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;

use litefs_tests::bad_input::{Before, assert_no_panic};
use litefs_tests::image::assert_same;
use litefs_tests::node::pair;
use litefs_tests::proc::tool;
use litefs_tests::sample::sixty_rows;
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, once};
use litefs_tests::watch::Deadline;

#[test]
fn hostile_names_are_refused_by_errno() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("mntnames");
    let (mut primary, replica) = pair(&scratch);
    sixty_rows(&primary, "db", "wal");
    replica.sync_with(&primary, "db");
    let before = Before::of(&primary, "db");
    let long = vec![b'a'; 255];
    let too_long = vec![b'a'; 256];
    let reserved = vec![b'a'; 241];
    for name in [
        &b"x-pos"[..],
        b"x-lock",
        b"x-journal",
        b"x-wal",
        b"x-shm",
        b"x-mj0123459AB",
        b".primary",
        b".lag",
        b"a\nb",
        b"a\x1bb",
        b"\xff\xfe",
        &long,
        &too_long,
        &reserved,
    ] {
        let path = primary.mount.join(std::ffi::OsStr::from_bytes(name));
        let shown = String::from_utf8_lossy(&name[..name.len().min(30)]).into_owned();
        let made = fs::File::create_new(&path);
        let errno = made.as_ref().err().and_then(std::io::Error::raw_os_error);
        assert!(errno.is_some_and(|e| e != libc::EIO), "{shown:?} could be made, or: {made:?}");
        assert!(fs::create_dir(&path).is_err() && std::os::unix::fs::symlink("x", &path).is_err());
        assert!(
            fs::rename(primary.path("db"), &path).is_err()
                && fs::hard_link(primary.path("db"), &path).is_err()
        );
        assert!(fs::remove_dir(&path).is_err());
    }
    before.assert_unchanged(&mut primary, "names", &scratch);
    // Odd names that are allowed work, on both nodes.
    for name in [&"a".repeat(240), "ä ö.db", "-v", "wal", "database"] {
        sixty_rows(&primary, name, "delete");
        replica.wait_file(name);
        replica.sync_with(&primary, name);
        assert_eq!(once(replica.path(name), "PRAGMA integrity_check"), ["ok"], "{name}");
        fs::remove_file(primary.path(name)).unwrap();
    }
    before.assert_unchanged(&mut primary, "odd names", &scratch);
    assert_no_panic(&primary);
}

#[test]
fn copies_of_what_is_no_database_fail_and_leave_nothing() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("mntcopies");
    let (mut primary, replica) = pair(&scratch);
    sixty_rows(&primary, "db", "wal");
    sixty_rows(&primary, "rb", "delete");
    replica.sync_with(&primary, "rb");
    let right = scratch.join("right.db");
    fs::write(&right, litefs_tests::http::export(&primary, "rb")).unwrap();
    let right = fs::read(&right).unwrap();
    let mut zeroed = right.clone();
    zeroed[..100].fill(0);
    let before = [Before::of(&primary, "db"), Before::of(&primary, "rb")];
    for (what, bytes) in [
        ("text", b"hello\n".repeat(2000)),
        ("a byte", vec![7]),
        ("zeros", vec![0; 50_000]),
        ("a header alone", right[..100].to_vec()),
        ("half a database", right[..right.len() / 2 + 77].to_vec()),
        ("a database without header", zeroed),
    ] {
        let name = "copied.db";
        let file = scratch.join("source");
        fs::write(&file, &bytes).unwrap();
        let (copied, _) = tool("cp", &[&file, &primary.path(name)]);
        assert!(!copied, "cp of {what} succeeded");
        // What is left, if anything, is an empty database: SQLite can use the name.
        let size = fs::metadata(primary.path(name)).map_or(0, |m| m.len());
        assert_eq!(size, 0, "{what}");
        assert_eq!(primary.txid(name), 0, "{what}");
        let _ = fs::remove_file(primary.path(name));
        // Over an existing one nothing happens but an error that names the way.
        let offset = primary.log_text().len();
        for b in &before {
            let (copied, _) = tool("cp", &[&file, &primary.path(&b.db)]);
            assert!(!copied, "cp of {what} over {}", b.db);
        }
        assert!(primary.log_text()[offset..].contains("litefsctl import"), "{what}: {}", primary.log_tail(5));
        for b in &before {
            b.assert_unchanged_but_names(&mut primary, what, &scratch);
        }
    }
    // Bytes thrown at a database and its companions by something that is not SQLite.
    for file in ["db", "db-wal", "db-shm", "rb", "rb-journal"] {
        let path = primary.path(file);
        let mut s = Session::open(primary.path(&file[..2]));
        s.exec("SELECT count(*) FROM t");
        if let Ok(mut f) = fs::File::options().write(true).open(&path)
            && ["db", "rb"].contains(&file)
        {
            for at in [0, 1, 4096, 4097, 1 << 20, 1 << 33] {
                let _ = f.seek(SeekFrom::Start(at)).and_then(|_| f.write_all(&[0x5A; 100]));
            }
            let _ = f.set_len(1);
            let _ = f.sync_all();
        }
        let e = s.try_exec("SELECT count(*) FROM t");
        assert!(e.is_ok(), "{file}: {e:?}");
        s.close();
        for b in &before {
            b.assert_unchanged_but_names(&mut primary, file, &scratch);
        }
    }
    for db in ["db", "rb"] {
        once(primary.path(db), "INSERT INTO t(x) VALUES('after')");
        assert_same(&primary, &replica, db, &scratch);
    }
    assert_no_panic(&primary);
}

#[test]
fn a_page_size_change_by_vacuum_goes_everywhere() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("mntvacuum");
    let (primary, replica) = pair(&scratch);
    sixty_rows(&primary, "rb", "delete");
    for size in [512, 65536, 4096, 1024] {
        once(primary.path("rb"), &format!("PRAGMA page_size={size}; VACUUM"));
        assert_eq!(once(primary.path("rb"), "PRAGMA page_size"), [size.to_string()]);
        once(primary.path("rb"), "INSERT INTO t(x) VALUES('after')");
        assert_same(&primary, &replica, "rb", &scratch);
    }
    // In WAL mode SQLite keeps the size; a size that does not exist is ignored.
    sixty_rows(&primary, "wal", "wal");
    once(primary.path("wal"), "PRAGMA page_size=512; VACUUM; PRAGMA page_size=12345; VACUUM");
    assert_eq!(once(primary.path("wal"), "PRAGMA page_size; PRAGMA integrity_check"), ["4096", "ok"]);
    assert_same(&primary, &replica, "wal", &scratch);
}
