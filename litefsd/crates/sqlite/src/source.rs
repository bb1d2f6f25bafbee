//! Where the readers of this crate get their bytes from.
//!
//! Owns: the one trait that stands between a format and a file. Does not own: files; the store
//! implements the trait over its descriptors. Tested through the readers.

use core::fmt;

/// Bytes at an offset: a file that is read in place.
pub trait ReadAt {
    /// Fills `buf` with the bytes from `offset` on; fewer bytes than that is a failure.
    ///
    /// The implementer keeps the cause: this layer can only stop.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ReadFailed>;
}

/// The source could not deliver the bytes that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFailed;

impl fmt::Display for ReadFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the file could not be read")
    }
}

impl core::error::Error for ReadFailed {}

impl ReadAt for &[u8] {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ReadFailed> {
        let from = usize::try_from(offset).map_err(|_| ReadFailed)?;
        let to = from.checked_add(buf.len()).ok_or(ReadFailed)?;
        buf.copy_from_slice(self.get(from..to).ok_or(ReadFailed)?);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &mut T {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ReadFailed> {
        (**self).read_at(offset, buf)
    }
}
