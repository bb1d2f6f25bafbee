//! A front that stands in a primary's place: it forwards to the real one, falls silent, or misbehaves, and
//! can be switched while the replica runs.
//!
//! Used by tests with daemons (`bad_input_peer.rs`) and with nodes in one process
//! (`replication_net_peers.rs`): it has a runtime of its own and waits for nothing in the caller's.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// What follows the last byte of a response.
#[derive(Clone, Debug)]
pub enum After {
    /// Nothing, but the connection is alive.
    Hold,
    /// END_STREAM.
    End,
    /// RST_STREAM.
    Reset,
    /// These bytes again and again.
    Repeat(Vec<u8>),
}

/// What the front does with a connection.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Forwards it to this port of this machine: the real primary's.
    Forward(u16),
    /// Leaves it open, and nothing moves any more, as with a stopped process or a cable that was pulled.
    Silent,
    /// Closes it.
    Refuse,
    /// Sends these bytes, whatever comes in, and then holds or closes.
    Raw(Vec<u8>, bool),
    /// Speaks HTTP/2 and answers every request with this.
    Answer {
        /// The status.
        status: u16,
        /// The `Litefs-Cluster-Id`, if any.
        cluster: Option<String>,
        /// The body.
        body: Vec<u8>,
        /// How many bytes of it a piece has; odd, as nothing may depend on how the network cuts them.
        piece: usize,
        /// What follows it.
        after: After,
    },
}

/// What a front has met.
#[derive(Debug, Default)]
struct Seen {
    accepted: Mutex<Vec<Instant>>,
    bodies: Mutex<Vec<Vec<u8>>>,
}

/// See the module documentation. Ends with the value.
#[derive(Debug)]
pub struct Front {
    runtime: Option<tokio::runtime::Runtime>,
    addr: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    seen: Arc<Seen>,
}

struct Channel(mpsc::Receiver<Result<Bytes, io::Error>>);

impl hyper::body::Body for Channel {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|o| o.map(|r| r.map(hyper::body::Frame::data)))
    }
}

impl Front {
    /// Behaves so from the first connection on.
    pub fn start(behaviour: Behaviour) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let addr = listener.local_addr().expect("an address");
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).expect("a listener of the runtime")
        };
        let behaviour = watch::Sender::new(behaviour);
        let seen = Arc::new(Seen::default());
        let (met, wanted) = (Arc::clone(&seen), behaviour.subscribe());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                met.accepted.lock().expect("accepted").push(Instant::now());
                tokio::spawn(connection(stream, wanted.clone(), Arc::clone(&met)));
            }
        });
        Self { runtime: Some(runtime), addr, behaviour, seen }
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same, as `lease.advertise-url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Behaves so from now on; connections that are open end, unless it is silence that begins.
    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.seen.accepted.lock().expect("accepted").len()
    }

    /// When each of them came.
    pub fn accepted_at(&self) -> Vec<Instant> {
        self.seen.accepted.lock().expect("accepted").clone()
    }

    /// The bodies of the requests that were answered so far: position maps.
    pub fn asked(&self) -> Vec<Vec<u8>> {
        self.seen.bodies.lock().expect("bodies").clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not one that waits: that is forbidden in a test that is itself asynchronous.
            runtime.shutdown_background();
        }
    }
}

/// One connection, until its peer is gone or another behaviour is wanted.
async fn connection(mut near: TcpStream, mut wanted: watch::Receiver<Behaviour>, seen: Arc<Seen>) {
    // Out here, so that it stays open when silence begins.
    let mut far = None;
    loop {
        let now = wanted.borrow_and_update().clone();
        tokio::select! {
            () = serve(&mut near, &mut far, now, &seen) => return,
            changed = wanted.changed() => {
                if changed.is_err() || !matches!(*wanted.borrow(), Behaviour::Silent) {
                    return;
                }
            }
        }
    }
}

async fn serve(stream: &mut TcpStream, far: &mut Option<TcpStream>, behaviour: Behaviour, seen: &Arc<Seen>) {
    match behaviour {
        Behaviour::Forward(port) => {
            if let Ok(primary) = TcpStream::connect(("127.0.0.1", port)).await {
                let primary = far.insert(primary);
                let _ = stream.set_nodelay(true);
                let _ = primary.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(stream, primary).await;
            }
        }
        Behaviour::Silent => std::future::pending().await,
        Behaviour::Refuse => {}
        Behaviour::Raw(bytes, hold) => {
            // Half of the peer's preface at least: else the close may overtake what was sent.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&bytes).await;
            if hold {
                while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
            }
            let _ = stream.shutdown().await;
        }
        Behaviour::Answer { status, cluster, body, piece, after } => {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (cluster, body, after) = (cluster.clone(), Bytes::from(body.clone()), after.clone());
                let seen = Arc::clone(seen);
                async move {
                    if let Ok(asked) = request.into_body().collect().await {
                        seen.bodies.lock().expect("bodies").push(asked.to_bytes().to_vec());
                    }
                    let (tx, rx) = mpsc::channel(4);
                    tokio::spawn(send(tx, body, piece, after));
                    let mut response = Response::builder().status(status);
                    if let Some(id) = cluster {
                        response = response.header("litefs-cluster-id", id);
                    }
                    response.body(Channel(rx))
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    }
}

async fn send(tx: mpsc::Sender<Result<Bytes, io::Error>>, body: Bytes, piece: usize, after: After) {
    for part in body.chunks(piece) {
        if tx.send(Ok(Bytes::copy_from_slice(part))).await.is_err() {
            return;
        }
    }
    match after {
        After::Hold => tx.closed().await,
        After::End => {}
        After::Reset => {
            let _ = tx.send(Err(io::Error::other("reset"))).await;
        }
        After::Repeat(bytes) => {
            let bytes = Bytes::from(bytes);
            while tx.send(Ok(bytes.clone())).await.is_ok() {}
        }
    }
}
