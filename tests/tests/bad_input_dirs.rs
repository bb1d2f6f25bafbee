//! Data directories as a whole: strays among the databases are left alone; what concerns the node and not
//! one database ends the start, with a message that says what to do. Needs root and /dev/fuse.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use litefs_tests::bad_input::{Before, assert_no_panic, names};
use litefs_tests::faults::files_below;
use litefs_tests::node::{Node, pair, single};
use litefs_tests::sample::sixty_rows;
use litefs_tests::scratch::Scratch;
use litefs_tests::watch::Deadline;

/// Strays beside the databases' directories, and names that no database has.
#[test]
fn strays_among_the_databases_are_left_alone() {
    let _deadline = Deadline::secs(60);
    let scratch = Scratch::new("strays");
    let (mut primary, _replica) = pair(&scratch);
    sixty_rows(&primary, "wal", "wal");
    let before = Before::of(&primary, "wal");
    primary.stop();
    let dbs = primary.data.join("dbs");
    fs::write(dbs.join("stray"), b"x").unwrap();
    fs::write(dbs.join("stray.db"), b"x").unwrap();
    std::os::unix::fs::symlink("/etc", dbs.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", dbs.join("dangling")).unwrap();
    for name in [&b"db-wal"[..], b"a\nb", b"\xff\xfe", b".primary", b"x-pos", b"x-mj0123459AB"] {
        fs::create_dir(dbs.join(std::ffi::OsStr::from_bytes(name))).unwrap();
    }
    // What the original's bug with an empty name left (its next start failed for ever).
    fs::create_dir(dbs.join("database")).unwrap();
    fs::create_dir(dbs.join("ltx")).unwrap();
    fs::create_dir(dbs.join("empty.db")).unwrap();
    fs::write(primary.data.join("id"), b"0123456789ABCDEF\n").unwrap();
    fs::write(primary.data.join("stray"), b"x").unwrap();
    let strays = names(&dbs);
    primary.start();
    before.assert_unchanged(&mut primary, "strays", &scratch);
    assert!(primary.log_text().contains("not a database directory"), "{}", primary.log_tail(20));
    assert_eq!(names(&dbs), strays);
    for (path, _) in files_below(&dbs) {
        assert!(!path.ends_with("stray") || fs::read(&path).unwrap() == b"x");
    }
    // Names that strays occupy cannot be made, with an error; others can.
    let made = fs::write(primary.path("stray.db"), b"x");
    assert!(made.is_err(), "a database over a stray file");
    sixty_rows(&primary, "delete", "delete");
    assert_no_panic(&primary);
    primary.stop().start();
    let all = names(&primary.mount);
    for name in ["delete", "wal"] {
        assert!(all.iter().any(|n| n == name), "{all:?}");
    }
}

/// What concerns the whole node and not one database: it does not start, and says what to do.
#[test]
fn a_data_directory_that_cannot_be_used_is_named_at_the_start() {
    let _deadline = Deadline::secs(90);
    let scratch = Scratch::new("nodir");
    let mut primary = single(&scratch);
    sixty_rows(&primary, "wal", "wal");
    let before = Before::of(&primary, "wal");
    let mut second = Node::primary(&scratch, "q");
    let data = primary.data.display().to_string();
    second.set("data.dir", &data).spawn();
    assert_ne!(second.wait_end(Duration::from_secs(20)), Some(0));
    let text = second.log_text();
    assert!(text.contains("another litefsd uses") && text.contains(&data), "{text}");
    primary.stop();
    let refused = |node: &mut Node, words: &[&str]| {
        let offset = node.log_text().len();
        node.spawn();
        let code = node.wait_end(Duration::from_secs(20));
        let text = node.log_text();
        let new = &text[offset..];
        assert!(code.is_some_and(|c| c != 0), "it started: {new}");
        assert!(words.iter().all(|w| new.contains(w)), "{words:?} are not in: {new}");
        assert!(!new.contains("panicked"), "{new}");
        assert!(!node.is_mounted());
    };
    let id = primary.data.join("clusterid");
    let good = fs::read(&id).unwrap();
    for bad in [&b"rubbish"[..], b"", b"LFSC", b"\xff\xff", &b"LFSC".repeat(25_000)] {
        fs::write(&id, bad).unwrap();
        refused(&mut primary, &["clusterid"]);
    }
    fs::remove_file(&id).unwrap();
    fs::create_dir(&id).unwrap();
    refused(&mut primary, &["clusterid"]);
    fs::remove_dir(&id).unwrap();
    fs::write(&id, good).unwrap();
    let dbs = primary.data.join("dbs");
    fs::rename(&dbs, scratch.join("dbs")).unwrap();
    fs::write(&dbs, b"x").unwrap();
    refused(&mut primary, &["data directory"]);
    fs::remove_file(&dbs).unwrap();
    fs::rename(scratch.join("dbs"), &dbs).unwrap();
    let lock = primary.data.join("lock");
    let _ = fs::remove_file(&lock);
    fs::create_dir(&lock).unwrap();
    refused(&mut primary, &["lock"]);
    fs::remove_dir(&lock).unwrap();
    // After all of that: nothing lost.
    primary.start();
    before.assert_unchanged(&mut primary, "after refused starts", &scratch);
}
