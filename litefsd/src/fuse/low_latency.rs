//! Keeps idle processors from falling asleep while requests come in quick succession.
//!
//! Owns: one thread, and the latency request that it holds meanwhile. Does not own: when a request is
//! answered. Tested below, and measured by `make bench`.
//!
//! *Why.* Each request is two wake-ups: of a handler, then of the application. On a virtual machine the
//! scheduler puts the two on different processors, and a processor that halted costs 25 to 50 µs to get
//! back, several times what the request itself costs. Linux has an interface for exactly this
//! (Documentation/power/pm_qos_interface.rst): while somebody holds `/dev/cpu_dma_latency` open with a
//! number of microseconds in it, no processor enters a state that takes longer to leave. Holding it for
//! good would keep processors busy that have nothing to do, so it is held during bursts only.
//!
//! Where the device is missing or closed (a container, a sandbox), nothing changes but the speed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// The kernel's interface; the request ends when the descriptor is closed, also by the death of its owner.
const DEVICE: &str = "/dev/cpu_dma_latency";
/// Tells which driver puts idle processors to sleep; missing where none does.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// The driver of virtual machines: its states are "poll" and "halt".
const HALT_DRIVER: &str = "haltpoll";
/// Most processors that may poll at the same time on our account; more would be a noticeable waste.
const MAX_POLLING: usize = 8;
/// What keeps the first, quick sleep state of a physical machine and forbids the deep ones.
const SHALLOW_US: i32 = 2;
/// "No request", the kernel's `PM_QOS_CPU_LATENCY_DEFAULT_VALUE`.
const NONE_US: i32 = 2_000_000_000;

/// A burst is this many requests (a power of two) …
const BURST: u64 = 8;
/// … within this time: three commits in a row, or one in a rollback mode.
const WITHIN: Duration = Duration::from_millis(2);
/// It is over when no request came for this long.
const QUIET: Duration = Duration::from_millis(1);

/// See the module documentation.
#[derive(Debug)]
pub struct LowLatency {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    requests: AtomicU64,
    /// When the request before the last `BURST` ones came, in microseconds since `started`.
    mark: AtomicU64,
    held: AtomicBool,
    stop: AtomicBool,
    keeper: OnceLock<Thread>,
}

impl LowLatency {
    /// Ready for bursts, where this machine has the interface and it is of use. `Ok(None)`: it is of none.
    pub fn start() -> io::Result<Option<Self>> {
        let driver = std::fs::read_to_string(DRIVER).unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let Some(limit) = limit_for(driver.trim(), cpus) else { return Ok(None) };
        Self::with(Path::new(DEVICE), limit).map(Some)
    }

    fn with(device: &Path, limit_us: i32) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(device)?;
        // An open descriptor without a number would be a request for the default: none.
        ask(&file, NONE_US)?;
        let shared = Arc::new(Shared {
            started: Instant::now(),
            requests: AtomicU64::new(0),
            mark: AtomicU64::new(0),
            held: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            keeper: OnceLock::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("low-latency".into())
            .spawn(move || theirs.keep(&file, limit_us))?;
        let _ = shared.keeper.set(thread.thread().clone());
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A request came in. Two relaxed additions, and a look at the clock for one in eight.
    pub fn request(&self) {
        let s = &*self.shared;
        if s.requests.fetch_add(1, Relaxed) % BURST == BURST - 1 {
            let now = u64::try_from(s.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            let before = s.mark.swap(now, Relaxed);
            let quick = u128::from(now.saturating_sub(before)) < WITHIN.as_micros();
            if quick
                && !s.held.swap(true, Relaxed)
                && let Some(keeper) = s.keeper.get()
            {
                keeper.unpark();
            }
        }
    }
}

impl Drop for LowLatency {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It ends within one pause.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn keep(&self, file: &File, limit_us: i32) {
        while !self.stop.load(Relaxed) {
            if !self.held.load(Relaxed) {
                std::thread::park();
                continue;
            }
            if let Err(error) = ask(file, limit_us) {
                // `held` stays set: nobody asks again.
                tracing::warn!(%error, "cannot keep processors awake during bursts of writes");
                return;
            }
            let mut seen = self.requests.load(Relaxed);
            loop {
                std::thread::sleep(QUIET);
                let now = self.requests.load(Relaxed);
                if now == seen || self.stop.load(Relaxed) {
                    break;
                }
                seen = now;
            }
            if let Err(error) = ask(file, NONE_US) {
                tracing::warn!(%error, "cannot let processors sleep again; closing the request");
                return;
            }
            self.held.store(false, Relaxed);
        }
    }
}

/// The latency to ask for in microseconds; `None`: leave it.
fn limit_for(driver: &str, cpus: usize) -> Option<i32> {
    match driver {
        // One processor is never idle while anybody works, and no driver means nothing to forbid.
        _ if cpus < 2 => None,
        "" | "none" => None,
        // Its halt counts as one microsecond but takes what the hypervisor takes: only polling is quick.
        HALT_DRIVER => (cpus <= MAX_POLLING).then_some(0),
        _ => Some(SHALLOW_US),
    }
}

fn ask(mut file: &File, us: i32) -> io::Result<()> {
    file.write_all(&us.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was asked for so far. A plain file takes the place of the device: writes add up.
    fn asked(path: &Path) -> Vec<i32> {
        let bytes = std::fs::read(path).unwrap();
        bytes.chunks_exact(4).map(|b| i32::from_ne_bytes(b.try_into().unwrap())).collect()
    }

    fn wait_for(path: &Path, want: &[i32]) {
        let end = Instant::now() + Duration::from_secs(10);
        while asked(path) != want {
            assert!(Instant::now() < end, "{:?} instead of {want:?}", asked(path));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_burst_is_held_and_let_go() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let low = LowLatency::with(device.path(), 0).unwrap();
        wait_for(device.path(), &[NONE_US]);
        for _ in 0..2 * BURST {
            low.request();
        }
        wait_for(device.path(), &[NONE_US, 0, NONE_US]);
        // Again, for the next burst.
        std::thread::sleep(WITHIN * 2);
        for _ in 0..3 * BURST {
            low.request();
        }
        wait_for(device.path(), &[NONE_US, 0, NONE_US, 0, NONE_US]);
    }

    #[test]
    fn single_requests_are_no_burst() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let low = LowLatency::with(device.path(), 0).unwrap();
        for _ in 0..2 {
            std::thread::sleep(WITHIN * 2);
            for _ in 0..BURST {
                low.request();
            }
        }
        std::thread::sleep(WITHIN);
        drop(low);
        assert_eq!(asked(device.path()), [NONE_US]);
    }

    #[test]
    fn machines() {
        assert_eq!(limit_for("haltpoll", 2), Some(0));
        assert_eq!(limit_for("haltpoll", 64), None);
        assert_eq!(limit_for("intel_idle", 64), Some(SHALLOW_US));
        assert_eq!(limit_for("haltpoll", 1), None);
        assert_eq!(limit_for("none", 4), None);
        assert_eq!(limit_for("", 4), None);
    }
}
