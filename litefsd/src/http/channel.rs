//! From a blocking thread into a streamed response.
//!
//! Owns back-pressure, stall limits and cancellation of such writers; not what is written. Tested here
//! and by every snapshot and export in `tests/tests`.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::reply::{Aborted, Part};
use super::until;

/// Bytes collected into one part of the response.
const PART: usize = 64 << 10;
/// Parts between the writer and the connection.
pub const CHANNEL_PARTS: usize = 8;
/// A client that takes nothing for this long is cut off: it holds a thread, and perhaps a read lock.
/// PING notices dead peers earlier; this is for live ones that do not read.
/// A Go replica does not read while SQLite readers block its apply, which may take minutes.
pub const STALL_LIMIT: Duration = Duration::from_secs(300);
/// Kind of the error after `stop`. (Not `Interrupted`: `write_all` would try that again for ever.)
pub const STOPPED: io::ErrorKind = io::ErrorKind::ConnectionAborted;

/// The writing end. `Write` blocks while the channel is full.
pub struct ChannelWriter {
    tx: mpsc::Sender<Part>,
    rt: Handle,
    buf: BytesMut,
    deadline: Option<Instant>,
    stop: watch::Receiver<bool>,
    parts: u64,
}

impl ChannelWriter {
    /// A writer that gives up when the reader is gone, takes nothing for [`STALL_LIMIT`], or `stop` is true.
    pub fn new(tx: mpsc::Sender<Part>, rt: Handle, stop: watch::Receiver<bool>) -> Self {
        Self { tx, rt, buf: BytesMut::new(), deadline: None, stop, parts: 0 }
    }

    /// Also gives up at this time; `None` takes the limit off again.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Sends bytes as they are, after what was written before. Blocks while the channel is full.
    pub fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.flush_buf()?;
        self.send_part(bytes)
    }

    /// Sends what was written.
    pub fn flush_buf(&mut self) -> io::Result<()> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let part = self.buf.split().freeze();
        self.send_part(part)
    }

    /// Resets the response, after what is still in the channel if there is room.
    pub fn abort(self) {
        // A full channel: dropping the sender would look like a regular end, so wait for room.
        let tx = self.tx;
        if tx.try_send(Err(Aborted)).is_err() {
            self.rt.spawn(async move {
                let _ = tokio::time::timeout(STALL_LIMIT, tx.send(Err(Aborted))).await;
            });
        }
    }

    /// Parts that went into the channel.
    pub fn parts(&self) -> u64 {
        self.parts
    }

    /// Whether the reader went away.
    pub fn is_closed(&self) -> bool {
        self.tx.is_closed()
    }

    fn send_part(&mut self, part: Bytes) -> io::Result<()> {
        if *self.stop.borrow() {
            return Err(io::Error::new(STOPPED, "stopping"));
        }
        if self.deadline.is_some_and(|d| Instant::now() >= d) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let part = match self.tx.try_send(Ok(part)) {
            Ok(()) => {
                self.parts += 1;
                return Ok(());
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(mpsc::error::TrySendError::Full(part)) => part,
        };
        let stalled = Instant::now() + STALL_LIMIT;
        let limit = self.deadline.map_or(stalled, |d| d.min(stalled));
        let (tx, stop) = (&self.tx, &mut self.stop);
        let sent = self.rt.block_on(async {
            tokio::select! {
                r = tx.send(part) => r.map_err(|_| io::ErrorKind::BrokenPipe.into()),
                () = sleep_until(limit) => Err(io::ErrorKind::TimedOut.into()),
                () = until(stop) => Err(io::Error::new(STOPPED, "stopping")),
            }
        });
        self.parts += u64::from(sent.is_ok());
        sent
    }
}

impl io::Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PART - self.buf.len());
        self.buf.extend_from_slice(&bytes[..n]);
        if self.buf.len() >= PART {
            self.flush_buf()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_buf()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[tokio::test]
    async fn a_full_channel_holds_the_writer_and_a_gone_reader_ends_it() {
        let (tx, mut rx) = mpsc::channel(2);
        let stop = watch::Sender::new(false);
        let mut w = ChannelWriter::new(tx, Handle::current(), stop.subscribe());
        let writer = tokio::task::spawn_blocking(move || w.write_all(&vec![7; 10 * PART]));
        let mut got = 0;
        for _ in 0..5 {
            got += rx.recv().await.unwrap().unwrap().len();
        }
        assert_eq!(got, 5 * PART);
        assert!(!writer.is_finished());
        drop(rx);
        assert_eq!(writer.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn stopping_and_deadlines_end_a_blocked_writer() {
        for by_stop in [true, false] {
            let (tx, _rx) = mpsc::channel(1);
            let stop = watch::Sender::new(false);
            let mut w = ChannelWriter::new(tx, Handle::current(), stop.subscribe());
            w.set_deadline(Some(Instant::now() + Duration::from_millis(if by_stop { 60_000 } else { 50 })));
            let writer = tokio::task::spawn_blocking(move || w.write_all(&vec![7; 10 * PART]));
            tokio::time::sleep(Duration::from_millis(20)).await;
            if by_stop {
                stop.send_replace(true);
            }
            let want = if by_stop { STOPPED } else { io::ErrorKind::TimedOut };
            assert_eq!(writer.await.unwrap().unwrap_err().kind(), want);
        }
    }
}
