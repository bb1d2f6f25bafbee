//! The replication stream between primary and replica: what the bytes mean, and what to send next.
//!
//! * [`chunk`], [`frame`]: bytes ⇄ frames, fed in pieces of any size
//! * [`pos_map`]: the replica's request
//! * [`catch_up`]: what one database of one replica needs next
//! * [`session`]: one replica's stream as a whole
//! * [`ack`]: how far the replica is (an extension of ours, beside the stream)
//!
//! Sending, receiving, clocks and files are the caller's. The protocol is that of LiteFS 0.5, byte for
//! byte (but for `ack`); integers are big-endian.
//!
//! Tests: the modules' own, and `golden_stream` in the workspace's `tests` package (streams recorded
//! from the original program).

pub mod ack;
pub mod catch_up;
pub mod chunk;
pub mod frame;
pub mod pos_map;
pub mod session;

mod fields;

pub use ack::Ack;
pub use catch_up::{LogFacts, SnapshotReason, Step, next_step};
pub use frame::{Event, Frame, FrameDecoder, FrameError};
pub use pos_map::{PosMap, PosMapDecoder, PosMapError};
pub use session::{Action, Filter, Session, Source};
