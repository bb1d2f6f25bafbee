//! Experiment E29, what is on the disk: segments, sums, journals, WALs, the original's LTX files and whole
//! data directories meet damage, seeded, on a simulated disk. No panic, no endless loop, no memory that a
//! number in a file asked for; recovery always ends, and a second start changes nothing.

mod fuzz_support;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use fuzz_support::{Counting, as_it_is, fuzz, unpack};
use litefs_store::disk::{Disk, Op};
use litefs_store::layout::DataLayout;
use litefs_store::log::Log;
use litefs_store::recover::{self, OnAnomaly};
use litefs_store::sim_disk::SimDisk;
use litefs_store::sums_file::SumsFile;
use litefs_types::{DbName, NodeId, Timestamp, Txid};

#[global_allocator]
static COUNTING: Counting = Counting;

const OP: Op = Op::new("fuzz");

/// Everything in a directory tree of the disk.
fn content(disk: &SimDisk) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    disk.files().into_iter().map(|p| (p.clone(), disk.content(&p).unwrap_or_default())).collect()
}

/// Data directories of the original, and of ours made from them.
fn data_directories() -> Vec<BTreeMap<std::path::PathBuf, Vec<u8>>> {
    let mut all = Vec::new();
    for state in ["primary-running", "replica-stopped"] {
        let disk = SimDisk::new();
        for (path, bytes) in unpack(&format!("datadirs/{state}.tar.gz")) {
            if let Some(path) = path.strip_prefix("data/") {
                disk.put(Path::new("/data").join(path), &bytes);
            }
        }
        all.push(content(&disk));
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let layout = DataLayout::new("/data");
        for e in shared.read_dir(OP, &layout.dbs()).unwrap() {
            let name: DbName = e.name.to_str().unwrap().parse().unwrap();
            drop(open(&shared, &layout, &name, OnAnomaly::Primary).unwrap());
        }
        all.push(content(&disk));
    }
    all
}

fn open(
    disk: &Arc<dyn Disk>,
    layout: &DataLayout,
    name: &DbName,
    policy: OnAnomaly,
) -> litefs_store::Result<recover::Recovered> {
    recover::open(disk, layout, name, policy, NodeId::new(1), Timestamp::from_millis(1_800_000_000_000))
}

/// Recovery of directories in which files are damaged: segments, sums, journals, WALs, LTX files, databases.
#[test]
fn recovery_of_damaged_directories() {
    let directories = data_directories();
    let samples: Vec<Vec<u8>> =
        directories.iter().flat_map(|d| d.values().filter(|b| !b.is_empty()).cloned()).collect();
    fuzz("recovery", &samples, as_it_is, |input, rng| {
        let files = rng.pick(&directories);
        // One database of it, with one file (of whatever kind) replaced by the damaged sample.
        let dbs: Vec<String> = files
            .keys()
            .filter_map(|p| Some(p.strip_prefix("/data/dbs").ok()?.iter().next()?.to_str()?.to_owned()))
            .collect();
        let name = rng.pick(&dbs).clone();
        let layout = DataLayout::new("/data");
        let name: DbName = name.parse().unwrap();
        let dir = layout.db(&name);
        let mine: Vec<&std::path::PathBuf> = files.keys().filter(|p| p.starts_with(dir.dir())).collect();
        let victim = if rng.chance(70) {
            (*rng.pick(&mine)).clone()
        } else {
            let any = [dir.journal(), dir.wal(), dir.sums(), dir.snapshot(), dir.database(), dir.shm()];
            rng.pick(&any).clone()
        };
        let disk = SimDisk::new();
        for path in mine {
            disk.put(path, &files[path]);
        }
        disk.put(&victim, input);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let policy = *rng.pick(&[OnAnomaly::Primary, OnAnomaly::Replica]);
        match open(&shared, &layout, &name, policy) {
            Ok(r) => {
                let (pos, sums) = (r.pos, r.sums.checksum());
                assert!(
                    pos.is_zero() || pos.checksum() == sums,
                    "{}: {pos} {sums} {:?}",
                    victim.display(),
                    r.notes
                );
                drop(r);
                let again = open(&shared, &layout, &name, policy);
                let again = again.unwrap_or_else(|e| panic!("{}: the second start: {e}", victim.display()));
                assert_eq!(again.pos, pos, "{}: a second start changes it", victim.display());
            }
            Err(e) => panic!("{} ({policy:?}): {e}", victim.display()),
        }
    });
}

/// The log alone, and the sums alone, opened and read to the end.
#[test]
fn logs_and_sums() {
    let ours: Vec<(std::path::PathBuf, Vec<u8>)> = data_directories()
        .into_iter()
        .flatten()
        .filter(|(p, b)| !b.is_empty() && (p.ends_with("sums") || p.extension().is_some_and(|e| e == "seg")))
        .collect();
    let samples: Vec<Vec<u8>> = ours.iter().map(|(_, b)| b.clone()).collect();
    fuzz("logs", &samples, as_it_is, |input, rng| {
        let disk = SimDisk::new();
        disk.put("/db/log/0000000000000001.seg", input);
        if rng.chance(50) {
            let second: &Vec<u8> = rng.pick(&samples);
            disk.put("/db/log/0000000000000002.seg", second);
        }
        disk.put("/db/sums", input);
        let shared: Arc<dyn Disk> = Arc::new(disk);
        let floor = *rng.pick(&[None, Txid::new(1), Txid::new(u64::MAX)]);
        if let Ok((log, _)) = Log::open(Arc::clone(&shared), "/db/log", floor) {
            let _ = (
                log.tip(),
                log.first(),
                log.count(),
                log.size_bytes(),
                log.last_time(),
                log.in_doubt().is_ok(),
            );
            let mut at = log.first();
            for _ in 0..2000 {
                let Some(t) = at else { break };
                let Ok(Some(entry)) = log.get(t) else { break };
                let _ = (entry.verify().is_ok(), entry.ltx_header().is_ok(), entry.pre(), entry.post());
                let mut sink = Vec::new();
                let _ = entry.reader().take(1 << 20).read_to_end(&mut sink);
                at = Some(entry.max_txid().next());
            }
        }
        if let Ok(sums) = SumsFile::open(shared, "/db/sums") {
            let _ = (sums.floor(), sums.stamp().is_some());
            let _ = sums.load();
        }
    });
}
