//! Data directories that LiteFS 0.5.14 left behind: opened in place, converted, nothing lost.
//!
//! `vectors/datadirs/{primary,replica}-{running,clients-closed,stopped}.tar.gz` are copies of the data
//! directories of one primary and one replica in three states (`running`: copied under its feet, so as a
//! crash leaves it); `positions.json` holds what their `-pos` files said. Equal positions mean equal
//! content, so all six must give the same database files.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use litefs_ltx::checksum::database_checksum;
use litefs_store::disk::{Disk, Op};
use litefs_store::layout::DataLayout;
use litefs_store::os_disk::OsDisk;
use litefs_store::recover::{self, OnAnomaly, Recovered};
use litefs_store::sim_disk::{At, Crash, Fault, SimDisk};
use litefs_types::{DbName, NodeId, Pos, Timestamp, Txid};

const STATES: [&str; 6] = [
    "primary-running",
    "primary-clients-closed",
    "primary-stopped",
    "replica-running",
    "replica-clients-closed",
    "replica-stopped",
];
const OP: Op = Op::new("test");

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/datadirs")
}

/// Path within the data directory → content.
fn unpack(state: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let file = std::fs::File::open(vectors().join(format!("{state}.tar.gz"))).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut out = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let path = entry.path().unwrap().strip_prefix("data").unwrap().to_path_buf();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            out.insert(path, bytes);
        }
    }
    out
}

fn positions() -> BTreeMap<DbName, Pos> {
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(vectors().join("positions.json")).unwrap()).unwrap();
    assert_eq!(json["bp"], json["br"]);
    let mut out: BTreeMap<DbName, Pos> = json["bp"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| {
            (k.strip_suffix("-pos").unwrap().parse().unwrap(), v.as_str().unwrap().parse().unwrap())
        })
        .collect();
    out.insert("dropped.db".parse().unwrap(), "0000000000000004/8000000000000000".parse().unwrap());
    out
}

fn sim(state: &str) -> (SimDisk, DataLayout) {
    let disk = SimDisk::new();
    for (path, bytes) in unpack(state) {
        disk.put(Path::new("/data").join(path), &bytes);
    }
    (disk, DataLayout::new("/data"))
}

fn open(disk: &SimDisk, layout: &DataLayout, db: &DbName) -> litefs_store::Result<Recovered> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    recover::open(
        &disk,
        layout,
        db,
        OnAnomaly::Replica,
        NodeId::new(1),
        Timestamp::from_millis(1_800_000_000_000),
    )
}

/// The content of a recovered database, after checking everything about it.
fn check(disk: &SimDisk, layout: &DataLayout, db: &DbName, want: Pos, r: &Recovered, what: &str) -> Vec<u8> {
    assert_eq!(r.pos, want, "{what}: {:?}", r.notes);
    assert!(r.set_aside.is_empty(), "{what}: {:?}", r.notes);
    let dir = layout.db(db);
    for gone in [dir.go_ltx(), dir.dir().join("ltx.converted"), dir.wal(), dir.shm(), dir.journal()] {
        assert!(!disk.exists(OP, &gone).unwrap(), "{what}: {} is left", gone.display());
    }
    let Some(ps) = r.page_size else {
        assert_eq!(disk.content(dir.database()), None, "{what}");
        return Vec::new();
    };
    let bytes = disk.content(dir.database()).unwrap();
    assert_eq!(bytes.len() as u64, ps.file_size(r.page_count), "{what}");
    assert_eq!(database_checksum(ps, bytes.chunks(ps.bytes())), want.checksum(), "{what}");
    assert_eq!(r.sums.checksum(), want.checksum(), "{what}");
    bytes
}

#[test]
fn all_six_open_at_the_recorded_positions_with_the_same_content() {
    let mut contents: BTreeMap<DbName, Vec<u8>> = BTreeMap::new();
    for state in STATES {
        let (disk, layout) = sim(state);
        for (db, want) in positions() {
            let what = format!("{state} {db}");
            let r = open(&disk, &layout, &db).unwrap();
            let bytes = check(&disk, &layout, &db, want, &r, &what);
            assert_eq!(contents.entry(db.clone()).or_insert_with(|| bytes.clone()), &bytes, "{what}");
            drop(r);
            // Once converted it is a directory like any other.
            let r = open(&disk.crash(Crash::LoseAll), &layout, &db).unwrap();
            assert_eq!(r.pos, want, "{what}, second start");
            assert!(r.notes.iter().all(|n| !n.contains("converted")), "{what}: {:?}", r.notes);
        }
    }
}

#[test]
fn the_log_holds_the_original_bytes() {
    for state in STATES {
        let files = unpack(state);
        let (disk, layout) = sim(state);
        for (db, want) in positions() {
            let prefix = Path::new("dbs").join(db.as_str()).join("ltx");
            let ltx: Vec<_> = files.iter().filter(|(p, _)| p.starts_with(&prefix)).collect();
            let r = open(&disk, &layout, &db).unwrap();
            assert_eq!(r.log.count(), ltx.len() as u64, "{state} {db}");
            assert_eq!(r.log.first(), Some(Txid::FIRST));
            let mut at = Txid::FIRST;
            for (path, bytes) in ltx {
                let e = r.log.get(at).unwrap().unwrap();
                let mut got = Vec::new();
                e.reader().read_to_end(&mut got).unwrap();
                assert_eq!(&got, bytes, "{state} {}", path.display());
                at = e.max_txid().next();
            }
            assert_eq!(Some(at.get() - 1), want.txid().map(Txid::get));
        }
    }
}

#[test]
fn a_conversion_may_be_stopped_anywhere() {
    for state in ["primary-running", "replica-running"] {
        for (db, want) in positions() {
            let (whole, layout) = sim(state);
            let r = open(&whole, &layout, &db).unwrap();
            let bytes = check(&whole, &layout, &db, want, &r, "whole");
            let trace = whole.trace();
            for (i, op) in trace.iter().enumerate() {
                let (disk, _) = sim(state);
                disk.arm(At::Nth(i), Fault::TornStop);
                assert!(open(&disk, &layout, &db).is_err());
                for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Random(i as u64)] {
                    let what = format!("{state} {db} op {i} {op} {crash:?}");
                    let disk = disk.crash(crash);
                    let r = open(&disk, &layout, &db).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert!(check(&disk, &layout, &db, want, &r, &what) == bytes, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_newest_file_does_not_stop_the_start() {
    let (disk, layout) = sim("primary-stopped");
    let db: DbName = "del.db".parse().unwrap();
    disk.flip_bit("/data/dbs/del.db/ltx/0000000000000010-0000000000000010.ltx", 200, 1);
    let d: Arc<dyn Disk> = Arc::new(disk.clone());
    let now = Timestamp::from_millis(0);
    let r = recover::open(&d, &layout, &db, OnAnomaly::Primary, NodeId::new(1), now).unwrap();
    // The database is ahead of the newest file that can be read: what it holds becomes a transaction.
    assert_eq!((r.pos.txid_raw(), r.set_aside.len()), (0x11, 1), "{:?}", r.notes);
    assert_eq!(r.pos.checksum(), positions()[&db].checksum());
}

#[test]
fn sqlite_reads_what_was_converted() {
    let tmp = tempfile::tempdir().unwrap();
    for (path, bytes) in unpack("primary-running") {
        let path = tmp.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let layout = DataLayout::new(tmp.path());
    for (db, want) in positions() {
        let now = Timestamp::from_millis(0);
        let r = recover::open(&disk, &layout, &db, OnAnomaly::Primary, NodeId::new(1), now).unwrap();
        assert_eq!(r.pos, want);
        if r.page_count == 0 {
            continue;
        }
        // A copy: SQLite leaves companion files.
        let copy = tmp.path().join(format!("copy-{db}"));
        std::fs::copy(layout.db(&db).database(), &copy).unwrap();
        let c = rusqlite::Connection::open(&copy).unwrap();
        let ok: String = c.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(ok, "ok", "{db}");
    }
}
