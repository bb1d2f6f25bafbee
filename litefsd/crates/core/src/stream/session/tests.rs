//! Tests of [`super`].

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use litefs_types::Checksum;
use proptest::prelude::*;

use super::*;

/// A primary whose databases are chains of positions; `first` is what the log still holds.
#[derive(Default, Clone)]
struct Primary(BTreeMap<DbName, (Vec<Pos>, u64)>);

impl Primary {
    fn commit(&mut self, name: &DbName, sum: u64) {
        let (chain, _) = self.0.entry(name.clone()).or_default();
        let txid = Txid::new(chain.len() as u64 + 1).unwrap();
        chain.push(Pos::new(txid, Checksum::new(sum)));
    }
}

impl Source for Primary {
    fn pos(&self, db: &DbName) -> Option<Pos> {
        self.0.get(db).map(|(chain, _)| chain.last().copied().unwrap_or(Pos::ZERO))
    }
    fn log(&self, db: &DbName, txid: Txid) -> Option<LogFacts> {
        let (chain, first) = self.0.get(db)?;
        let i = txid.get() as usize - 1;
        let pre = i.checked_sub(1).map_or(Checksum::NONE, |i| chain[i].checksum());
        (txid.get() >= *first).then_some(LogFacts { pre_apply: pre, post: *chain.get(i)? })
    }
    fn hwm(&self, _db: &DbName) -> Option<Txid> {
        Txid::new(7)
    }
}

fn db(name: &str) -> DbName {
    name.parse().unwrap()
}

/// Does what the session says until it waits or closes; checks entries against the replica.
fn run(s: &mut Session, p: &Primary, replica: &mut PosMap) -> Vec<alloc::string::String> {
    let mut log = Vec::new();
    loop {
        let action = s.next(Timestamp::from_millis(5), p);
        match &action {
            Action::Wait => return log,
            Action::Close => {
                log.push("close".to_string());
                return log;
            }
            Action::Frame(Frame::Hwm { db, txid }) => {
                log.push(alloc::format!("hwm {db} {}", txid.map_or(0, Txid::get)));
            }
            Action::Frame(f) => log.push(alloc::format!("{f:?}")),
            Action::Entry { db, txid } => {
                let facts = p.log(db, *txid).unwrap();
                assert_eq!(facts.pre_apply, replica[db].checksum());
                assert_eq!(replica[db].next_txid(), *txid);
                log.push(alloc::format!("{db} {}", txid.get()));
                replica.insert(db.clone(), facts.post);
                s.sent(facts.post, p);
            }
            Action::Snapshot { db, .. } => {
                let pos = p.pos(db).unwrap();
                log.push(alloc::format!("{db} 1-{}", pos.txid_raw()));
                replica.insert(db.clone(), pos);
                s.sent(pos, p);
            }
        }
        assert!(log.len() < 10_000);
    }
}

#[test]
fn a_session() {
    let (a, b) = (db("a"), db("b"));
    let mut p = Primary::default();
    for i in 1..=3 {
        p.commit(&a, i);
    }
    p.commit(&b, 9);
    let mut replica = PosMap::from([(a.clone(), p.log(&a, Txid::FIRST).unwrap().post), (db("x"), Pos::ZERO)]);
    let mut s = Session::new(replica.clone(), Filter::All, [a.clone(), b.clone()]);
    let got = run(&mut s, &p, &mut replica);
    // One file each in turn; Ready when all is sent, then the first heartbeat.
    let beat = "Heartbeat(Timestamp(5))";
    let want = ["a 2", "hwm a 7", "b 1-1", "DropDb { db: DbName(\"x\") }", "a 3", "hwm a 7", "Ready", beat];
    assert_eq!(got, want);
    assert!(run(&mut s, &p, &mut replica).is_empty(), "nothing happened, nothing is sent");
    s.tick();
    assert_eq!(run(&mut s, &p, &mut replica), [beat]);
    p.commit(&b, 10);
    s.changed(&b);
    s.changed(&a);
    assert_eq!(run(&mut s, &p, &mut replica), ["b 2", "hwm b 7"]);
    p.commit(&a, 11);
    s.changed(&a);
    s.hand_off("lease".into());
    let want = ["a 4", "hwm a 7", "Handoff { lease_id: \"lease\" }", "End", "close"];
    assert_eq!(run(&mut s, &p, &mut replica), want);
    assert_eq!(run(&mut s, &p, &mut replica), ["close"]);
    s.close();
    assert_eq!(s.next(Timestamp::from_millis(0), &p), Action::Close);
}

#[test]
fn a_busy_database_does_not_hold_up_ready() {
    let a = db("a");
    let mut p = Primary::default();
    p.commit(&a, 1);
    p.commit(&a, 2);
    let start = p.log(&a, Txid::FIRST).unwrap().post;
    let mut s = Session::new(PosMap::from([(a.clone(), start)]), Filter::All, []);
    for i in 3..100 {
        match s.next(Timestamp::from_millis(0), &p) {
            Action::Entry { db, txid } => s.sent(p.log(&db, txid).unwrap().post, &p),
            Action::Frame(Frame::Ready) => return,
            _ => {}
        }
        p.commit(&a, i);
        s.changed(&a);
    }
    panic!("never ready");
}

#[test]
fn an_entry_that_is_gone_becomes_a_snapshot() {
    let a = db("a");
    let mut p = Primary::default();
    p.commit(&a, 1);
    p.commit(&a, 2);
    let start = p.log(&a, Txid::FIRST).unwrap().post;
    let mut s = Session::new(PosMap::from([(a.clone(), start)]), Filter::All, []);
    let now = Timestamp::from_millis(0);
    let entry = Action::Entry { db: a.clone(), txid: Txid::new(2).unwrap() };
    assert_eq!(s.next(now, &p), entry);
    assert_eq!(s.next(now, &p), entry, "repeated until reported");
    s.unavailable();
    assert_eq!(s.next(now, &p), Action::Snapshot { db: a, reason: SnapshotReason::Nothing });
    s.close();
    assert_eq!((s.next(now, &p), s.next(now, &p)), (Action::Frame(Frame::End), Action::Close));
}

#[test]
fn filters() {
    assert_eq!(Filter::parse(""), Filter::All);
    let some = Filter::parse("a,../b");
    assert!(some.admits(&db("a")) && !some.admits(&db("b")));
    assert!(!Filter::parse("../b").admits(&db("b")), "a filter of nonsense is not everything");
    let mut s = Session::new(PosMap::from([(db("b"), Pos::ZERO)]), some, vec![db("a"), db("c")]);
    s.changed(&db("c"));
    let mut p = Primary::default();
    p.commit(&db("a"), 1);
    p.commit(&db("c"), 1);
    let mut replica = PosMap::new();
    assert_eq!(run(&mut s, &p, &mut replica)[..2], ["a 1-1", "Ready"]);
    assert_eq!(replica.len(), 1);
}

proptest! {
    /// Whatever the replica claims and whatever happens meanwhile: it ends up with our positions.
    #[test]
    fn converges(
        claims in proptest::collection::btree_map(0usize..4, (0u64..8, 0u64..3), 0..4),
        ops in proptest::collection::vec((0usize..4, 0u64..3, 0u32..4), 0..60),
    ) {
        let names = ["a", "b", "c", "d"].map(db);
        let mut p = Primary::default();
        for name in &names[..3] {
            p.commit(name, 1);
            p.commit(name, 2);
        }
        let mut replica: PosMap = claims.into_iter().map(|(i, (t, c))| {
            (names[i].clone(), Txid::new(t).map_or(Pos::ZERO, |t| Pos::new(t, Checksum::new(c))))
        }).collect();
        let mut s = Session::new(replica.clone(), Filter::All, p.0.keys().cloned());
        for (i, sum, kind) in ops {
            match kind {
                0 | 1 => {
                    p.commit(&names[i], sum);
                    s.changed(&names[i]);
                }
                2 => { run(&mut s, &p, &mut replica); }
                _ => if let Some((chain, first)) = p.0.get_mut(&names[i]) { *first = chain.len() as u64 },
            }
        }
        run(&mut s, &p, &mut replica);
        prop_assert!(s.is_ready());
        for name in p.0.keys() {
            prop_assert_eq!(replica.get(name).copied(), p.pos(name));
        }
    }
}

#[test]
fn a_database_that_is_held_back_stops_no_other() {
    let (a, b) = (db("a"), db("b"));
    let mut p = Primary::default();
    let mut replica = PosMap::new();
    for name in [&a, &b] {
        p.commit(name, 1);
        replica.insert(name.clone(), p.pos(name).unwrap());
    }
    let mut s = Session::new(replica.clone(), Filter::All, [a.clone(), b.clone()]);
    run(&mut s, &p, &mut replica);
    p.commit(&a, 2);
    p.commit(&b, 2);
    s.changed(&a);
    s.changed(&b);
    let entry = Action::Entry { db: a.clone(), txid: Txid::new(2).unwrap() };
    assert_eq!(s.next(Timestamp::from_millis(5), &p), entry);
    s.hold();
    assert_eq!(run(&mut s, &p, &mut replica), ["b 2", "hwm b 7"]);
    assert_eq!(s.client_pos(&a).txid_raw(), 1);
    // Looked at again when it changes, and with the same result.
    s.changed(&a);
    assert_eq!(s.next(Timestamp::from_millis(5), &p), entry);
    s.hold();
    assert_eq!(s.next(Timestamp::from_millis(5), &p), Action::Wait);
}
