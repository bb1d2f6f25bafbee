//! Other users, with `allow-other`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;

use litefsd::fuse::access::Ownership;

use crate::fixture::Fixture;

/// Runs a shell command as somebody with supplementary groups; whether it succeeded.
fn sh(dir: &Path, uid: u32, gid: u32, groups: &str, command: &str) -> bool {
    let groups = if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={groups}") };
    let out = Command::new("setpriv")
        .args([format!("--reuid={uid}"), format!("--regid={gid}"), groups])
        .args(["/bin/sh", "-c", command])
        .current_dir(dir)
        .output()
        .unwrap();
    out.status.success()
}

fn with_mode(mode: u16, allow_other: bool) -> Fixture {
    let f = Fixture::with(|o| {
        o.allow_other = allow_other;
        o.ownership = Ownership { uid: 5001, gid: 5002, file_mode: mode };
    });
    // The temporary directory is private.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(f.tmp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(f.dir.join("db"), "x").unwrap();
    f
}

#[test]
fn without_allow_other_nobody_else_gets_in() {
    let f = with_mode(0o666, false);
    assert!(!sh(Path::new("/"), 5001, 5002, "", &format!("cat {}", f.dir.join("db").display())));
    assert!(fs::read(f.dir.join("db")).is_ok());
}

#[test]
fn owner_group_and_mode_decide() {
    let f = with_mode(0o640, true);
    let (read, write, create, unlink) =
        ("cat db", "printf y >> db", "rm -f db-journal; : > db-journal", ": > db-wal; rm db-wal");
    let may = |uid, gid, groups: &str| {
        let _ = fs::write(f.dir.join("db-journal"), "");
        [read, write, create, unlink].map(|c| sh(&f.dir, uid, gid, groups, c))
    };
    assert_eq!(may(5001, 1, ""), [true; 4], "the owner");
    assert_eq!(may(5009, 5002, ""), [true, false, false, false], "the group");
    assert_eq!(may(5009, 1, "7,5002"), [true, false, false, false], "by a supplementary group");
    assert_eq!(may(5009, 1, "7"), [false; 4], "others");
    assert_eq!(may(0, 0, ""), [true; 4], "root");
    assert!(!sh(&f.dir, 5009, 5002, "", "truncate -s 0 db"), "truncate by name is a write");

    let f = with_mode(0o666, true);
    let me = fs::metadata(f.dir.join("db")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((me.uid(), me.gid()), (5001, 5002));
    for c in [read, write, create, unlink, "cat db-pos .lag"] {
        assert!(sh(&f.dir, 5009, 1, "", c), "{c}");
    }
    assert!(sh(&f.dir, 5009, 1, "", "exec 3<>db-lock"), "a client of the HALT lock opens it for writing");
}

#[test]
fn modes_of_a_replica_are_shown_but_not_enforced() {
    use litefs_store::own_mount::Invalidator;
    let f = with_mode(0o666, true);
    *f.view.replica_of.lock().unwrap() = Some("p".into());
    f.mounted().core().kernel_cache().virtual_files(None);
    assert!(
        sh(&f.dir, 5009, 1, "", "test $(stat -c %a db) = 444 && exec 3<>db"),
        "SQLite opens for writing and reads"
    );
    f.view.refuse_write_opens.store(true, SeqCst);
    assert!(!sh(&f.dir, 5009, 1, "", "exec 3<>db"), "replica-writes: readonly");
    assert!(!sh(&f.dir, 0, 0, "", "exec 3<>db"), "for root, too");
    assert!(sh(&f.dir, 5009, 1, "", "cat db"));
    use litefs_store::own_mount::{FileKind, OwnMount};
    let own = f.mounted().own_mounts().make(&"db".parse().unwrap());
    assert!(own.open(FileKind::Database, false).unwrap(), "but not for the daemon");
}
