//! The frames of the stream, primary to replica.
//!
//! ```text
//! 1 LTX        u64 size (0), u32 length, name, then the file in chunks
//! 2 Ready
//! 3 End
//! 4 DropDB     u32 length, name
//! 5 Handoff    u32 length, lease id
//! 6 HWM        u64 txid, u32 length, name
//! 7 Heartbeat  i64 milliseconds
//! ```

use alloc::string::String;
use alloc::vec::Vec;

use litefs_types::{DbName, InvalidDbName, Timestamp, Txid};

use super::chunk::{ChunkDecoder, Piece};
use super::fields::{Partial, number};

/// Longest name or lease id on the wire in bytes: nothing sensible comes near it, and it is all that a
/// peer can make us hold.
pub const MAX_NAME: u32 = 4096;

/// A frame. The file of [`Frame::Ltx`] follows it in chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A transaction or a snapshot of this database follows.
    Ltx {
        /// Which database.
        db: DbName,
    },
    /// The replica has everything that the primary had when it connected.
    Ready,
    /// The primary closes the stream.
    End,
    /// The primary does not have this database.
    DropDb {
        /// Which database.
        db: DbName,
    },
    /// The replica is to take over this lease.
    Handoff {
        /// The lease as its store names it.
        lease_id: String,
    },
    /// The backup holds everything up to here.
    Hwm {
        /// Which database.
        db: DbName,
        /// Last transaction in the backup.
        txid: Option<Txid>,
    },
    /// The primary's clock.
    Heartbeat(Timestamp),
}

impl Frame {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.kind().to_be_bytes());
        match self {
            Self::Ltx { db } => {
                out.extend([0; 8]);
                put_text(out, db.as_str());
            }
            Self::Ready | Self::End => {}
            Self::DropDb { db } => put_text(out, db.as_str()),
            Self::Handoff { lease_id } => put_text(out, lease_id),
            Self::Hwm { db, txid } => {
                out.extend(txid.map_or(0, Txid::get).to_be_bytes());
                put_text(out, db.as_str());
            }
            Self::Heartbeat(t) => out.extend(t.millis().to_be_bytes()),
        }
    }

    /// The bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    fn kind(&self) -> u32 {
        match self {
            Self::Ltx { .. } => 1,
            Self::Ready => 2,
            Self::End => 3,
            Self::DropDb { .. } => 4,
            Self::Handoff { .. } => 5,
            Self::Hwm { .. } => 6,
            Self::Heartbeat(_) => 7,
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
}

/// What is wrong with a stream. There is no way on behind any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A type that does not exist. A Go primary that fails writes its error text into the stream, which
    /// comes out here.
    #[error("unknown stream frame type {0:#010x}")]
    Type(u32),
    /// A name or lease id beyond [`MAX_NAME`].
    #[error("name of {0} bytes in the stream")]
    NameTooLong(u32),
    /// A name that no database can have.
    #[error("invalid database name in the stream")]
    Name(#[source] InvalidDbName),
    /// A lease id that is empty or not printable ASCII.
    #[error("invalid lease id in the stream")]
    LeaseId,
    /// The stream stopped within a frame or file.
    #[error("stream ended within a frame")]
    Truncated,
}

/// What [`FrameDecoder::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A frame. After [`Frame::Ltx`] come `Data` and `LtxEnd`.
    Frame(Frame),
    /// Bytes of the file of the last [`Frame::Ltx`].
    Data(&'a [u8]),
    /// That file is complete (as far as the stream is concerned: verify it).
    LtxEnd,
}

/// Reads frames from input that comes in any pieces.
#[derive(Debug)]
pub struct FrameDecoder {
    partial: Partial,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Type,
    /// The fixed fields of a frame of this type.
    Fixed(Kind),
    /// A name of this length; and the number that preceded it.
    Name(Kind, usize, u64),
    Chunks(ChunkDecoder),
    Ended,
    Failed(FrameError),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Ltx,
    DropDb,
    Handoff,
    Hwm,
    Heartbeat,
}

impl FrameDecoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self { partial: Partial::default(), state: State::Type }
    }

    /// Takes the next event from `input`; `None` once all of it is used up. Behind [`Frame::End`]
    /// everything is ignored. An error repeats for ever.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, FrameError> {
        self.advance(input).inspect_err(|e| self.state = State::Failed(*e))
    }

    /// To be called when the input ends: that is fine between frames (and behind [`Frame::End`]) only.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.state {
            State::Type if self.partial.is_empty() => Ok(()),
            State::Ended => Ok(()),
            State::Failed(e) => Err(e),
            _ => Err(FrameError::Truncated),
        }
    }

    fn advance<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, FrameError> {
        loop {
            match &mut self.state {
                State::Type => {
                    let Some(bytes) = self.partial.take(input, 4) else { return Ok(None) };
                    let frame = match number(&bytes) as u32 {
                        1 => Err(Kind::Ltx),
                        2 => Ok(Frame::Ready),
                        3 => Ok(Frame::End),
                        4 => Err(Kind::DropDb),
                        5 => Err(Kind::Handoff),
                        6 => Err(Kind::Hwm),
                        7 => Err(Kind::Heartbeat),
                        other => return Err(FrameError::Type(other)),
                    };
                    match frame {
                        Ok(frame) => {
                            if frame == Frame::End {
                                self.state = State::Ended;
                            }
                            return Ok(Some(Event::Frame(frame)));
                        }
                        Err(kind) => self.state = State::Fixed(kind),
                    }
                }
                State::Fixed(kind) => {
                    let kind = *kind;
                    let len = match kind {
                        Kind::Ltx | Kind::Hwm => 12,
                        Kind::DropDb | Kind::Handoff => 4,
                        Kind::Heartbeat => 8,
                    };
                    let Some(bytes) = self.partial.take(input, len) else { return Ok(None) };
                    if let Kind::Heartbeat = kind {
                        self.state = State::Type;
                        let time = Timestamp::from_millis(number(&bytes) as i64);
                        return Ok(Some(Event::Frame(Frame::Heartbeat(time))));
                    }
                    let (value, name) = bytes.split_at(len - 4);
                    let name_len = number(name) as u32;
                    if name_len > MAX_NAME {
                        return Err(FrameError::NameTooLong(name_len));
                    }
                    self.state = State::Name(kind, name_len as usize, number(value));
                }
                State::Name(kind, len, value) => {
                    let (kind, value) = (*kind, *value);
                    let Some(name) = self.partial.take(input, *len) else { return Ok(None) };
                    self.state = State::Type;
                    let db = || DbName::try_from(&name[..]).map_err(FrameError::Name);
                    let frame = match kind {
                        Kind::Ltx => {
                            self.state = State::Chunks(ChunkDecoder::new());
                            Frame::Ltx { db: db()? }
                        }
                        Kind::DropDb => Frame::DropDb { db: db()? },
                        Kind::Hwm => Frame::Hwm { db: db()?, txid: Txid::new(value) },
                        Kind::Handoff | Kind::Heartbeat => Frame::Handoff { lease_id: lease_id(&name)? },
                    };
                    return Ok(Some(Event::Frame(frame)));
                }
                State::Chunks(chunks) => {
                    let event = match chunks.next(input) {
                        None => return Ok(None),
                        Some(Piece::Data(data)) => Event::Data(data),
                        Some(Piece::End) => {
                            self.state = State::Type;
                            Event::LtxEnd
                        }
                    };
                    return Ok(Some(event));
                }
                State::Ended => {
                    *input = &[];
                    return Ok(None);
                }
                State::Failed(e) => return Err(*e),
            }
        }
    }
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// It goes into requests to the lease store, so nothing but printable ASCII may pass.
fn lease_id(bytes: &[u8]) -> Result<String, FrameError> {
    match core::str::from_utf8(bytes) {
        Ok(id) if !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic()) => Ok(String::from(id)),
        _ => Err(FrameError::LeaseId),
    }
}

#[cfg(test)]
mod tests;
