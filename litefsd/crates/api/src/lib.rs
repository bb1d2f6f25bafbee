//! The contract of the control socket: routes, JSON, error codes, and the only client.
//!
//! Start with [`Route`] for what can be asked, [`Status`] for the largest answer and
//! [`client::Client`] for asking. The server is `litefsd::control`. A second client,
//! [`client::cluster`], speaks `/import` and `/export` of the cluster port, to daemons of the
//! original as well.
//!
//! *Invariant:* what `tests/golden/*.json` pin does not change within `/v1`: fields are added, never
//! renamed, removed or given another meaning, and every error has a code of [`ErrorCode`].
//!
//! Not here: what a daemon answers with (it fills these types), and no policy.

pub mod client;
mod error;
mod route;
mod types;
mod wire;

pub use error::{ApiError, ErrorCode};
pub use route::{Probe, Route, RouteError, decode_segment, encode_segment};
pub use types::{
    DataStatus, DatabaseList, DatabaseStatus, Dropped, Event, Health, Imported, LeaseStatus, LogStatus,
    LtxEntry, LtxList, MountStatus, NodeStatus, Position, PrimaryStatus, ReplicaDatabase, ReplicaStatus,
    Role, Status, Waited,
};
pub use wire::rfc3339;

/// Where the daemon answers unless `api.socket` or `LITEFS_SOCKET` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/litefs/litefsd.sock";

/// Largest JSON answer that the client takes: a status of thousands of databases is about a megabyte.
pub const MAX_JSON: usize = 64 << 20;

/// Longest `timeout` of a wait, in seconds.
pub const MAX_WAIT_SECS: u64 = 3600;

/// Entries of one [`LtxList`] unless `limit` says otherwise.
pub const DEFAULT_LTX_LIMIT: usize = 1000;

/// Most entries of one [`LtxList`].
pub const MAX_LTX_LIMIT: usize = 10_000;

/// Response header of an export with the position of the copy, `txid/checksum`.
pub const POSITION_HEADER: &str = "litefs-position";
