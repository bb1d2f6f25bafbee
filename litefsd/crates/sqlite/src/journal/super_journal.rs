//! The name of a super-journal at the end of a journal (pager.c `readSuperJournal`,
//! `writeSuperJournal`, `pagerIsSuperJrnlName`).
//!
//! Layout, at the very end of the file: name, length (4), sum of the name's bytes (4), magic (8). A
//! journal that names a super-journal which does not exist, or is an empty file (os_unix.c
//! `unixAccess`), belongs to a committed transaction.
//! Tested in `tests/journal.rs`.

use alloc::vec;
use alloc::vec::Vec;

use super::JOURNAL_MAGIC;
use crate::be;
use crate::source::{ReadAt, ReadFailed};

/// Longest path name that SQLite on Unix handles, in bytes.
const MAX_PATH_LEN: u32 = 512;
/// Length, sum and magic.
const TRAILER_LEN: u64 = 16;

/// The path of the super-journal that a journal of `size` bytes names, as the application wrote it;
/// `None` if it names none, or nothing that SQLite would accept as one.
pub fn super_journal_name(source: &mut impl ReadAt, size: u64) -> Result<Option<Vec<u8>>, ReadFailed> {
    let Some(body) = size.checked_sub(TRAILER_LEN) else { return Ok(None) };
    let mut trailer = [0u8; TRAILER_LEN as usize];
    source.read_at(body, &mut trailer)?;
    let len = be::u32_at(&trailer, 0);
    if trailer[8..] != JOURNAL_MAGIC || len == 0 || len > MAX_PATH_LEN || u64::from(len) > body {
        return Ok(None);
    }
    let mut name = vec![0; len as usize];
    source.read_at(body - u64::from(len), &mut name)?;
    let want = be::u32_at(&trailer, 4);
    // The sum is over C `char`s, which are signed on some machines and not on others.
    let unsigned = name.iter().fold(0u32, |s, b| s.wrapping_add(u32::from(*b)));
    let signed = name.iter().fold(0u32, |s, b| s.wrapping_add(i32::from(*b as i8) as u32));
    let ok = (want == unsigned || want == signed) && is_super_journal_path(&name);
    Ok(ok.then_some(name))
}

/// `…-mjXXXXXX9XX` with hexadecimal digits, and no end of string inside.
fn is_super_journal_path(name: &[u8]) -> bool {
    let Some((_, tail)) = name.split_last_chunk::<12>() else { return false };
    !name.contains(&0)
        && tail.starts_with(b"-mj")
        && tail[9] == b'9'
        && tail[3..].iter().all(u8::is_ascii_hexdigit)
}
