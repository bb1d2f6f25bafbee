//! The JSON bodies. Field names are the contract; `tests/golden` pins them.

mod database;
mod health;
mod ltx;
mod status;

pub use database::{DatabaseList, DatabaseStatus, Dropped, Imported, LogStatus, Position, Waited};
pub use health::{Event, Health};
pub use ltx::{LtxEntry, LtxList};
pub use status::{
    DataStatus, LeaseStatus, MountStatus, NodeStatus, PrimaryStatus, ReplicaDatabase, ReplicaStatus, Role,
    Status,
};
