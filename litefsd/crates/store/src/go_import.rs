//! A database directory of Go LiteFS 0.5 (`ltx/*.ltx`, no `log/`): turned into ours, in place.
//!
//! The original's recovery (storage spec 4.1) is done once, then the files of `ltx/` go into the log,
//! byte for byte, and `ltx/` is removed. One way. Every step may be interrupted: `ltx/` is removed last,
//! after log, database and sums are durable, and a half-converted log is emptied and made again.
//!
//! Where the original refuses to start, this goes back to the newest file that can be read; if that is
//! not what the database holds, the recovery that follows finds it out and applies its policy.
//!
//! Tests: the workspace's `golden_datadirs` (recorded directories, and a stop at every operation).

use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use litefs_core::page_sums::PageSums;
use litefs_ltx::checksum::page_checksum;
use litefs_ltx::{Decoder, FileName};
use litefs_sqlite::journal::JournalReader;
use litefs_sqlite::wal::{WAL_HEADER_LEN, WalHeader, WalReader, frame_data_offset};
use litefs_types::{PageNo, PageSize, Pos, Timestamp, Txid};

use crate::disk::{Disk, DiskFile, Op, OpenHow};
use crate::error::{Result, StoreError};
use crate::layout::DbLayout;
use crate::log::{Log, LogError, RecordKind, RecordMeta};
use crate::recover::{FileReader, Source};
use crate::sums_file::SumsFile;

const READ: Op = Op::new("go-import.read");
const WRITE: Op = Op::new("go-import.write");
const SYNC: Op = Op::new("go-import.sync");
const REMOVE: Op = Op::new("go-import.remove");

const BUFFER: usize = 256 * 1024;

/// One file of `ltx/`.
struct GoFile {
    name: FileName,
    path: PathBuf,
}

/// Converts the directory if it is one of Go LiteFS; otherwise does nothing.
pub(crate) fn convert(
    disk: &Arc<dyn Disk>,
    dir: &DbLayout,
    now: Timestamp,
    notes: &mut Vec<String>,
) -> Result<()> {
    let ltx = dir.go_ltx();
    if !disk.exists(READ, &ltx).map_err(StoreError::io("look at ltx/"))? {
        let done = converted(dir);
        if disk.exists(READ, &done).map_err(StoreError::io("look at ltx.converted/"))? {
            disk.remove_dir_all(REMOVE, &done).map_err(StoreError::io("removal of ltx.converted/"))?;
        }
        return Ok(());
    }
    let mut files = list(&**disk, dir)?;
    let mut newest = None;
    // The last transaction of files that cannot be read: the database is there, the log will not be.
    let mut ahead = None;
    while let Some(f) = files.last() {
        match verify(&**disk, f) {
            Ok(v) => {
                newest = Some(v);
                break;
            }
            Err(StoreError::Corrupt { reason, .. }) => {
                notes.push(format!("{} is damaged and was left out: {reason}", f.path.display()));
                ahead = ahead.max(Some(f.name.max));
                files.pop();
            }
            Err(e) => return Err(e),
        }
    }
    // With a newer file that cannot be read, database and wal are ahead of the newest that can: neither
    // may be taken back to it. Recovery sees the difference and follows its policy.
    if let Some((header, _)) = newest.as_ref().filter(|_| ahead.is_none()) {
        reconcile_wal(&**disk, dir, header, notes)?;
    }
    let ps = newest.as_ref().map(|(h, _)| h.page_size);
    roll_back(&**disk, dir, ps, notes)?;
    checkpoint(&**disk, dir, notes)?;
    if let Some((header, _)) = newest.as_ref().filter(|_| ahead.is_none()) {
        apply_last(&**disk, dir, header, files.last())?;
    }
    // Nothing in log/ is worth more than ltx/ is: it is of an earlier try.
    disk.remove_dir_all(REMOVE, &dir.log()).map_err(StoreError::io("removal of a half-made log"))?;
    match disk.unlink(REMOVE, &dir.sums()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::io("removal of the page sums")(e));
        }
        _ => {}
    }
    let tail = contiguous_tail(&**disk, &files)?;
    let count = tail.len();
    let (log, _) = Log::open(Arc::clone(disk), dir.log(), None)?;
    fill(&**disk, &log, &tail, now)?;
    if let Some((header, trailer)) = &newest
        && log.tip().is_zero()
    {
        log.reset(Pos::new(header.max_txid, *trailer), now)?;
    }
    let pos = log.sync()?;
    drop(log);
    if let Some((header, _)) = &newest {
        stamp(disk, dir, header, pos, ahead)?;
    }
    remove_ltx(&**disk, dir)?;
    notes.push(format!("converted a directory of Go LiteFS at {pos}: {count} transactions kept"));
    Ok(())
}

fn list(disk: &dyn Disk, dir: &DbLayout) -> Result<Vec<GoFile>> {
    let ltx = dir.go_ltx();
    let mut files: Vec<GoFile> = disk
        .read_dir(READ, &ltx)
        .map_err(StoreError::io("listing of ltx/"))?
        .into_iter()
        // Anything else is temporary, or not of LiteFS.
        .filter_map(|e| Some((e.name.to_str()?.parse::<FileName>().ok()?, ltx.join(&e.name))))
        .map(|(name, path)| GoFile { name, path })
        .collect();
    // Of two files that end at the same transaction, the one that holds more.
    files.sort_by_key(|f| (f.name.max, std::cmp::Reverse(f.name.min)));
    Ok(files)
}

fn open(disk: &dyn Disk, f: &GoFile) -> Result<Arc<dyn DiskFile>> {
    disk.open(READ, &f.path, OpenHow::READ).map_err(StoreError::io("opening of an LTX file"))
}

fn damaged(e: litefs_ltx::LtxError) -> StoreError {
    match e {
        litefs_ltx::LtxError::Io(e) => StoreError::io("read of an LTX file")(e),
        e => StoreError::Corrupt { what: "an LTX file", reason: e.to_string() },
    }
}

fn verify(disk: &dyn Disk, f: &GoFile) -> Result<(litefs_ltx::Header, litefs_types::Checksum)> {
    let file = open(disk, f)?;
    let v = litefs_ltx::verify(BufReader::with_capacity(BUFFER, FileReader { file: &*file, at: 0 }))
        .map_err(damaged)?;
    if v.header.min_txid != f.name.min || v.header.max_txid != f.name.max {
        return Err(StoreError::Corrupt { what: "an LTX file", reason: "its name and header differ".into() });
    }
    Ok((v.header, v.trailer.post_apply))
}

/// The wal belongs to the newest transaction, is cut behind it, or is none of ours.
fn reconcile_wal(
    disk: &dyn Disk,
    dir: &DbLayout,
    last: &litefs_ltx::Header,
    notes: &mut Vec<String>,
) -> Result<()> {
    let path = dir.wal();
    let file = match disk.open(READ, &path, OpenHow::READ_WRITE) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StoreError::io("opening of the wal")(e)),
    };
    let mut head = [0; WAL_HEADER_LEN];
    let n = file.read_at(&mut head, 0).map_err(StoreError::io("read of the wal"))?;
    if n < WAL_HEADER_LEN {
        return Ok(());
    }
    let salt = [16, 20].map(|at| head[at..at + 4].try_into().map_or(0, u32::from_be_bytes));
    let ours = last.wal.filter(|w| w.salt == salt);
    let len = file.len().map_err(StoreError::io("size of the wal"))?;
    match ours {
        Some(w) => {
            // Frames behind it were never logged, so never acknowledged. The original cuts them too.
            let end = w.offset.saturating_add(w.size);
            if len > end {
                file.set_len(WRITE, end).map_err(StoreError::io("cut of the wal"))?;
                file.sync_data(SYNC).map_err(StoreError::io("sync of the wal"))?;
                notes.push(format!("cut {} bytes of the wal that no transaction had", len - end));
            }
        }
        None if WalHeader::parse(&head).is_ok() && len > WAL_HEADER_LEN as u64 => {
            // A restarted wal of which nothing was logged: the original sets it aside.
            disk.rename(WRITE, &path, &dir.dir().join("wal.removed"))
                .map_err(StoreError::io("setting the wal aside"))?;
            notes.push("set a wal aside that no transaction refers to (wal.removed)".to_owned());
        }
        None => disk.unlink(REMOVE, &path).map_err(StoreError::io("removal of the wal"))?,
    }
    disk.sync_dir(SYNC, dir.dir()).map_err(StoreError::io("sync of the directory"))
}

fn database(disk: &dyn Disk, dir: &DbLayout) -> Result<Arc<dyn DiskFile>> {
    disk.open(WRITE, &dir.database(), OpenHow::CREATE).map_err(StoreError::io("opening of the database"))
}

/// The original logs before it finalises the journal: whatever a live journal holds is rolled back, and
/// the last transaction applied again on top.
fn roll_back(disk: &dyn Disk, dir: &DbLayout, ps: Option<PageSize>, notes: &mut Vec<String>) -> Result<()> {
    let path = dir.journal();
    if !disk.exists(READ, &path).map_err(StoreError::io("look at the journal"))? {
        return Ok(());
    }
    let file = disk.open(READ, &path, OpenHow::READ).map_err(StoreError::io("opening of the journal"))?;
    let len = file.len().map_err(StoreError::io("size of the journal"))?;
    let failed = |_| StoreError::Corrupt { what: "the journal", reason: "it cannot be read".into() };
    if let Some(mut j) = JournalReader::open(Source::new(file), len, ps).map_err(failed)? {
        let db = database(disk, dir)?;
        let ps = j.page_size();
        let size = ps.file_size(j.original_pages());
        if db.len().map_err(StoreError::io("size of the database"))? > size {
            db.set_len(WRITE, size).map_err(StoreError::io("cut of the database"))?;
        }
        let mut page = Vec::new();
        while let Some(no) = j.next_page(&mut page).map_err(failed)? {
            db.write_all_at(WRITE, &page, ps.offset(no)).map_err(StoreError::io("write of a page"))?;
        }
        db.sync_data(SYNC).map_err(StoreError::io("sync of the database"))?;
        notes.push("rolled back a journal".to_owned());
    }
    disk.unlink(REMOVE, &path).map_err(StoreError::io("removal of the journal"))?;
    disk.sync_dir(SYNC, dir.dir()).map_err(StoreError::io("sync of the directory"))
}

fn checkpoint(disk: &dyn Disk, dir: &DbLayout, notes: &mut Vec<String>) -> Result<()> {
    let path = dir.wal();
    if !disk.exists(READ, &path).map_err(StoreError::io("look at the wal"))? {
        return Ok(());
    }
    let file = disk.open(READ, &path, OpenHow::READ).map_err(StoreError::io("opening of the wal"))?;
    let len = file.len().map_err(StoreError::io("size of the wal"))?;
    let failed = |_| StoreError::Corrupt { what: "the wal", reason: "it cannot be read".into() };
    if let Some(mut wal) = WalReader::open(Source::new(Arc::clone(&file)), len).map_err(failed)? {
        let db = database(disk, dir)?;
        let ps = wal.header().page_size;
        let mut page = vec![0; ps.bytes()];
        let mut frames = 0;
        while let Some(t) = wal.next_transaction().map_err(failed)? {
            for (no, frame) in &t.pages {
                file.read_exact_at(&mut page, frame_data_offset(*frame, ps))
                    .map_err(StoreError::io("read of the wal"))?;
                db.write_all_at(WRITE, &page, ps.offset(*no)).map_err(StoreError::io("write of a page"))?;
            }
            db.set_len(WRITE, ps.file_size(t.commit)).map_err(StoreError::io("size of the database"))?;
            frames = t.last;
        }
        if frames > 0 {
            db.sync_data(SYNC).map_err(StoreError::io("sync of the database"))?;
            notes.push(format!("copied {frames} frames of the wal into the database"));
        }
    }
    for path in [path, dir.shm()] {
        if disk.exists(READ, &path).map_err(StoreError::io("look at the wal"))? {
            disk.unlink(REMOVE, &path).map_err(StoreError::io("removal of the wal"))?;
        }
    }
    disk.sync_dir(SYNC, dir.dir()).map_err(StoreError::io("sync of the directory"))
}

/// Writes the last transaction's pages again, as the original does at every start.
fn apply_last(
    disk: &dyn Disk,
    dir: &DbLayout,
    header: &litefs_ltx::Header,
    last: Option<&GoFile>,
) -> Result<()> {
    let Some(last) = last else { return Ok(()) };
    if header.commit == 0 {
        // Dropped.
        return match disk.unlink(REMOVE, &dir.database()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("removal of a dropped database")(e))
            }
            _ => Ok(()),
        };
    }
    let file = open(disk, last)?;
    let db = database(disk, dir)?;
    let mut dec = Decoder::new(BufReader::with_capacity(BUFFER, FileReader { file: &*file, at: 0 }))
        .map_err(damaged)?;
    let mut page = Vec::new();
    while let Some(info) = dec.next_page(&mut page).map_err(damaged)? {
        db.write_all_at(WRITE, &page, header.page_size.offset(info.page))
            .map_err(StoreError::io("write of a page"))?;
    }
    db.set_len(WRITE, header.page_size.file_size(header.commit))
        .map_err(StoreError::io("size of the database"))?;
    db.sync_all(SYNC).map_err(StoreError::io("sync of the database"))
}

/// Says that the database file is what the log ends with, or `ahead` of it, and what its pages are, so
/// that recovery neither reads it again nor redoes the log over something newer.
fn stamp(
    disk: &Arc<dyn Disk>,
    dir: &DbLayout,
    last: &litefs_ltx::Header,
    tip: Pos,
    ahead: Option<Txid>,
) -> Result<()> {
    let ps = last.page_size;
    let mut sums = PageSums::new(ps);
    if last.commit > 0 {
        let db = database(&**disk, dir)?;
        let mut page = vec![0; ps.bytes()];
        let mut all = Vec::new();
        for no in (1..=last.commit).filter_map(PageNo::new) {
            let n = db.read_at(&mut page, ps.offset(no)).map_err(StoreError::io("read of the database"))?;
            page[n..].fill(0);
            all.push((no, page_checksum(no, &page)));
        }
        let _ = sums.set_all(&all, last.commit);
        db.sync_all(SYNC).map_err(StoreError::io("sync of the database"))?;
    }
    let pos = ahead.map_or(tip, |t| Pos::new(t, sums.checksum()));
    let mut write = || -> io::Result<()> {
        let mut file = SumsFile::open(Arc::clone(disk), dir.sums())?;
        let update = file.collect(&mut sums);
        file.write(update, pos, pos, None)
    };
    write().map_err(StoreError::io("write of the page sums"))
}

/// The newest files that follow each other without a gap, oldest first.
fn contiguous_tail<'a>(disk: &dyn Disk, files: &'a [GoFile]) -> Result<Vec<&'a GoFile>> {
    let mut tail: Vec<&GoFile> = Vec::new();
    let mut want: Option<Pos> = None;
    for f in files.iter().rev() {
        if let Some(pos) = want
            && pos.txid() != Some(f.name.max)
        {
            if pos.txid() > Some(f.name.max) {
                break;
            }
            continue;
        }
        let (header, post) = match verify(disk, f) {
            Ok(v) => v,
            Err(StoreError::Corrupt { .. }) => break,
            Err(e) => return Err(e),
        };
        if want.is_some_and(|pos| pos.checksum() != post) {
            break;
        }
        tail.push(f);
        if header.is_snapshot() {
            break;
        }
        want = Some(header.pre_apply_pos());
    }
    tail.reverse();
    Ok(tail)
}

/// Puts the files into the log as they are.
fn fill(disk: &dyn Disk, log: &Log, tail: &[&GoFile], now: Timestamp) -> Result<()> {
    for (i, f) in tail.iter().enumerate() {
        let (header, post) = verify(disk, f)?;
        if i == 0 && !header.is_snapshot() {
            log.reset(header.pre_apply_pos(), now)?;
        }
        let file = open(disk, f)?;
        let len = file.len().map_err(StoreError::io("size of an LTX file"))?;
        let mut a = log.append(RecordMeta {
            kind: RecordKind::Plain,
            min: header.min_txid,
            max: header.max_txid,
            pre: header.pre_apply,
            time: header.timestamp,
            len: Some(len),
        })?;
        let mut r = FileReader { file: &*file, at: 0 };
        let mut buf = vec![0; 64 * 1024];
        loop {
            let n = r.read(&mut buf).map_err(StoreError::io("read of an LTX file"))?;
            if n == 0 {
                break;
            }
            a.write_all(&buf[..n]).map_err(|e| StoreError::from(LogError::Io { op: WRITE, source: e }))?;
        }
        a.finish(post)?;
    }
    Ok(())
}

/// What `ltx/` is called once it is not needed any more.
fn converted(dir: &DbLayout) -> PathBuf {
    dir.dir().join("ltx.converted")
}

/// Last of all.
fn remove_ltx(disk: &dyn Disk, dir: &DbLayout) -> Result<()> {
    let ltx = dir.go_ltx();
    let done = converted(dir);
    disk.remove_dir_all(REMOVE, &done).map_err(StoreError::io("removal of ltx/"))?;
    // In one step: a half-removed ltx/ would be converted again, and shorten the history.
    disk.rename(REMOVE, &ltx, &done).map_err(StoreError::io("removal of ltx/"))?;
    disk.sync_dir(SYNC, dir.dir()).map_err(StoreError::io("sync of the directory"))?;
    disk.remove_dir_all(REMOVE, &done).map_err(StoreError::io("removal of ltx/"))
}
