//! The LTX file format: one transaction (or several in a row) of a SQLite database as a file.
//!
//! An LTX file is a header, pages in ascending order, and a trailer with the database's checksum
//! after the transaction and a checksum of the file. LiteFS 0.5 speaks *format 1*, on the wire and
//! on disk: this crate reads, writes, verifies, compacts and transcodes it. The later formats 2 and
//! 3 (Litestream) are read.
//!
//! Start with [`Encoder`] and [`Decoder`]. This crate reads from `Read` and writes to `Write`; it
//! opens no files and applies nothing.
//!
//! *Invariant:* nothing is handed out as verified that was not: page order, bounds, the lock page,
//! completeness of snapshots, the file checksum, the end of the file, and, for snapshots, the
//! database checksum. No allocation is sized by a number that was only read.
//!
//! Tested by the modules' own tests, `tests/strict.rs` (properties) and `golden_ltx` in the
//! workspace's `tests` package (files written by the Go program).

pub mod checksum;
mod compact;
mod compress;
mod decoder;
mod detect;
mod encoder;
mod error;
mod file_name;
mod format3;
mod header;
mod page;
mod trailer;
mod transcode;

pub use compact::compact;
pub use compress::Compression;
pub use decoder::{Decoder, PageInfo, Verified, verify};
pub use detect::{Format, detect, verify_any};
pub use encoder::{Encoder, raw_size};
pub use error::{HeaderError, LtxError, PageError, Part};
pub use file_name::{FileName, InvalidFileName};
pub use header::{HEADER_SIZE, Header, WalSpan};
pub use trailer::{TRAILER_SIZE, Trailer};
pub use transcode::transcode;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, LtxError>;
