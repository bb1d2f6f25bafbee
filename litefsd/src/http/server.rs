//! The server of the cluster port: accepts connections, speaks HTTP/1.1 and cleartext HTTP/2, stops.
//!
//! Owns connections, their limits and deadlines; routes are in `routes.rs`. Tested in
//! `tests/tests/http_port.rs`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::listen::Listeners;
use super::{App, routes, sniff, until};
use crate::primary::PeerAddr;

/// Connections at a time. Beyond it new ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Requests at a time on one HTTP/2 connection; the original's number.
const MAX_CONCURRENT_STREAMS: u32 = 250;
/// Bytes of request headers.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// From accept to knowing the protocol, and for the headers of each HTTP/1 request (which also ends idle
/// keep-alive connections).
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// An HTTP/2 connection without requests is closed after this. Go clients reconnect by themselves.
const H2_IDLE: Duration = Duration::from_secs(300);
/// A dead peer's connection is dropped after interval + timeout, which also ends its stream.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes a client may send ahead on one stream, as the original.
const STREAM_WINDOW: u32 = 1 << 20;
/// And on all streams of a connection: more than one stream's, so that a stalled upload stops no other.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of a response that hyper buffers for one stream.
const SEND_BUFFER: usize = 256 << 10;
/// Without HTTP/2 there is no PING: a subscriber of events that vanished is noticed by TCP, after
/// idle + count × interval seconds.
const KEEPALIVE_IDLE: u32 = 30;
/// See above.
const KEEPALIVE_INTERVAL: u32 = 10;
/// See above.
const KEEPALIVE_COUNT: u32 = 3;
/// Pause after an error of accept (out of descriptors): spinning would not free any.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running server. Dropping it cuts all connections off; see [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    addrs: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    app: Arc<App>,
}

impl Server {
    /// Starts to accept. Must be called inside a tokio runtime.
    pub fn start(listeners: Listeners, app: Arc<App>) -> io::Result<Self> {
        let addrs = listeners.local_addrs()?;
        let stop = watch::Sender::new(false);
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = JoinSet::new();
        for listener in listeners.into_inner() {
            tasks.spawn(accept_loop(listener, Arc::clone(&app), stop.subscribe(), Arc::clone(&permits)));
        }
        Ok(Self { addrs, stop, tasks, app })
    }

    /// What it listens on.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Stops accepting, lets every stream send its End frame and running requests finish, and cuts off
    /// what is left after `deadline`.
    pub async fn shutdown(mut self, deadline: Duration) {
        self.app.begin_shutdown();
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(deadline, all).await.is_err() {
            tracing::warn!("cluster port: connections cut off after {deadline:?}");
        }
        // Dropping the set aborts the rest.
    }
}

async fn accept_loop(
    listener: TcpListener,
    app: Arc<App>,
    stop: watch::Receiver<bool>,
    permits: Arc<Semaphore>,
) {
    let mut stopping = stop.clone();
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        tokio::select! {
            () = until(&mut stopping) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            next = next => match next {
                Some((permit, Ok((stream, peer)))) => {
                    let (app, stop) = (Arc::clone(&app), stop.clone());
                    connections.spawn(async move {
                        connection(stream, peer, app, stop).await;
                        drop(permit);
                    });
                }
                Some((_, Err(e))) => {
                    tracing::warn!("cluster port: accept: {e}");
                    sleep(ACCEPT_PAUSE).await;
                }
                None => break,
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, peer: SocketAddr, app: Arc<App>, stop: watch::Receiver<bool>) {
    if let Err(e) = set_options(&stream) {
        tracing::debug!(%peer, "socket options: {e}");
    }
    let mut stopping = stop.clone();
    let sniffed = tokio::select! {
        s = timeout(HEADER_TIMEOUT, sniff::sniff(stream)) => s,
        () = until(&mut stopping) => return,
    };
    let Ok(Ok((io, h2))) = sniffed else { return };
    let result = if h2 { serve_h2(io, peer, app, stop).await } else { serve_h1(io, app, stop).await };
    if let Err(e) = result {
        tracing::debug!(%peer, "connection: {e}");
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    // A transaction is one small write: Nagle's algorithm would hold it back for a round trip.
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    Ok(())
}

async fn serve_h1(io: sniff::Sniffed, app: Arc<App>, mut stop: watch::Receiver<bool>) -> hyper::Result<()> {
    let service = service_fn(move |req| answer(Arc::clone(&app), req));
    let mut conn = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADER_BYTES as usize)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(io), service)
    );
    tokio::select! {
        r = conn.as_mut() => return r,
        () = until(&mut stop) => conn.as_mut().graceful_shutdown(),
    }
    conn.await
}

async fn serve_h2(
    io: sniff::Sniffed,
    peer: SocketAddr,
    app: Arc<App>,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let active = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&active);
    let service = service_fn(move |mut req: Request<Incoming>| {
        req.extensions_mut().insert(PeerAddr(peer));
        let (app, active) = (Arc::clone(&app), Active::new(&active));
        async move {
            let reply = answer(app, req).await;
            reply.map(|r| r.map(|body| Counted { body, _active: active }))
        }
    });
    let mut conn = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(io), service)
    );
    let mut idle_since = Instant::now();
    let mut closing = false;
    loop {
        tokio::select! {
            r = conn.as_mut() => return r,
            () = until(&mut stop), if !closing => {
                conn.as_mut().graceful_shutdown();
                closing = true;
            }
            () = sleep_until(idle_since + H2_IDLE) => {
                if seen.load(Ordering::Relaxed) > 0 {
                    idle_since = Instant::now();
                } else if closing {
                    return Ok(());
                } else {
                    conn.as_mut().graceful_shutdown();
                    closing = true;
                    idle_since = Instant::now();
                }
            }
        }
    }
}

async fn answer(app: Arc<App>, req: Request<Incoming>) -> Result<super::reply::Reply, Infallible> {
    Ok(routes::route(app, req).await)
}

/// Counts requests from their headers to the end of their response.
struct Active(Arc<AtomicUsize>);

impl Active {
    fn new(n: &Arc<AtomicUsize>) -> Self {
        n.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(n))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body that keeps its request counted as active.
struct Counted {
    body: super::reply::Body,
    _active: Active,
}

impl hyper::body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = super::reply::Aborted;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
