//! The daemon's life: start in order, run, stop in order. The only module that wires the others together.
//!
//! Start: cluster port bound → store recovered → role → mount → port served → replica follows → ready.
//! Stop: replica and streams end → mount gone → store stamped clean. Every stage has a deadline, so that
//! a stop never waits for an application or a peer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use litefs_config::Settings;
use litefs_config::settings::{LeaseKind, ReplicaWrites};
use litefs_core::write_gate::{StaticGate, WriteGate};
use litefs_store::notice::{Change, ChangeNotice};
use litefs_store::os_disk::OsDisk;
use litefs_store::own_mount::{Invalidator, OwnMount};
use litefs_store::recover::OnAnomaly;
use litefs_store::{MountFactory, Store, StoreOptions, StoreSettings};
use litefs_types::{ClusterId, DbName, NodeId};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::control::{self, BindError, ControlSocket};
use crate::control_backend::{DaemonControl, Facts};
use crate::fuse::access::Ownership;
use crate::fuse::invalidate::KernelCache;
use crate::fuse::mount::{MountOptions, Mounted, Unmounted, mount_with};
use crate::fuse::own_mount::OwnMounts;
use crate::http::addr::HostPort;
use crate::http::listen::Listeners;
use crate::http::node::NodeState;
use crate::http::server::Server;
use crate::http::{self, App};
use crate::node_view::MountView;
use crate::primary::changes::ChangeHub;
use crate::replica::{self, Replica};
use crate::store_backend::StoreBackend;
use crate::store_model::{StoreDb, StoreModel};

/// Streams get this long to send their last frames.
const HTTP_STOP: Duration = Duration::from_secs(2);
/// Applications get this long to leave the mount before it is detached.
const UNMOUNT: Duration = Duration::from_secs(3);
/// A database's publisher gets this long to make its last transactions durable.
const CLOSE: Duration = Duration::from_secs(2);
/// Pause between two rounds of upkeep: a replica's checkpoint at 1000 frames and the log's spare segment
/// must come in time under load.
const TICK: Duration = Duration::from_millis(50);
/// Retention runs this often where `data.retention-monitor-interval` is 0: page sums are stamped then, too.
const MAINTAIN: Duration = Duration::from_secs(60);
/// Port of a primary whose URL names none is not guessed: the original's default is for listening only.
const STATUS_PRIMARY: &str = "primary";

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration asks for what this version does not have.
    #[error("{0}")]
    Unsupported(String),
    /// The cluster port.
    #[error("cannot init http server: cannot open http server: listen tcp {addr}: {source}")]
    Listen {
        /// As configured.
        addr: String,
        /// Why.
        source: std::io::Error,
    },
    /// The data directory.
    #[error("cannot open store: {0}")]
    Store(#[from] litefs_store::StoreError),
    /// The control socket.
    #[error(transparent)]
    Socket(BindError),
    /// The mount.
    #[error("cannot init file system: cannot open file system: {0}")]
    Mount(#[from] crate::fuse::mount::MountError),
    /// Anything else.
    #[error("{what}: {source}")]
    Io {
        /// The step.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// Hears of every transaction first: the streams, then whoever waits for a position.
struct Notices {
    hub: Arc<ChangeHub>,
    count: OnceLock<watch::Sender<u64>>,
}

impl Notices {
    fn new(hub: Arc<ChangeHub>) -> Self {
        Self { hub, count: OnceLock::new() }
    }

    fn count_into(&self, count: watch::Sender<u64>) {
        // Once, at the start.
        let _ = self.count.set(count);
    }
}

impl ChangeNotice for Notices {
    fn changed(&self, change: Change) {
        self.hub.changed(change);
        if let Some(count) = self.count.get() {
            count.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
}

struct Factory(Arc<OwnMounts>);

impl MountFactory for Factory {
    fn own_mount(&self, db: &DbName) -> Arc<dyn OwnMount> {
        self.0.make(db)
    }
}

/// A running daemon.
pub struct Daemon {
    store: Arc<Store>,
    mounted: Mounted<StoreModel>,
    server: Server,
    control: JoinHandle<()>,
    stop_control: watch::Sender<bool>,
    replica: Option<Replica>,
    node: Arc<NodeState>,
    upkeep: Arc<AtomicBool>,
    upkeep_thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    /// Starts everything. Must be called inside a tokio runtime.
    pub async fn start(settings: &Settings) -> Result<Self, StartError> {
        if !matches!(settings.lease.kind, LeaseKind::Static) {
            return Err(StartError::Unsupported(format!(
                "lease.type '{}' is not supported by this version; use 'static'",
                settings.lease.kind.name()
            )));
        }
        let listen =
            HostPort::new(settings.http.addr.host.clone().unwrap_or_default(), settings.http.addr.port);
        let listeners = Listeners::bind(&listen)
            .await
            .map_err(|source| StartError::Listen { addr: settings.http.addr.to_string(), source })?;

        let node_id = NodeId::new(rand::random());
        let primary = settings.lease.candidate;
        let own_name = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
        let primary_name = settings.lease.hostname.clone().unwrap_or_else(|| own_name.clone());
        let node =
            Arc::new(NodeState::new(node_id, primary, primary_name.clone(), settings.data.dir.clone()));
        let changes = ChangeHub::new(Arc::clone(&node));
        let notice = Arc::new(Notices::new(Arc::clone(&changes)));
        let gate: Arc<dyn WriteGate> =
            Arc::new(if primary { StaticGate::open(1) } else { StaticGate::closed() });

        let store = {
            let options = StoreOptions {
                disk: Arc::new(OsDisk),
                settings: StoreSettings {
                    dir: settings.data.dir.clone(),
                    replica_writes: match settings.fuse.replica_writes {
                        ReplicaWrites::Busy => litefs_store::ReplicaWrites::Busy,
                        ReplicaWrites::ReadOnly => litefs_store::ReplicaWrites::ReadOnly,
                    },
                    max_log_age: settings.data.retention,
                    max_log_size: settings.data.max_log_size,
                },
                node_id,
                gate,
                notice: notice.clone(),
                on_anomaly: if primary { OnAnomaly::Primary } else { OnAnomaly::Replica },
            };
            // Recovery may read whole databases.
            tokio::task::spawn_blocking(move || Store::open(options))
                .await
                .map_err(|e| StartError::Io { what: "recovery", source: std::io::Error::other(e) })??
        };
        let hostname = settings.lease.hostname.clone().unwrap_or_else(|| own_name.clone());
        if primary {
            tracing::info!("Using static primary: primary=true hostname={hostname}");
            if store.cluster_id().is_none() {
                let id = ClusterId::from_random(rand::random());
                tracing::info!("generated cluster id {id}");
                store.set_cluster_id(id)?;
            }
            node.become_primary();
        }

        let model = Arc::new(StoreModel::new(Arc::clone(&store)));
        let view = Arc::new(MountView {
            node: Arc::clone(&node),
            readonly_replica: settings.fuse.replica_writes == ReplicaWrites::ReadOnly,
        });
        let ownership = Ownership {
            uid: settings.fuse.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
            gid: settings.fuse.gid.unwrap_or_else(|| nix::unistd::getegid().as_raw()),
            file_mode: settings.fuse.mode.map_or(0o666, |m| m as u16),
        };
        let options = MountOptions {
            low_latency: settings.fuse.low_latency,
            dir: settings.fuse.dir.clone(),
            data_dir: settings.data.dir.clone(),
            allow_other: settings.fuse.allow_other,
            ownership,
        };
        let own_store = Arc::clone(&store);
        let mounted = tokio::task::spawn_blocking(move || {
            // Before the first request is answered: without its own mount the store cannot see locks.
            mount_with(model, view, &options, |own_mounts, cache| {
                own_store.set_mount(Arc::new(Factory(Arc::clone(own_mounts))), cache.clone());
            })
        })
        .await
        .map_err(|e| StartError::Io { what: "mount", source: std::io::Error::other(e) })??;
        tokio::spawn(show_role_changes(Arc::clone(&node), Arc::clone(mounted.core().kernel_cache())));
        tracing::info!("LiteFS mounted to: {}", mounted.dir().display());

        let upkeep = Arc::new(AtomicBool::new(true));
        let upkeep_thread = start_upkeep(
            Arc::clone(&store),
            Arc::clone(&upkeep),
            settings.data.retention_monitor_interval.unwrap_or(MAINTAIN),
        )?;

        let backend = Arc::new(StoreBackend::new(Arc::clone(&store)));
        let mut http_options = http::Options { compress: settings.data.compress, ..http::Options::default() };
        if let Some(t) = settings.http.snapshot_timeout.or(settings.data.retention) {
            http_options.snapshot_timeout = t;
        }
        let app = App::new(Arc::clone(&node), backend.clone(), Arc::clone(&changes), http_options);
        let server = Server::start(listeners, Arc::clone(&app))
            .map_err(|source| StartError::Io { what: "cannot serve the cluster port", source })?;
        for addr in server.local_addrs() {
            tracing::info!("http server listening on: http://{addr}");
        }

        let replica = match (&settings.lease.advertise_url, primary) {
            (_, true) => None,
            (None, false) => {
                return Err(StartError::Unsupported(
                    "lease.advertise-url is required on a replica: the URL of the primary, such as http://primary:20202".into(),
                ));
            }
            (Some(url), false) => {
                tracing::info!(
                    "Using static primary: primary=false hostname={hostname} advertise-url={}",
                    url.authority()
                );
                let options = replica::Options {
                    primary: HostPort::new(url.host.clone(), url.port_or_default()),
                    hostname: hostname.clone(),
                    databases: settings.lease.databases.clone(),
                    reconnect_delay: settings.lease.reconnect_delay,
                };
                Some(replica::start(options, Arc::clone(&node), backend.clone()))
            }
        };

        let (count, changed) = watch::channel(0);
        notice.count_into(count);
        let facts = Facts::new(settings, mounted.dir().to_path_buf(), own_name);
        let socket = ControlSocket::bind(&settings.socket).map_err(StartError::Socket)?;
        let (stop_control, stopped) = watch::channel(false);
        // Not kept alive by a request that hangs at the stop.
        let core = Arc::downgrade(mounted.core());
        let open_files = Box::new(move || core.upgrade().map(|c| c.open_files()).unwrap_or_default());
        let (s, n, a) = (Arc::clone(&store), Arc::clone(&node), Arc::clone(&app));
        let control_backend = DaemonControl::new(s, n, a, changed, facts, open_files);
        let control = tokio::spawn(control::serve(socket, Arc::new(control_backend), stopped));

        Ok(Self {
            store,
            mounted,
            server,
            control,
            stop_control,
            replica,
            node,
            upkeep,
            upkeep_thread: Some(upkeep_thread),
        })
    }

    /// Waits until this node is primary or has caught up with one.
    pub async fn ready(&self) {
        let mut ready = self.node.watch_ready();
        // The sender lives as long as the node.
        let _ = ready.wait_for(|r| *r).await;
    }

    /// One word and the positions' number for `systemctl status`.
    pub fn summary(&self) -> String {
        let role = if self.node.is_primary() { STATUS_PRIMARY } else { "replica" };
        format!("{role}, {} databases", self.store.databases().len())
    }

    /// Whether the mount is still served: somebody may have unmounted it.
    pub fn is_alive(&self) -> bool {
        self.mounted.is_alive()
    }

    /// Ends everything in order.
    pub async fn stop(mut self) {
        let begin = Instant::now();
        self.stop_control.send_replace(true);
        if tokio::time::timeout(HTTP_STOP, self.control).await.is_err() {
            tracing::warn!("requests on the control socket were cut off");
        }
        if let Some(replica) = self.replica.take() {
            // An apply may wait for a reader; the mount goes away below it.
            if tokio::time::timeout(HTTP_STOP, replica.stop()).await.is_err() {
                tracing::warn!(
                    "a transaction is still being applied; recovery completes it at the next start"
                );
            }
        }
        self.node.follow_nobody();
        self.server.shutdown(HTTP_STOP).await;
        self.upkeep.store(false, Ordering::Release);
        if let Some(t) = self.upkeep_thread.take() {
            let _ = tokio::task::spawn_blocking(move || t.join()).await;
        }
        let (mounted, store) = (self.mounted, self.store);
        let stopped = tokio::task::spawn_blocking(move || {
            store.before_unmount();
            let unmounted = match mounted.unmount(UNMOUNT) {
                Unmounted::Clean | Unmounted::Gone => true,
                Unmounted::Detached(holders) => {
                    tracing::warn!(
                        "the mount was in use and was detached: {holders:?} still have files of it"
                    );
                    false
                }
            };
            store.close(CLOSE, unmounted);
        });
        let _ = stopped.await;
        tracing::info!("litefs shut down complete after {:?}", begin.elapsed());
    }
}

/// The kernel caches modes and `.primary`: tells it when the role, or the primary, changes.
async fn show_role_changes(node: Arc<NodeState>, cache: Arc<KernelCache<StoreDb>>) {
    let mut role = node.watch_role();
    while role.changed().await.is_ok() {
        role.borrow_and_update();
        let cache = Arc::clone(&cache);
        // Waits for requests under way.
        let _ = tokio::task::spawn_blocking(move || cache.virtual_files(None)).await;
    }
}

fn start_upkeep(
    store: Arc<Store>,
    run: Arc<AtomicBool>,
    interval: Duration,
) -> Result<std::thread::JoinHandle<()>, StartError> {
    let work = move || {
        let mut next = Instant::now() + interval;
        while run.load(Ordering::Acquire) {
            store.tick();
            if Instant::now() >= next {
                store.maintain();
                next = Instant::now() + interval;
            }
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new()
        .name("upkeep".into())
        .spawn(work)
        .map_err(|source| StartError::Io { what: "no thread for upkeep", source })
}
