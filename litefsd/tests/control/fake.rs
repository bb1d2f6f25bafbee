//! A daemon in memory: enough of one for the control socket and its tools.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use litefs_api::{
    ApiError, DataStatus, DatabaseStatus, ErrorCode, Health, Imported, LeaseStatus, LogStatus, LtxEntry,
    LtxList, MountStatus, NodeStatus, PrimaryStatus, Probe, ReplicaDatabase, ReplicaStatus, Role, Status,
    rfc3339,
};
use litefs_types::{Checksum, DbName, Pos, Timestamp, Txid};
use litefsd::control::{ControlBackend, Export, ImportSink, LtxFile};
use tokio::sync::{mpsc, watch};

/// One database of the fake.
#[derive(Clone)]
pub struct FakeDb {
    pub bytes: Vec<u8>,
    pub txid: u64,
    /// LTX files, the first of transaction 1.
    pub log: Vec<Vec<u8>>,
}

/// See the module documentation. Fields are switches for tests.
pub struct Fake {
    pub databases: Arc<Mutex<BTreeMap<String, FakeDb>>>,
    pub primary: AtomicBool,
    pub primary_url: Mutex<Option<String>>,
    pub ready: AtomicBool,
    /// Answers of `export` end early.
    pub cut_exports: AtomicBool,
    /// Health checks hang this many milliseconds.
    pub slow_health: Mutex<u64>,
    changes: watch::Sender<u64>,
    subscribers: Mutex<Vec<mpsc::Sender<Bytes>>>,
    pub sinks_dropped: Arc<AtomicBool>,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            databases: Arc::default(),
            primary: AtomicBool::new(true),
            primary_url: Mutex::default(),
            ready: AtomicBool::new(true),
            cut_exports: AtomicBool::new(false),
            slow_health: Mutex::new(0),
            changes: watch::Sender::new(0),
            subscribers: Mutex::default(),
            sinks_dropped: Arc::default(),
        })
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>, txid: u64) {
        self.databases.lock().unwrap().insert(name.into(), FakeDb { bytes, txid, log: Vec::new() });
        self.changes.send_modify(|n| *n += 1);
    }

    pub fn event(&self, line: &str) {
        let line = Bytes::from(format!("{line}\n"));
        self.subscribers.lock().unwrap().retain(|s| s.try_send(line.clone()).is_ok());
    }

    pub fn end_events(&self) {
        self.subscribers.lock().unwrap().clear();
    }

    fn is_primary(&self) -> bool {
        self.primary.load(Ordering::SeqCst)
    }
}

fn pos(txid: u64) -> Pos {
    Txid::new(txid).map_or(Pos::ZERO, |t| Pos::new(t, Checksum::new(txid * 7919)))
}

fn status_of(name: &str, db: &FakeDb) -> DatabaseStatus {
    DatabaseStatus {
        name: name.into(),
        position: pos(db.txid).into(),
        page_size: if db.bytes.is_empty() { 0 } else { 4096 },
        page_count: (db.bytes.len() / 4096) as u32,
        size: db.bytes.len() as u64,
        journal_mode: "wal".into(),
        dropped: db.bytes.is_empty(),
        log: LogStatus {
            bytes: db.log.iter().map(|l| l.len() as u64).sum(),
            first_txid: (!db.log.is_empty()).then(|| Txid::FIRST.to_string()),
            last_txid: (!db.log.is_empty()).then(|| format!("{:016x}", db.txid)),
        },
        open_handles: Some(1),
        last_change: Some(rfc3339(Timestamp::from_millis(1_795_395_498_960))),
        trouble: None,
    }
}

impl ControlBackend for Fake {
    fn status(&self) -> Status {
        let is_primary = self.is_primary();
        let url = self.primary_url.lock().unwrap().clone();
        let primary = Some(PrimaryStatus { hostname: "node1".into(), url });
        let ready = self.ready.load(Ordering::SeqCst);
        let replica = ReplicaStatus {
            id: Some("4830FFC82B0CA170".into()),
            name: None,
            address: "10.0.0.2:41234".into(),
            connected_ms: 5000,
            lag_ms: Some(3),
            databases: BTreeMap::from([(
                "my.db".to_owned(),
                ReplicaDatabase {
                    txid: "0000000000000001".into(),
                    behind: 2,
                    applied: Some("0000000000000000".into()),
                    durable: Some("0000000000000000".into()),
                    unapplied: Some(3),
                    held: Some("why, and what to do".into()),
                },
            )]),
        };
        Status {
            node: NodeStatus {
                id: "9FC2C35C50D4EE3A".into(),
                name: if is_primary { "node1" } else { "node2" }.into(),
                hostname: "host".into(),
                version: "0.1.0".into(),
                pid: std::process::id(),
                uptime_ms: 61_000,
                advertise_url: None,
            },
            cluster_id: Some("LFSC0000000000000007".into()),
            role: if is_primary { Role::Primary } else { Role::Replica },
            primary,
            lease: LeaseStatus {
                r#type: "static".into(),
                candidate: is_primary,
                held: is_primary,
                remaining_ms: None,
            },
            epoch: None,
            lag_ms: Some(if is_primary { 0 } else { 12 }),
            mount: MountStatus { path: "/litefs".into(), mounted: true },
            data: DataStatus { path: "/var/lib/litefs".into(), free: Some(1 << 30), total: Some(1 << 31) },
            health: self.health(Probe::Ready),
            replicas: if is_primary { vec![replica] } else { vec![] },
            databases: self.databases.lock().unwrap().iter().map(|(n, d)| status_of(n, d)).collect(),
        }
        .tap(|s| {
            s.health = Health { ok: ready, reasons: if ready { vec![] } else { vec!["catching up".into()] } }
        })
    }

    fn position(&self, name: &DbName) -> Option<Pos> {
        self.databases.lock().unwrap().get(name.as_str()).map(|d| pos(d.txid))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn events(&self) -> Option<mpsc::Receiver<Bytes>> {
        let (tx, rx) = mpsc::channel(1024);
        tx.try_send(Bytes::from_static(b"{\"type\":\"init\",\"data\":{\"isPrimary\":true}}\n")).ok()?;
        self.subscribers.lock().unwrap().push(tx);
        Some(rx)
    }

    fn metrics(&self) -> String {
        "litefs_is_primary 1\n".into()
    }

    fn health(&self, probe: Probe) -> Health {
        let slow = *self.slow_health.lock().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(slow));
        let ready = self.ready.load(Ordering::SeqCst);
        let ok = match probe {
            Probe::Live => true,
            Probe::Ready => ready,
            Probe::Primary => ready && self.is_primary(),
            Probe::Replica => ready && !self.is_primary(),
        };
        Health { ok, reasons: if ok { vec![] } else { vec![format!("not {}", probe.as_str())] } }
    }

    fn import(
        &self,
        name: &DbName,
        _len: Option<u64>,
        replace: bool,
    ) -> Result<Box<dyn ImportSink>, ApiError> {
        if !self.is_primary() {
            return Err(
                ApiError::new(ErrorCode::NotPrimary, "node2 is a replica").hint("the primary is node1")
            );
        }
        let databases = self.databases.lock().unwrap();
        let old = databases.get(name.as_str());
        if old.is_some() && !replace {
            return Err(ApiError::new(ErrorCode::Exists, format!("database {:?} exists", name.as_str())));
        }
        Ok(Box::new(Sink {
            name: name.to_string(),
            bytes: Vec::new(),
            before: old.map_or(0, |d| d.txid),
            replaced: old.is_some(),
            databases: Arc::clone(&self.databases),
            changes: self.changes.clone(),
            dropped: Arc::clone(&self.sinks_dropped),
            finished: false,
        }))
    }

    fn export(&self, name: &DbName) -> Result<Export, ApiError> {
        let databases = self.databases.lock().unwrap();
        let db = databases.get(name.as_str()).ok_or_else(|| ApiError::no_database(name.as_str()))?.clone();
        let cut = self.cut_exports.load(Ordering::SeqCst);
        Ok(Export {
            pos: pos(db.txid),
            len: db.bytes.len() as u64,
            write: Box::new(move |w| {
                w.write_all(if cut { &db.bytes[..db.bytes.len() / 2] } else { &db.bytes })
            }),
        })
    }

    fn drop_database(&self, name: &DbName) -> Result<Pos, ApiError> {
        let mut databases = self.databases.lock().unwrap();
        let db = databases.remove(name.as_str()).ok_or_else(|| ApiError::no_database(name.as_str()))?;
        Ok(pos(db.txid + 1))
    }

    fn ltx_list(&self, name: &DbName, from: Option<Txid>, limit: usize) -> Result<LtxList, ApiError> {
        let databases = self.databases.lock().unwrap();
        let db = databases.get(name.as_str()).ok_or_else(|| ApiError::no_database(name.as_str()))?;
        let first = from.map_or(1, Txid::get) as usize;
        let entries: Vec<LtxEntry> = (first..=db.log.len())
            .take(limit)
            .map(|n| LtxEntry {
                min_txid: format!("{n:016x}"),
                max_txid: format!("{n:016x}"),
                pre_checksum: pos(n as u64 - 1).checksum().to_string(),
                post_checksum: pos(n as u64).checksum().to_string(),
                page_size: 4096,
                commit: 2,
                timestamp: rfc3339(Timestamp::from_millis(0)),
                size: db.log[n - 1].len() as u64,
            })
            .collect();
        let end = first + entries.len();
        Ok(LtxList { next: (end <= db.log.len()).then(|| format!("{end:016x}")), entries })
    }

    fn ltx(&self, name: &DbName, txid: Txid) -> Result<LtxFile, ApiError> {
        let databases = self.databases.lock().unwrap();
        let db = databases.get(name.as_str()).ok_or_else(|| ApiError::no_database(name.as_str()))?;
        let bytes = db.log.get(txid.get() as usize - 1).cloned().ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("transaction {txid} is not in the log"))
        })?;
        Ok(LtxFile { len: bytes.len() as u64, reader: Box::new(Cursor::new(bytes)) })
    }
}

trait Tap: Sized {
    fn tap(mut self, f: impl FnOnce(&mut Self)) -> Self {
        f(&mut self);
        self
    }
}
impl Tap for Status {}

struct Sink {
    name: String,
    bytes: Vec<u8>,
    before: u64,
    replaced: bool,
    databases: Arc<Mutex<BTreeMap<String, FakeDb>>>,
    changes: watch::Sender<u64>,
    dropped: Arc<AtomicBool>,
    finished: bool,
}

impl ImportSink for Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Imported, ApiError> {
        if !self.bytes.starts_with(b"SQLite format 3\0") {
            return Err(ApiError::new(ErrorCode::InvalidDatabase, "not a SQLite database"));
        }
        self.finished = true;
        let size = self.bytes.len() as u64;
        let db = FakeDb { bytes: std::mem::take(&mut self.bytes), txid: self.before + 1, log: Vec::new() };
        self.databases.lock().unwrap().insert(self.name.clone(), db);
        self.changes.send_modify(|n| *n += 1);
        let position = pos(self.before + 1).into();
        Ok(Imported { name: self.name.clone(), position, size, replaced: self.replaced })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.finished {
            self.dropped.store(true, Ordering::SeqCst);
        }
    }
}
