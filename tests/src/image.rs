//! Are two copies of a database the same, and is each what its position says?
//!
//! The checksum is computed here by itself, from the definition in the LTX format, so that a mistake
//! in the daemon's own arithmetic cannot agree with itself.

use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use litefs_types::{CHECKSUM_FLAG, Pos};

use crate::http::export;
use crate::node::Node;
use crate::scratch::{Scratch, remove_database};
use crate::session::Session;

/// Offset of SQLite's lock bytes; the page that holds them is never written nor counted.
const LOCK_OFFSET: u64 = 0x4000_0000;

/// The page size from the header of a database image.
pub fn page_size(image: &[u8]) -> u32 {
    match u16::from_be_bytes([image[16], image[17]]) {
        1 => 65536,
        n => n.into(),
    }
}

/// The database checksum of an image: XOR of the CRC-64s of (page number, page), bit 63 set.
pub fn checksum(image: &[u8]) -> u64 {
    if image.is_empty() {
        return CHECKSUM_FLAG;
    }
    let size = page_size(image) as usize;
    assert_eq!(image.len() % size, 0, "an image of {} bytes with pages of {size}", image.len());
    let lock_page = (LOCK_OFFSET / size as u64) as u32 + 1;
    let mut sum = 0;
    for (i, page) in image.chunks_exact(size).enumerate() {
        let number = i as u32 + 1;
        if number != lock_page {
            let mut digest = Digest::new(CrcAlgorithm::Crc64GoIso);
            digest.update(&number.to_be_bytes());
            digest.update(page);
            sum ^= digest.finalize();
        }
    }
    sum | CHECKSUM_FLAG
}

/// `PRAGMA integrity_check` and `foreign_key_check` of an image, in a file of its own.
pub fn check_integrity(image: &[u8], scratch: &Scratch) {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = scratch.join(format!("image-{n}.db"));
    std::fs::write(&path, image).expect("write the image");
    let mut session = Session::open(&path);
    assert_eq!(session.one("PRAGMA integrity_check"), "ok", "integrity of {}", path.display());
    session.close();
    remove_database(&path);
}

/// The export of a node, checked against its own position (which must not change meanwhile).
pub fn checked_export(node: &Node, db: &str) -> (Pos, Vec<u8>) {
    for _ in 0..20 {
        let before = node.pos(db).unwrap_or_else(|| panic!("no {db}-pos on {}", node.name));
        let image = export(node, db);
        if node.pos(db) == Some(before) {
            assert_eq!(
                checksum(&image),
                before.checksum().get(),
                "the export of {db} on {} is not what its position {before} says ({} bytes)",
                node.name,
                image.len()
            );
            return (before, image);
        }
    }
    panic!("{db} on {} never stands still", node.name);
}

/// Everything two nodes must have in common once the primary is quiet: position, export byte for byte,
/// integrity, and what SQLite reads through both mounts.
pub fn assert_same(primary: &Node, replica: &Node, db: &str, scratch: &Scratch) -> Pos {
    let pos = replica.sync_with(primary, db);
    let (left, right) = (checked_export(primary, db), checked_export(replica, db));
    assert_eq!(left.0, right.0, "positions after the export");
    assert_same_bytes(&left.1, &right.1, &format!("{db}: primary and replica at {pos}"));
    check_integrity(&left.1, scratch);
    assert_eq!(dump(&primary.path(db)), dump(&replica.path(db)), "{db}: what SQLite reads on both mounts");
    pos
}

/// Compares two images and names the first page that differs.
pub fn assert_same_bytes(left: &[u8], right: &[u8], what: &str) {
    if left == right {
        return;
    }
    let size = if left.len() > 17 { page_size(left).max(512) as usize } else { 512 };
    let page = left.chunks(size).zip(right.chunks(size)).position(|(a, b)| a != b).map(|p| p + 1);
    panic!("{what}: {} and {} bytes, first different page {page:?} of {size}", left.len(), right.len());
}

/// A digest of everything SQLite reads: schema, and every row of every table in primary-key order.
pub fn dump(path: &Path) -> Vec<String> {
    let mut session = Session::open(path);
    session.exec("PRAGMA busy_timeout=10000");
    let rows = dump_in(&mut session);
    session.close();
    rows
}

/// As [`dump`], through an open session.
pub fn dump_in(session: &mut Session) -> Vec<String> {
    let mut all = session.exec("SELECT type||' '||name||' '||coalesce(sql,'') FROM sqlite_schema ORDER BY 1");
    for table in session.exec("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY 1") {
        all.push(format!("-- {table}"));
        all.extend(session.exec(&format!("SELECT * FROM \"{table}\" ORDER BY rowid")));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_database_has_only_the_flag() {
        assert_eq!(checksum(&[]), CHECKSUM_FLAG);
    }

    #[test]
    fn every_page_counts_once_and_by_its_number() {
        let mut image = vec![0_u8; 1024];
        image[16..18].copy_from_slice(&512_u16.to_be_bytes());
        let one = checksum(&image);
        image[600] ^= 1;
        assert_ne!(one, checksum(&image));
        image[600] ^= 1;
        image[512..].fill(0);
        assert_eq!(one, checksum(&image));
    }
}
