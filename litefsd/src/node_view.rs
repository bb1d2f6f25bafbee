//! What the mount shows of the node: `.primary`, `.lag`, write bits.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use litefs_types::Timestamp;

use crate::fuse::model::{Lag, NodeView};
use crate::http::node::{self, NodeState};

/// See the module documentation.
pub struct MountView {
    /// The node.
    pub node: Arc<NodeState>,
    /// `fuse.replica-writes: readonly`.
    pub readonly_replica: bool,
}

impl NodeView for MountView {
    fn primary_hostname(&self) -> Option<String> {
        let role = self.node.role();
        (!role.is_primary && !role.hostname.is_empty()).then_some(role.hostname)
    }

    fn lag(&self) -> Lag {
        match self.node.lag(Timestamp::from_system(SystemTime::now())) {
            node::Lag::Primary => Lag::Primary,
            node::Lag::NeverSynced => Lag::NotReady,
            node::Lag::Millis(millis) => {
                let at = self.node.last_signal().map_or(0, Timestamp::millis);
                Lag::Behind { millis, at: UNIX_EPOCH + Duration::from_millis(u64::try_from(at).unwrap_or(0)) }
            }
        }
    }

    fn writable(&self) -> bool {
        self.node.is_primary()
    }

    fn refuse_write_opens(&self) -> bool {
        self.readonly_replica && !self.node.is_primary()
    }
}
