//! Setting aside: what recovery could not use is kept, never deleted.
//!
//! Owns the names under `quarantine/`: `<database>-<UTC time>[-<n>]`. Nothing here is ever read again by
//! the daemon or removed by it. Tests: `recover`.

use std::io;
use std::path::{Path, PathBuf};

use litefs_types::{DbName, Timestamp};

use crate::disk::{Disk, Op};
use crate::layout::DataLayout;

const QUARANTINE: Op = Op::new("quarantine.move");
const COPY: Op = Op::new("quarantine.copy");
const SYNC: Op = Op::new("quarantine.sync");

/// Moves a database's directory away. There is no such directory afterwards.
pub fn move_database(
    disk: &dyn Disk,
    layout: &DataLayout,
    name: &DbName,
    now: Timestamp,
) -> io::Result<PathBuf> {
    let to = free_name(disk, layout, name, now)?;
    disk.rename(QUARANTINE, layout.db(name).dir(), &to)?;
    disk.sync_dir(SYNC, &layout.quarantine())?;
    disk.sync_dir(SYNC, &layout.dbs())?;
    Ok(to)
}

/// Copies a database's files (sharing their blocks where the file system can).
pub fn copy_database(
    disk: &dyn Disk,
    layout: &DataLayout,
    name: &DbName,
    now: Timestamp,
) -> io::Result<PathBuf> {
    let to = free_name(disk, layout, name, now)?;
    copy_dir(disk, layout.db(name).dir(), &to)?;
    disk.sync_dir(SYNC, &layout.quarantine())?;
    Ok(to)
}

/// Moves one file of a database away.
pub fn move_file(
    disk: &dyn Disk,
    layout: &DataLayout,
    name: &DbName,
    file: &Path,
    now: Timestamp,
) -> io::Result<PathBuf> {
    let dir = free_name(disk, layout, name, now)?;
    disk.create_dir_all(QUARANTINE, &dir)?;
    let to = dir.join(file.file_name().unwrap_or_default());
    disk.rename(QUARANTINE, file, &to)?;
    disk.sync_dir(SYNC, &dir)?;
    disk.sync_dir(SYNC, &layout.quarantine())?;
    if let Some(parent) = file.parent() {
        disk.sync_dir(SYNC, parent)?;
    }
    Ok(to)
}

fn copy_dir(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    disk.create_dir_all(COPY, to)?;
    for e in disk.read_dir(COPY, from)? {
        let (a, b) = (from.join(&e.name), to.join(&e.name));
        if e.is_dir { copy_dir(disk, &a, &b)? } else { disk.copy(COPY, &a, &b)? }
    }
    disk.sync_dir(SYNC, to)
}

fn free_name(disk: &dyn Disk, layout: &DataLayout, name: &DbName, now: Timestamp) -> io::Result<PathBuf> {
    let dir = layout.quarantine();
    disk.create_dir_all(QUARANTINE, &dir)?;
    disk.sync_dir(SYNC, layout.root())?;
    let base = format!("{name}-{}", utc(now));
    let mut path = dir.join(&base);
    let mut n = 1;
    while disk.exists(QUARANTINE, &path)? {
        n += 1;
        path = dir.join(format!("{base}-{n}"));
    }
    Ok(path)
}

/// `20260131T235959Z`
fn utc(t: Timestamp) -> String {
    let secs = t.millis().div_euclid(1000);
    let (days, clock) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    // Days to a date of the Gregorian calendar, counting years from March (so leap days come last).
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", clock / 3600, clock / 60 % 60, clock % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(Timestamp::from_millis(0)), "19700101T000000Z");
        assert_eq!(utc(Timestamp::from_millis(951_827_696_000)), "20000229T123456Z");
        assert_eq!(utc(Timestamp::from_millis(1_767_225_599_999)), "20251231T235959Z");
    }
}
