//! What the control socket tells and does, over the daemon's parts.
//!
//! A translation, like `store_backend`: status must answer when things hang, so nothing here waits for
//! the network, and only imports, exports and drops wait for SQLite's locks.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use litefs_api::{
    ApiError, DataStatus, DatabaseStatus, ErrorCode, Health, Imported, LeaseStatus, LogStatus, LtxEntry,
    LtxList, MountStatus, NodeStatus, Position, PrimaryStatus, Probe, ReplicaDatabase, ReplicaStatus, Role,
    Status,
};
use litefs_config::Settings;
use litefs_store::database::{CheckedImport, Database, ImportFile};
use litefs_store::{Store, StoreError};
use litefs_types::{DbName, Pos, Timestamp, Txid};
use tokio::sync::{mpsc, watch};

use crate::control::{ControlBackend, Export, ImportSink, LtxFile};
use crate::events::rfc3339;
use crate::http::App;
use crate::http::node::{Lag, NodeState};
use crate::primary::changes::ReplicaInfo;

/// See the module documentation.
pub struct DaemonControl {
    store: Arc<Store>,
    node: Arc<NodeState>,
    app: Arc<App>,
    changes: watch::Receiver<u64>,
    facts: Facts,
    open_files: Box<OpenFiles>,
}

/// Files that applications have open in the mount, by database. Must not block.
pub type OpenFiles = dyn Fn() -> BTreeMap<DbName, u32> + Send + Sync;

/// What does not change while the daemon runs.
pub struct Facts {
    /// Mount point.
    pub mount: PathBuf,
    /// `lease.type`.
    pub lease_type: &'static str,
    /// The primary's URL on a replica with a static lease.
    pub primary_url: Option<String>,
    /// The operating system's host name.
    pub os_hostname: String,
    /// The daemon's start.
    pub started: Instant,
}

impl Facts {
    /// From the configuration.
    pub fn new(settings: &Settings, mount: PathBuf, os_hostname: String) -> Self {
        Self {
            mount,
            lease_type: settings.lease.kind.name(),
            primary_url: settings.lease.advertise_url.as_ref().map(|u| format!("http://{}", u.authority())),
            os_hostname,
            started: Instant::now(),
        }
    }
}

impl DaemonControl {
    /// Over these parts. `changes` counts published transactions.
    pub fn new(
        store: Arc<Store>,
        node: Arc<NodeState>,
        app: Arc<App>,
        changes: watch::Receiver<u64>,
        facts: Facts,
        open_files: Box<OpenFiles>,
    ) -> Self {
        Self { store, node, app, changes, facts, open_files }
    }

    fn db(&self, name: &DbName) -> Result<Arc<Database>, ApiError> {
        self.store.database(name.as_str()).ok_or_else(|| ApiError::no_database(name.as_str()))
    }

    fn may_write(&self) -> Result<(), ApiError> {
        if self.store.may_write() {
            return Ok(());
        }
        let e = ApiError::new(ErrorCode::NotPrimary, "this node is not the primary");
        Err(match (&self.facts.primary_url, self.node.primary_hostname()) {
            (Some(url), name) => e.hint(format!("run it on the primary {name} ({url})")),
            (None, _) => e.hint("run it on the primary; `litefsctl status` names it"),
        })
    }

    /// How far a replica is behind what it may have.
    fn replica_databases(&self, replica: &ReplicaInfo) -> BTreeMap<String, ReplicaDatabase> {
        let behind = |name: &DbName, pos: Pos| {
            let here = self.store.database(name.as_str()).map_or(0, |db| db.streamable_pos().txid_raw());
            here.saturating_sub(pos.txid_raw())
        };
        let txid = |pos: Pos| format!("{:016x}", pos.txid_raw());
        replica
            .sent
            .iter()
            .map(|(name, pos)| {
                let ack = replica.acked.get(name);
                let row = ReplicaDatabase {
                    txid: txid(*pos),
                    behind: behind(name, *pos),
                    applied: ack.map(|a| txid(a.applied)),
                    durable: ack.map(|a| txid(a.durable)),
                    unapplied: ack.map(|a| behind(name, a.applied)),
                    held: replica.held.get(name).cloned(),
                };
                (name.as_str().to_owned(), row)
            })
            .collect()
    }

    fn health_now(&self, probe: Probe) -> Health {
        let mut reasons = Vec::new();
        if !mount_answers(&self.facts.mount) {
            reasons.push(format!("the mount {} does not answer", self.facts.mount.display()));
        }
        let ready = *self.node.watch_ready().borrow();
        let primary = self.node.is_primary();
        match probe {
            Probe::Live => {}
            Probe::Ready if ready => {}
            Probe::Primary if ready && primary => {}
            Probe::Replica if ready && !primary => {}
            _ if !ready => reasons.push("has not caught up with a primary yet".into()),
            Probe::Primary => reasons.push("this node is a replica".into()),
            _ => reasons.push("this node is the primary".into()),
        }
        if probe != Probe::Live {
            for db in self.store.databases() {
                if let Some(why) = db.poisoned() {
                    reasons.push(format!("database {}: {why}", db.name()));
                }
            }
        }
        Health { ok: reasons.is_empty(), reasons }
    }
}

/// A `statfs` is answered by the daemon's own handler threads.
fn mount_answers(dir: &std::path::Path) -> bool {
    nix::sys::statvfs::statvfs(dir).is_ok()
}

fn api_error(e: &StoreError) -> ApiError {
    let code = match e {
        StoreError::NotFound => ErrorCode::NotFound,
        StoreError::Exists => ErrorCode::Exists,
        StoreError::Corrupt { .. } => ErrorCode::InvalidDatabase,
        _ => match e.errno() {
            libc::EBUSY => ErrorCode::Busy,
            libc::ENOSPC => ErrorCode::DiskFull,
            libc::EACCES => ErrorCode::NotPrimary,
            _ => ErrorCode::Internal,
        },
    };
    let error = ApiError::new(code, e.to_string());
    match code {
        ErrorCode::Exists => error.hint("add --replace to replace its content"),
        ErrorCode::Busy => {
            error.hint("end the transaction or the process that holds the lock, then try again")
        }
        ErrorCode::DiskFull => error.hint("free space in the data directory"),
        _ => error,
    }
}

fn database_status(db: &Database, open: &BTreeMap<DbName, u32>) -> DatabaseStatus {
    let pos = db.pos();
    let page_size = db.page_size();
    let log = db.log();
    DatabaseStatus {
        name: db.name().as_str().to_owned(),
        position: Position::from(pos),
        page_size: page_size.map_or(0, litefs_types::PageSize::get),
        page_count: db.page_count(),
        size: page_size.map_or(0, |ps| ps.file_size(db.page_count())),
        journal_mode: mode_name(db).to_owned(),
        dropped: db.is_dropped(),
        log: LogStatus {
            bytes: log.size_bytes(),
            first_txid: log.first().map(|t| t.to_string()),
            last_txid: log.first().and_then(|_| log.tip().txid()).map(|t| t.to_string()),
        },
        open_handles: Some(open.get(db.name()).copied().unwrap_or(0)),
        last_change: db.last_timestamp().map(rfc3339),
        trouble: db.poisoned(),
    }
}

fn mode_name(db: &Database) -> &'static str {
    match db.journal_mode() {
        litefs_store::database::JournalMode::Wal => "wal",
        litefs_store::database::JournalMode::Rollback => "rollback",
    }
}

impl ControlBackend for DaemonControl {
    fn status(&self) -> Status {
        let role = self.node.role();
        let ready = *self.node.watch_ready().borrow();
        let shown = match (role.is_primary, role.hostname.is_empty(), ready) {
            (true, ..) => Role::Primary,
            (false, true, _) => Role::Orphan,
            (false, false, true) => Role::Replica,
            (false, false, false) => Role::Starting,
        };
        let now = Timestamp::from_system(SystemTime::now());
        let space = nix::sys::statvfs::statvfs(&self.store.dir()).ok();
        let bytes = |blocks: u64, s: &nix::sys::statvfs::Statvfs| blocks.saturating_mul(s.fragment_size());
        Status {
            node: NodeStatus {
                id: self.node.id.to_string(),
                name: if role.is_primary {
                    self.node.hostname.clone()
                } else {
                    self.facts.os_hostname.clone()
                },
                hostname: self.facts.os_hostname.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_ms: u64::try_from(self.facts.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                advertise_url: if role.is_primary { self.facts.primary_url.clone() } else { None },
            },
            cluster_id: self.store.cluster_id().map(|c| c.as_str().to_owned()),
            role: shown,
            primary: (role.is_primary || !role.hostname.is_empty()).then(|| PrimaryStatus {
                hostname: self.node.primary_hostname(),
                url: self.facts.primary_url.clone(),
            }),
            lease: LeaseStatus {
                r#type: self.facts.lease_type.to_owned(),
                candidate: self.node.candidate,
                held: role.is_primary,
                remaining_ms: None,
            },
            epoch: None,
            lag_ms: match self.node.lag(now) {
                Lag::Primary => Some(0),
                Lag::NeverSynced => None,
                Lag::Millis(ms) => Some(ms),
            },
            mount: MountStatus {
                path: self.facts.mount.display().to_string(),
                mounted: mount_answers(&self.facts.mount),
            },
            data: DataStatus {
                path: self.store.dir().display().to_string(),
                free: space.as_ref().map(|s| bytes(s.blocks_available(), s)),
                total: space.as_ref().map(|s| bytes(s.blocks(), s)),
            },
            health: self.health_now(Probe::Ready),
            replicas: self
                .app
                .changes
                .replicas()
                .into_iter()
                .map(|r| ReplicaStatus {
                    databases: self.replica_databases(&r),
                    id: Some(r.node_id.to_string()),
                    name: None,
                    address: r.peer.map_or_else(|| "unknown".into(), |p| p.to_string()),
                    connected_ms: r
                        .since
                        .elapsed()
                        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
                    lag_ms: None,
                })
                .collect(),
            databases: {
                let open = (self.open_files)();
                self.store.databases().iter().map(|db| database_status(db, &open)).collect()
            },
        }
    }

    fn database(&self, name: &DbName) -> Option<DatabaseStatus> {
        self.store.database(name.as_str()).map(|db| database_status(&db, &(self.open_files)()))
    }

    fn position(&self, name: &DbName) -> Option<Pos> {
        self.store.database(name.as_str()).map(|db| db.resolve_pos())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    fn events(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.node.subscribe_events()
    }

    fn metrics(&self) -> String {
        crate::metrics::render(&self.app)
    }

    fn health(&self, probe: Probe) -> Health {
        self.health_now(probe)
    }

    fn import(
        &self,
        name: &DbName,
        len: Option<u64>,
        replace: bool,
    ) -> Result<Box<dyn ImportSink>, ApiError> {
        self.may_write()?;
        if !replace && self.store.database(name.as_str()).is_some_and(|db| db.page_count() > 0) {
            return Err(ApiError::new(ErrorCode::Exists, format!("database {name} exists"))
                .hint("add --replace to replace its content"));
        }
        let free = nix::sys::statvfs::statvfs(&self.store.dir())
            .map_or(u64::MAX, |s| s.blocks_available().saturating_mul(s.fragment_size()));
        // The staged file, the log record and the database file hold it once each.
        if len.is_some_and(|n| n.saturating_mul(3) > free) {
            return Err(ApiError::new(
                ErrorCode::DiskFull,
                format!(
                    "an import needs three times its size, {free} bytes are free in {}",
                    self.store.dir().display()
                ),
            )
            .hint("free space in the data directory"));
        }
        let file = self.store.import_file().map_err(|e| api_error(&e))?;
        Ok(Box::new(StagedImport {
            store: Arc::clone(&self.store),
            name: name.clone(),
            file,
            size: 0,
            replace,
        }))
    }

    fn export(&self, name: &DbName) -> Result<Export, ApiError> {
        let db = self.db(name)?;
        if db.page_count() == 0 {
            return Err(ApiError::new(
                ErrorCode::NotFound,
                format!("database {name} has no content: it was dropped, or never written"),
            ));
        }
        let export = db.export().map_err(|e| api_error(&e))?;
        Ok(Export {
            pos: export.pos(),
            len: export.size(),
            write: Box::new(move |out| export.write(&db, out).map(|_| ()).map_err(std::io::Error::other)),
        })
    }

    fn drop_database(&self, name: &DbName) -> Result<Pos, ApiError> {
        self.may_write()?;
        self.db(name)?.drop_database().map_err(|e| api_error(&e))
    }

    fn ltx_list(&self, name: &DbName, from: Option<Txid>, limit: usize) -> Result<LtxList, ApiError> {
        let db = self.db(name)?;
        let internal = |e: litefs_store::log::LogError| ApiError::new(ErrorCode::Internal, e.to_string());
        let mut entries = Vec::new();
        let mut next = match (db.log().first(), from) {
            (Some(first), Some(from)) => Some(from.max(first)),
            (first, _) => first,
        };
        while let Some(txid) = next.filter(|_| entries.len() < limit) {
            let Some(entry) = db.log().get(txid).map_err(internal)? else {
                next = None;
                break;
            };
            let header = entry.ltx_header().map_err(internal)?;
            entries.push(LtxEntry {
                min_txid: header.min_txid.to_string(),
                max_txid: header.max_txid.to_string(),
                pre_checksum: header.pre_apply.to_string(),
                post_checksum: entry.post().checksum().to_string(),
                page_size: header.page_size.get(),
                commit: header.commit,
                timestamp: rfc3339(header.timestamp),
                size: entry.len(),
            });
            next = Some(entry.max_txid().next()).filter(|t| t.get() <= db.log().tip().txid_raw());
        }
        Ok(LtxList { entries, next: next.map(|t| t.to_string()) })
    }

    fn ltx(&self, name: &DbName, txid: Txid) -> Result<LtxFile, ApiError> {
        let entry = self
            .db(name)?
            .log()
            .get(txid)
            .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?
            .ok_or_else(|| {
                ApiError::new(ErrorCode::NotFound, format!("transaction {txid} of {name} is not in the log"))
                    .hint("`litefsctl ltx list` shows what is kept; data.retention and data.max-log-size decide")
            })?;
        Ok(LtxFile { len: entry.len(), reader: Box::new(entry.reader()) })
    }
}

/// An import on its way.
struct StagedImport {
    store: Arc<Store>,
    name: DbName,
    file: ImportFile,
    size: u64,
    replace: bool,
}

impl ImportSink for StagedImport {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.size += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|source| api_error(&StoreError::Io { what: "staging of the imported file", source }))
    }

    fn finish(self: Box<Self>) -> Result<Imported, ApiError> {
        let this = *self;
        let checked = CheckedImport::check(this.file).map_err(|e| api_error(&e))?;
        let db = this.store.create_database(&this.name).map_err(|e| api_error(&e))?;
        let replaced = db.page_count() > 0;
        let pos = db.import(checked, this.replace).map_err(|e| api_error(&e))?;
        Ok(Imported { name: this.name.as_str().to_owned(), position: pos.into(), size: this.size, replaced })
    }
}
