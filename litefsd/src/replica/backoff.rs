//! How long to wait before the next connection attempt.
//!
//! Pure: chance comes in as an argument. Tested here.

use std::time::Duration;

/// Longest wait. A primary that comes back must not wait for its replicas much longer than it was away.
const CAP: Duration = Duration::from_secs(15);
/// Replicas that lost the same primary must not come back in the same instant.
const JITTER: f64 = 0.2;

/// Doubles the wait with every failure in a row.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts with `base` (`lease.reconnect-delay`); a longer base is its own cap.
    pub(super) fn new(base: Duration) -> Self {
        Self { base, failures: 0 }
    }

    /// The connection worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure; `chance` is uniform in 0..1.
    pub(super) fn next(&mut self, chance: f64) -> Duration {
        let cap = CAP.max(self.base);
        let delay = self.base.saturating_mul(1 << self.failures.min(16)).min(cap);
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_with_jitter() {
        let mut b = Backoff::new(Duration::from_secs(1));
        let waits: Vec<u64> = (0..6).map(|_| b.next(0.5).as_millis() as u64).collect();
        assert_eq!(waits, [1000, 2000, 4000, 8000, 15000, 15000]);
        assert_eq!((b.next(0.0).as_secs(), b.next(1.0).as_secs()), (12, 18));
        b.reset();
        assert_eq!(b.next(0.5), Duration::from_secs(1));
        assert_eq!(Backoff::new(Duration::from_secs(60)).next(0.5), Duration::from_secs(60));
        for _ in 0..100 {
            b.next(0.5);
        }
    }
}
