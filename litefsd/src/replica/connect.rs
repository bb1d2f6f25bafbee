//! Opens an HTTP/2 connection to another node.
//!
//! Owns name lookup, trying the addresses, and the liveness of the connection; not what is asked on it.
//! Tested in `tests/tests/replication_net.rs`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::http::addr::HostPort;

/// For the lookup of a name, and for each address to accept the connection.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;
/// A silent peer is noticed after interval + timeout. The original has neither: it stays attached to a
/// stopped primary for ever.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// See above.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes the peer may send ahead; a Go client allows the same. Bounds memory and fills a link of
/// 300 Mbit/s at 100 ms.
const STREAM_WINDOW: u32 = 4 << 20;
/// More than one stream's, so that a stalled stream holds up no other.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Response headers.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The name has no address (now).
    #[error("look up {host:?}: {source}")]
    Lookup {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No address accepted; the last one's reason.
    #[error("connect to {addr}: {source}")]
    Connect {
        /// The last address tried.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Connected, but it is no HTTP/2 server.
    #[error("HTTP/2 handshake: {0}")]
    Handshake(#[source] hyper::Error),
}

/// A connection; closed when dropped.
pub(crate) struct Connection {
    /// Sends requests.
    pub(crate) requests: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Looks the name up and takes the first address that accepts.
pub(crate) async fn connect(to: &HostPort) -> Result<Connection, ConnectError> {
    let stream = open(to).await?;
    // Position maps and PINGs are small: they must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_BYTES)
        .handshake(TokioIo::new(stream));
    let (requests, connection) = handshake.await.map_err(ConnectError::Handshake)?;
    let task = tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!("connection to primary: {e}");
        }
    });
    Ok(Connection { requests, task })
}

async fn open(to: &HostPort) -> Result<TcpStream, ConnectError> {
    let lookup = |source| ConnectError::Lookup { host: to.host().to_owned(), source };
    // `:20202` in an advertise URL or a test means this machine.
    let host = if to.host().is_empty() { "localhost" } else { to.host() };
    let addrs = match timeout(STEP_TIMEOUT, lookup_host((host, to.port()))).await {
        Ok(Ok(addrs)) => addrs.take(MAX_ADDRESSES).collect::<Vec<_>>(),
        Ok(Err(e)) => return Err(lookup(e)),
        Err(_) => return Err(lookup(io::ErrorKind::TimedOut.into())),
    };
    let mut last = lookup(io::Error::new(io::ErrorKind::NotFound, "no address"));
    for addr in addrs {
        let source = match timeout(STEP_TIMEOUT, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => e,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        tracing::debug!(%addr, "connect: {source}");
        last = ConnectError::Connect { addr, source };
    }
    Err(last)
}
