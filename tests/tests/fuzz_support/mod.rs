//! What the fuzzers share: memory that is counted, time that is limited, inputs that can be repeated.

#![allow(dead_code)] // not every fuzzer uses every part

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use litefs_tests::bad_input::mutate::{mutate, noise};
use litefs_tests::rng::Rng;
use litefs_tests::watch::soak_factor;

/// More than this for an input of less than 1 MiB is a length that was believed.
const MAX_MEMORY: isize = 64 << 20;
/// More than this for one input is a loop.
const MAX_TIME: Duration = Duration::from_secs(20);
/// Longest input.
pub(crate) const MAX_INPUT: usize = 1 << 20;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts what each thread holds.
pub(crate) struct Counting;

fn count(by: isize) {
    // At a thread's end there is nothing to count any more.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + by);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Feeds damaged samples to `f`, for a while: `LITEFS_SOAK` times two seconds, and at least 200 inputs.
///
/// `repair` may put right what only hides the interesting part (a checksum). A failure names the seed and
/// the number of the input, and `LITEFS_SEED` repeats it.
pub(crate) fn fuzz(
    name: &str,
    samples: &[Vec<u8>],
    repair: impl Fn(&mut Rng, &mut Vec<u8>),
    mut f: impl FnMut(&[u8], &mut Rng),
) {
    assert!(!samples.is_empty(), "{name}: no sample");
    let seed = Rng::seed_or(0xF0 + name.len() as u64);
    let end = Instant::now() + Duration::from_secs(2) * soak_factor() as u32;
    let mut inputs = 0_u64;
    // First of all the samples themselves.
    for (n, sample) in samples.iter().enumerate() {
        guarded(&format!("{name}, sample {n}"), sample, &mut |i| f(i, &mut Rng::new(n as u64)));
    }
    while Instant::now() < end || inputs < 200 {
        let mut rng = Rng::new(seed.wrapping_add(inputs.wrapping_mul(0x1_0001)));
        let mut input = if rng.chance(3) {
            noise(&mut rng, 4096)
        } else {
            let (a, b) = (rng.pick(samples).clone(), rng.pick(samples).clone());
            mutate(&mut rng, &a, &b, MAX_INPUT)
        };
        repair(&mut rng, &mut input);
        let what = format!("{name}, LITEFS_SEED={seed}, input {inputs}");
        guarded(&what, &input, &mut |i| f(i, &mut rng));
        inputs += 1;
    }
    eprintln!("{name}: {inputs} inputs");
}

/// No repair.
pub(crate) fn as_it_is(_: &mut Rng, _: &mut Vec<u8>) {}

fn guarded(what: &str, input: &[u8], f: &mut dyn FnMut(&[u8])) {
    let before = NOW.with(Cell::get);
    PEAK.with(|p| p.set(before));
    let start = Instant::now();
    let done = catch_unwind(AssertUnwindSafe(|| f(input)));
    let (time, memory) = (start.elapsed(), PEAK.with(Cell::get) - before);
    let fails = done.is_err() || memory > MAX_MEMORY || time > MAX_TIME;
    if fails {
        let path = std::env::temp_dir().join(format!("litefs-fuzz-{}", std::process::id()));
        let kept =
            std::fs::write(&path, input).map_or_else(|e| e.to_string(), |()| path.display().to_string());
        panic!("{what}: panic={} memory={memory} time={time:?}; the input: {kept}", done.is_err());
    }
}

/// The files of an archive in `tests/vectors`.
pub(crate) fn unpack(path: &str) -> BTreeMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(path);
    let packed = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&packed[..]));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            files.insert(name, data);
        }
    }
    files
}

/// The recorded files of `tests/vectors/<dir>` with this ending.
pub(crate) fn recorded(dir: &str, ending: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(dir);
    let mut paths: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.to_string_lossy().ends_with(ending));
    paths.sort();
    paths.iter().map(|p| std::fs::read(p).unwrap()).collect()
}
