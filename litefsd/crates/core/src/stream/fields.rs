//! Collects the fixed-size and counted fields of a message that arrives in pieces.

use alloc::vec::Vec;

/// Bytes of a field that is not complete yet.
#[derive(Debug, Default)]
pub(super) struct Partial(Vec<u8>);

impl Partial {
    /// Takes what is missing to `len` bytes from `input`; `None` if there is not enough.
    ///
    /// `len` must be a checked length: this much is stored.
    pub(super) fn take(&mut self, input: &mut &[u8], len: usize) -> Option<Vec<u8>> {
        let missing = len.saturating_sub(self.0.len()).min(input.len());
        let (head, tail) = input.split_at(missing);
        self.0.extend_from_slice(head);
        *input = tail;
        (self.0.len() >= len).then(|| core::mem::take(&mut self.0))
    }

    /// Whether bytes of an incomplete field are held.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The big-endian number in up to eight bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |v, b| v << 8 | u64::from(*b))
}
