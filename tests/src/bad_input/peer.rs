//! A front that stands between a replica and its primary: it forwards, or misbehaves in the primary's
//! place, and can be switched while both run.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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
    /// Forwards it to the real primary.
    Forward,
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
        /// What follows it.
        after: After,
    },
}

/// See the module documentation. Ends with the value.
#[derive(Debug)]
pub struct Front {
    runtime: Option<tokio::runtime::Runtime>,
    addr: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    accepted: Arc<AtomicUsize>,
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
    /// Forwards to port `to` of this machine at first.
    pub fn start(to: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("listen");
        let addr = listener.local_addr().expect("an address");
        let behaviour = watch::Sender::new(Behaviour::Forward);
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, wanted) = (Arc::clone(&accepted), behaviour.subscribe());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut wanted = wanted.clone();
                let now = wanted.borrow_and_update().clone();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(stream, to, now) => {}
                        // Another behaviour: this connection ends.
                        _ = wanted.changed() => {}
                    }
                });
            }
        });
        Self { runtime: Some(runtime), addr, behaviour, accepted }
    }

    /// Where it listens, as `lease.advertise-url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Behaves so from now on; connections that are open end.
    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

async fn serve(mut stream: TcpStream, to: u16, behaviour: Behaviour) {
    match behaviour {
        Behaviour::Forward => {
            if let Ok(mut primary) = TcpStream::connect(("127.0.0.1", to)).await {
                let _ = stream.set_nodelay(true);
                let _ = primary.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut primary).await;
            }
        }
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
        Behaviour::Answer { status, cluster, body, after } => {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (cluster, body, after) = (cluster.clone(), Bytes::from(body.clone()), after.clone());
                async move {
                    let _ = request.into_body().collect().await;
                    let (tx, rx) = mpsc::channel(4);
                    tokio::spawn(send(tx, body, after));
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

async fn send(tx: mpsc::Sender<Result<Bytes, io::Error>>, body: Bytes, after: After) {
    // In odd pieces: nothing may depend on how the network cuts them.
    for part in body.chunks(9973) {
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
