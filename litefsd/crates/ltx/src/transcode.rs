//! Writes a file anew with or without compression.

use std::io::{Read, Write};

use crate::{Compression, Decoder, Encoder, Result, Trailer};

/// Copies the file behind `decoder` to `out` in format 1, compressed or not.
///
/// Header fields, pages and the post-apply checksum stay; the file checksum is computed anew, since it
/// covers the flags. The input is verified; on an error what was written is worthless.
pub fn transcode<R: Read, W: Write>(
    mut decoder: Decoder<R>,
    out: W,
    compression: Compression,
) -> Result<(Trailer, W)> {
    let mut encoder = Encoder::new(out, decoder.header().clone(), compression)?;
    let mut data = Vec::new();
    while let Some(info) = decoder.next_page(&mut data)? {
        encoder.page(info.page, &data)?;
    }
    encoder.finish(decoder.finish()?.trailer.post_apply)
}
