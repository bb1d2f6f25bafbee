//! Newtypes shared by every program of litefs-rs.
//!
//! A value of one of these types has been checked: parsed once where it entered the program, never
//! again inside. The crate holds no policy and does no IO.
//!
//! *Invariant:* no type here can hold a value outside the range its documentation names.

mod checksum;
mod db_name;
mod ids;
mod page;
mod pos;
mod time;
mod txid;

pub use checksum::{CHECKSUM_FLAG, Checksum};
pub use db_name::{DbName, InvalidDbName, MAX_DB_NAME_LEN};
pub use ids::{ClusterId, InvalidClusterId, InvalidNodeId, NodeId};
pub use page::{InvalidPageSize, PageNo, PageSize};
pub use pos::{InvalidPos, Pos};
pub use time::Timestamp;
pub use txid::{InvalidTxid, Txid};
