//! Reads LTX files of any format from a stream, checking everything on the way.
//!
//! Which format a file has is the caller's knowledge (format 1 on the wire and in the log) or
//! found out by [`crate::detect`].

use std::io::Read;

use litefs_types::{Checksum, PageNo};

use crate::checksum::FileHash;
use crate::compress::FrameReader;
use crate::error::{HeaderError, LtxError, Part};
use crate::format3::PageFrames;
use crate::header::{FLAG_LZ4, FLAG_NO_CHECKSUM, HEADER_SIZE, Rules};
use crate::page::PageOrder;
use crate::trailer::{TRAILER_SIZE, Trailer, check_post_apply};
use crate::{Compression, Format, Header, Result};

/// A page that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageInfo {
    /// Its number.
    pub page: PageNo,
    /// The checksum of number and data, computed while reading.
    pub checksum: Checksum,
}

/// A file that was read to its end without complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its header.
    pub header: Header,
    /// Its trailer.
    pub trailer: Trailer,
    /// How many pages it holds.
    pub pages: u32,
    /// Its format.
    pub format: Format,
}

/// Reads one LTX file.
///
/// Pages come out *before* the file's checksum could be checked: use them for nothing that cannot be
/// taken back until [`Decoder::finish`] returned. `R` is read in small pieces (4 bytes and a page), so
/// give it something buffered. The database checksum after a file that is no snapshot cannot be
/// checked here; whoever applies it must.
pub struct Decoder<R: Read> {
    body: Body<R>,
    header: Header,
    format: Format,
    order: PageOrder,
    hash: FileHash,
    sum: Checksum,
    pages: u32,
    state: State,
}

enum Body<R: Read> {
    Raw(R),
    Lz4(FrameReader<R>),
    Framed(PageFrames<R>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Pages,
    End,
    Failed,
}

impl<R: Read> Decoder<R> {
    /// Reads the header of a format-1 file.
    pub fn new(r: R) -> Result<Self> {
        Self::with_format(r, Format::V1)
    }

    /// Reads the header of a file of this format.
    pub fn with_format(mut r: R, format: Format) -> Result<Self> {
        let mut bytes = [0; HEADER_SIZE];
        r.read_exact(&mut bytes).map_err(|e| LtxError::reading(Part::Header, e))?;
        let flags = Header::flags(&bytes)?;
        let (known, rules) = match format {
            Format::V1 => (FLAG_LZ4, Rules::V1),
            Format::V2 | Format::V3 => (FLAG_NO_CHECKSUM, Rules::V2OrLater),
        };
        if flags & !known != 0 {
            return Err(HeaderError::Flags(flags).into());
        }
        let header = Header::parse_with(&bytes, rules)?;
        let mut hash = FileHash::new(header.page_size);
        hash.update(&bytes);
        let body = match format {
            Format::V1 if flags & FLAG_LZ4 != 0 => Body::Lz4(FrameReader::new(r)),
            Format::V1 => Body::Raw(r),
            Format::V2 | Format::V3 => Body::Framed(PageFrames::new(r, format)),
        };
        let order = PageOrder::new(&header);
        Ok(Self { body, header, format, order, hash, sum: Checksum::EMPTY, pages: 0, state: State::Pages })
    }

    /// The header. It was checked in itself; that it is the one that was written, only the end tells.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether a format-1 file is compressed. Later formats always are.
    pub fn compression(&self) -> Compression {
        match self.body {
            Body::Raw(_) => Compression::None,
            Body::Lz4(_) | Body::Framed(_) => Compression::Lz4,
        }
    }

    /// Reads the next page into `data`, which takes on the length of a page; `None` after the last.
    pub fn next_page(&mut self, data: &mut Vec<u8>) -> Result<Option<PageInfo>> {
        match self.state {
            State::End => return Ok(None),
            State::Failed => return Err(LtxError::Failed),
            State::Pages => {}
        }
        // Until proven otherwise: behind an error the reader is nowhere in particular.
        self.state = State::Failed;
        data.resize(self.header.page_size.bytes(), 0);
        let info = self.read_page(data)?;
        self.state = State::Pages;
        match info {
            Some(info) => {
                self.pages += 1;
                self.sum = self.sum.replace(Checksum::NONE, info.checksum);
            }
            None => self.state = State::End,
        }
        Ok(info)
    }

    fn read_page(&mut self, data: &mut [u8]) -> Result<Option<PageInfo>> {
        if let Body::Framed(frames) = &mut self.body {
            return frames.next_page(&mut self.order, &mut self.hash, data);
        }
        let mut number = [0; 4];
        self.body.read_exact(&mut number, Part::Pages)?;
        self.hash.update(&number);
        let Some(page) = PageNo::new(u32::from_be_bytes(number)) else {
            if let Body::Lz4(r) = &mut self.body {
                r.expect_end()?;
            }
            return Ok(None);
        };
        self.order.accept(page)?;
        self.body.read_exact(data, Part::Pages)?;
        Ok(Some(PageInfo { page, checksum: self.hash.page(page, data) }))
    }

    /// Reads what is left of the file and checks all of it. The reader is at its end then.
    pub fn finish(mut self) -> Result<Verified> {
        if self.state != State::End {
            let mut data = Vec::new();
            while self.next_page(&mut data)?.is_some() {}
        }
        self.order.finish()?;
        let mut r = match self.body {
            Body::Raw(r) => r,
            Body::Lz4(r) => r.into_inner(),
            Body::Framed(frames) => frames.finish(&mut self.hash)?,
        };
        let mut bytes = [0; TRAILER_SIZE];
        r.read_exact(&mut bytes).map_err(|e| LtxError::reading(Part::Trailer, e))?;
        let [post, stored] =
            [&bytes[..8], &bytes[8..]].map(|b| b.iter().fold(0u64, |v, b| v << 8 | u64::from(*b)));
        self.hash.update(&bytes[..8]);
        let computed = self.hash.checksum();
        if stored != computed.get() {
            return Err(LtxError::FileChecksum { stored, computed });
        }
        let post_apply = check_post_apply(&self.header, post)?;
        if self.header.is_snapshot() && !self.header.no_checksum && post_apply != self.sum {
            return Err(LtxError::SnapshotChecksum { stored: post_apply, computed: self.sum });
        }
        expect_end(&mut r)?;
        Ok(Verified {
            header: self.header,
            trailer: Trailer { post_apply, file_checksum: computed },
            pages: self.pages,
            format: self.format,
        })
    }
}

impl<R: Read> Body<R> {
    fn read_exact(&mut self, buf: &mut [u8], part: Part) -> Result<()> {
        match self {
            Self::Raw(r) => r.read_exact(buf).map_err(|e| LtxError::reading(part, e)),
            Self::Lz4(r) => r.read_exact(buf),
            Self::Framed(r) => r.read_exact(buf, part),
        }
    }
}

/// Requires the end of the input.
fn expect_end(r: &mut impl Read) -> Result<()> {
    loop {
        match r.read(&mut [0]) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(LtxError::Trailing),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(LtxError::Io(e)),
        }
    }
}

/// Reads a format-1 file to its end and checks it.
pub fn verify(r: impl Read) -> Result<Verified> {
    Decoder::new(r)?.finish()
}
