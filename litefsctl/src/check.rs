//! Is this file a SQLite database that may be imported, or an export that is whole?
//!
//! SQLite file format, section 1.3 (the database header) and 4 (what may stand beside a database).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use litefs_types::PageSize;

use crate::exit::Failure;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// First bytes of a rollback journal that has to be played back (section 3.1).
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Bytes of the header.
const HEADER: usize = 100;

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DbFile {
    pub(crate) page_size: PageSize,
    pub(crate) pages: u32,
}

/// The path with `suffix` behind its file name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens a file for import and checks what can be told without SQLite: header, page size, length, and
/// that nothing beside it says that the file alone is not the database. The file stands at its start.
pub(crate) fn open(path: &Path) -> Result<(File, u64), Failure> {
    let shown = path.display();
    let mut file =
        File::open(path).map_err(|e| Failure::failed(format!("cannot open {shown}: {}", reason(&e))))?;
    let meta =
        file.metadata().map_err(|e| Failure::failed(format!("cannot read {shown}: {}", reason(&e))))?;
    if !meta.is_file() {
        return Err(Failure::failed(format!("{shown} is not a regular file")));
    }
    header(&mut file, meta.len())
        .map_err(|why| Failure::failed(format!("{shown} cannot be imported: {why}")))?;
    alone(path)?;
    file.seek(SeekFrom::Start(0))
        .map_err(|e| Failure::failed(format!("cannot read {shown}: {}", reason(&e))))?;
    Ok((file, meta.len()))
}

/// Checks the header of a database of `len` bytes.
pub(crate) fn header(file: &mut File, len: u64) -> Result<DbFile, String> {
    if len == 0 {
        return Err("it is empty".to_owned());
    }
    let mut h = [0u8; HEADER];
    file.seek(SeekFrom::Start(0)).map_err(|e| reason(&e))?;
    file.read_exact(&mut h).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => "it is not a SQLite database (shorter than a header)".to_owned(),
        _ => reason(&e),
    })?;
    if &h[..16] != MAGIC {
        return Err("it is not a SQLite database (its first bytes are others, or it is encrypted)".to_owned());
    }
    let page_size = PageSize::from_header(u16::from_be_bytes([h[16], h[17]])).map_err(|e| e.to_string())?;
    let size = u64::from(page_size.get());
    if !len.is_multiple_of(size) {
        return Err(format!(
            "its length, {len} bytes, is no multiple of its page size, {size}: it was cut off"
        ));
    }
    let pages = u32::try_from(len / size).map_err(|_| "it is too large".to_owned())?;
    let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    // The size in the header counts only if it was written together with the change counter.
    if word(24) == word(92) && word(28) != 0 && word(28) > pages {
        return Err(format!("its header says {} pages, but there are {pages}: it was cut off", word(28)));
    }
    Ok(DbFile { page_size, pages })
}

/// Refuses a database with committed changes in a WAL, or an interrupted transaction in a journal.
fn alone(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    if std::fs::metadata(beside(path, "-wal")).is_ok_and(|m| m.len() > 0) {
        return Err(Failure::failed(format!("{shown}-wal holds changes that are not in the file")).hint(
            format!("close the application, or run: sqlite3 '{shown}' 'PRAGMA wal_checkpoint(TRUNCATE)'"),
        ));
    }
    let mut magic = [0; 8];
    let hot = File::open(beside(path, "-journal")).and_then(|mut f| f.read_exact(&mut magic));
    if hot.is_ok() && magic == JOURNAL_MAGIC {
        return Err(Failure::failed(format!("{shown}-journal holds an interrupted transaction")).hint(
            format!(
                "close the application, or let SQLite roll it back: sqlite3 '{shown}' 'PRAGMA schema_version'"
            ),
        ));
    }
    Ok(())
}

/// Runs `PRAGMA integrity_check` on the file, which is neither locked nor changed.
pub(crate) fn integrity(path: &Path) -> Result<(), Failure> {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    let shown = path.display();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut uri = String::from("file:");
    for b in absolute.as_os_str().as_bytes() {
        if b.is_ascii_alphanumeric() || b"/-._~".contains(b) {
            uri.push(char::from(*b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(uri, "%{b:02X}");
        }
    }
    uri.push_str("?mode=ro&immutable=1");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let first = rusqlite::Connection::open_with_flags(&uri, flags)
        .and_then(|db| db.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0)));
    let why = match first {
        Ok(answer) if answer == "ok" => return Ok(()),
        Ok(answer) => answer,
        Err(e) => e.to_string(),
    };
    Err(Failure::failed(format!("{shown} is damaged: {}", why.replace('\n', " ")))
        .hint("repair it with `sqlite3 … .recover`, or import it as it is with --no-check"))
}

/// The operating system's words for an error.
pub(crate) fn reason(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(n) => nix::errno::Errno::from_raw(n).desc().to_lowercase(),
        None => e.to_string(),
    }
}
