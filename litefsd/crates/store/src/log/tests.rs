//! Behaviour of the log on a disk that does not fail, and of damage at rest.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use litefs_types::{Checksum, Pos, Timestamp, Txid};

use super::*;
use crate::os_disk::OsDisk;
use crate::sim_disk::{At, Crash, Fault, SimDisk};
use crate::spool::{SpoolWriter, Spooled};

pub(super) const DIR: &str = "/db/log";

/// A disk with the database's directory.
pub(super) fn fresh() -> SimDisk {
    let disk = SimDisk::new();
    disk.put("/db/database", b"");
    disk
}

pub(super) fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap()
}

pub(super) fn sum(n: u64) -> Checksum {
    if n == 0 { Checksum::NONE } else { Checksum::new(n * 7 + 1) }
}

pub(super) fn pos(n: u64) -> Pos {
    if n == 0 { Pos::ZERO } else { Pos::new(txid(n), sum(n)) }
}

pub(super) fn meta(n: u64) -> RecordMeta {
    RecordMeta {
        kind: RecordKind::Wal,
        min: txid(n),
        max: txid(n),
        pre: sum(n - 1),
        time: Timestamp::from_millis(n as i64 * 1000),
        len: None,
    }
}

/// Bytes that differ for each transaction, flavour and length.
pub(super) fn payload(n: u64, flavour: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (n * 31 + flavour * 17 + i / 3) as u8).collect()
}

pub(super) fn put(log: &Log, n: u64, data: &[u8]) -> Result<Pos> {
    let mut a = log.append(meta(n))?;
    a.write_all(data).map_err(LogError::io(ops::APPEND))?;
    a.finish(sum(n))
}

pub(super) fn bytes(log: &Log, n: u64) -> Option<Vec<u8>> {
    let e = log.get(txid(n)).unwrap()?;
    let mut out = Vec::new();
    e.reader().read_to_end(&mut out).unwrap();
    assert_eq!((e.post(), e.pre(), e.len()), (pos(n), pos(n - 1), out.len() as u64));
    Some(out)
}

pub(super) fn open(disk: &SimDisk, floor: u64) -> (Log, Vec<String>) {
    Log::open(Arc::new(disk.clone()), DIR, Txid::new(floor)).unwrap()
}

#[test]
fn records_come_back_in_order_after_any_kind_of_stop() {
    for clean in [true, false] {
        let disk = fresh();
        let (log, _) = open(&disk, 0);
        assert_eq!((log.tip(), log.first(), log.count()), (Pos::ZERO, None, 0));
        // Small, empty, bigger than the buffer, bigger than a segment.
        let len = |n: u64| match n % 50 {
            7 => 0,
            13 => 40_000,
            29 => 90_001,
            _ => 3000 + n as usize,
        };
        for n in 1..=200 {
            put(&log, n, &payload(n, 0, len(n))).unwrap();
            assert_eq!(log.tip(), pos(n));
        }
        assert_eq!(log.durable(), Pos::ZERO);
        assert_eq!(log.sync().unwrap(), pos(200));
        let syncs = disk.trace().len();
        assert_eq!(log.sync().unwrap(), pos(200));
        assert_eq!(disk.trace().len(), syncs, "nothing to do, nothing done");
        if clean {
            log.close().unwrap();
        }
        let disk = disk.crash(Crash::LoseAll);
        let (log, notes) = open(&disk, if clean { 200 } else { 0 });
        assert_eq!(notes, Vec::<String>::new());
        assert_eq!((log.tip(), log.first(), log.count()), (pos(200), Some(txid(1)), 200));
        for n in (1..=200).rev() {
            assert_eq!(bytes(&log, n).unwrap(), payload(n, 0, len(n)), "{n}");
        }
        assert!(log.get(txid(201)).unwrap().is_none());
        put(&log, 201, b"more").unwrap();
        assert_eq!(bytes(&log, 201).unwrap(), b"more");
        assert!(log.append(meta(201)).is_err() && log.append(meta(203)).is_err());
    }
}

#[test]
fn unfinished_and_rewound_records_are_not_there() {
    let disk = fresh();
    let (log, _) = open(&disk, 0);
    for n in 1..=5 {
        put(&log, n, &payload(n, 0, 100)).unwrap();
    }
    let mut a = log.append(meta(6)).unwrap();
    a.write_all(&payload(6, 0, 76_000)).unwrap();
    drop(a);
    assert_eq!(log.tip(), pos(5));
    log.sync().unwrap();
    log.rewind(pos(3)).unwrap();
    assert_eq!((log.tip(), log.durable(), log.count()), (pos(3), pos(3), 3));
    assert!(log.get(txid(4)).unwrap().is_none());
    assert!(log.rewind(pos(4)).is_err());
    assert!(log.rewind(Pos::new(txid(2), sum(9))).is_err());
    // The same length and content as before, but for the last: what lay behind must not come back.
    put(&log, 4, &payload(4, 0, 100)).unwrap();
    log.sync().unwrap();
    let (again, _) = open(&disk.crash(Crash::LoseAll), 0);
    assert_eq!(again.tip(), pos(4));
    log.rewind(Pos::ZERO).unwrap();
    assert_eq!((log.tip(), log.first()), (Pos::ZERO, None));
    put(&log, 1, b"new").unwrap();
    assert_eq!(bytes(&log, 1).unwrap(), b"new");
}

#[test]
fn a_rewind_goes_back_over_segments() {
    let disk = fresh();
    let (log, _) = open(&disk, 0);
    for n in 1..=40 {
        put(&log, n, &payload(n, 0, 3_800)).unwrap();
    }
    log.sync().unwrap();
    log.rewind(pos(10)).unwrap();
    let (again, _) = open(&disk.crash(Crash::LoseAll), 0);
    for l in [&log, &again] {
        assert_eq!(l.tip(), pos(10));
        for n in 11..=30 {
            put(l, n, &payload(n, 1, 3_800)).unwrap();
        }
        for n in 1..=30 {
            assert_eq!(bytes(l, n).unwrap(), payload(n, u64::from(n > 10), 3_800));
        }
    }
}

#[test]
fn rollback_records_are_in_doubt_until_marked() {
    let disk = fresh();
    let (log, _) = open(&disk, 0);
    let id = JournalId { nonce: 1, pages: 2, sector: 3 };
    let put_rollback = |log: &Log, n| {
        let mut a = log.append(RecordMeta { kind: RecordKind::Rollback(id), ..meta(n) }).unwrap();
        a.write_all(b"pages").unwrap();
        a.finish(sum(n)).unwrap();
    };
    put_rollback(&log, 1);
    assert_eq!(log.in_doubt().unwrap().unwrap().kind(), RecordKind::Rollback(id));
    log.mark_committed(txid(9)).unwrap();
    assert!(log.in_doubt().unwrap().is_some());
    log.mark_committed(txid(1)).unwrap();
    assert!(log.in_doubt().unwrap().is_none());
    put_rollback(&log, 2);
    log.sync().unwrap();
    let (again, _) = open(&disk.crash(Crash::LoseAll), 0);
    assert_eq!(again.in_doubt().unwrap().unwrap().post(), pos(2));
    again.rewind(pos(1)).unwrap();
    assert!(again.in_doubt().unwrap().is_none(), "1 has its marker");
    again.rewind(Pos::ZERO).unwrap();
    log.mark_committed(txid(2)).unwrap();
    log.close().unwrap();
    let (again, _) = open(&disk.crash(Crash::LoseAll), 2);
    assert!(again.in_doubt().unwrap().is_none());
    assert_eq!(again.tip(), pos(2));
}

#[test]
fn retention_goes_by_age_and_size_and_stops_at_floor_and_pin() {
    let disk = fresh();
    let (log, _) = open(&disk, 0);
    for n in 1..=100 {
        put(&log, n, &payload(n, 0, 3_800)).unwrap();
    }
    log.sync().unwrap();
    let now = Timestamp::from_millis(100_000);
    let trim = |age, size, floor| log.trim(now, Duration::from_secs(age), size, Txid::new(floor)).unwrap();
    assert_eq!(trim(200, None, 100), Trimmed::default());
    assert_eq!(trim(0, None, 0), Trimmed::default());
    assert_eq!(trim(80, None, 100).records, 16, "two segments of 8 are wholly older");
    assert_eq!(log.first(), Some(txid(17)));
    let pin = log.pin(txid(30));
    let t = trim(0, None, 100);
    assert!(t.held_by_pin && log.first() <= Some(txid(30)), "{t:?}");
    // A reader keeps what it has, even past the size limit.
    let held = log.get(txid(30)).unwrap().unwrap();
    let t = trim(0, Some(38_000), 60);
    assert!(t.segments > 0 && log.first() > Some(txid(30)) && log.first() <= Some(txid(61)));
    let mut out = Vec::new();
    held.reader().read_to_end(&mut out).unwrap();
    assert_eq!(out, payload(30, 0, 3_800));
    drop((held, pin));
    trim(0, None, 100);
    assert!(log.size_bytes() < 76_000 && log.tip() == pos(100));
    // Recycled, with old records in it: none of them shows.
    assert!(!log.prepare_spare().unwrap());
    for n in 101..=140 {
        put(&log, n, &payload(n, 0, 3_800)).unwrap();
    }
    log.sync().unwrap();
    assert!(log.prepare_spare().unwrap());
    let (log, notes) = open(&disk.crash(Crash::LoseAll), 0);
    assert_eq!((log.tip(), notes.len()), (pos(140), 0));
    assert_eq!(bytes(&log, 140).unwrap(), payload(140, 0, 3_800));
}

#[test]
fn reset_starts_again_at_a_snapshot() {
    let disk = fresh();
    let (log, _) = open(&disk, 0);
    for n in 1..=20 {
        put(&log, n, &payload(n, 0, 3_800)).unwrap();
    }
    log.reset(pos(1000), Timestamp::from_millis(5)).unwrap();
    assert_eq!((log.tip(), log.durable(), log.first()), (pos(1000), pos(1000), None));
    let (again, _) = open(&disk.crash(Crash::LoseAll), 0);
    assert_eq!((again.tip(), again.first(), again.count()), (pos(1000), None, 0));
    put(&again, 1001, b"x").unwrap();
    assert_eq!(again.first(), Some(txid(1001)));
    assert!(again.get(txid(1000)).unwrap().is_none() && again.get(txid(3)).unwrap().is_none());
}

#[test]
fn a_spooled_file_becomes_a_segment() {
    let disk = fresh();
    let (log, _) = open(&disk, 0);
    put(&log, 1, b"one").unwrap();
    for (n, len) in [(2, 100), (3, 200_000), (4, 150_001)] {
        let mut w = SpoolWriter::new(Arc::new(disk.clone()), "/db/spool", u64::MAX);
        w.write_all(&payload(n, 0, len)).unwrap();
        log.append_spooled(meta(n), w.finish().unwrap(), sum(n)).unwrap();
    }
    log.append_spooled(meta(5), Spooled::from_bytes(b"five".to_vec()), sum(5)).unwrap();
    log.sync().unwrap();
    let (log, notes) = open(&disk.crash(Crash::LoseAll), 0);
    assert_eq!((log.tip(), notes.len()), (pos(5), 0));
    assert_eq!(bytes(&log, 3).unwrap(), payload(3, 0, 200_000));
    assert_eq!(bytes(&log, 4).unwrap(), payload(4, 0, 150_001));
    assert_eq!(bytes(&log, 5).unwrap(), b"five");
    assert!(!disk.files().iter().any(|f| f.starts_with("/db/spool")));
}

#[test]
fn a_failed_sync_is_for_ever_and_a_failed_append_is_not() {
    let disk = fresh();
    let (log, _) = open(&disk, 0);
    put(&log, 1, b"one").unwrap();
    for fault in [Fault::Error(libc::ENOSPC), Fault::Short(libc::ENOSPC)] {
        disk.arm(At::NthOf(ops::APPEND, 0), fault);
        assert!(matches!(put(&log, 2, &payload(2, 0, 5000)), Err(LogError::Io { .. })));
        assert_eq!(log.tip(), pos(1));
    }
    put(&log, 2, b"two").unwrap();
    disk.arm(At::NthOf(ops::SYNC, 0), Fault::Error(libc::EIO));
    assert!(log.sync().is_err());
    assert!(matches!(log.sync(), Err(LogError::Poisoned)));
    assert!(matches!(put(&log, 3, b""), Err(LogError::Poisoned)));
    assert!(matches!(log.mark_committed(txid(2)), Err(LogError::Poisoned)));
    assert!(log.is_poisoned() && log.durable() == Pos::ZERO);
    // Reading still works: replicas may have what is there.
    assert_eq!(bytes(&log, 2).unwrap(), b"two");
}

#[test]
fn a_full_disk_at_a_segment_switch_heals() {
    let disk = fresh();
    let (log, _) = open(&disk, 0);
    for n in 1..=8 {
        put(&log, n, &payload(n, 0, 3_800)).unwrap();
    }
    for nth in 0..3 {
        disk.arm(At::NthOf(ops::NEW_SEGMENT, nth), Fault::Short(libc::ENOSPC));
        assert!(put(&log, 9, &payload(9, 0, 3_800)).is_err(), "{nth}");
    }
    disk.arm(At::NthOf(ops::SEAL, 0), Fault::Error(libc::EIO));
    assert!(put(&log, 9, &payload(9, 0, 3_800)).is_err());
    disk.disarm();
    put(&log, 9, b"small ones still fit").unwrap();
    put(&log, 10, &payload(10, 0, 3_800)).unwrap();
    log.sync().unwrap();
    let (log, notes) = open(&disk.crash(Crash::LoseAll), 0);
    assert_eq!((log.tip(), notes.len()), (pos(10), 0));
}

#[test]
fn a_flipped_bit_is_noticed_before_it_is_given_out() {
    let disk = fresh();
    let (log, _) = open(&disk, 0);
    for n in 1..=20 {
        put(&log, n, &payload(n, 0, 3_800)).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let seg1 = Path::new(DIR).join(segment::file_name(1));
    // Payload of transaction 2.
    let at = 1024 + (104 + 3_800) + 104 + 7;
    disk.flip_bit(&seg1, at, 3);
    let (log, _) = open(&disk, 20);
    let e = log.get(txid(2)).unwrap().unwrap();
    assert!(matches!(e.verify(), Err(LogError::Corrupt(_))));
    let mut out = Vec::new();
    assert!(e.reader().read_to_end(&mut out).is_err());
    assert!(bytes(&log, 3).is_some());
    disk.flip_bit(&seg1, at, 3);
    // Header of transaction 2, footer, seal.
    disk.flip_bit(&seg1, 1024 + 104 + 3_800 + 50, 0);
    assert!(matches!(open(&disk, 20).0.get(txid(2)), Err(LogError::Corrupt(_))));
    disk.flip_bit(&seg1, 1024 + 104 + 3_800 + 50, 0);
    for at in [512 + 20, 1024 + 8 * (104 + 3_800) + 5] {
        disk.flip_bit(&seg1, at, 0);
        let (log, _) = open(&disk, 20);
        assert_eq!(bytes(&log, 2).unwrap(), payload(2, 0, 3_800), "found without the footer");
        disk.flip_bit(&seg1, at, 0);
    }
    // The head of an old segment: history is lost, what recovery needs is not.
    disk.flip_bit(&seg1, 9, 0);
    let (log, notes) = open(&disk, 20);
    assert_eq!((log.tip(), log.first(), notes.len()), (pos(20), Some(txid(9)), 1));
}

#[test]
fn concurrent_syncs_share_and_cover() {
    let tmp = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Arc::new(OsDisk), tmp.path().join("log"), None).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            for n in 1..=2000 {
                put(&log, n, &payload(n, 0, 500)).unwrap();
            }
        });
        for _ in 0..3 {
            s.spawn(|| {
                loop {
                    let tip = log.tip().txid_raw();
                    assert!(log.sync().unwrap().txid_raw() >= tip);
                    if tip == 2000 {
                        break;
                    }
                }
            });
        }
        s.spawn(|| {
            for n in 1..=2000 {
                while log.tip().txid_raw() < n {
                    std::thread::yield_now();
                }
                assert!(bytes(&log, n).is_some());
            }
        });
    });
    assert_eq!(log.durable(), pos(2000));
}

/// Not a test of speed, a figure for whoever looks: `cargo test --release -- --nocapture append_cost`.
#[test]
fn append_cost() {
    let tmp = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(Arc::new(OsDisk), tmp.path().join("log"), None).unwrap();
    log.prepare_spare().unwrap();
    let data = payload(1, 0, 4220);
    let t = std::time::Instant::now();
    let n = 5000;
    let mut other = std::time::Duration::ZERO;
    for i in 1..=n {
        put(&log, i, &data).unwrap();
        if i % 64 == 0 {
            let t = std::time::Instant::now();
            log.prepare_spare().unwrap();
            other += t.elapsed();
        }
    }
    println!("append: {:?} each", t.elapsed().saturating_sub(other) / n as u32);
}
