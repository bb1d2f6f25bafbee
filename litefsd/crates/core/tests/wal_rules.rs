//! The WAL tracker, one test a rule: what a write makes invalid, what is refused, what the index adds.

#![allow(clippy::unwrap_used, clippy::panic)] // the lints know `#[test]` functions, not their helpers

mod common;

use common::follower::{File, Follower};
use common::writer::{Request, Writer, page_bytes};
use litefs_core::capture::{
    Generation, RefusedTruncate, RefusedWrite, WalError, WalEvent, WalTracker, frame_data_offset,
};
use litefs_sqlite::wal::{FrameHeader, frame_len, frame_offset};
use litefs_sqlite::wal_checksum::ByteOrder;
use litefs_types::PageSize;

fn ps() -> PageSize {
    PageSize::new(512).unwrap()
}

/// Where frame `f` begins.
fn at(f: u32) -> u64 {
    frame_offset(f, ps())
}

fn feed(follower: &mut Follower, writer: &mut Writer) {
    for request in std::mem::take(&mut writer.requests) {
        follower.request(&request, &mut || usize::MAX);
    }
}

/// A follower of a WAL with one transaction of pages 1 to 3, prepared but not published.
fn prepared() -> (Follower, Writer) {
    let (mut follower, mut writer) = (Follower::default(), Writer::new(ps()));
    for page in 1..4 {
        writer.set(page, 1);
    }
    writer.commit(3, 0, false, true);
    feed(&mut follower, &mut writer);
    assert_eq!(follower.tracker.prepared(), [3]);
    (follower, writer)
}

/// The same, published.
fn published() -> (Follower, Writer) {
    let (mut follower, mut writer) = (Follower::default(), Writer::new(ps()));
    for page in 1..4 {
        writer.set(page, 1);
    }
    writer.commit(3, 0, false, false);
    feed(&mut follower, &mut writer);
    follower.index(writer.live_mx, writer.pages, writer.live_chain);
    (follower, writer)
}

fn wrote(follower: &mut Follower, offset: u64, data: &[u8]) -> Vec<WalEvent> {
    let from = offset as usize;
    if follower.file.bytes.len() < from + data.len() {
        follower.file.bytes.resize(from + data.len(), 0);
    }
    follower.file.bytes[from..from + data.len()].copy_from_slice(data);
    follower.tracker.wrote(offset, data, &mut follower.file).unwrap()
}

#[test]
fn a_transaction_names_its_frames() {
    let (follower, writer) = published();
    let tx = &follower.published[0].tx;
    assert_eq!((tx.first, tx.last, tx.commit), (1, 3, 3));
    assert_eq!((tx.wal_offset, tx.wal_size), (32, 3 * frame_len(ps())));
    assert_eq!(tx.chain, writer.live_chain);
    assert_eq!(frame_data_offset(3, ps()), at(3) + 24);
}

#[test]
fn w2_any_write_into_a_prepared_transaction_drops_it() {
    // Header bytes, page bytes, and a zapped header; of the first, a middle and the last frame.
    for frame in 1..=3 {
        for (offset, len) in [(0, 24), (0, 1), (8, 16), (24, 512), (300, 7), (535, 1)] {
            let (mut follower, _) = prepared();
            let events = wrote(&mut follower, at(frame) + offset, &vec![0; len]);
            assert_eq!(events, [WalEvent::Dropped { from_frame: frame }], "{frame} {offset} {len}");
            assert_eq!(follower.tracker.verified_frames(), frame - 1);
            assert_eq!(follower.tracker.captured_frames(), 0);
            assert_eq!(follower.tracker.publish(3), 0, "gone for good");
        }
    }
}

#[test]
fn w2_a_drop_takes_those_behind_and_no_others() {
    let (mut follower, mut writer) = (Follower::default(), Writer::new(ps()));
    writer.set(1, 1);
    // Three complete transactions of one frame each: a commit and its copies.
    writer.commit(1, 2, false, true);
    feed(&mut follower, &mut writer);
    assert_eq!(follower.tracker.prepared(), [1, 2, 3]);
    assert_eq!(wrote(&mut follower, at(2), &[9; 24]), [WalEvent::Dropped { from_frame: 2 }]);
    assert_eq!(follower.tracker.prepared(), [1]);
    assert_eq!((follower.tracker.publish(9), follower.tracker.published_frames()), (1, 1));
}

#[test]
fn a_published_frame_is_not_overwritten() {
    let (mut follower, _) = published();
    let refused = |frame| Err(RefusedWrite { frame, published: 3 });
    assert_eq!(follower.tracker.check_write(at(1), 24), refused(1));
    assert_eq!(follower.tracker.check_write(at(4) - 1, 1), refused(3));
    assert_eq!(follower.tracker.check_write(at(4) - 1, 5000), refused(3));
    assert_eq!(follower.tracker.check_write(at(4) - 1, 0), Ok(()));
    assert_eq!(follower.tracker.check_write(at(4), 5000), Ok(()));
    assert_eq!(follower.tracker.check_write(0, 32), Ok(()), "the index decides about a restart");
    assert_eq!(follower.tracker.check_write(u64::MAX, 9), Ok(()));
    let got = follower.tracker.wrote(at(2), &[0; 24], &mut follower.file);
    assert_eq!(got, Err(WalError::Published(RefusedWrite { frame: 2, published: 3 })));
}

#[test]
fn h6_leftovers_behind_the_write_position_are_not_taken() {
    // A dropped transaction of three frames; then one whose first frame is the same, to the bit.
    let (mut follower, mut writer) = prepared();
    for page in 1..4 {
        writer.set(page, 1);
    }
    writer.requests.clear();
    writer.spill(|page| page == 1);
    // The header, equal salts: everything starts over.
    let requests = std::mem::take(&mut writer.requests);
    assert_eq!(requests.len(), 3, "wal header, frame header, page");
    for request in &requests {
        follower.request(request, &mut || usize::MAX);
        assert!(follower.tracker.prepared().is_empty());
    }
    assert_eq!((follower.tracker.verified_frames(), follower.drops), (1, 1));
}

#[test]
fn h6_a_copy_left_behind_a_shorter_commit_is_not_taken() {
    let (mut follower, mut writer) = published();
    // A commit with a copy behind it, never visible; then the same commit without a copy.
    writer.set(1, 2);
    writer.commit(3, 1, false, true);
    feed(&mut follower, &mut writer);
    assert_eq!(follower.tracker.prepared(), [4, 5]);
    writer.set(1, 2);
    writer.commit(3, 0, false, false);
    feed(&mut follower, &mut writer);
    assert_eq!(follower.tracker.prepared(), [4]);
    follower.index(writer.live_mx, writer.pages, writer.live_chain);
    // The copy in frame 5 is valid by the chain. Only a header makes it a frame of now.
    let copy = follower.file.bytes[at(5) as usize + 24..at(6) as usize].to_vec();
    assert_eq!(wrote(&mut follower, at(5) + 24, &copy), []);
    let header = follower.file.bytes[at(5) as usize..at(5) as usize + 24].to_vec();
    assert!(matches!(wrote(&mut follower, at(5), &header)[..], [WalEvent::Commit(_)]));
}

#[test]
fn an_equal_retry_is_prepared_again() {
    // The application repeats the killed transaction: the same bytes at the same place.
    let (mut follower, mut writer) = published();
    for killed in [true, true, false] {
        writer.set(2, 2);
        writer.set(3, 2);
        writer.commit(3, 0, false, killed);
        for request in std::mem::take(&mut writer.requests) {
            follower.request(&request, &mut || 100);
        }
        assert_eq!(follower.tracker.prepared(), [5]);
    }
    follower.index(writer.live_mx, writer.pages, writer.live_chain);
    assert_eq!(follower.published.len(), 2);
}

#[test]
fn h6_a_header_with_equal_salts_starts_over() {
    let (mut follower, _) = prepared();
    let header = follower.file.bytes[..32].to_vec();
    // In two pieces: the generation ends with the first and begins with the second.
    assert_eq!(wrote(&mut follower, 0, &header[..5]), [WalEvent::Dropped { from_frame: 1 }]);
    assert_eq!(follower.tracker.generation(), None);
    assert_eq!(wrote(&mut follower, 5, &header[5..]), [WalEvent::NewGeneration]);
    assert_eq!((follower.tracker.verified_frames(), follower.tracker.frame_count()), (0, 0));
    // Nothing that stands in the file counts without being written again.
    let frame = follower.file.bytes[at(1) as usize..at(2) as usize].to_vec();
    assert_eq!(wrote(&mut follower, at(1), &frame), []);
    assert_eq!(follower.tracker.verified_frames(), 1);
}

#[test]
fn a_restart_with_published_frames_is_a_new_generation() {
    let (mut follower, mut writer) = published();
    let old = follower.tracker.generation().unwrap();
    writer.restart();
    writer.set(1, 2);
    writer.commit(3, 0, false, false);
    feed(&mut follower, &mut writer);
    assert_ne!(follower.tracker.generation().unwrap().salt, old.salt);
    assert_eq!((follower.tracker.published_frames(), follower.tracker.prepared()), (0, &[1][..]));
}

#[test]
fn an_invalid_header_means_no_generation() {
    let (mut follower, _) = prepared();
    assert_eq!(wrote(&mut follower, 8, &[0; 4]), [WalEvent::Dropped { from_frame: 1 }]);
    assert_eq!(follower.tracker.generation(), None);
    assert_eq!(wrote(&mut follower, at(1), &[1; 2000]), []);
    assert_eq!(follower.tracker.cover(1, 1, [0; 2], &mut follower.file), Err(WalError::NoGeneration));
}

#[test]
fn frames_with_other_salts_do_not_count() {
    let (mut follower, writer) = published();
    let generation = follower.tracker.generation().unwrap();
    let page = page_bytes(ps(), 1, 7);
    let good = FrameHeader::chained(&generation, writer.live_chain, 1, 3, &page);
    for bad in [
        FrameHeader { salt: [generation.salt[0], generation.salt[1] ^ 1], ..good },
        FrameHeader { checksum: [good.checksum[0], good.checksum[1] ^ 1], ..good },
        FrameHeader { page: 0, ..FrameHeader::chained(&generation, writer.live_chain, 0, 3, &page) },
    ] {
        let mut frame = bad.encode().to_vec();
        frame.extend_from_slice(&page);
        assert_eq!(wrote(&mut follower, at(4), &frame), []);
    }
    assert_eq!(follower.tracker.verified_frames(), 3);
    assert!(matches!(wrote(&mut follower, at(4), &good.encode())[..], [WalEvent::Commit(_)]));
}

#[test]
fn a_header_replaced_in_the_midst_of_its_page() {
    let (mut follower, writer) = published();
    let generation = follower.tracker.generation().unwrap();
    let page = page_bytes(ps(), 1, 7);
    let spilled = FrameHeader::chained(&generation, writer.live_chain, 1, 0, &page).encode();
    let commit = FrameHeader::chained(&generation, writer.live_chain, 1, 3, &page).encode();
    assert_eq!(wrote(&mut follower, at(4), &spilled), []);
    assert_eq!(wrote(&mut follower, at(4) + 24, &page[..100]), []);
    assert_eq!(wrote(&mut follower, at(4), &commit), []);
    assert!(matches!(wrote(&mut follower, at(4) + 124, &page[100..])[..], [WalEvent::Commit(_)]));
}

#[test]
fn h5_overwriting_pages_again_and_again_reads_nothing_back() {
    // Equal content: each overwritten page still fits its old header. Only the second pass may look,
    // or a large transaction would be read once for every page that it rewrites.
    let (mut follower, mut writer) = (Follower::default(), Writer::new(ps()));
    for page in 1..200 {
        writer.set(page, 1);
    }
    writer.spill(|_| true);
    for _ in 0..3 {
        for page in 1..200 {
            writer.set(page, 1);
        }
        writer.spill(|_| true);
    }
    feed(&mut follower, &mut writer);
    assert_eq!(follower.file.reads, 0);
    assert_eq!(follower.tracker.verified_frames(), 0);
    writer.set(200, 1);
    writer.commit(200, 0, false, false);
    feed(&mut follower, &mut writer);
    assert_eq!(follower.tracker.prepared(), [200]);
    assert_eq!(follower.file.reads, 200, "one for each frame of the second pass");
}

#[test]
fn w11_truncation_spares_verified_frames() {
    let (mut follower, _) = prepared();
    let end = at(4);
    let refused = |size| Err(RefusedTruncate { size, verified_end: end });
    assert_eq!(follower.tracker.check_truncate(end), Ok(()));
    assert_eq!(follower.tracker.check_truncate(end - 1), refused(end - 1));
    assert_eq!(follower.tracker.check_truncate(1), refused(1));
    assert_eq!(follower.tracker.check_truncate(0), Ok(()));
    assert_eq!(follower.tracker.truncated(end), []);
    assert_eq!(follower.tracker.prepared(), [3]);
    // What happened anyway is followed all the same.
    assert_eq!(follower.tracker.truncated(end - 1), [WalEvent::Dropped { from_frame: 3 }]);
    assert_eq!(follower.tracker.frame_count(), 2);
    assert_eq!(WalTracker::new().check_truncate(5), Ok(()));
}

#[test]
fn truncation_to_nothing_and_removal_drop_everything() {
    for size in [Some(0), Some(31), None] {
        let (mut follower, _) = prepared();
        let events = match size {
            Some(size) => follower.tracker.truncated(size),
            None => follower.tracker.removed(),
        };
        assert_eq!(events, [WalEvent::Dropped { from_frame: 1 }]);
        assert_eq!(follower.tracker.generation(), None);
        let (mut follower, _) = published();
        assert_eq!(follower.tracker.removed(), [], "what is published is in the log");
    }
}

#[test]
fn w7_refuses_what_is_no_transaction() {
    let (mut follower, _) = published();
    let tracker = &mut follower.tracker;
    assert_eq!(tracker.cover(3, 3, [0; 2], &mut follower.file), Ok(vec![]), "captured already");
    assert_eq!(tracker.cover(4, 0, [0; 2], &mut follower.file), Err(WalError::NotATransaction(4)));
    assert!(matches!(tracker.cover(4, 3, [0; 2], &mut follower.file), Err(WalError::Read(_))));
    follower.file.bytes.resize(at(5) as usize, 0);
    let tracker = &mut follower.tracker;
    assert_eq!(tracker.cover(4, 3, [0; 2], &mut follower.file), Err(WalError::NotATransaction(4)));
    assert!(tracker.prepared().is_empty());
}

#[test]
fn w7_a_commit_that_the_chain_does_not_reach_is_noticed() {
    let (mut follower, mut writer) = published();
    writer.set(2, 9);
    writer.commit(3, 0, false, false);
    for request in std::mem::take(&mut writer.requests) {
        // Salts and checksum as SQLite leaves them behind a rewrite in place that was rolled back.
        let Request::Write { offset, mut data, .. } = request else { continue };
        let header = (offset - 32) % frame_len(ps()) == 0;
        if header {
            data[8..24].fill(0);
        }
        assert_eq!(wrote(&mut follower, offset, &data), []);
        assert_eq!(follower.tracker.uncaptured_commit(), data.len() == 512 || data.len() == 536);
    }
    let (mx, chain) = (writer.live_mx, writer.live_chain);
    assert_eq!(follower.tracker.cover(mx, 3, chain, &mut follower.file).unwrap().len(), 1);
    assert!(!follower.tracker.uncaptured_commit());

    // Written again, or cut off, it is none any more.
    let (mut follower, _) = prepared();
    wrote(&mut follower, at(3) + 8, &[0; 16]);
    assert!(follower.tracker.uncaptured_commit());
    wrote(&mut follower, at(2), &[0; 24]);
    assert!(!follower.tracker.uncaptured_commit());
    let (mut follower, _) = prepared();
    wrote(&mut follower, at(3) + 8, &[0; 16]);
    follower.tracker.truncated(at(3));
    assert!(!follower.tracker.uncaptured_commit());
}

#[test]
fn w7_takes_frames_that_were_never_followed_and_those_behind() {
    let (mut follower, mut writer) = published();
    // Two transactions reach the file without the tracker being told.
    writer.set(2, 2);
    writer.commit(3, 0, false, false);
    let (mx, chain) = (writer.live_mx, writer.live_chain);
    writer.requests.clear();
    follower.file.bytes = writer.file.clone();
    // The next one is being written when the index is looked at.
    writer.set(3, 2);
    writer.commit(3, 0, false, false);
    let requests = std::mem::take(&mut writer.requests);
    let Request::Write { offset, data, .. } = &requests[0] else { panic!("a frame header") };
    assert_eq!(wrote(&mut follower, *offset, data), []);
    let Request::Write { offset, data, .. } = &requests[1] else { panic!("a page") };
    assert_eq!(wrote(&mut follower, *offset, data), [], "nothing vouches for it yet");
    let found = follower.tracker.cover(mx, 3, chain, &mut follower.file).unwrap();
    let ends: Vec<_> = found.iter().map(|tx| (tx.first, tx.last)).collect();
    assert_eq!(ends, [(4, 4), (5, 5)], "the second one follows from the first");
    assert_eq!(follower.tracker.chain(5), Some(writer.live_chain));
}

#[test]
fn adopted_frames_are_published_and_the_next_ones_follow() {
    let mut writer = Writer::new(ps());
    writer.set(1, 1);
    writer.commit(1, 0, false, false);
    let file = File { bytes: writer.file.clone(), reads: 0 };
    let generation = Generation::parse(file.bytes.first_chunk().unwrap()).unwrap();
    let mut follower = Follower { file, ..Follower::default() };
    follower.tracker.adopt(generation, writer.live_mx, writer.live_chain);
    writer.requests.clear();
    writer.set(1, 2);
    writer.commit(1, 0, false, false);
    feed(&mut follower, &mut writer);
    assert!(!follower.index(writer.live_mx, 1, writer.live_chain));
    assert_eq!((follower.published[0].tx.first, follower.file.reads), (2, 0));
    assert!(follower.tracker.check_write(at(1), 1).is_err());
}

#[test]
fn far_away_writes_cost_nothing() {
    let (mut follower, _) = published();
    let mut rd = File::default();
    for offset in [at(1_000_000), u64::from(u32::MAX) * 536, u64::MAX - 3, 1 << 50] {
        assert_eq!(follower.tracker.wrote(offset, &[1; 600], &mut rd), Ok(vec![]));
        assert!(follower.tracker.frame_count() < 5000);
    }
    assert_eq!(follower.tracker.publish(u32::MAX), 3);
}

#[test]
fn big_endian_wals_are_followed() {
    let generation = Generation::new(ps(), ByteOrder::Big, 0, [5, 6]);
    let page = page_bytes(ps(), 1, 3);
    let frame = FrameHeader::chained(&generation, generation.header_checksum, 1, 1, &page);
    let mut wal = generation.encode().to_vec();
    wal.extend_from_slice(&frame.encode());
    wal.extend_from_slice(&page);
    let mut follower = Follower::default();
    let events = wrote(&mut follower, 0, &wal);
    assert!(matches!(&events[..], [WalEvent::NewGeneration, WalEvent::Commit(tx)] if tx.last == 1));
}

#[test]
fn a_page_that_cannot_be_read_back_is_an_error() {
    let (mut follower, mut writer) = (Follower::default(), Writer::new(ps()));
    writer.set(1, 1);
    writer.set(2, 1);
    writer.spill(|_| true);
    writer.set(1, 2);
    writer.set(2, 2);
    writer.commit(2, 0, false, false);
    let mut requests = std::mem::take(&mut writer.requests);
    let last = requests.pop();
    for request in &requests {
        follower.request(request, &mut || usize::MAX);
    }
    let Some(Request::Write { offset, data, .. }) = last else { panic!("a header") };
    let got = follower.tracker.wrote(offset, &data, &mut &[][..]);
    assert!(matches!(got, Err(WalError::Read(_))));
}
