//! Which format a file has. No version number is stored, so structure proposes and the file checksum decides.

use std::io::{BufReader, Read, Seek, SeekFrom};

use crate::error::{HeaderError, LtxError, Part};
use crate::header::{FLAG_LZ4, FLAG_NO_CHECKSUM, HEADER_SIZE};
use crate::{Decoder, Header, Result, Verified};

/// A generation of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// LiteFS 0.5: raw, or one LZ4 frame around all pages.
    V1,
    /// One LZ4 frame a page, with an index.
    V2,
    /// As 2 with page flags: LZ4 frames (early) or blocks (now).
    V3,
}

/// Start of an LZ4 frame.
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// Finds the format of a file by reading it, whole unless only one format is possible.
pub fn detect(mut r: impl Read + Seek) -> Result<Format> {
    match *candidates(&mut r)? {
        [only] => Ok(only),
        _ => Ok(verify_any(r)?.format),
    }
}

/// Verifies a file of any format, from its start to its end.
pub fn verify_any(mut r: impl Read + Seek) -> Result<Verified> {
    let mut first_error = None;
    for format in candidates(&mut r)? {
        r.seek(SeekFrom::Start(0)).map_err(LtxError::Io)?;
        match Decoder::with_format(BufReader::new(&mut r), *format).and_then(Decoder::finish) {
            Ok(verified) => return Ok(verified),
            Err(e @ LtxError::Io(_)) => return Err(e),
            // The most specific candidate comes first, so its complaint is the one to show.
            Err(e) => first_error = first_error.or(Some(e)),
        }
    }
    Err(first_error.unwrap_or(LtxError::Truncated(Part::Header)))
}

/// The formats that the start of the file admits, the most specific first.
fn candidates(r: &mut (impl Read + Seek)) -> Result<&'static [Format]> {
    r.seek(SeekFrom::Start(0)).map_err(LtxError::Io)?;
    let mut header = [0; HEADER_SIZE];
    r.read_exact(&mut header).map_err(|e| LtxError::reading(Part::Header, e))?;
    let mut body = Vec::with_capacity(10);
    r.take(10).read_to_end(&mut body).map_err(LtxError::Io)?;
    let flags = Header::flags(&header)?;
    if flags & FLAG_LZ4 != 0 && flags & !FLAG_LZ4 == 0 {
        return Ok(&[Format::V1]);
    }
    if flags & !FLAG_NO_CHECKSUM != 0 {
        return Err(HeaderError::Flags(flags).into());
    }
    let at = |i: usize, want: &[u8]| body.get(i..i + want.len()) == Some(want);
    // Page data and empty files can look like anything; a format that cannot be is left out.
    let empty = at(0, &[0; 4]);
    let v2 = empty || at(4, &LZ4_MAGIC);
    let v3 = empty || at(4, &[0, 1]) || (at(4, &[0, 0]) && at(6, &LZ4_MAGIC));
    let v1 = flags == 0;
    Ok(match (v3, v2, v1) {
        (true, true, true) => &[Format::V3, Format::V2, Format::V1],
        (true, true, false) => &[Format::V3, Format::V2],
        (true, false, true) => &[Format::V3, Format::V1],
        (true, false, false) => &[Format::V3],
        (false, true, true) => &[Format::V2, Format::V1],
        (false, true, false) => &[Format::V2],
        (false, false, _) => &[Format::V1],
    })
}
