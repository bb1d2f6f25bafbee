//! What dead writers leave behind, and what a replica remembers: without a mount, on a simulated disk.

use std::io::Write as _;
use std::path::PathBuf;

use litefs_core::write_gate::StaticGate;
use litefs_ltx::{Compression, Encoder, Header};
use litefs_types::{NodeId, Txid};

use super::*;
use crate::own_mount::FileKind;
use crate::recover::OnAnomaly;
use crate::sim_disk::SimDisk;
use crate::{ReplicaWrites, Store, StoreOptions, StoreSettings};

const PS: usize = 512;

fn store(primary: bool) -> Arc<Store> {
    store_on(&SimDisk::new(), primary)
}

fn store_on(disk: &SimDisk, primary: bool) -> Arc<Store> {
    let store = Store::open(StoreOptions {
        disk: Arc::new(disk.clone()),
        settings: StoreSettings {
            dir: PathBuf::from("/data"),
            replica_writes: ReplicaWrites::Busy,
            max_log_age: None,
            max_log_size: None,
        },
        node_id: NodeId::new(7),
        gate: Arc::new(if primary { StaticGate::open(1) } else { StaticGate::closed() }),
        notice: Arc::new(()),
        on_anomaly: OnAnomaly::Primary,
    })
    .unwrap();
    store.drive_by_hand();
    store
}

fn database(primary: bool) -> (Arc<Store>, Arc<Database>) {
    let store = store(primary);
    let db = store.create_database(&"db".parse().unwrap()).unwrap();
    (store, db)
}

fn caller() -> Caller {
    Caller { own: false, may_block: true, pid: 1, handle: HandleId(1) }
}

/// Page 1 of a database of `pages` pages.
fn first_page(pages: u32, counter: u32) -> Vec<u8> {
    let mut p = vec![0; PS];
    p[..16].copy_from_slice(b"SQLite format 3\0");
    p[16..18].copy_from_slice(&(PS as u16).to_be_bytes());
    p[18..24].copy_from_slice(&[1, 1, 0, 64, 32, 32]);
    for (at, n) in [(24, counter), (28, pages), (44, 4), (56, 1), (92, counter)] {
        p[at..at + 4].copy_from_slice(&n.to_be_bytes());
    }
    p
}

/// A journal, live, of a database that had no pages; then the first page.
fn begin(db: &Database) -> (OpenedFile, OpenedFile) {
    let file = db.create_file(&caller(), FileKind::Database, false).unwrap();
    let journal = db.create_file(&caller(), FileKind::Journal, false).unwrap();
    let mut head = vec![0; PS];
    head[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    for (at, n) in [(12, 0x1234_5678u32), (20, PS as u32), (24, PS as u32)] {
        head[at..at + 4].copy_from_slice(&n.to_be_bytes());
    }
    db.write(&caller(), FileKind::Journal, &journal, 0, &head, false).unwrap();
    db.write(&caller(), FileKind::Database, &file, 0, &first_page(1, 1), false).unwrap();
    (file, journal)
}

#[test]
fn a_first_transaction_that_is_rolled_back_is_none() {
    let (_store, db) = database(true);
    begin(&db);
    db.truncate(&caller(), FileKind::Database, 0).unwrap();
    db.unlink(&caller(), FileKind::Journal).unwrap();
    assert_eq!((db.pos(), db.log().tip(), db.page_size()), (Pos::ZERO, Pos::ZERO, None));
    assert!(!db.is_dropped());
}

#[test]
fn a_drop_forgets_what_a_dead_writer_prepared() {
    let (_store, db) = database(true);
    let (file, _) = begin(&db);
    db.fsync(&caller(), FileKind::Database, &file).unwrap();
    assert!(db.lock().prepared_rollback.is_some());
    db.drop_database().unwrap();
    assert_eq!((db.pos(), db.log().tip()), (Pos::ZERO, Pos::ZERO));
    // The next database of the name begins anew, and commits.
    let (file, _) = begin(&db);
    db.fsync(&caller(), FileKind::Database, &file).unwrap();
    db.unlink(&caller(), FileKind::Journal).unwrap();
    db.publish_now().unwrap();
    assert_eq!(db.pos().txid_raw(), 1);
    let sums = db.lock().sums.checksum();
    assert_eq!(sums, db.pos().checksum());
    // And once more with a transaction before it.
    let (file, _) = begin(&db);
    db.write(&caller(), FileKind::Database, &file, 0, &first_page(1, 2), false).unwrap();
    db.fsync(&caller(), FileKind::Database, &file).unwrap();
    db.drop_database().unwrap();
    assert!(db.is_dropped());
    assert_eq!((db.pos().txid_raw(), db.log().tip()), (2, db.pos()));
    let g = db.lock();
    assert!(g.prepared_rollback.is_none() && !g.journal.live);
}

#[test]
fn a_drop_ends_a_copy_under_way() {
    let (_store, db) = database(true);
    let file = db.create_file(&caller(), FileKind::Database, false).unwrap();
    db.write(&caller(), FileKind::Database, &file, 0, &first_page(1, 1), false).unwrap();
    assert!(db.lock().import.is_some());
    db.unlink(&caller(), FileKind::Database).unwrap();
    db.flush(&caller(), FileKind::Database).unwrap();
    assert_eq!((db.pos(), db.exists(FileKind::Database)), (Pos::ZERO, false));
}

#[test]
fn a_name_that_is_removed_leads_to_no_file() {
    let (_store, db) = database(true);
    let (_, journal) = begin(&db);
    db.unlink(&caller(), FileKind::Journal).unwrap();
    assert!(!db.exists(FileKind::Journal));
    let next = db.create_file(&caller(), FileKind::Journal, true).unwrap();
    assert_ne!(next.node, journal.node);
    assert!(matches!(db.create_file(&caller(), FileKind::Journal, true), Err(StoreError::Exists)));
    assert_eq!(db.create_file(&caller(), FileKind::Journal, false).unwrap().node, next.node);
}

/// Transaction `n` of a database of one page, which holds its number.
fn send(store: &Store, db: &Database, n: u32) -> Pos {
    let page = first_page(1, n);
    let sum = litefs_ltx::checksum::page_checksum(PageNo::FIRST, &page);
    let ps = PageSize::new(PS as u32).unwrap();
    let mut header = Header::new(ps, 1, Txid::new(u64::from(n)).unwrap(), db.lock().tip.checksum());
    header.node_id = NodeId::new(9);
    let mut spool = store.spool(db.name(), 1 << 20);
    let mut enc = Encoder::new(Vec::new(), header, Compression::None).unwrap();
    enc.page(PageNo::FIRST, &page).unwrap();
    spool.write_all(&enc.finish(Checksum::EMPTY.replace(Checksum::NONE, sum)).unwrap().1).unwrap();
    db.apply(spool.finish().unwrap()).unwrap()
}

#[test]
fn a_replica_needs_no_log_for_what_its_file_holds() {
    let (store, db) = database(false);
    for n in 1..=5 {
        let pos = send(&store, &db, n);
        assert_eq!(db.lock().complete_at, pos, "transaction {n}");
        db.stamp(false).unwrap();
        let floor = db.sums_file().floor();
        assert_eq!(floor, pos.txid());
    }
}

/// The kernel sends a page in two parts; the second, which completes the commit, is refused, and SQLite tries
/// it again alone.
#[test]
fn the_rest_of_a_refused_commit_is_refused_too() {
    use litefs_sqlite::wal::{FrameHeader, WalHeader};
    use litefs_sqlite::wal_checksum::ByteOrder;

    use crate::log::ops;
    use crate::sim_disk::{At, Fault};

    let disk = SimDisk::new();
    let store = store_on(&disk, true);
    let db = store.create_database(&"db".parse().unwrap()).unwrap();
    db.create_file(&caller(), FileKind::Database, false).unwrap();
    let wal = db.create_file(&caller(), FileKind::Wal, false).unwrap();
    let write = |offset: u64, data: &[u8]| db.write(&caller(), FileKind::Wal, &wal, offset, data, false);
    let ps = PageSize::new(PS as u32).unwrap();
    let header = WalHeader::new(ps, ByteOrder::Little, 0, [1, 2]);
    write(0, &header.encode()).unwrap();
    let page = first_page(1, 1);
    let frame = FrameHeader::chained(&header, header.header_checksum, 1, 1, &page).encode();
    let (first, rest) = page.split_at(PS / 2);
    for full in [true, false] {
        write(32, &frame).unwrap();
        write(56, first).unwrap();
        let at = 56 + first.len() as u64;
        if !full {
            write(at, rest).unwrap();
            continue;
        }
        disk.arm(At::NthOf(ops::APPEND, 0), Fault::Error(libc::ENOSPC));
        for attempt in ["refused", "tried again", "and again"] {
            let e = write(at, rest).unwrap_err();
            assert_eq!(e.errno(), libc::ENOSPC, "{attempt}: {e:?}");
            assert!(db.lock().prepared.is_empty());
        }
        disk.disarm();
    }
    assert_eq!(db.lock().prepared.len(), 1, "a new header begins anew");
    assert!(db.poisoned().is_none());
}
