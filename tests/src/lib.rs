//! The test harness: real daemons, real mounts, real SQLite in processes of their own.
//!
//! Start at [`node`] (a daemon), [`session`] (a SQLite application that does what it is told), [`sample`]
//! (databases to begin with) and [`image`] (are two nodes the same?). The tests themselves are in `tests/tests/`, one binary a theme.
//! Everything that mounts needs root and `/dev/fuse` and fails where they are missing: a skipped test
//! would say that something works.
//!
//! *Invariant:* what a test starts ends with it: processes by their own id, mounts, namespaces, files.

pub mod apps;
pub mod bad_input;
pub mod faults;
pub mod http;
pub mod image;
pub mod netns;
pub mod node;
pub mod ports;
pub mod proc;
pub mod rng;
pub mod sample;
pub mod scratch;
pub mod session;
pub mod watch;
pub mod workload;

/// The directory of the programs under test: `LITEFS_BIN_DIR`, or where cargo put them beside this one.
pub fn bin(name: &str) -> std::path::PathBuf {
    let dir = std::env::var_os("LITEFS_BIN_DIR").map_or_else(
        || {
            let exe = std::env::current_exe().expect("the path of this program");
            let dir = exe.parent().expect("a directory").to_owned();
            if dir.ends_with("deps") { dir.parent().expect("a directory").to_owned() } else { dir }
        },
        std::path::PathBuf::from,
    );
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: build it first (`make build`)", path.display());
    path
}

/// Fails with the reason unless this process may mount.
pub fn require_root_and_fuse() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a file system: run it as root");
    assert!(std::path::Path::new("/dev/fuse").exists(), "this test needs /dev/fuse (modprobe fuse)");
}
