//! A primary that sends fixed bytes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// What happens after the bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum After {
    Hold,
    End,
    Reset,
}

/// See the module documentation.
pub struct FakePrimary {
    pub addr: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    /// The position maps that were asked with.
    pub maps: Arc<Mutex<Vec<Vec<u8>>>>,
}

struct Channel(mpsc::Receiver<Result<Bytes, io::Error>>);

impl hyper::body::Body for Channel {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|o| o.map(|r| r.map(Frame::data)))
    }
}

impl FakePrimary {
    pub async fn start(cluster: &'static str, bytes: Vec<u8>, after: After) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let maps = Arc::new(Mutex::new(Vec::new()));
        let bytes = Bytes::from(bytes);
        let (count, seen) = (Arc::clone(&connections), Arc::clone(&maps));
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                count.fetch_add(1, Ordering::SeqCst);
                let (bytes, seen) = (bytes.clone(), Arc::clone(&seen));
                let service = service_fn(move |req: http::Request<hyper::body::Incoming>| {
                    let (bytes, seen) = (bytes.clone(), Arc::clone(&seen));
                    async move {
                        let map = req.into_body().collect().await.unwrap().to_bytes();
                        seen.lock().unwrap().push(map.to_vec());
                        let (tx, rx) = mpsc::channel(1);
                        tokio::spawn(async move {
                            // In odd pieces: frames must not depend on how the network cuts them.
                            for part in bytes.chunks(97) {
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
                            }
                        });
                        let r = Response::builder().header("litefs-cluster-id", cluster);
                        Ok::<_, Infallible>(r.body(Channel(rx)).unwrap())
                    }
                });
                tokio::spawn(async move {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { addr, connections, maps }
    }
}
