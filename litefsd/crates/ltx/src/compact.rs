//! Joins consecutive files into one that has the same effect.

use std::io::{Read, Write};

use litefs_types::NodeId;

use crate::error::LtxError;
use crate::{Compression, Decoder, Encoder, Header, PageInfo, Result, Trailer};

/// An input and the page it stands at.
struct Input<R: Read> {
    decoder: Decoder<R>,
    data: Vec<u8>,
    page: Option<PageInfo>,
    /// Pages beyond this are gone after a later input shrank the database.
    kept: u32,
}

impl<R: Read> Input<R> {
    fn advance(&mut self) -> Result<()> {
        self.page = self.decoder.next_page(&mut self.data)?;
        Ok(())
    }
}

/// Writes the files `inputs` as one format-1 file to `out`.
///
/// They are put into order, and must follow each other: equal page sizes, no gap and no overlap in
/// transactions, and each file's pre-apply checksum is the one that the file before it leaves. All
/// are verified; on an error what was written is worthless. Needs one page of memory for each input.
pub fn compact<R: Read, W: Write>(
    mut inputs: Vec<Decoder<R>>,
    out: W,
    compression: Compression,
) -> Result<(Trailer, W)> {
    inputs.sort_by_key(|d| d.header().min_txid);
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(LtxError::NotContiguous("no file"));
    };
    if inputs.iter().any(|d| d.header().no_checksum) {
        return Err(LtxError::Unrepresentable("format 1 has no files without checksums"));
    }
    for pair in inputs.windows(2) {
        let (a, b) = (pair[0].header(), pair[1].header());
        if a.page_size != b.page_size {
            return Err(LtxError::NotContiguous("page size"));
        }
        if a.max_txid.next() != b.min_txid {
            return Err(LtxError::NotContiguous("transactions"));
        }
    }
    let header = Header {
        commit: last.header().commit,
        max_txid: last.header().max_txid,
        timestamp: last.header().timestamp,
        wal: None,
        node_id: NodeId::new(0),
        ..first.header().clone()
    };

    let mut kept = u32::MAX;
    let mut inputs: Vec<Input<R>> = inputs
        .into_iter()
        .rev()
        .map(|decoder| {
            // A page that a later file cut off must not come back when the database grows again.
            kept = kept.min(decoder.header().commit);
            Input { decoder, data: Vec::new(), page: None, kept }
        })
        .collect();
    for input in &mut inputs {
        input.advance()?;
    }
    let mut encoder = Encoder::new(out, header, compression)?;
    while let Some(page) = inputs.iter().filter_map(|i| i.page).map(|p| p.page).min() {
        // Newest first: the first that has the page decides.
        let mut newest = true;
        for input in inputs.iter_mut().filter(|i| i.page.is_some_and(|p| p.page == page)) {
            if newest && page.get() <= input.kept {
                encoder.page(page, &input.data)?;
            }
            newest = false;
            input.advance()?;
        }
    }

    let (mut next_pre_apply, mut post_apply) = (None, None);
    for input in inputs {
        let verified = input.decoder.finish()?;
        if next_pre_apply.is_some_and(|pre| pre != verified.trailer.post_apply) {
            return Err(LtxError::NotContiguous("checksums"));
        }
        next_pre_apply = Some(verified.header.pre_apply);
        post_apply = post_apply.or(Some(verified.trailer.post_apply));
    }
    encoder.finish(post_apply.ok_or(LtxError::NotContiguous("no file"))?)
}
