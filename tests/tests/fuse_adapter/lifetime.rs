//! Mounting, dying, unmounting.

use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, Instant};

use litefs_store::own_mount::{FileKind, OwnMount};
use litefsd::fuse::mount::{MountError, Unmounted, mount};
use litefsd::fuse::mount_point::{MountPointError, mounted_at};

use crate::fixture::{App, Fixture, options, require_fuse, respawn};
use crate::model::{PlainModel, View};

fn daemon(root: &std::path::Path) -> App {
    App::of(respawn("daemon", root))
}

#[test]
fn the_mount_looks_like_the_original() {
    let f = Fixture::new();
    let line = mounted_at(&f.dir).unwrap();
    assert_eq!((line.fs_type.as_str(), line.source.as_str()), ("fuse", "litefs"));
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = info.lines().find(|l| l.contains(&*f.dir.to_string_lossy())).unwrap();
    assert!(line.contains("rw,nosuid,nodev,relatime") && line.contains("user_id=0,group_id=0"), "{line}");
    assert!(!line.contains("default_permissions"));
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("libfuse"));
}

#[test]
fn a_killed_daemon_ends_at_once_and_its_mount_is_cleaned_up() {
    require_fuse();
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("data")).unwrap();
    let options = options(tmp.path(), false);
    let mut d = daemon(tmp.path());
    // An application with the wal-index mapped, as in real life.
    let mut app = App::start(&options.dir.join("db"));
    app.ok("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    d.send("own");
    assert_eq!(d.answer(), "open");
    app.ok("UPDATE t SET x = 2");

    d.child.kill().unwrap();
    let begin = Instant::now();
    d.child.wait().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "the killed daemon took {:?} to end", begin.elapsed());
    assert_eq!(fs::metadata(options.dir.join(".lag")).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));

    let model = PlainModel::new(options.data_dir.clone());
    model.add("db");
    let mounted = mount(model, Arc::new(View::default()), &options).unwrap();
    let mut fresh = App::start(&options.dir.join("db"));
    assert_eq!(fresh.ok("SELECT x FROM t"), "2");
    assert!(app.sql("INSERT INTO t VALUES(2)").starts_with("error"), "the old mount is dead");
    app.end();
    fresh.end();
    assert_eq!(mounted.unmount(Duration::from_secs(5)), Unmounted::Clean);
    assert_eq!(mounted_at(&options.dir), None, "a dead mount is left below");
}

#[test]
fn a_daemon_killed_with_own_requests_in_flight_ends_at_once() {
    for _ in 0..10 {
        require_fuse();
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("data")).unwrap();
        let options = options(tmp.path(), false);
        let mut d = daemon(tmp.path());
        let busy = File::create(options.dir.join("db")).unwrap();
        d.send("busy");
        assert_eq!(d.answer(), "busy");
        std::thread::sleep(Duration::from_millis(50));
        d.child.kill().unwrap();
        let ended = crate::fixture::eventually(|| d.has_ended());
        if !ended {
            // Or this test would leave what it tests for behind.
            let _ = nix::mount::umount2(&options.dir, nix::mount::MntFlags::MNT_FORCE);
        }
        assert!(ended, "the killed daemon hangs");
        d.child.wait().unwrap();
        drop(busy);
        let _ = nix::mount::umount2(&options.dir, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_living_mount_is_left_alone_and_its_daemon_named() {
    require_fuse();
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("data")).unwrap();
    let options = options(tmp.path(), false);
    let d = daemon(tmp.path());
    let second = mount(PlainModel::new(options.data_dir.clone()), Arc::new(View::default()), &options);
    match second.err().unwrap() {
        MountError::MountPoint(MountPointError::Alive { daemon, fs, .. }) => {
            assert!(daemon.contains(&format!("process {}", d.pid())), "{daemon}");
            assert_eq!(fs, "litefs");
        }
        other => panic!("{other}"),
    }
    assert_eq!(fs::read_to_string(options.dir.join(".lag")).unwrap(), "+000000000\n");
    d.end();
    assert_eq!(mounted_at(&options.dir), None);
}

#[test]
fn a_mount_in_use_is_waited_for_and_then_detached() {
    let mut f = Fixture::new();
    let mut app = f.app("db");
    app.ok("CREATE TABLE t(x)");
    let own = f.mounted().own_mounts().make(&"db".parse().unwrap());
    own.open(FileKind::Database, false).unwrap();
    let begin = Instant::now();
    let Unmounted::Detached(holders) = f.mount.take().unwrap().unmount(Duration::from_millis(300)) else {
        panic!("the application still has the database open")
    };
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(holders.iter().map(|h| h.pid).collect::<Vec<_>>(), [app.pid()]);
    assert!(holders[0].path.starts_with(&f.dir));
    assert_eq!(mounted_at(&f.dir), None);
    // SQLite notices that its file has no name any more; reading goes on.
    assert_eq!(app.ok("SELECT count(*) FROM t"), "0");
    app.end();
}

#[test]
fn own_descriptors_do_not_keep_the_mount_busy() {
    let mut f = Fixture::new();
    fs::write(f.dir.join("db"), "x").unwrap();
    let own = f.mounted().own_mounts().make(&"db".parse().unwrap());
    own.open(FileKind::Database, false).unwrap();
    assert_eq!(f.mount.take().unwrap().unmount(Duration::from_secs(5)), Unmounted::Clean);

    let f = Fixture::new();
    let busy = File::create(f.dir.join("db")).unwrap();
    let dir = f.dir.clone();
    let gone = std::process::Command::new("umount").arg("-l").arg(&dir).status().unwrap();
    assert!(gone.success());
    assert!(f.mounted().is_alive(), "still served for who has a file open");
    drop(busy);
    assert!(crate::fixture::eventually(|| !f.mounted().is_alive()), "the end of the mount was not noticed");
    let mut f = f;
    assert_eq!(f.mount.take().unwrap().unmount(Duration::from_secs(5)), Unmounted::Gone);
}

#[test]
fn applications_are_served_until_they_end() {
    let mut f = Fixture::new();
    let mut app = f.app("db");
    app.ok("CREATE TABLE t(x)");
    let own = f.mounted().own_mounts().make(&"db".parse().unwrap());
    assert!(own.open(FileKind::Database, false).unwrap());
    let mount = f.mount.take().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            for i in 0..20 {
                app.ok(&format!("INSERT INTO t VALUES({i})"));
                assert_eq!(own.len(FileKind::Database).unwrap(), 8192, "own descriptors are kept as long");
                std::thread::sleep(Duration::from_millis(10));
            }
            app.end();
        });
        assert_eq!(mount.unmount(Duration::from_secs(10)), Unmounted::Clean);
    });
    assert!(own.open(FileKind::Database, false).is_err(), "what comes late must not keep the mount busy");
}

#[test]
fn dropping_a_mount_takes_it_away() {
    let f = Fixture::new();
    let dir = f.dir.clone();
    fs::write(dir.join("db"), "x").unwrap();
    drop(f.mount);
    assert_eq!(mounted_at(&dir), None);
}

#[test]
fn a_user_mounts_with_the_setuid_helper() {
    require_fuse();
    let tmp = tempfile::tempdir().unwrap();
    for dir in ["data", "mnt"] {
        fs::create_dir(tmp.path().join(dir)).unwrap();
    }
    let mut user = App::of(respawn("user", tmp.path()));
    assert_eq!(user.answer(), "by a user fuse.litefs litefs");
    assert_eq!(user.answer(), "Clean");
    user.end();
}
