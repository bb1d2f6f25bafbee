//! Waiting with a limit: nothing in the tests waits for ever, and nothing sleeps where it can look.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Waits until `look` gives a value; fails with `what` after `limit`.
pub fn eventually<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} for: {what}");
        std::thread::sleep(POLL);
    }
}

/// As [`eventually`], for a condition; says whether it came true instead of failing.
pub fn within(limit: Duration, mut look: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if look() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// The longest a test may take. A thread that sleeps in a FUSE request cannot be told to stop, so when
/// the time is over everything this process started is killed, its mounts are aborted, and it ends.
#[derive(Debug)]
pub struct Deadline {
    done: Arc<AtomicBool>,
}

impl Deadline {
    /// Starts the clock; it stops when the value is dropped. `LITEFS_SLOW` (a factor) stretches it,
    /// for sanitizers and very slow machines.
    pub fn secs(seconds: u64) -> Self {
        let factor = std::env::var("LITEFS_SLOW").ok().and_then(|f| f.parse().ok()).unwrap_or(1);
        let done = Arc::new(AtomicBool::new(false));
        let (flag, name) = (done.clone(), std::thread::current().name().unwrap_or("test").to_owned());
        let end = Instant::now() + Duration::from_secs(seconds * factor);
        std::thread::spawn(move || {
            while Instant::now() < end {
                if flag.load(Ordering::Acquire) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            eprintln!("{name}: not done after {seconds} s; ending it");
            crate::node::dump_logs();
            crate::proc::kill_all();
            crate::scratch::remove_all();
            std::process::abort();
        });
        Self { done }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

/// How much longer than usual the random tests run: `LITEFS_SOAK` (1 in CI).
pub fn soak_factor() -> u64 {
    std::env::var("LITEFS_SOAK").ok().and_then(|f| f.parse().ok()).unwrap_or(1)
}
