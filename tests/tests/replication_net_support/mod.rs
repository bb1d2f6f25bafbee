//! Two nodes in one process: the real network code over a store in memory.
//!
//! [`MemStore`] keeps pages and LTX files in maps and is strict: it verifies what it receives. [`Node`] is
//! one with a server on loopback.
#![allow(dead_code, unreachable_pub, reason = "shared by two test binaries, neither of which uses all of it")]

pub mod client;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use litefs_core::stream::Ack;
use litefs_ltx::checksum::{database_checksum, page_checksum};
use litefs_ltx::{Compression, Decoder, Encoder, Header};
use litefs_store::notice::{Change, ChangeNotice};
use litefs_store::os_disk::OsDisk;
use litefs_store::spool::{SpoolWriter, Spooled};
use litefs_tests::scratch::Scratch;
use litefs_types::{Checksum, ClusterId, DbName, NodeId, PageNo, PageSize, Pos, Timestamp, Txid};
use litefsd::http::addr::HostPort;
use litefsd::http::backend::{
    DbStats, Identity, ImportError, LogEntry, SinkError, SnapshotOptions, SourceError, Stats, StreamSink,
    StreamSource, Transfer,
};
use litefsd::http::listen::Listeners;
use litefsd::http::node::NodeState;
use litefsd::http::server::Server;
use litefsd::http::{App, Options};
use litefsd::primary::changes::ChangeHub;
use litefsd::replica::{self, Replica};

/// One database in memory.
#[derive(Clone, Default)]
pub struct MemDb {
    pub page_size: u32,
    pub pages: Vec<Vec<u8>>,
    pub pos: Option<Pos>,
    pub log: BTreeMap<u64, Vec<u8>>,
    pub dropped: bool,
}

/// A store in memory.
pub struct MemStore {
    pub id: NodeId,
    pub dbs: Mutex<BTreeMap<DbName, MemDb>>,
    pub damaged: Mutex<Vec<String>>,
    /// Applies of these databases wait until they are taken out.
    pub blocked: Mutex<Vec<DbName>>,
    unblocked: Condvar,
    /// Applies of these databases fail this many times.
    pub failing: Mutex<HashMap<DbName, u32>>,
    pub imports: Mutex<u32>,
    cluster_id: Mutex<Option<ClusterId>>,
    hub: OnceLock<Arc<ChangeHub>>,
    scratch: Scratch,
    pub spool_budget: Mutex<u64>,
    /// A snapshot writes this many bytes and fails.
    pub break_snapshots: Mutex<Option<usize>>,
    /// What is applied is not durable yet.
    pub not_durable: Mutex<bool>,
}

pub fn db(name: &str) -> DbName {
    name.parse().unwrap()
}

impl MemStore {
    pub fn new(id: NodeId) -> Arc<Self> {
        Arc::new(Self {
            id,
            dbs: Mutex::default(),
            damaged: Mutex::default(),
            blocked: Mutex::default(),
            unblocked: Condvar::new(),
            failing: Mutex::default(),
            imports: Mutex::default(),
            cluster_id: Mutex::default(),
            hub: OnceLock::new(),
            scratch: Scratch::new("net"),
            spool_budget: Mutex::new(u64::MAX),
            break_snapshots: Mutex::default(),
            not_durable: Mutex::default(),
        })
    }

    pub fn spool_dir(&self) -> std::path::PathBuf {
        self.scratch.path().join("spool")
    }

    /// Commits pages (number, fill byte); `commit` is the new page count.
    pub fn commit(&self, name: &str, page_size: u32, commit: u32, pages: &[(u32, u8)]) -> Pos {
        let pages: Vec<(u32, Vec<u8>)> =
            pages.iter().map(|(n, fill)| (*n, vec![*fill; page_size as usize])).collect();
        self.commit_pages(name, page_size, commit, &pages)
    }

    pub fn commit_pages(&self, name: &str, page_size: u32, commit: u32, pages: &[(u32, Vec<u8>)]) -> Pos {
        let name = db(name);
        let mut dbs = self.dbs.lock().unwrap();
        let d = dbs.entry(name.clone()).or_default();
        d.page_size = page_size;
        let before = d.pos.unwrap_or(Pos::ZERO);
        for (n, data) in pages {
            let i = *n as usize - 1;
            if d.pages.len() <= i {
                d.pages.resize(i + 1, vec![0; page_size as usize]);
            }
            d.pages[i].clone_from(data);
        }
        d.pages.truncate(commit as usize);
        assert_eq!(d.pages.len(), commit as usize);
        let txid = before.next_txid();
        let ps = PageSize::new(page_size).unwrap();
        let header =
            Header { timestamp: now(), node_id: self.id, ..Header::new(ps, commit, txid, before.checksum()) };
        let post = d.checksum();
        let mut enc = Encoder::new(Vec::new(), header.clone(), Compression::None).unwrap();
        for (n, data) in pages.iter().filter(|(n, _)| *n <= commit) {
            enc.page(PageNo::new(*n).unwrap(), data).unwrap();
        }
        let (_, file) = enc.finish(post).unwrap();
        d.dropped = commit == 0;
        d.log.insert(txid.get(), file);
        let pos = Pos::new(txid, post);
        d.pos = Some(pos);
        drop(dbs);
        self.notify(name, pos, &header, true);
        pos
    }

    fn notify(&self, db: DbName, pos: Pos, header: &Header, local: bool) {
        if let Some(hub) = self.hub.get() {
            hub.changed(Change {
                db,
                pos,
                page_size: header.page_size,
                commit: header.commit,
                timestamp: header.timestamp,
                local,
            });
        }
    }

    pub fn drop_db(&self, name: &str) -> Pos {
        let page_size = self.dbs.lock().unwrap()[&db(name)].page_size;
        self.commit(name, page_size, 0, &[])
    }

    pub fn forget(&self, name: &str) {
        self.dbs.lock().unwrap().remove(&db(name));
    }

    pub fn trim(&self, name: &str) {
        self.dbs.lock().unwrap().get_mut(&db(name)).unwrap().log.clear();
    }

    pub fn pos(&self, name: &str) -> Pos {
        self.dbs.lock().unwrap().get(&db(name)).and_then(|d| d.pos).unwrap_or(Pos::ZERO)
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.dbs.lock().unwrap().get(&db(name)).map(|d| d.pages.concat()).unwrap_or_default()
    }

    pub fn block(&self, name: &str) {
        self.blocked.lock().unwrap().push(db(name));
    }

    pub fn unblock(&self) {
        self.blocked.lock().unwrap().clear();
        self.unblocked.notify_all();
    }

    pub fn set_cluster(&self, id: Option<&str>) {
        *self.cluster_id.lock().unwrap() = id.map(|s| s.parse().unwrap());
    }
}

pub fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

impl MemDb {
    pub fn checksum(&self) -> Checksum {
        if self.pages.is_empty() {
            return Checksum::EMPTY;
        }
        database_checksum(PageSize::new(self.page_size).unwrap(), self.pages.iter().map(|p| &p[..]))
    }
}

impl Identity for MemStore {
    fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id.lock().unwrap().clone()
    }
    fn set_cluster_id(&self, id: &ClusterId) -> io::Result<()> {
        *self.cluster_id.lock().unwrap() = Some(id.clone());
        Ok(())
    }
}

impl StreamSource for MemStore {
    fn databases(&self) -> Vec<DbName> {
        self.dbs.lock().unwrap().keys().cloned().collect()
    }
    fn streamable(&self, db: &DbName) -> Option<Pos> {
        self.dbs.lock().unwrap().get(db).map(|d| d.pos.unwrap_or(Pos::ZERO))
    }
    fn page_size(&self, db: &DbName) -> Option<PageSize> {
        let dbs = self.dbs.lock().unwrap();
        dbs.get(db).filter(|d| !d.pages.is_empty()).and_then(|d| PageSize::new(d.page_size).ok())
    }
    fn entry(&self, db: &DbName, txid: Txid) -> Result<Option<LogEntry>, SourceError> {
        let dbs = self.dbs.lock().unwrap();
        let Some(file) = dbs.get(db).and_then(|d| d.log.get(&txid.get())).cloned() else { return Ok(None) };
        let header = Header::parse(file.first_chunk().unwrap()).unwrap();
        let post = u64::from_be_bytes(file[file.len() - 16..file.len() - 8].try_into().unwrap());
        Ok(Some(LogEntry {
            pre: header.pre_apply,
            post: Pos::new(header.max_txid, Checksum::from_raw(post).unwrap()),
            len: file.len() as u64,
            reader: Box::new(io::Cursor::new(file)),
        }))
    }
    fn write_snapshot(
        &self,
        db: &DbName,
        opts: SnapshotOptions,
        out: &mut dyn Write,
    ) -> Result<Pos, SourceError> {
        let d = self.dbs.lock().unwrap().get(db).cloned().ok_or(SourceError::NotFound)?;
        let pos = d.pos.unwrap();
        if let Some(n) = *self.break_snapshots.lock().unwrap() {
            out.write_all(&vec![b'L'; n])?;
            return Err(SourceError::Other("disk on fire".into()));
        }
        let header = Header {
            max_txid: pos.txid().unwrap(),
            timestamp: now(),
            node_id: opts.node_id,
            ..Header::new(
                PageSize::new(d.page_size).unwrap(),
                d.pages.len() as u32,
                Txid::FIRST,
                Checksum::NONE,
            )
        };
        let compression = if opts.compress { Compression::Lz4 } else { Compression::None };
        let other = |e: litefs_ltx::LtxError| SourceError::Other(e.to_string());
        let mut enc = Encoder::new(out, header, compression).map_err(other)?;
        for (i, p) in d.pages.iter().enumerate() {
            enc.page(PageNo::new(i as u32 + 1).unwrap(), p).map_err(other)?;
        }
        enc.finish(pos.checksum()).map_err(other)?;
        Ok(pos)
    }
    fn damaged(&self, db: &DbName, txid: Txid, what: &str) {
        self.damaged.lock().unwrap().push(format!("{db} {} {what}", txid.get()));
    }
}

impl StreamSink for MemStore {
    fn positions(&self) -> Vec<(DbName, Pos)> {
        self.dbs.lock().unwrap().iter().map(|(n, d)| (n.clone(), d.pos.unwrap_or(Pos::ZERO))).collect()
    }
    fn position(&self, db: &DbName) -> Pos {
        self.streamable(db).unwrap_or(Pos::ZERO)
    }
    fn progress(&self, db: &DbName) -> Ack {
        let applied = self.position(db);
        Ack { applied, durable: if *self.not_durable.lock().unwrap() { Pos::ZERO } else { applied } }
    }
    fn spool(&self, _db: &DbName) -> SpoolWriter {
        SpoolWriter::new(Arc::new(OsDisk), self.spool_dir(), u64::MAX)
    }
    fn spool_budget(&self) -> u64 {
        *self.spool_budget.lock().unwrap()
    }
    fn receive(&self, db: &DbName, ltx: Spooled) -> Result<Pos, SinkError> {
        let mut blocked = self.blocked.lock().unwrap();
        while blocked.contains(db) {
            blocked = self.unblocked.wait(blocked).unwrap();
        }
        drop(blocked);
        if let Some(n) = self.failing.lock().unwrap().get_mut(db)
            && *n > 0
        {
            *n -= 1;
            return Err(SinkError::Local("no space left on device".into()));
        }
        let mut file = Vec::new();
        ltx.reader().read_to_end(&mut file).map_err(|e| SinkError::Local(e.to_string()))?;
        let invalid = |e: litefs_ltx::LtxError| SinkError::Invalid(e.to_string());
        let verified = litefs_ltx::verify(&file[..]).map_err(invalid)?;
        let header = verified.header;
        let mut dbs = self.dbs.lock().unwrap();
        let mut d = dbs.get(db).cloned().unwrap_or_default();
        let have = d.pos.unwrap_or(Pos::ZERO);
        if header.is_snapshot() {
            d.pages.clear();
            d.log.clear();
        } else {
            let want = header.min_txid.prev().map_or(Pos::ZERO, |t| Pos::new(t, header.pre_apply));
            if have != want {
                return Err(SinkError::Mismatch { db: db.clone(), have, want });
            }
        }
        d.page_size = header.page_size.get();
        let mut dec = Decoder::new(&file[..]).map_err(invalid)?;
        let mut page = Vec::new();
        while let Some(info) = dec.next_page(&mut page).map_err(invalid)? {
            assert_eq!(info.checksum, page_checksum(info.page, &page));
            let i = info.page.index();
            if d.pages.len() <= i {
                d.pages.resize(i + 1, Vec::new());
            }
            d.pages[i].clone_from(&page);
        }
        d.pages.truncate(header.commit as usize);
        if d.checksum() != verified.trailer.post_apply {
            return Err(SinkError::Invalid("database checksum".into()));
        }
        d.dropped = header.commit == 0;
        let pos = Pos::new(header.max_txid, verified.trailer.post_apply);
        d.pos = Some(pos);
        d.log.insert(header.min_txid.get(), file);
        dbs.insert(db.clone(), d);
        drop(dbs);
        self.notify(db.clone(), pos, &header, false);
        Ok(pos)
    }
}

impl Transfer for MemStore {
    fn exists(&self, name: &str) -> bool {
        self.dbs.lock().unwrap().contains_key(name)
    }
    fn import(&self, name: &DbName, file: Spooled) -> Result<Pos, ImportError> {
        *self.imports.lock().unwrap() += 1;
        let mut bytes = Vec::new();
        file.reader().read_to_end(&mut bytes).map_err(|e| ImportError::Local(e.to_string()))?;
        let page_size = match u32::from(u16::from_be_bytes([bytes[16], bytes[17]])) {
            1 => 65536,
            n => n,
        };
        let pages: Vec<(u32, Vec<u8>)> =
            (1..).zip(bytes.chunks_exact(page_size as usize).map(<[u8]>::to_vec)).collect();
        Ok(self.commit_pages(name.as_str(), page_size, pages.len() as u32, &pages))
    }
    fn export(&self, name: &DbName, out: &mut dyn Write) -> Result<(), SourceError> {
        let d = self.dbs.lock().unwrap().get(name).cloned().ok_or(SourceError::NotFound)?;
        if d.dropped {
            return Err(SourceError::Dropped);
        }
        if let Some(n) = *self.break_snapshots.lock().unwrap() {
            out.write_all(&vec![0; n])?;
            return Err(SourceError::Other("disk on fire".into()));
        }
        for p in &d.pages {
            out.write_all(p)?;
        }
        Ok(())
    }
}

impl Stats for MemStore {
    fn databases_stats(&self) -> Vec<DbStats> {
        let dbs = self.dbs.lock().unwrap();
        dbs.iter()
            .map(|(n, d)| DbStats {
                name: n.to_string(),
                pos: d.pos,
                database_writes: 1,
                journal_writes: 2,
                wal_writes: 3,
                shm_writes: 4,
                commits: d.log.len() as u64,
                ltx_count: d.log.len() as u64,
                ltx_bytes: d.log.values().map(|f| f.len() as u64).sum(),
                ltx_reaped: 0,
                lag_seconds: 0.0,
            })
            .collect()
    }
}

/// A node with a server.
pub struct Node {
    pub store: Arc<MemStore>,
    pub state: Arc<NodeState>,
    pub app: Arc<App>,
    pub addr: SocketAddr,
    pub server: Option<Server>,
    pub replica: Option<Replica>,
}

/// Distinct over the tests of one process.
pub fn new_id() -> NodeId {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NodeId::new(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) << 32 | u64::from(std::process::id()))
}

impl Node {
    /// Starts a server on this address.
    pub async fn listen(addr: &str, options: Options) -> Self {
        let id = new_id();
        let store = MemStore::new(id);
        let state = Arc::new(NodeState::new(id, false, format!("host-{id}"), "/data".into()));
        let hub = ChangeHub::new(Arc::clone(&state));
        let _ = store.hub.set(Arc::clone(&hub));
        let app = App::new(Arc::clone(&state), store.clone(), hub, options);
        let listeners = Listeners::bind(&addr.parse().unwrap()).await.unwrap();
        let server = Server::start(listeners, Arc::clone(&app)).unwrap();
        let addr = server.local_addrs()[0];
        Self { store, state, app, addr, server: Some(server), replica: None }
    }

    /// A primary on IPv4 loopback, without compression.
    pub async fn primary() -> Self {
        let n = Self::listen("127.0.0.1:0", Options { compress: false, ..Options::default() }).await;
        n.state.become_primary();
        n
    }

    /// A node that follows `primary`.
    pub async fn replica_of(primary: &Node) -> Self {
        let mut n = Self::listen("127.0.0.1:0", Options::default()).await;
        n.follow(&primary.addr.to_string(), &[]);
        n
    }

    pub fn follow(&mut self, primary: &str, databases: &[&str]) {
        let options = replica::Options {
            primary: primary.parse::<HostPort>().unwrap(),
            hostname: "primaryhost".into(),
            databases: databases.iter().map(|d| db(d)).collect(),
            reconnect_delay: Duration::from_millis(50),
        };
        self.replica = Some(replica::start(options, Arc::clone(&self.state), self.store.clone()));
    }

    pub async fn stop(&mut self) {
        if let Some(r) = self.replica.take() {
            r.stop().await;
        }
        if let Some(s) = self.server.take() {
            s.shutdown(Duration::from_secs(5)).await;
        }
    }
}

/// Whether the node caught up once.
pub fn ready(n: &Node) -> bool {
    *n.state.watch_ready().borrow()
}

/// Waits for that.
pub async fn wait_ready(n: &Node) {
    eventually("ready", || ready(n)).await;
}

/// Waits until it is true.
pub async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until both have the same position and bytes of a database.
pub async fn same(a: &Node, b: &Node, name: &str) {
    eventually(&format!("{name} to be the same"), || {
        !a.store.pos(name).is_zero() && a.store.pos(name) == b.store.pos(name)
    })
    .await;
    assert!(a.store.bytes(name) == b.store.bytes(name), "{name} differs");
}
