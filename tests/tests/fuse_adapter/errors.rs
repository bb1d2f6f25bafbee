//! Names, and what is refused with which errno.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use crate::fixture::Fixture;

fn errno<T>(r: io::Result<T>) -> i32 {
    r.err().expect("must fail").raw_os_error().unwrap()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[test]
fn refused_names_do_not_harm_later_creates() {
    let f = Fixture::new();
    create(&f.dir.join("x")).unwrap();
    for (name, e) in [
        ("x-pos", libc::EEXIST),
        ("y-pos", libc::EACCES),
        ("y-lock", libc::EACCES),
        (".primary", libc::EACCES),
        (".lag", libc::EEXIST),
        ("y-journal", libc::ENOENT),
        ("y-wal", libc::ENOENT),
        ("y-shm", libc::ENOENT),
        ("-journal", libc::ENOENT),
        ("y-mj0123459AB", libc::ENOENT),
        ("a\nb", libc::EINVAL),
    ] {
        assert_eq!(errno(create(&f.dir.join(name))), e, "create {name:?}");
    }
    assert_eq!(errno(create(&f.dir.join("n".repeat(241)))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(f.dir.join("n".repeat(256)))), libc::ENAMETOOLONG);
    // The original answered some of these with ENOSYS, and the kernel never sent CREATE again.
    create(&f.dir.join("after")).unwrap();
    create(&f.dir.join("after-journal")).unwrap();
    create(&f.dir.join("x-mj0123459AB")).unwrap();
    assert!(f.backing("x-mj0123459AB").exists());
}

#[test]
fn what_the_mount_is_not_for() {
    let f = Fixture::new();
    let db = f.dir.join("db");
    fs::write(&db, [7; 8192]).unwrap();
    assert_eq!(errno(fs::create_dir(f.dir.join("sub"))), libc::EPERM);
    assert_eq!(errno(fs::remove_dir(&db)), libc::ENOTDIR);
    assert_eq!(errno(fs::rename(&db, f.dir.join("other"))), libc::EPERM);
    assert_eq!(errno(fs::hard_link(&db, f.dir.join("link"))), libc::EPERM);
    assert_eq!(errno(symlink(&db, f.dir.join("link"))), libc::EPERM);
    let fifo = nix::unistd::mkfifo(&f.dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU);
    assert_eq!(fifo, Err(nix::errno::Errno::EPERM));
    for name in ["db-pos", "db-lock", ".lag"] {
        assert_eq!(errno(fs::remove_file(f.dir.join(name))), libc::EPERM, "{name}");
        let mut file = OpenOptions::new().read(true).write(true).open(f.dir.join(name)).unwrap();
        assert_eq!(errno(io::Write::write(&mut file, b"x")), libc::EACCES, "{name}");
        file.set_len(0).unwrap();
        file.sync_all().unwrap();
    }
    assert_eq!(errno(fs::remove_file(f.dir.join("missing"))), libc::ENOENT);
    assert_eq!(errno(fs::remove_file(f.dir.join("db-journal"))), libc::ENOENT);

    let file = OpenOptions::new().read(true).write(true).open(&db).unwrap();
    let space = nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, 65536);
    assert_eq!(space, Err(nix::errno::Errno::EOPNOTSUPP));
    // As in the original: accepted, without effect.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&db, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&db, Some(5), Some(5)).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(fs::metadata(&db).unwrap().permissions().mode() & 0o7777, 0o666);
    assert_eq!(file.metadata().unwrap().len(), 8192);
}

#[test]
fn errors_of_the_model_reach_the_caller_as_they_are() {
    use litefsd::fuse::model::ModelError;
    let f = Fixture::new();
    fs::write(f.dir.join("db"), "x").unwrap();
    for e in [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EIO, libc::EACCES] {
        f.knobs().set_hook(move |what, _, _| match what {
            "release" | "open" => Ok(()),
            _ => Err(ModelError::Errno(e)),
        });
        let file = OpenOptions::new().write(true).open(f.dir.join("db")).unwrap();
        assert_eq!(errno(io::Write::write(&mut &file, b"x")), e);
        assert_eq!(errno(file.sync_all()), e);
        assert_eq!(errno(file.set_len(5)), e);
        assert_eq!(errno(create(&f.dir.join("db-journal"))), e);
        assert_eq!(errno(fs::remove_file(f.dir.join("db"))), e);
    }
    f.knobs()
        .set_hook(|what, _, _| if what == "open" { Err(ModelError::Errno(libc::EACCES)) } else { Ok(()) });
    assert_eq!(
        errno(OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(f.dir.join("db"))),
        libc::EACCES
    );
    // An answer is given even if the model breaks the rules.
    f.knobs().set_hook(|_, _, _| Err(ModelError::NeedsWorker));
    assert_eq!(errno(create(&f.dir.join("db-journal"))), libc::EIO);
}

#[test]
fn a_copy_is_told_about_an_error_at_its_end() {
    use litefsd::fuse::model::ModelError;
    let f = Fixture::new();
    let source = f.tmp.path().join("source");
    fs::write(&source, vec![7; 300_000]).unwrap();
    let copy = || std::process::Command::new("cp").arg(&source).arg(f.dir.join("db")).output().unwrap();
    assert!(copy().status.success());
    assert_eq!(fs::read(f.backing("db")).unwrap(), vec![7; 300_000]);
    for deferred in [false, true] {
        f.knobs().set_hook(move |what, _, c| match what {
            "flush" if deferred && !c.may_block => Err(ModelError::NeedsWorker),
            "flush" => Err(ModelError::Errno(libc::ENOSPC)),
            _ => Ok(()),
        });
        let out = copy();
        assert!(!out.status.success(), "the error of close(2) was lost");
        assert!(String::from_utf8_lossy(&out.stderr).contains("No space left"), "{out:?}");
    }
}
