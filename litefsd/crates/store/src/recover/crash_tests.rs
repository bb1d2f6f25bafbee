//! Crash matrix: commits of every kind, checkpoints and stamps, stopped at every disk operation, then
//! recovered; and recovery itself, stopped at every operation and done again.
//!
//! Checked: what was acknowledged is there (after a power loss: what was acknowledged as durable), what
//! was rolled back is not, file = sums = position, and a second recovery changes nothing.

use litefs_types::Pos;

use super::fixture::*;
use super::*;
use crate::log::RecordKind;
use crate::sim_disk::{At, Crash, Fault, SimDisk};

#[derive(Default)]
struct Acks {
    /// Seen by the application; survives a crash of the daemon.
    seen: Pos0,
    /// Survives a power loss.
    durable: Pos0,
    /// Was taken back: must not come again.
    dead: Vec<Pos>,
    history: Vec<(Pos, Image)>,
}

/// A position's number, 0 at first.
type Pos0 = u64;

fn script(disk: &SimDisk, a: &mut Acks) -> R<()> {
    let mut p = Primary::new(disk)?;
    let run = steps(&mut p, a);
    a.history.append(&mut p.history);
    run
}

fn steps(p: &mut Primary, a: &mut Acks) -> R<()> {
    // Rollback mode.
    for (pages, changed) in [(3, &[][..]), (5, &[2][..]), (4, &[3][..])] {
        a.durable = p.rollback_commit(pages, changed)?.txid_raw();
        a.seen = a.durable;
    }
    p.stamp(None)?;
    // Prepared and durable, then played back by another process; the same number again.
    let (image, list) = p.next(6, &[2]);
    let id = p.write_journal(&[1, 2], None)?;
    p.write_pages(&image, &list)?;
    let pos = p.log_tx(RecordKind::Rollback(id), &image, &list, None)?;
    p.r.log.sync()?;
    p.fsync_db()?;
    let old = p.image.clone();
    p.write_pages(&old, &[1, 2])?;
    p.cut_db(old.len())?;
    p.fsync_db()?;
    p.r.log.rewind(p.history[3].0)?;
    a.dead.push(pos);
    p.unlink(&files().journal())?;
    a.durable = p.rollback_commit(6, &[4])?.txid_raw();
    a.seen = a.durable;
    // WAL mode.
    p.start_wal()?;
    for (pages, changed, full) in [(6, &[2][..], true), (7, &[3][..], true), (7, &[5][..], false)] {
        a.seen = p.wal_commit(pages, changed, full)?.txid_raw();
        if full {
            a.durable = a.seen;
        }
    }
    a.durable = p.r.log.sync()?.txid_raw();
    p.wal_commit(5, &[4], false)?;
    a.seen = p.tip().txid_raw();
    p.checkpoint()?;
    a.durable = a.seen;
    // Restarted.
    p.start_wal()?;
    for changed in [[2], [5]] {
        a.durable = p.wal_commit(6, &changed, true)?.txid_raw();
        a.seen = a.durable;
    }
    // A dropped commit: its writer was killed, the next one overwrites the frames.
    let keep = p.tip();
    let dropped = p.wal_commit(8, &[2, 3], true)?;
    p.r.log.sync()?;
    let image = p.history.iter().rev().find(|h| h.0 == keep).unwrap().1.clone();
    p.r.log.rewind(keep)?;
    // From here on its frames are void: SQLite writes others over them before anybody is answered.
    p.drop_frames(4);
    p.image = image;
    let (image, list) = p.next(7, &[4]);
    let span = p.write_frames(&image, &list)?;
    // Until the new frames are durable the old ones may be there again, whole: then SQLite would recover
    // them, and so do we.
    p.fsync_wal()?;
    a.dead.push(dropped);
    a.durable = p.log_tx(RecordKind::Wal, &image, &list, Some(span))?.txid_raw();
    p.image = image;
    a.seen = a.durable;
    p.r.log.sync()?;
    Ok(())
}

fn check(disk: &SimDisk, a: &Acks, power_loss: bool, what: &str) {
    let r = recover(disk, OnAnomaly::Primary).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(r.set_aside.is_empty(), "{what}: {:?}", r.notes);
    check_sound(disk, &r, what);
    let at_least = if power_loss { a.durable } else { a.seen };
    assert!(r.pos.txid_raw() >= at_least, "{what}: acknowledged {at_least}, found {}; {:?}", r.pos, r.notes);
    assert!(!a.dead.contains(&r.pos), "{what}: {} was taken back", r.pos);
    let known = a.history.iter().find(|h| h.0 == r.pos);
    let image = image_of(disk, r.page_count);
    match known {
        Some(h) => assert!(h.1 == image, "{what}: content at {}", r.pos),
        None => panic!("{what}: {} never was; {:?}", r.pos, r.notes),
    }
    let pos = r.pos;
    drop(r);
    let again = recover(&disk.crash(Crash::LoseAll), OnAnomaly::Primary).unwrap();
    assert_eq!(again.pos, pos, "{what}: second recovery");
}

#[test]
fn every_operation_may_be_the_last() {
    let whole = disk();
    script(&whole, &mut Acks::default()).unwrap();
    let trace = whole.trace();
    for (i, op) in trace.iter().enumerate() {
        for fault in [Fault::Stop, Fault::TornStop] {
            let d = disk();
            d.arm(At::Nth(i), fault);
            let mut a = Acks::default();
            assert!(script(&d, &mut a).is_err());
            if a.history.is_empty() {
                a.history.push((Pos::ZERO, Vec::new()));
            }
            let what = |c: &str| format!("op {i} {op} {fault:?} {c}");
            check(&d.crash(Crash::KeepAll), &a, false, &what("kill"));
            check(&d.crash(Crash::LoseAll), &a, true, &what("power"));
            for s in 0..3 {
                let seed = i as u64 * 17 + s;
                check(&d.crash(Crash::Random(seed)), &a, true, &what(&format!("power, seed {seed}")));
            }
        }
    }
}

#[test]
fn recovery_may_be_stopped_anywhere() {
    let whole = disk();
    script(&whole, &mut Acks::default()).unwrap();
    let trace = whole.trace();
    // In the middle of: a rollback transaction, a checkpoint, a stamp, a commit after a restart.
    let last = |name: &str| trace.iter().rposition(|o| o.name() == name).unwrap();
    let first = |name: &str| trace.iter().position(|o| o.name() == name).unwrap();
    let starts = [
        first("log.rewind") - 3,
        first("log.rewind") + 1,
        first("sums.stamp"),
        last("sums.blocks"),
        last("sums.stamp-sync"),
        last("log.rewind"),
        trace.len() - 1,
    ];
    for start in starts {
        let d = disk();
        d.arm(At::Nth(start), Fault::TornStop);
        let mut a = Acks::default();
        assert!(script(&d, &mut a).is_err());
        for (crash, power) in [(Crash::KeepAll, false), (Crash::LoseAll, true), (Crash::Random(5), true)] {
            let found = d.crash(crash);
            let dry = found.crash(Crash::KeepAll);
            let done = recover(&dry, OnAnomaly::Primary).unwrap();
            for i in 0..dry.trace().len() {
                for again in [Crash::KeepAll, Crash::LoseAll, Crash::Random(i as u64)] {
                    let d = found.crash(Crash::KeepAll);
                    d.arm(At::Nth(i), Fault::TornStop);
                    assert!(recover(&d, OnAnomaly::Primary).is_err());
                    let d = d.crash(again);
                    let what = format!("start {start} {crash:?} op {i} {} {again:?}", dry.trace()[i]);
                    check(&d, &a, power, &what);
                    let r = recover(&d, OnAnomaly::Primary).unwrap();
                    assert_eq!(r.pos, done.pos, "{what}");
                }
            }
        }
    }
}

/// Cut from outside and redone from the log: the file has its length long before it has its pages.
#[test]
fn a_shortened_file_may_be_redone_in_several_goes() {
    for clean in [true, false] {
        let whole = disk();
        let mut p = Primary::new(&whole).unwrap();
        for changed in [&[][..], &[4, 5], &[2, 5], &[3], &[5]] {
            p.rollback_commit(6, changed).unwrap();
        }
        p.stamp(None).unwrap();
        let (tip, image) = (p.tip(), p.image.clone());
        if clean {
            p.stop().unwrap();
        }
        let short = whole.crash(Crash::KeepAll);
        short.put(files().database(), &image[..2].concat());
        let dry = short.crash(Crash::KeepAll);
        recover(&dry, OnAnomaly::Replica).unwrap();
        for (i, op) in dry.trace().iter().enumerate() {
            for again in [Crash::KeepAll, Crash::LoseAll, Crash::Random(i as u64)] {
                let what = format!("clean {clean} op {i} {op} {again:?}");
                let d = short.crash(Crash::KeepAll);
                d.arm(At::Nth(i), Fault::TornStop);
                assert!(recover(&d, OnAnomaly::Replica).is_err(), "{what}");
                let d = d.crash(again);
                let r = recover(&d, OnAnomaly::Replica).unwrap();
                assert!(r.set_aside.is_empty(), "{what}: {:?}", r.notes);
                assert_eq!(r.pos, tip, "{what}");
                assert!(image_of(&d, 6) == image, "{what}: {:?}", r.notes);
                check_sound(&d, &r, &what);
            }
        }
    }
}
