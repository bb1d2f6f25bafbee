//! Permission checks: owner, group and mode of the mount against a caller.
//!
//! Owns: the comparison, and reading a caller's supplementary groups. Does not own: what the modes
//! are. The mount does without `default_permissions`, because with it the kernel asks for attributes
//! twice in each rollback-mode transaction; so the adapter compares at LOOKUP, OPEN, CREATE, UNLINK
//! and SETATTR(size). Tested below and with another user in `tests/tests/fuse_adapter`.

/// Read permission.
pub const R: u32 = 4;
/// Write permission.
pub const W: u32 = 2;
/// Permission to go through a directory.
pub const X: u32 = 1;

/// Longest `/proc/<pid>/status` that is read. It is about 1.5 KiB; the rest is room for many groups.
const MAX_STATUS: u64 = 256 * 1024;

/// Owner, group and permission bits as the mount shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits of a database's files; directories add `x` where there is `r`.
    pub file_mode: u16,
}

impl Ownership {
    /// Permission bits of the root directory.
    pub const fn dir_mode(&self) -> u16 {
        self.file_mode | (self.file_mode & 0o444) >> 2
    }
}

/// Who makes a request, from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Thread id, 0 from another pid namespace.
    pub pid: u32,
}

/// Whether `who` may do `want` (bits of [`R`], [`W`], [`X`]) with a file of this owner and mode.
pub fn permitted(who: Who, uid: u32, gid: u32, mode: u16, want: u32) -> bool {
    permitted_with(who, uid, gid, mode, want, || supplementary_groups(who.pid))
}

fn permitted_with(
    who: Who,
    uid: u32,
    gid: u32,
    mode: u16,
    want: u32,
    groups: impl FnOnce() -> Vec<u32>,
) -> bool {
    // As the superuser of the initial namespace; no file here is executable, so x of files is no matter.
    if who.uid == 0 {
        return true;
    }
    let mode = u32::from(mode);
    let has = |shift: u32| (mode >> shift) & want == want;
    if has(6) && has(3) && has(0) {
        return true;
    }
    // The first class that fits decides, also when another one would allow more (POSIX).
    if who.uid == uid {
        return has(6);
    }
    if who.gid == gid {
        return has(3);
    }
    if has(3) == has(0) {
        return has(0);
    }
    if groups().contains(&gid) { has(3) } else { has(0) }
}

/// Supplementary groups: only read when they decide (it is a file read of 20 µs).
fn supplementary_groups(tid: u32) -> Vec<u32> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(format!("/proc/{tid}/status"))
        .and_then(|f| f.take(MAX_STATUS).read_to_string(&mut text));
    if tid == 0 || read.is_err() {
        return Vec::new();
    }
    parse_groups(&text)
}

fn parse_groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|l| l.strip_prefix("Groups:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|g| g.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let who = |uid, gid| Who { uid, gid, pid: 1 };
        let ask =
            |w, mode, want, groups: &'static [u32]| permitted_with(w, 10, 20, mode, want, || groups.to_vec());
        assert!(ask(who(0, 0), 0o000, R | W, &[]), "root may");
        assert!(ask(who(10, 1), 0o600, R | W, &[]));
        assert!(!ask(who(11, 1), 0o600, R, &[]));
        assert!(!ask(who(10, 20), 0o066, R, &[20]), "the owner has no more than the owner's bits");
        assert!(ask(who(11, 20), 0o640, R, &[]));
        assert!(!ask(who(11, 20), 0o640, W, &[]));
        assert!(ask(who(11, 1), 0o660, R | W, &[5, 20]));
        assert!(!ask(who(11, 1), 0o660, R | W, &[5]));
        assert!(!ask(who(11, 1), 0o606, R, &[20]), "a group member does not get the others' bits");
        assert!(permitted_with(who(11, 1), 10, 20, 0o666, R | W, || unreachable!("groups are not needed")));
        assert_eq!(Ownership { uid: 0, gid: 0, file_mode: 0o640 }.dir_mode(), 0o750);
        assert_eq!(Ownership { uid: 0, gid: 0, file_mode: 0o666 }.dir_mode(), 0o777);
    }

    #[test]
    fn groups_are_read_from_proc() {
        assert_eq!(parse_groups("Name:\tx\nGroups:\t4 24 1000 \nVmPeak: 1\n"), [4, 24, 1000]);
        assert_eq!(parse_groups("Groups:\t\n"), [0u32; 0]);
        let own = nix::unistd::getgroups().unwrap();
        let read = supplementary_groups(nix::unistd::gettid().as_raw().unsigned_abs());
        assert_eq!(read, own.iter().map(|g| g.as_raw()).collect::<Vec<_>>());
    }
}
