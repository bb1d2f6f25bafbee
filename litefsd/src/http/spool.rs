//! Collects bytes that must be received whole before anything is done with them.
//!
//! Owns the step from memory to the store's spool, so that a network task never writes to a disk; not
//! what the bytes mean. Used by the replica for LTX files and by `/import`. Tested here.

use std::io::{self, Write as _};

use litefs_store::spool::{SpoolWriter, Spooled};

/// Bytes kept in memory. Transactions are mostly smaller; a few of them in queues must still fit beside
/// everything else in the daemon's 64 MiB.
pub const MEMORY_LIMIT: usize = 1 << 20;
/// Bytes collected for one write to the file: handing it to a blocking thread must be worth it.
const WRITE_BATCH: usize = 1 << 20;

/// See the module documentation.
#[derive(Default)]
pub struct Spooler {
    memory: Vec<u8>,
    file: Option<SpoolWriter>,
    written: u64,
}

impl Spooler {
    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.written + self.memory.len() as u64
    }

    /// Whether nothing came yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first bytes, as long as nothing was written to a file.
    pub fn head(&self) -> &[u8] {
        &self.memory
    }

    /// Takes bytes into memory. `true`: it is time to call [`Spooler::flush`].
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.memory.extend_from_slice(bytes);
        self.memory.len() > if self.file.is_some() { WRITE_BATCH } else { MEMORY_LIMIT }
    }

    /// Moves what is in memory into the file. May block.
    pub fn flush(&mut self, open: &dyn Fn() -> SpoolWriter) -> io::Result<()> {
        self.file.get_or_insert_with(open).write_all(&self.memory)?;
        self.written += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Whether [`Spooler::finish`] may block.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Everything received. May block if it is a file.
    pub fn finish(self) -> io::Result<Spooled> {
        match self.file {
            None => Ok(Spooled::from_bytes(self.memory)),
            Some(mut file) => {
                file.write_all(&self.memory)?;
                file.finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Arc;

    use litefs_store::os_disk::OsDisk;

    use super::*;

    #[test]
    fn a_file_begins_where_memory_ends() {
        let dir = std::env::temp_dir().join(format!("litefsd-spooler-{}", std::process::id()));
        let open = || SpoolWriter::new(Arc::new(OsDisk), &dir, u64::MAX);
        for total in [0, 1, MEMORY_LIMIT, MEMORY_LIMIT + 1, 3 * MEMORY_LIMIT + 7] {
            let data: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
            let mut s = Spooler::default();
            for part in data.chunks(100_000) {
                if s.push(part) {
                    s.flush(&open).unwrap();
                }
            }
            assert_eq!((s.len(), s.is_file()), (total as u64, total > MEMORY_LIMIT));
            let r = s.finish().unwrap();
            assert_eq!((r.len(), r.in_memory()), (total as u64, total <= MEMORY_LIMIT));
            let mut back = Vec::new();
            r.reader().read_to_end(&mut back).unwrap();
            assert!(back == data);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
