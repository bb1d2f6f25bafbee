//! Random workloads against an oracle that knows nothing about LiteFS: the same script, run by the same
//! SQLite on a plain directory, must leave the same bytes (tests D1, D3, D5 of the design, E21).
//! A failing seed: `LITEFS_SEED=n`. Needs root and /dev/fuse.

use litefs_tests::image::{assert_same, assert_same_bytes, check_integrity, checked_export};
use litefs_tests::node::{Node, pair};
use litefs_tests::rng::Rng;
use litefs_tests::scratch::Scratch;
use litefs_tests::session::{Session, Sqlite};
use litefs_tests::watch::{Deadline, soak_factor};
use litefs_tests::workload::{Mix, script};

const JOURNALS: [&str; 4] = ["DELETE", "TRUNCATE", "PERSIST", "WAL"];
const PAGE_SIZES: [u32; 5] = [512, 1024, 2048, 4096, 65536];

/// Plays the script on the mount and on a plain directory; compares at some steps on the way, and at the
/// end everything with everything.
fn compare(scratch: &Scratch, primary: &Node, replica: &Node, which: Sqlite, psow: u32, mix: &Mix) {
    let name = format!("{}-{which:?}.db", mix.seed);
    let what = format!("{which:?} psow={psow} {mix:?}");
    let plain = scratch.dir("plain").join(&name);
    let uri = |p: &std::path::Path| format!("file:{}?psow={psow}", p.display());
    let mut on_mount = Session::with(which, &uri(&primary.path(&name)));
    let mut on_disk = Session::with(which, &uri(&plain));
    if which == Sqlite::Debian {
        // The daemon takes the writer's lock for a moment to reset a WAL with a broken chain (rule W7). It
        // has no other reason to: the newest SQLite runs without a timeout.
        on_mount.exec("PRAGMA busy_timeout=10000");
    }
    let mut rng = Rng::new(mix.seed ^ 0xABCD);
    for (i, line) in script(mix).iter().enumerate() {
        let left = on_mount.exec(line);
        let right = on_disk.exec(line);
        // How many frames a checkpoint finds may differ: the daemon checkpoints too (rule W7).
        if !line.contains("wal_checkpoint") {
            assert_eq!(left, right, "{what}: step {i}: {line}");
        }
        if i > 12 && rng.chance(8) {
            // In the middle: what the daemon has captured is what a checkpointed file would hold.
            let (pos, image) = checked_export(primary, &name);
            let pages = (image.len() / page_size(&image)).to_string();
            let (disk, mount) = (on_disk.one("PRAGMA page_count"), on_mount.one("PRAGMA page_count"));
            assert_eq!(disk, mount, "{what}: pages on the disk and on the mount after step {i}");
            assert_eq!(mount, pages, "{what}: pages on the mount and at {pos} after step {i}");
            check_integrity(&image, scratch);
        }
    }
    assert_eq!(on_mount.one("PRAGMA integrity_check"), "ok", "{what}");
    for s in [&mut on_mount, &mut on_disk] {
        s.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    let (_, exported) = checked_export(primary, &name);
    on_mount.close();
    on_disk.close();
    assert_same_bytes(
        &exported,
        &std::fs::read(primary.path(&name)).unwrap(),
        &format!("{what}: export and mount"),
    );
    let (mut left, mut right) = (std::fs::read(&plain).unwrap(), exported);
    if which == Sqlite::Debian {
        // Where the daemon resets a WAL with a broken chain (rule W7), SQLite reads page 1 again and
        // counts the file's changes from there.
        for image in [&mut left, &mut right] {
            image[24..28].fill(0);
            image[92..96].fill(0);
        }
    }
    assert_same_bytes(&left, &right, &format!("{what}: plain and export"));
    assert_same(primary, replica, &name, scratch);
    std::fs::remove_file(primary.path(&name)).unwrap();
}

fn page_size(image: &[u8]) -> usize {
    litefs_tests::image::page_size(image) as usize
}

fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    match std::env::var("LITEFS_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => first..first + count * soak_factor(),
    }
}

fn many(first: u64, count: u64, seconds: u64, change: impl Fn(&mut Mix, &mut Rng)) {
    let _deadline = Deadline::secs(seconds * soak_factor());
    let scratch = Scratch::new("random");
    let (primary, replica) = pair(&scratch);
    for seed in seeds(first, count) {
        let mut rng = Rng::new(seed);
        let mut mix = Mix::new(seed, JOURNALS[rng.range(0, 4) as usize], *rng.pick(&PAGE_SIZES));
        mix.sync = ["OFF", "NORMAL", "FULL"][rng.range(0, 3) as usize];
        change(&mut mix, &mut rng);
        let which = Sqlite::ALL[rng.range(0, 2) as usize];
        compare(&scratch, &primary, &replica, which, rng.range(0, 2) as u32, &mix);
    }
}

#[test]
fn wal_workloads_leave_what_they_leave_without_us() {
    many(1000, 8, 240, |mix, _| mix.journal = "WAL");
}

#[test]
fn rollback_workloads_leave_what_they_leave_without_us() {
    many(2000, 6, 240, |mix, rng| mix.journal = JOURNALS[rng.range(0, 3) as usize]);
}

#[test]
fn savepoints_and_rewrites_in_place() {
    many(3000, 6, 240, |mix, _| {
        mix.journal = "WAL";
        mix.savepoints = true;
    });
}

#[test]
fn switching_modes_vacuuming_and_resizing() {
    many(4000, 6, 240, |mix, rng| {
        mix.switch_modes = true;
        mix.resize_pages = true;
        mix.auto_vacuum = rng.range(0, 3) as u32;
    });
}

/// Hole H2: SQLite 3.40.1 commits transactions whose frame chain is broken on the disk. Ours must have
/// them all, and the WAL must be reset soon, because SQLite's own recovery would lose them.
#[test]
fn broken_chains_of_old_sqlite_lose_nothing() {
    let _deadline = Deadline::secs(240 * soak_factor());
    let scratch = Scratch::new("h2");
    let (primary, replica) = pair(&scratch);
    for seed in seeds(5000, 5) {
        let mix = Mix { savepoints: true, steps: 80, ..Mix::new(seed, "WAL", 1024) };
        compare(&scratch, &primary, &replica, Sqlite::Debian, 1, &mix);
    }
}
