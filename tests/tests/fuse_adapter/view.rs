//! Virtual files, attributes and the listing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use litefs_store::own_mount::Invalidator;

use crate::fixture::Fixture;

fn list(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn the_listing_is_that_of_the_original() {
    let f = Fixture::new();
    assert_eq!(list(&f.dir), set(&[".lag"]));
    let mut app = f.app("db");
    assert_eq!(list(&f.dir), set(&[".lag"]), "a database without pages is not shown");
    app.ok("PRAGMA journal_mode=persist; CREATE TABLE t(x)");
    assert_eq!(list(&f.dir), set(&[".lag", "db", "db-pos", "db-journal"]));
    app.ok("PRAGMA journal_mode=wal; INSERT INTO t VALUES(1)");
    assert_eq!(list(&f.dir), set(&[".lag", "db", "db-pos", "db-wal", "db-shm"]));
    app.ok("PRAGMA journal_mode=delete");
    assert_eq!(list(&f.dir), set(&[".lag", "db", "db-pos"]));
    let raw = std::process::Command::new("ls").arg("-a").arg(&f.dir).output().unwrap();
    assert_eq!(
        String::from_utf8(raw.stdout).unwrap().split_whitespace().collect::<Vec<_>>(),
        [".", "..", ".lag", "db", "db-pos"]
    );
    // What exists without being listed.
    assert_eq!(fs::metadata(f.dir.join("db-lock")).unwrap().len(), 0);
    assert!(fs::metadata(f.dir.join("other-lock")).is_err());
}

#[test]
fn a_long_listing_is_complete_while_names_come_and_go() {
    let f = Fixture::new();
    let mut expected = set(&[".lag"]);
    for i in 0..400 {
        let name = format!("database-with-a-rather-long-name-{i:04}");
        fs::write(f.dir.join(&name), "x").unwrap();
        expected.insert(format!("{name}-pos"));
        expected.insert(name);
    }
    assert_eq!(list(&f.dir), expected);
    let mut seen = BTreeSet::new();
    for (i, entry) in fs::read_dir(&f.dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(seen.insert(name.clone()), "{name} twice");
        if i < 300 {
            // `aaa…` would shift every offset of a sorted listing.
            fs::write(f.dir.join(format!("aaa{i}")), "x").unwrap();
        }
    }
    assert!(expected.is_subset(&seen), "lost {:?}", expected.difference(&seen).next());
}

#[test]
fn virtual_files_are_always_fresh() {
    let f = Fixture::new();
    assert_eq!(fs::read_to_string(f.dir.join(".lag")).unwrap(), "+000000000\n");
    assert!(fs::read_to_string(f.dir.join(".primary")).is_err());
    assert!(fs::metadata(f.dir.join("db-pos")).is_err());
    fs::write(f.dir.join("db"), [0; 1024]).unwrap();
    assert_eq!(fs::read_to_string(f.dir.join("db-pos")).unwrap(), "0000000000000002/8000000000000000\n");
    assert_eq!(fs::metadata(f.dir.join("db-pos")).unwrap().len(), 34);

    let mut kept = File::open(f.dir.join("db-pos")).unwrap();
    let mut read = || {
        let mut text = String::new();
        kept.rewind().unwrap();
        kept.read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(read(), "0000000000000002/8000000000000000\n");
    File::options().append(true).open(f.dir.join("db")).unwrap().write_all(&[0; 512]).unwrap();
    assert_eq!(read(), "0000000000000003/8000000000000000\n", "a kept handle shows the new position");
    // A reader with a small buffer gets one text, not parts of two.
    let mut small = File::open(f.dir.join("db-pos")).unwrap();
    let mut parts = [0; 34];
    small.read_exact(&mut parts[..10]).unwrap();
    File::options().append(true).open(f.dir.join("db")).unwrap().write_all(&[0; 512]).unwrap();
    small.read_exact(&mut parts[10..]).unwrap();
    assert_eq!(&parts[..], b"0000000000000003/8000000000000000\n");

    let deferred = std::sync::atomic::Ordering::SeqCst;
    f.knobs().defer_all.store(true, deferred);
    assert_eq!(fs::read_to_string(f.dir.join("db-pos")).unwrap(), "0000000000000004/8000000000000000\n");
}

#[test]
fn a_change_of_role_shows() {
    let f = Fixture::new();
    fs::write(f.dir.join("db"), "x").unwrap();
    let mode = |name: &str| fs::metadata(f.dir.join(name)).unwrap().mode();
    assert_eq!(
        (mode(""), mode("db"), mode("db-lock"), mode("db-pos")),
        (0o40777, 0o100_666, 0o100_444, 0o100_666)
    );
    assert_eq!(list(&f.dir), set(&[".lag", "db", "db-pos"]));

    *f.view.replica_of.lock().unwrap() = Some("primaryhost".into());
    f.mounted().core().kernel_cache().virtual_files(None);
    assert_eq!((mode(""), mode("db"), mode("db-pos")), (0o40555, 0o100_444, 0o100_666));
    assert_eq!(fs::read_to_string(f.dir.join(".primary")).unwrap(), "primaryhost\n");
    assert_eq!(fs::metadata(f.dir.join(".primary")).unwrap().len(), 12);
    let lag = fs::metadata(f.dir.join(".lag")).unwrap();
    assert_eq!((lag.len(), lag.mtime()), (11, 1_000_000));
    assert_eq!(fs::read_to_string(f.dir.join(".lag")).unwrap(), "+000000025\n");
    assert_eq!(list(&f.dir), set(&[".lag", ".primary", "db", "db-pos"]));

    *f.view.replica_of.lock().unwrap() = None;
    f.mounted().core().kernel_cache().virtual_files(None);
    assert_eq!(mode("db"), 0o100_666);
    assert!(!f.dir.join(".primary").exists());
    assert_eq!(list(&f.dir), set(&[".lag", "db", "db-pos"]));
}

#[test]
fn attributes_follow_the_file() {
    let f = Fixture::new();
    let db = f.dir.join("db");
    fs::write(&db, "").unwrap();
    let other = File::options().write(true).open(&db).unwrap();
    for size in [1, 4096, 4097, 100_000] {
        other.set_len(size).unwrap();
        assert_eq!(fs::metadata(&db).unwrap().len(), size);
        assert_eq!(fs::read(&db).unwrap().len(), size as usize);
    }
    other.set_len(10).unwrap();
    assert_eq!(fs::read(&db).unwrap().len(), 10);
    let before = fs::metadata(&db).unwrap().modified().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    nix::sys::uio::pwrite(&other, b"x", 5).unwrap();
    assert!(fs::metadata(&db).unwrap().modified().unwrap() > before, "tools look at the modification time");
    // O_TRUNC is part of OPEN.
    assert_eq!(File::create(&db).unwrap().metadata().unwrap().len(), 0);
    assert_eq!(fs::metadata(&db).unwrap().len(), 0);
    assert_eq!(fs::metadata(f.backing("db")).unwrap().len(), 0);
    let s = nix::sys::statvfs::statvfs(&f.dir).unwrap();
    assert_eq!(s.blocks(), nix::sys::statvfs::statvfs(&f.model.dir).unwrap().blocks());
    assert_eq!(s.name_max(), 255);
}
