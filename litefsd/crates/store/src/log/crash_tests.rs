//! Crash matrix: a script of log operations, stopped at every disk operation × {before, torn, after} and
//! restarted with everything kept, everything lost, or a mixture.
//!
//! Checked after each: what a finished sync covered is there and unchanged (unless rewound), what was
//! rewound durably is not, the records are contiguous, and the log can be used.

use super::tests::{bytes, fresh, meta, open, payload, pos, put, sum, txid};
use super::*;
use crate::sim_disk::{At, Crash, Fault, SimDisk};
use crate::spool::SpoolWriter;
use std::io::Write;
use std::time::Duration;

/// What must hold after a restart.
#[derive(Default, Clone)]
struct Expect {
    /// Synced and not rewound: transactions up to this one.
    durable: u64,
    /// The log may not reach behind this one (a durable rewind), unless new ones were appended.
    at_most: u64,
    /// The flavour of each transaction ever appended, by number; the last one counts.
    flavours: Vec<(u64, u64, usize)>,
    /// First transaction that must be readable, if durable.
    first: u64,
}

impl Expect {
    fn append(&mut self, log: &Log, n: u64, flavour: u64, len: usize) -> Result<()> {
        self.flavours.push((n, flavour, len));
        self.at_most = self.at_most.max(n);
        put(log, n, &payload(n, flavour, len)).map(|_| ())
    }

    fn sync(&mut self, log: &Log) -> Result<()> {
        self.durable = log.sync()?.txid_raw();
        Ok(())
    }
}

/// A bit of everything; stops at the first error, as the store would.
fn script(disk: &SimDisk, x: &mut Expect) -> Result<()> {
    x.first = 1;
    let (log, _) = Log::open(Arc::new(disk.clone()), super::tests::DIR, None)?;
    for n in 1..=3 {
        x.append(&log, n, 0, 900)?;
    }
    x.sync(&log)?;
    x.append(&log, 4, 0, 900)?;
    x.append(&log, 5, 0, 900)?;
    x.sync(&log)?;
    // Prepared, durable, dropped; written again with another content, the first one of the same length.
    x.durable = 3;
    log.rewind(pos(3))?;
    x.at_most = 3;
    x.append(&log, 4, 1, 900)?;
    x.sync(&log)?;
    // Over two segment switches, a streamed record among them.
    for n in 5..=9 {
        x.append(&log, n, 0, 7_600)?;
    }
    x.append(&log, 10, 0, 40_000)?;
    x.sync(&log)?;
    log.prepare_spare()?;
    for n in 11..=16 {
        x.append(&log, n, 0, 7_600)?;
    }
    x.sync(&log)?;
    let mut w = SpoolWriter::new(Arc::new(disk.clone()), "/db/spool", u64::MAX);
    w.write_all(&payload(17, 0, 70_000)).map_err(LogError::io(ops::APPEND))?;
    let w = w.finish().map_err(LogError::io(ops::APPEND))?;
    x.flavours.push((17, 0, 70_000));
    x.at_most = 17;
    log.append_spooled(meta(17), w, sum(17))?;
    x.append(&log, 18, 0, 900)?;
    x.sync(&log)?;
    x.first = 11;
    log.trim(Timestamp::from_millis(10_500), Duration::ZERO, None, Some(txid(18)))?;
    for n in 19..=24 {
        x.append(&log, n, 0, 7_600)?;
    }
    x.sync(&log)?;
    // Back over a segment switch.
    x.durable = 19;
    log.rewind(pos(19))?;
    x.at_most = 19;
    x.append(&log, 20, 1, 500)?;
    let mut a = log.append(RecordMeta { kind: RecordKind::Rollback(JournalId::default()), ..meta(21) })?;
    x.flavours.push((21, 1, 500));
    x.at_most = 21;
    a.write_all(&payload(21, 1, 500)).map_err(LogError::io(ops::APPEND))?;
    a.finish(sum(21))?;
    log.mark_committed(txid(21))?;
    x.sync(&log)?;
    log.close()?;
    x.append(&log, 22, 2, 500)?;
    x.sync(&log)?;
    Ok(())
}

fn check(disk: &SimDisk, x: &Expect, what: &str) {
    // Nothing is before the floor but what was trimmed.
    let floor = if x.first > 1 { 10 } else { 0 };
    let (log, _) = open(disk, floor);
    let tip = log.tip().txid_raw();
    assert!(tip >= x.durable, "{what}: synced up to {}, found {tip}", x.durable);
    assert!(tip <= x.at_most, "{what}: rewound to {}, found {tip}", x.at_most);
    let first = log.first().map_or(tip + 1, Txid::get);
    assert!(x.durable == 0 || first <= x.first, "{what}: begins at {first}");
    for n in first..=tip {
        let found = bytes(&log, n).unwrap_or_else(|| panic!("{what}: {n} missing"));
        let ok = x.flavours.iter().rev().find(|f| f.0 == n).is_some_and(|f| found == payload(n, f.1, f.2));
        assert!(ok, "{what}: {n} has other bytes");
    }
    put(&log, tip + 1, b"goes on").unwrap();
    log.sync().unwrap();
    drop(log);
    let (log, _) = open(&disk.crash(Crash::LoseAll), floor);
    assert_eq!(log.tip(), pos(tip + 1), "{what}: second restart");
}

#[test]
fn every_operation_may_be_the_last() {
    let whole = fresh();
    let mut x = Expect::default();
    script(&whole, &mut x).unwrap();
    let n = whole.trace().len();
    assert!(n > 100);
    for i in 0..n {
        for fault in [Fault::Stop, Fault::TornStop, Fault::StopAfter] {
            let disk = fresh();
            disk.arm(At::Nth(i), fault);
            let mut x = Expect::default();
            assert!(script(&disk, &mut x).is_err() || i + 1 == n);
            let seeds = (0..3).map(|s| Crash::Random(i as u64 * 31 + s));
            for crash in [Crash::KeepAll, Crash::LoseAll].into_iter().chain(seeds) {
                check(&disk.crash(crash), &x, &format!("op {i} {} {fault:?} {crash:?}", whole.trace()[i]));
            }
        }
    }
}

#[test]
fn opening_may_be_interrupted_too() {
    let whole = fresh();
    let mut x = Expect::default();
    // Stopped in the middle of an append behind a rewind, with a torn record at the end.
    whole.arm(At::Nth(70), Fault::TornStop);
    assert!(script(&whole, &mut x).is_err());
    for seed in 0..20 {
        let start = whole.crash(Crash::Random(seed));
        for i in 0..10 {
            let disk = start.crash(Crash::KeepAll);
            disk.arm(At::Nth(i), Fault::TornStop);
            let opened = Log::open(Arc::new(disk.clone()), super::tests::DIR, None);
            drop(opened);
            for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Random(seed + 100)] {
                check(&disk.crash(crash), &x, &format!("seed {seed} open op {i} {crash:?}"));
            }
        }
    }
}

#[test]
fn a_reset_is_all_or_nothing() {
    let run = |disk: &SimDisk| -> Result<bool> {
        let (log, _) = Log::open(Arc::new(disk.clone()), super::tests::DIR, None)?;
        for n in 1..=12 {
            put(&log, n, &payload(n, 0, 7_600))?;
        }
        log.sync()?;
        log.reset(pos(500), Timestamp::from_millis(1))?;
        put(&log, 501, b"after")?;
        log.sync()?;
        Ok(true)
    };
    let whole = fresh();
    run(&whole).unwrap();
    let reset_from = whole.trace().iter().position(|o| *o == ops::SYNC_DIR).unwrap();
    for i in reset_from..whole.trace().len() {
        for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Random(i as u64), Crash::Random(1000 + i as u64)]
        {
            let disk = fresh();
            disk.arm(At::Nth(i), Fault::TornStop);
            let done = run(&disk).unwrap_or(false);
            let found = disk.crash(crash);
            let (log, _) = open(&found, 0);
            let tip = log.tip().txid_raw();
            let old_sync_done = i > whole.trace().iter().position(|o| *o == ops::RESET).unwrap();
            assert!(tip >= 500 || !old_sync_done, "op {i} {crash:?}: {tip}");
            assert!(!done || tip == 501);
            assert!(tip <= 12 || tip == 500 || tip == 501, "op {i} {crash:?}: {tip}");
        }
    }
}
