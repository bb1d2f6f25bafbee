//! The node as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DatabaseStatus, Health};

/// What the node is in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It writes.
    Primary,
    /// It follows a primary.
    Replica,
    /// It knows no primary.
    Orphan,
    /// It is not yet, or no longer, part of the cluster.
    Starting,
}

impl Role {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Orphan => "orphan",
            Self::Starting => "starting",
        }
    }
}

/// `GET /v1/status`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node itself.
    pub node: NodeStatus,
    /// Id of the cluster, once it belongs to one.
    pub cluster_id: Option<String>,
    /// What the node is.
    pub role: Role,
    /// Who the primary is, if known: this node on the primary.
    pub primary: Option<PrimaryStatus>,
    /// The lease.
    pub lease: LeaseStatus,
    /// Number of the current primary's term; absent where the lease has none.
    pub epoch: Option<u64>,
    /// Milliseconds behind the primary; 0 on the primary, absent before the first contact.
    pub lag_ms: Option<i64>,
    /// The mount.
    pub mount: MountStatus,
    /// The data directory.
    pub data: DataStatus,
    /// Whether it is ready, and if not why.
    pub health: Health,
    /// Connected replicas. Empty on a replica.
    pub replicas: Vec<ReplicaStatus>,
    /// Databases, sorted by name.
    pub databases: Vec<DatabaseStatus>,
}

/// The node itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Stream id: 16 hexadecimal digits, new at every start.
    pub id: String,
    /// Stable name in the cluster.
    pub name: String,
    /// Name of the machine.
    pub hostname: String,
    /// Version of the daemon.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// URL at which others reach it, if known.
    pub advertise_url: Option<String>,
}

/// The primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrimaryStatus {
    /// Its name, as `.primary` shows it.
    pub hostname: String,
    /// Its URL, if known.
    pub url: Option<String>,
}

/// The lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// `static`, `consul`, …
    pub r#type: String,
    /// Whether this node may become primary.
    pub candidate: bool,
    /// Whether this node holds it.
    pub held: bool,
    /// Milliseconds until it ends unless renewed; absent for a lease that does not end.
    pub remaining_ms: Option<u64>,
}

/// The mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where.
    pub path: String,
    /// Whether it is served now.
    pub mounted: bool,
}

/// The data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DataStatus {
    /// Where.
    pub path: String,
    /// Bytes free for the daemon, if known.
    pub free: Option<u64>,
    /// Bytes of the file system, if known.
    pub total: Option<u64>,
}

/// A connected replica, as the primary sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its stream id, if it told one.
    pub id: Option<String>,
    /// Its name, if it told one (nodes of the original do not).
    pub name: Option<String>,
    /// Address it connects from.
    pub address: String,
    /// Milliseconds since it connected.
    pub connected_ms: u64,
    /// Milliseconds by which what was sent to it is behind; absent if unknown.
    pub lag_ms: Option<i64>,
    /// How far it is, by database.
    pub databases: BTreeMap<String, ReplicaDatabase>,
}

/// How far one database of a replica is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaDatabase {
    /// Last transaction that was sent to it.
    pub txid: String,
    /// Transactions it has not been sent yet.
    pub behind: u64,
    /// Last transaction that its readers see; absent if it does not tell (nodes of the original).
    pub applied: Option<String>,
    /// Last transaction that survives a power loss there; absent if it does not tell.
    pub durable: Option<String>,
    /// Transactions that its readers do not see yet; absent if it does not tell.
    pub unapplied: Option<u64>,
    /// Why nothing more of this database is sent to it, and what to do; absent if all is well.
    pub held: Option<String>,
}
