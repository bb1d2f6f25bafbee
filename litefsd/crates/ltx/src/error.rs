//! What can be wrong with an LTX file. One variant for each thing a caller may treat differently.

use std::io;

use litefs_types::Checksum;

/// A part of an LTX file, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The 100 bytes at the start.
    Header,
    /// Pages and their terminator.
    Pages,
    /// The page index of formats 2 and 3.
    Index,
    /// The 16 bytes at the end.
    Trailer,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Pages => "pages",
            Self::Index => "page index",
            Self::Trailer => "trailer",
        })
    }
}

/// A field of the header breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Flag bits that this format does not have.
    #[error("unknown flags {0:#010x}")]
    Flags(u32),
    /// Not a power of two from 512 to 65536.
    #[error("page size {0}")]
    PageSize(u32),
    /// A transaction id is zero or they are in the wrong order.
    #[error("transaction range {0:x} to {1:x}")]
    TxidRange(u64, u64),
    /// WAL offset, size and salts do not go together.
    #[error("WAL fields do not fit together")]
    WalSpan,
    /// A snapshot has a pre-apply checksum, or another file has none.
    #[error("pre-apply checksum {0:016x}")]
    PreApply(u64),
}

/// A page is not where it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Beyond the database's page count after the transaction.
    #[error("page {page} lies beyond the last page {commit}")]
    Bounds {
        /// The page.
        page: u32,
        /// Pages of the database after the transaction.
        commit: u32,
    },
    /// The page of SQLite's lock bytes.
    #[error("page {0} is the lock page")]
    LockPage(u32),
    /// Not above the page before it, or in a snapshot: not the next one.
    #[error("page {page} after page {previous}")]
    Order {
        /// The page.
        page: u32,
        /// The page before it, 0 at the start.
        previous: u32,
    },
    /// A snapshot that ends early.
    #[error("snapshot ends after page {last} of {commit}")]
    Incomplete {
        /// The last page in the file.
        last: u32,
        /// Pages of the database.
        commit: u32,
    },
    /// Page data of the wrong length.
    #[error("page {page} has {len} bytes")]
    Length {
        /// The page.
        page: u32,
        /// Its length in bytes.
        len: usize,
    },
    /// Flags of a page header (format 3) that do not exist.
    #[error("page {page} has unknown flags {flags:#06x}")]
    Flags {
        /// The page.
        page: u32,
        /// The flags as read.
        flags: u16,
    },
}

/// Everything that can go wrong with an LTX file.
#[derive(Debug, thiserror::Error)]
pub enum LtxError {
    /// The underlying reader or writer failed.
    #[error("reading or writing LTX")]
    Io(#[source] io::Error),
    /// The file ends too early.
    #[error("LTX file ends within its {0}")]
    Truncated(Part),
    /// The file does not start with `LTX1`.
    #[error("not an LTX file")]
    Magic,
    /// The header breaks a rule.
    #[error("invalid LTX header")]
    Header(#[from] HeaderError),
    /// A page breaks a rule.
    #[error("invalid LTX page")]
    Page(#[from] PageError),
    /// Compressed data is damaged, or does not end where the pages do.
    #[error("invalid compressed data in LTX file: {0}")]
    Compression(String),
    /// The page index (formats 2 and 3) does not name the pages of the file.
    #[error("LTX page index does not match the pages")]
    Index,
    /// The trailer's post-apply checksum cannot be (missing, or not that of an empty database).
    #[error("invalid post-apply checksum {0:016x}")]
    PostApply(u64),
    /// The bytes of the file are not those that were written.
    #[error("LTX file checksum mismatch: {stored:016x} stored, {computed} computed")]
    FileChecksum {
        /// In the trailer.
        stored: u64,
        /// Of what was read.
        computed: Checksum,
    },
    /// The pages of a snapshot do not give the database checksum it names.
    #[error("LTX snapshot checksum mismatch: {stored} stored, {computed} computed")]
    SnapshotChecksum {
        /// In the trailer.
        stored: Checksum,
        /// Of the pages.
        computed: Checksum,
    },
    /// Bytes follow the trailer.
    #[error("data after the LTX trailer")]
    Trailing,
    /// The inputs of a compaction do not follow each other (position, page size or order).
    #[error("LTX files do not follow each other: {0}")]
    NotContiguous(&'static str),
    /// An encoder or decoder was used after it had failed.
    #[error("used after an error")]
    Failed,
    /// The content cannot be written in the requested format.
    #[error("not representable: {0}")]
    Unrepresentable(&'static str),
}

impl LtxError {
    /// Sorts an error that came up while reading `part`, possibly through an LZ4 reader.
    pub(crate) fn reading(part: Part, e: io::Error) -> Self {
        if let Some(lz4) = e.get_ref().and_then(|i| i.downcast_ref::<lz4_flex::frame::Error>()) {
            return Self::Compression(lz4.to_string());
        }
        if e.kind() == io::ErrorKind::UnexpectedEof { Self::Truncated(part) } else { Self::Io(e) }
    }

    /// Whether the fault lies in the bytes (and not in the reader or writer).
    pub fn is_corrupt(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::NotContiguous(_) | Self::Failed | Self::Unrepresentable(_))
    }
}
