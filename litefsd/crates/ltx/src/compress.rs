//! The body of a format-1 file: raw, or as one LZ4 frame between header and trailer.
//!
//! The difficulty is the end: whoever reads the frame must stop exactly behind it, because the
//! trailer follows. `lz4_flex`'s reader asks for no byte beyond the frame as long as it is not asked
//! for data after its end.

use std::io::{self, Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use crate::Result;
use crate::error::{LtxError, Part};

/// How every LZ4 frame starts.
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// Whether the pages of a file are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Stored as they are: no work on the commit path.
    #[default]
    None,
    /// LZ4: about 20 µs a 4 KiB page.
    Lz4,
}

/// Lets only LZ4 frames of today's kind through: the legacy kind has no end mark, so its reader
/// would swallow the trailer.
pub(crate) struct FrameSource<R> {
    inner: R,
    /// Bytes of the magic number seen so far.
    seen: usize,
}

impl<R: Read> Read for FrameSource<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let check = n.min(LZ4_MAGIC.len() - self.seen);
        if buf[..check] != LZ4_MAGIC[self.seen..self.seen + check] {
            return Err(lz4_flex::frame::Error::WrongMagicNumber.into());
        }
        self.seen += check;
        Ok(n)
    }
}

/// Reads one LZ4 frame and not a byte more.
pub(crate) struct FrameReader<R: Read>(FrameDecoder<FrameSource<R>>);

impl<R: Read> FrameReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self(FrameDecoder::new(FrameSource { inner, seen: 0 }))
    }

    /// Fills `buf` from the frame.
    pub(crate) fn read_exact(&mut self, buf: &mut [u8]) -> Result<()> {
        self.0.read_exact(buf).map_err(|e| LtxError::reading(Part::Pages, e))
    }

    /// Requires that the frame ends here, including its checksum.
    ///
    /// To be called once, since the next read would look for another frame.
    pub(crate) fn expect_end(&mut self) -> Result<()> {
        match self.0.read(&mut [0]).map_err(|e| LtxError::reading(Part::Pages, e))? {
            0 => Ok(()),
            _ => Err(LtxError::Compression("data after the last page".to_owned())),
        }
    }

    pub(crate) fn into_inner(self) -> R {
        self.0.into_inner().inner
    }
}

/// Writes the body.
pub(crate) enum BodyWriter<W: Write> {
    Raw(W),
    Lz4(Box<FrameEncoder<W>>),
}

impl<W: Write> BodyWriter<W> {
    pub(crate) fn new(inner: W, compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Raw(inner),
            // As the original writes it; its reader accepts others, but equal bytes are easier to compare.
            Compression::Lz4 => Self::Lz4(Box::new(FrameEncoder::with_frame_info(
                FrameInfo::new()
                    .block_mode(BlockMode::Independent)
                    .block_size(BlockSize::Max64KB)
                    .content_checksum(true),
                inner,
            ))),
        }
    }

    pub(crate) fn write_all(&mut self, data: &[u8]) -> Result<()> {
        match self {
            Self::Raw(w) => w.write_all(data),
            Self::Lz4(w) => w.write_all(data),
        }
        .map_err(LtxError::Io)
    }

    pub(crate) fn writer_mut(&mut self) -> &mut W {
        match self {
            Self::Raw(w) => w,
            Self::Lz4(w) => w.get_mut(),
        }
    }

    /// Ends the body.
    pub(crate) fn finish(self) -> Result<W> {
        match self {
            Self::Raw(w) => Ok(w),
            Self::Lz4(w) => w.finish().map_err(|e| LtxError::Io(e.into())),
        }
    }
}
