//! Checked `fuse:`.

use std::path::PathBuf;

use super::Checker;
use crate::raw::Fuse;

/// What a local write gets on a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaWrites {
    /// SQLITE_BUSY (WAL) or SQLITE_READONLY (rollback modes) when it happens.
    Busy,
    /// Opening for writing answers EACCES, so SQLite says SQLITE_READONLY at once.
    ReadOnly,
}

/// The mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuseSettings {
    /// Mount point.
    pub dir: PathBuf,
    /// Other users may use it; modes are checked.
    pub allow_other: bool,
    /// Log every request.
    pub debug: bool,
    /// Writes on a replica.
    pub replica_writes: ReplicaWrites,
    /// Keep processors awake while requests come in quick succession.
    pub low_latency: bool,
    /// Owner of the files; `None`: the daemon's user.
    pub uid: Option<u32>,
    /// Group of the files; `None`: the daemon's group.
    pub gid: Option<u32>,
    /// Permission bits of new databases, 0 to 0o777; `None`: as the application asks.
    pub mode: Option<u32>,
}

pub(super) fn check(raw: &Fuse, c: &mut Checker<'_>) -> FuseSettings {
    let replica_writes = match raw.replica_writes.as_str() {
        "busy" => ReplicaWrites::Busy,
        "readonly" => ReplicaWrites::ReadOnly,
        other => {
            c.problem("fuse.replica-writes", format!("must be busy or readonly, got: {other:?}"));
            ReplicaWrites::Busy
        }
    };
    let digits = raw.mode.strip_prefix("0o").unwrap_or(&raw.mode);
    let mode = match (raw.mode.is_empty(), u32::from_str_radix(digits, 8)) {
        (true, _) => None,
        (false, Ok(m)) if m <= 0o777 && !digits.starts_with('+') => Some(m),
        _ => {
            c.problem(
                "fuse.mode",
                format!("must be octal permission bits such as 0660, got: {:?}", raw.mode),
            );
            None
        }
    };
    FuseSettings {
        dir: raw.dir.clone().into(),
        allow_other: raw.allow_other,
        debug: raw.debug,
        replica_writes,
        low_latency: raw.low_latency,
        uid: raw.uid,
        gid: raw.gid,
        mode,
    }
}
