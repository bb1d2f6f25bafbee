//! How an LTX file travels in the stream: chunks of a 16-bit length and data, ended by a length of 0.
//!
//! Chunk boundaries mean nothing.

/// Longest chunk in bytes.
pub const MAX_CHUNK: usize = u16::MAX as usize;

/// What ends a file.
pub const END: [u8; 2] = [0, 0];

/// Cuts data into chunks: for each its header and its bytes, to be sent one after the other.
pub fn chunks(data: &[u8]) -> impl Iterator<Item = ([u8; 2], &[u8])> {
    data.chunks(MAX_CHUNK).map(|c| ((c.len() as u16).to_be_bytes(), c))
}

/// A piece of a chunked file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Some of its bytes, never none.
    Data(&'a [u8]),
    /// It is complete.
    End,
}

/// Reads one chunked file from input that comes in any pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkDecoder {
    /// Bytes left of the current chunk.
    left: u16,
    /// First byte of a header that came alone.
    high: Option<u8>,
}

impl ChunkDecoder {
    /// At the start of a file.
    pub const fn new() -> Self {
        Self { left: 0, high: None }
    }

    /// Takes the next piece from `input`; `None` once all of it is used up. After [`Piece::End`] the
    /// decoder stands at the start of another file.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        while self.left == 0 {
            let (byte, rest) = input.split_first()?;
            *input = rest;
            match self.high.take() {
                None => self.high = Some(*byte),
                Some(high) => {
                    self.left = u16::from_be_bytes([high, *byte]);
                    if self.left == 0 {
                        return Some(Piece::End);
                    }
                }
            }
        }
        if input.is_empty() {
            return None;
        }
        let (data, rest) = input.split_at(input.len().min(usize::from(self.left)));
        self.left -= data.len() as u16;
        *input = rest;
        Some(Piece::Data(data))
    }
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn any_split_gives_the_same_bytes() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let mut wire = Vec::new();
        for (head, body) in chunks(&data) {
            wire.extend(head);
            wire.extend(body);
        }
        wire.extend(END);
        wire.push(9);
        for step in [1, 2, 3, 7, 1000, 65_535, 70_000, usize::MAX] {
            let (mut d, mut got, mut left) = (ChunkDecoder::new(), Vec::<u8>::new(), None);
            for mut input in wire.chunks(step.min(wire.len())) {
                while let Some(piece) = d.next(&mut input) {
                    match piece {
                        Piece::Data(b) => got.extend(b),
                        Piece::End => {
                            left = Some(input.len());
                            break;
                        }
                    }
                }
                if left.is_some() {
                    break;
                }
            }
            assert!(got == data);
            assert!(left.is_some_and(|n| n <= 1), "nothing behind the end is taken");
        }
        assert_eq!(chunks(&[]).count(), 0);
    }
}
