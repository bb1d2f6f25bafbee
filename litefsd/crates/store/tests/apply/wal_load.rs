//! 50 000 frames while readers of two SQLite versions read, keep old snapshots and checkpoint.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use litefs_store::own_mount::FileKind;

use crate::client::{Client, Version};
use crate::primary::{CHECK, Primary, SetOnDrop};
use crate::wal::{log_is_durable, start, write};

const FRAMES: usize = 50_000;

/// One reader: consistent at every look, stable within a transaction. Returns how often it looked.
fn read(mut c: Client, mmap: u32, checkpoints: bool, over: &AtomicBool) -> u32 {
    c.run(&format!("PRAGMA mmap_size={mmap}; PRAGMA busy_timeout=2000; PRAGMA cache_size=50"));
    let (mut looks, mut last) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        c.run("BEGIN");
        let first = c.one(CHECK);
        let generation: u32 = first.strip_prefix("ok|").unwrap_or_else(|| panic!("{first}")).parse().unwrap();
        assert!(generation >= last, "back in time: {generation} after {last}");
        last = generation;
        for _ in 0..looks % 4 {
            assert_eq!(c.one(CHECK), first, "the snapshot changed");
        }
        c.run("COMMIT");
        looks += 1;
        if checkpoints && looks % 8 == 0 {
            let said = c.one("PRAGMA wal_checkpoint(PASSIVE)");
            assert!(!said.contains("rror"), "{said}");
        }
        if looks % 50 == 0 {
            assert_eq!(c.one("PRAGMA integrity_check"), "ok");
        }
    }
    assert_eq!(c.one("PRAGMA integrity_check"), "ok");
    looks
}

#[test]
fn fifty_thousand_frames_under_readers() {
    let mut p = Primary::new(1024, "wal");
    let (r, w) = start(&mut p);
    let mut readers = vec![
        (Client::new(Version::Bundled, &r.path()), 0, true),
        (Client::new(Version::Bundled, &r.path()), 1 << 30, false),
    ];
    for (mmap, checkpoints) in [(0, false), (1 << 30, true)] {
        readers.extend(Client::system(&r.path()).map(|c| (c, mmap, checkpoints)));
    }
    let over = AtomicBool::new(false);
    let (mut frames, mut restarts, mut slowest) = (0, 0, Duration::ZERO);
    std::thread::scope(|s| {
        let over = &over;
        let end = SetOnDrop(over);
        let readers: Vec<_> =
            readers.into_iter().map(|(c, mmap, ck)| s.spawn(move || read(c, mmap, ck, over))).collect();
        let checkpoints = s.spawn(|| {
            let mut complete = 0;
            while !over.load(Ordering::Relaxed) {
                if w.needs_checkpoint() {
                    let c = w.checkpoint(&r.mount, &log_is_durable).unwrap();
                    complete += u32::from(c.complete);
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            complete
        });
        let mut i = 0;
        while frames < FRAMES {
            i += 1;
            let tx = match i % 40 {
                0 => p.update(1..1500, 200),
                20 => p.shrink(400 + i % 7),
                _ => p.update((1..1500).filter(|id| (id + i) % 53 == 0), 150 + (i as usize * 37) % 200),
            };
            let start = Instant::now();
            let written = write(&r, &w, &tx);
            slowest = slowest.max(start.elapsed());
            frames += tx.pages.len();
            restarts += u32::from(written.restarted);
        }
        drop(end);
        let looks: Vec<u32> = readers.into_iter().map(|t| t.join().unwrap()).collect();
        let complete = checkpoints.join().unwrap();
        eprintln!(
            "{frames} frames, {i} transactions, {restarts} restarts, {complete} complete checkpoints, looks {looks:?}, slowest apply {slowest:?}"
        );
        assert!(looks.iter().all(|n| *n > 10), "{looks:?}");
        assert!(restarts > 1, "the WAL never restarted");
    });
    let c = w.checkpoint(&r.mount, &log_is_durable).unwrap();
    assert!(c.complete, "{c:?}");
    assert!(r.image() == p.image, "the file is what the primary has, byte for byte");
    assert!(r.has(FileKind::Wal));
    assert!(write(&r, &w, &p.update(1..5, 60)).restarted, "nobody needs the old frames");
}
