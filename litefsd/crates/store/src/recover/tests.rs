//! Every case of recovery once, on a disk that does not fail.

use litefs_types::{Pos, Txid};

use super::fixture::*;
use super::*;
use crate::log::RecordKind;
use crate::sim_disk::{Crash, SimDisk};

fn recovered(disk: &SimDisk, what: &str) -> Recovered {
    let r = recover(disk, OnAnomaly::Primary).unwrap();
    check_sound(disk, &r, what);
    assert!(r.set_aside.is_empty(), "{what}: {:?}", r.notes);
    r
}

fn primary() -> Primary {
    Primary::new(&disk()).unwrap()
}

/// A primary with some history in rollback mode.
fn used() -> Primary {
    let mut p = primary();
    p.rollback_commit(3, &[]).unwrap();
    p.rollback_commit(5, &[2]).unwrap();
    p.rollback_commit(4, &[3]).unwrap();
    p
}

#[test]
fn nothing_is_an_empty_database() {
    let d = disk();
    for _ in 0..2 {
        let r = recovered(&d, "fresh");
        assert_eq!((r.pos, r.page_size, r.page_count), (Pos::ZERO, None, 0));
    }
    // A zero-length database, and one whose first transaction was rolled back.
    d.put(files().database(), b"");
    assert_eq!(recovered(&d, "empty").pos, Pos::ZERO);
    let p = primary();
    p.write_journal(&[], None).unwrap();
    p.write_pages(&vec![page(1, 1, 3, false), page(2, 1, 3, false), page(3, 1, 3, false)], &[2, 3]).unwrap();
    assert_eq!(recovered(&p.disk.crash(Crash::KeepAll), "first transaction").pos, Pos::ZERO);
}

#[test]
fn a_clean_stop_is_trusted_without_reading() {
    for wal in [false, true] {
        let mut p = used();
        if wal {
            p.start_wal().unwrap();
            p.wal_commit(6, &[2], true).unwrap();
        }
        let (pos, d, image) = (p.tip(), p.disk.clone(), p.image.clone());
        p.stop().unwrap();
        let d = d.crash(Crash::LoseAll);
        // Not looked at: a bit that flipped meanwhile is not seen.
        d.flip_bit(files().database(), 700, 1);
        let r = recover(&d, OnAnomaly::Primary).unwrap();
        assert_eq!((r.pos, &r.notes[..], r.page_count), (pos, &[][..], image.len() as u32));
        assert_eq!(r.mode, if wal { JournalMode::Wal } else { JournalMode::Rollback });
        assert_eq!(r.last_timestamp, Some(now()));
        d.flip_bit(files().database(), 700, 1);
        // A changed file is looked at.
        drop(r);
        let p = Primary::new(&d).unwrap();
        p.stop().unwrap();
        let f = d.open(OPEN, &files().database(), OpenHow::READ_WRITE).unwrap();
        f.write_all_at(WRITE, b"x", 700).unwrap();
        assert_eq!(recovered(&d, "changed while stopped").pos, pos);
    }
}

#[test]
fn the_journal_decides_about_a_record() {
    let before = used().tip();
    // journal live, record not durable yet → rolled back
    let mut p = used();
    let (image, list) = p.next(6, &[2]);
    let id = p.write_journal(&[1, 2], None).unwrap();
    p.write_pages(&image, &list).unwrap();
    assert_eq!(recovered(&p.disk.crash(Crash::KeepAll), "no record").pos, before);
    // record in doubt, journal live → rolled back and cut
    let pos = p.log_tx(RecordKind::Rollback(id), &image, &list, None).unwrap();
    p.r.log.sync().unwrap();
    p.fsync_db().unwrap();
    let r = recovered(&p.disk.crash(Crash::LoseAll), "in doubt");
    assert_eq!((r.pos, r.log.count()), (before, 3));
    // journal gone → committed
    let d = p.disk.crash(Crash::KeepAll);
    d.unlink(REMOVE, &files().journal()).unwrap();
    assert_eq!(recovered(&d, "gone").pos, pos);
    // zeroed header (PERSIST), cut short (TRUNCATE) → committed
    let journal = p.disk.content(files().journal()).unwrap();
    for bytes in [[&[0; 28][..], &journal[28..]].concat(), Vec::new(), journal[..20].to_vec()] {
        let d = p.disk.crash(Crash::KeepAll);
        d.put(files().journal(), &bytes);
        assert_eq!(recovered(&d, "finalised").pos, pos);
    }
    // marker → the journal came back from the dead
    p.unlink(&files().journal()).unwrap();
    p.r.log.mark_committed(pos.txid().unwrap()).unwrap();
    p.r.log.sync().unwrap();
    let d = p.disk.crash(Crash::LoseAll);
    assert!(d.content(files().journal()).is_some());
    assert_eq!(recovered(&d, "marker").pos, pos);
    // and so it is with a record behind it
    p.image = image;
    p.rollback_commit(6, &[4]).unwrap();
    let d = p.disk.crash(Crash::KeepAll);
    d.put(files().journal(), &journal);
    assert_eq!(recovered(&d, "older journal").pos, p.tip());
    // a record whose marker was lost, and the next transaction's journal
    let mut p = used();
    let (image, list) = p.next(6, &[2]);
    let id = p.write_journal(&[1, 2], None).unwrap();
    p.write_pages(&image, &list).unwrap();
    let pos = p.log_tx(RecordKind::Rollback(id), &image, &list, None).unwrap();
    p.image = image;
    let (image, list) = p.next(7, &[3]);
    p.write_journal(&[1, 3], None).unwrap();
    p.write_pages(&image, &list).unwrap();
    assert_eq!(recovered(&p.disk.crash(Crash::KeepAll), "next journal").pos, pos);
}

#[test]
fn a_super_journal_that_is_gone_means_committed() {
    for exists in [false, true] {
        let mut p = used();
        let before = p.tip();
        let (image, list) = p.next(6, &[2]);
        let id = p.write_journal(&[1, 2], Some("/litefs/other.db-mj0123AB9CD")).unwrap();
        p.write_pages(&image, &list).unwrap();
        let pos = p.log_tx(RecordKind::Rollback(id), &image, &list, None).unwrap();
        let d = p.disk.crash(Crash::KeepAll);
        if exists {
            d.put("/data/dbs/other.db/mj-0123AB9CD", b"names");
        }
        assert_eq!(recovered(&d, "super-journal").pos, if exists { before } else { pos });
    }
}

#[test]
fn free_pages_that_no_journal_restores_become_a_transaction() {
    let mut p = used();
    p.stamp(None).unwrap();
    let before = p.tip();
    let (image, list) = p.next(6, &[2, 4]);
    // Page 4 was free: SQLite overwrites it without keeping it.
    p.write_journal(&[1, 2], None).unwrap();
    p.write_pages(&image, &list).unwrap();
    let d = p.disk.crash(Crash::KeepAll);
    let r = recovered(&d, "free page");
    assert_eq!(r.pos.txid(), Some(before.next_txid()));
    let mut want = p.image.clone();
    want[3] = image[3].clone();
    assert_eq!(image_of(&d, 4), want);
    drop(r);
    assert_eq!(recovered(&d, "again").pos.txid(), Some(before.next_txid()));
}

#[test]
fn the_wal_holds_what_the_log_lost() {
    let mut p = used();
    p.stamp(None).unwrap();
    p.start_wal().unwrap();
    p.wal_commit(4, &[2], true).unwrap();
    p.r.log.sync().unwrap();
    let synced = p.tip();
    let last = p.wal_commit(7, &[3], true).unwrap();
    let last2 = p.wal_commit(6, &[5], true).unwrap();
    // Power loss: the wal was synced, the log's end was not.
    let d = p.disk.crash(Crash::LoseAll);
    let r = recovered(&d, "wal ahead");
    assert_eq!((r.pos, r.mode), (last2, JournalMode::Wal));
    assert_eq!(r.log.get(last.txid().unwrap()).unwrap().unwrap().post(), last);
    assert_eq!(image_of(&d, 6), p.image);
    // The other way round: log ahead of the wal.
    let d = p.disk.crash(Crash::KeepAll);
    let wal = d.content(files().wal()).unwrap();
    for cut in [0, 31, 32, 500, 1500, wal.len() - 1] {
        let d = p.disk.crash(Crash::KeepAll);
        d.put(files().wal(), &wal[..cut]);
        assert_eq!(recovered(&d, "log ahead").pos, last2);
    }
    // The whole generation is unknown to the log.
    let d = p.disk.crash(Crash::KeepAll);
    let (log, _) = Log::open(Arc::new(d.clone()), files().log(), None).unwrap();
    log.rewind(synced).unwrap();
    drop(log);
    assert_eq!(recovered(&d, "offset").pos, last2);
    let (log, _) = Log::open(Arc::new(p.disk.crash(Crash::KeepAll)), files().log(), None).unwrap();
    drop(log);
    let d = p.disk.crash(Crash::KeepAll);
    let (log, _) = Log::open(Arc::new(d.clone()), files().log(), None).unwrap();
    log.rewind(p.history[3].0).unwrap();
    drop(log);
    assert_eq!(recovered(&d, "new generation").pos, last2);
}

#[test]
fn a_wal_that_the_daemon_wrote_is_compared_by_content() {
    let mut p = used();
    p.stamp(None).unwrap();
    p.start_wal().unwrap();
    // As a replica: logged first (without a span of our wal), then as frames.
    let mut states = Vec::new();
    for n in [2u32, 3, 2, 4] {
        let (image, list) = p.next(5, &[n]);
        let pos = p.log_tx(RecordKind::Applied, &image, &list, None).unwrap();
        p.write_frames(&image, &list).unwrap();
        p.image = image;
        states.push(pos);
    }
    let all = p.disk.crash(Crash::KeepAll);
    assert_eq!(recovered(&all.crash(Crash::KeepAll), "equal").pos, states[3]);
    // The wal lacks the last ones.
    let wal = all.content(files().wal()).unwrap();
    for cut in [40, 600, 1700, 2500, wal.len() - 10] {
        let d = all.crash(Crash::KeepAll);
        d.put(files().wal(), &wal[..cut]);
        assert_eq!(recovered(&d, "log ahead").pos, states[3]);
    }
    // The log lacks them.
    for (i, pos) in states.iter().enumerate() {
        let d = all.crash(Crash::KeepAll);
        let (log, _) = Log::open(Arc::new(d.clone()), files().log(), None).unwrap();
        log.rewind(*pos).unwrap();
        drop(log);
        assert_eq!(recovered(&d, &format!("wal ahead of {i}")).pos, states[3]);
    }
}

#[test]
fn a_snapshot_is_applied_to_its_end() {
    let p = used();
    let image: Image = (1..=9).map(|n| page(n, 77, 9, false)).collect();
    let pos = Pos::new(Txid::new(100).unwrap(), sums_of(&image).checksum());
    for written in [0, 3, 9] {
        let d = p.disk.crash(Crash::KeepAll);
        d.put(files().snapshot(), &snapshot_bytes(&image, 100));
        d.put(files().wal(), &[7; 900]);
        let f = d.open(OPEN, &files().database(), OpenHow::CREATE).unwrap();
        for (n, p) in image.iter().enumerate().take(written) {
            f.write_all_at(WRITE, p, n as u64 * 512).unwrap();
        }
        let r = recovered(&d, "snapshot");
        assert_eq!((r.pos, r.log.base(), r.log.count()), (pos, pos, 0));
        assert_eq!(image_of(&d, 9), image);
    }
    // Stopped between the reset of the log and the removal of the file, with transactions since.
    let d = p.disk.crash(Crash::KeepAll);
    d.put(files().snapshot(), &snapshot_bytes(&image, 100));
    drop(recovered(&d, "snapshot"));
    let mut p = Primary::new(&d).unwrap();
    p.rollback_commit(8, &[3]).unwrap();
    let d = p.disk.crash(Crash::KeepAll);
    d.put(files().snapshot(), &snapshot_bytes(&image, 100));
    assert_eq!(recovered(&d, "old snapshot").pos, p.tip());
}

#[test]
fn without_sums_the_log_or_the_file_is_read() {
    let mut p = used();
    p.stamp(None).unwrap();
    let d = p.disk.crash(Crash::KeepAll);
    d.unlink(REMOVE, &files().sums()).unwrap();
    assert_eq!(recovered(&d, "no sums").pos, p.tip());
    // A damaged array, and damaged stamps.
    for at in [4096 + 8, 4096 + 16 + 3] {
        let d = p.disk.crash(Crash::KeepAll);
        d.flip_bit(files().sums(), at, 5);
        assert_eq!(recovered(&d, "flipped sum").pos, p.tip());
    }
    let d = p.disk.crash(Crash::KeepAll);
    d.flip_bit(files().sums(), 20, 5);
    d.flip_bit(files().sums(), 2048 + 20, 5);
    assert_eq!(recovered(&d, "no stamp").pos, p.tip());
    // A log that begins later, without sums: the file is read.
    p.r.log.reset(p.tip(), now()).unwrap();
    let d = p.disk.crash(Crash::KeepAll);
    d.unlink(REMOVE, &files().sums()).unwrap();
    assert_eq!(recovered(&d, "scan").pos, p.tip());
}

#[test]
fn a_file_that_lost_its_end_gets_it_back() {
    let mut p = used();
    p.rollback_commit(6, &[2]).unwrap();
    p.stamp(None).unwrap();
    let d = p.disk.crash(Crash::KeepAll);
    let f = d.open(OPEN, &files().database(), OpenHow::READ_WRITE).unwrap();
    f.set_len(WRITE, 5 * 512).unwrap();
    assert_eq!(recovered(&d, "short").pos, p.tip());
    assert_eq!(image_of(&d, 6), p.image);
}

#[test]
fn a_dropped_database_stays_dropped() {
    let mut p = used();
    p.log_tx(RecordKind::Plain, &Vec::new(), &[], None).unwrap();
    let pos = p.tip();
    let d = p.disk.crash(Crash::KeepAll);
    for _ in 0..2 {
        let r = recovered(&d, "dropped");
        assert_eq!((r.pos, r.page_count, r.page_size), (pos, 0, None));
        assert!(d.content(files().database()).is_none());
    }
    // And can be made again.
    let mut p = Primary::new(&d).unwrap();
    p.rollback_commit(2, &[]).unwrap();
    assert_eq!(recovered(&p.disk.crash(Crash::LoseAll), "made again").pos, p.tip());
}

#[test]
fn contradictions_follow_the_policy() {
    let mut p = used();
    p.stamp(None).unwrap();
    let tip = p.tip();
    // Nothing explains this page, and the log cannot restore it: its history was cut.
    p.r.log.reset(tip, now()).unwrap();
    p.stamp(None).unwrap();
    p.rollback_commit(4, &[2]).unwrap();
    let tip = p.tip();
    let d = p.disk.crash(Crash::KeepAll);
    d.flip_bit(files().database(), 3 * 512 + 9, 2);
    d.unlink(REMOVE, &files().sums()).unwrap();

    let replica = d.crash(Crash::KeepAll);
    let r = recover(&replica, OnAnomaly::Replica).unwrap();
    check_sound(&replica, &r, "replica");
    assert_eq!((r.pos, r.set_aside.len()), (Pos::ZERO, 1));
    assert!(replica.content(r.set_aside[0].join("database")).is_some());

    let r = recover(&d, OnAnomaly::Primary).unwrap();
    check_sound(&d, &r, "primary");
    assert_eq!((r.pos.txid(), r.page_count), (Some(tip.next_txid()), 4));
    assert!(d.content(r.set_aside[0].join("database")).is_some());
    let e = r.log.get(tip.next_txid()).unwrap().unwrap();
    assert_eq!(e.ltx_header().unwrap().commit, 4);
    drop((e, r));
    assert_eq!(recovered(&d, "afterwards").pos.txid(), Some(tip.next_txid()));
}

#[test]
fn damaged_pages_are_written_again_from_the_log() {
    let mut p = used();
    p.stamp(None).unwrap();
    let d = p.disk.crash(Crash::KeepAll);
    // Noticed because the sums are gone too, so that the file is read.
    d.unlink(REMOVE, &files().sums()).unwrap();
    d.flip_bit(files().database(), 3 * 512 + 9, 2);
    assert_eq!(recovered(&d, "no sums").pos, p.tip());
    // Noticed because the file was changed after a clean stop.
    let p = Primary::new(&d).unwrap();
    let (pos, image) = (p.tip(), p.image.clone());
    p.stop().unwrap();
    let f = d.open(OPEN, &files().database(), OpenHow::READ_WRITE).unwrap();
    f.write_all_at(WRITE, b"x", 700).unwrap();
    assert_eq!(recovered(&d, "changed").pos, pos);
    assert_eq!(image_of(&d, 4), image);
}

#[test]
fn a_damaged_log_does_not_stop_a_primary() {
    let mut p = used();
    p.stamp(None).unwrap();
    p.rollback_commit(6, &[2]).unwrap();
    let d = p.disk.crash(Crash::KeepAll);
    let segments: Vec<_> =
        d.files().into_iter().filter(|f| f.extension().is_some_and(|e| e == "seg")).collect();
    for seg in &segments {
        d.flip_bit(seg, 9, 1);
    }
    for policy in [OnAnomaly::Primary, OnAnomaly::Replica] {
        let d = d.crash(Crash::KeepAll);
        let r = recover(&d, policy).unwrap();
        check_sound(&d, &r, "damaged log");
        assert_eq!(r.set_aside.len(), 1);
        if policy == OnAnomaly::Primary {
            assert_eq!(image_of(&d, r.page_count), p.image);
        }
    }
}

#[test]
fn a_file_that_is_no_database_is_set_aside() {
    let d = disk();
    for bytes in [b"short".to_vec(), vec![b'x'; 5000]] {
        d.put(files().database(), &bytes);
        let r = recover(&d, OnAnomaly::Primary).unwrap();
        assert_eq!((r.pos, r.page_count), (Pos::ZERO, 0));
        let kept = d.files().into_iter().filter(|f| f.starts_with("/data/quarantine"));
        assert!(kept.into_iter().any(|f| d.content(f).as_deref() == Some(&bytes)));
    }
    // A database that was copied into the directory: a primary makes it its first transaction.
    let image: Image = (1..=3).map(|n| page(n, 5, 3, false)).collect();
    d.put(files().database(), &image.concat());
    let r = recover(&d, OnAnomaly::Primary).unwrap();
    check_sound(&d, &r, "foreign");
    assert_eq!((r.pos.txid(), r.page_count), (Some(Txid::FIRST), 3));
}
