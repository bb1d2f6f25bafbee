//! The right to write.
//!
//! Owns: what a commit asks before its commit point. Does not own: who grants it (leases) or the clock.
//! Tested below.

use core::time::Duration;

/// Proof that this node was allowed to write when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePermit {
    /// The term of office; every grant of the role has a new one.
    pub epoch: u64,
    /// When the permit ends, on the caller's monotonic clock; `None` if nobody else can become primary.
    pub until: Option<Duration>,
}

impl WritePermit {
    /// Whether the permit holds at `now` on the caller's monotonic clock.
    pub fn is_valid_at(&self, now: Duration) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Whoever knows whether this node may write. Asked again just before each commit point.
pub trait WriteGate: Send + Sync {
    /// The present permit; `None` on a node that must not write.
    fn permit(&self) -> Option<WritePermit>;
}

/// A gate that never changes: a single node, a statically configured primary, or a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticGate(Option<WritePermit>);

impl StaticGate {
    /// May always write, in this epoch.
    pub const fn open(epoch: u64) -> Self {
        Self(Some(WritePermit { epoch, until: None }))
    }

    /// May never write.
    pub const fn closed() -> Self {
        Self(None)
    }
}

impl WriteGate for StaticGate {
    fn permit(&self) -> Option<WritePermit> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_ends_at_its_end() {
        let permit = WritePermit { epoch: 3, until: Some(Duration::from_secs(5)) };
        assert!(permit.is_valid_at(Duration::from_millis(4999)));
        assert!(!permit.is_valid_at(Duration::from_secs(5)));
        assert!(StaticGate::open(1).permit().unwrap().is_valid_at(Duration::MAX));
        assert_eq!(StaticGate::closed().permit(), None);
    }
}
