//! The 16-byte trailer, the same in all formats: database checksum after, checksum of the file.

use litefs_types::Checksum;

use crate::error::LtxError;
use crate::{Header, Result};

/// Bytes of a trailer.
pub const TRAILER_SIZE: usize = 16;

/// The end of an LTX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Database checksum after the transaction; `NONE` only in files without database checksums.
    pub post_apply: Checksum,
    /// Checksum of the file's uncompressed content up to here.
    pub file_checksum: Checksum,
}

impl Trailer {
    /// The position after the file with this header was applied.
    pub fn post_apply_pos(&self, header: &Header) -> litefs_types::Pos {
        litefs_types::Pos::new(header.max_txid, self.post_apply)
    }

    /// The bytes.
    pub(crate) fn encode(self) -> [u8; TRAILER_SIZE] {
        let mut b = [0; TRAILER_SIZE];
        b[..8].copy_from_slice(&self.post_apply.get().to_be_bytes());
        b[8..].copy_from_slice(&self.file_checksum.get().to_be_bytes());
        b
    }
}

/// Whether `post` can follow a file with this header: a deleted database has the checksum of
/// nothing, every other one has any, and none at all only if the file has no checksums.
pub(crate) fn check_post_apply(header: &Header, post: u64) -> Result<Checksum> {
    let valid = Checksum::from_raw(post).filter(|c| {
        if header.no_checksum {
            c.is_none()
        } else {
            !c.is_none() && (header.commit != 0 || *c == Checksum::EMPTY)
        }
    });
    valid.ok_or(LtxError::PostApply(post))
}
