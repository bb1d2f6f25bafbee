//! Clients that speak to a node's port.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use litefs_core::stream::{Event, Frame, FrameDecoder};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request to be sent, on a connection of its own.
pub struct Ask<'a> {
    addr: SocketAddr,
    h2: bool,
    method: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Bytes,
}

impl<'a> Ask<'a> {
    /// Without headers and body, over HTTP/2 or HTTP/1.1.
    pub fn new(addr: SocketAddr, h2: bool, method: &'a str, path: &'a str) -> Self {
        Self { addr, h2, method, path, headers: &[], body: Bytes::new() }
    }

    pub fn get(addr: SocketAddr, h2: bool, path: &'a str) -> Self {
        Self::new(addr, h2, "GET", path)
    }

    pub fn post(addr: SocketAddr, h2: bool, path: &'a str, body: impl Into<Bytes>) -> Self {
        Self::new(addr, h2, "POST", path).body(body)
    }

    pub fn headers(self, headers: &'a [(&'a str, &'a str)]) -> Self {
        Self { headers, ..self }
    }

    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The response, its body unread; an error if the server reset the request, which may overtake the
    /// headers of an answer.
    pub async fn response(self) -> hyper::Result<Response<Incoming>> {
        let Self { addr, path, .. } = self;
        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let mut req = Request::builder().method(self.method);
        for (k, v) in self.headers {
            req = req.header(*k, *v);
        }
        let body = Full::new(self.body);
        if self.h2 {
            let (mut send, conn) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(conn);
            send.send_request(req.uri(format!("http://{addr}{path}")).body(body).unwrap()).await
        } else {
            let (mut send, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(conn);
            let req = req.header("host", addr.to_string()).uri(path).body(body).unwrap();
            send.send_request(req).await
        }
    }

    /// The answer, read whole.
    pub async fn answer(self) -> Answer {
        let (parts, body) = self.response().await.unwrap().into_parts();
        let body = body.collect().await.expect("whole body").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

/// What a stream sent, with whole LTX files.
#[derive(Debug, PartialEq)]
pub enum Sent {
    Ltx(String, Vec<u8>),
    Frame(Frame),
}

/// Reads `/stream` as a replica does.
pub struct StreamReader {
    body: Incoming,
    decoder: FrameDecoder,
    input: Bytes,
    ltx: Option<(String, Vec<u8>)>,
}

impl StreamReader {
    pub async fn open(addr: SocketAddr, query: &str, map: Vec<u8>) -> Self {
        Self::try_open(addr, query, map).await.unwrap()
    }

    /// The same; an error if the stream was reset before its headers.
    pub async fn try_open(addr: SocketAddr, query: &str, map: Vec<u8>) -> hyper::Result<Self> {
        let path = format!("/stream{query}");
        let r = Ask::post(addr, true, &path, map).headers(&[("litefs-id", "AA")]).response().await?;
        assert_eq!(r.status(), 200);
        Ok(Self { body: r.into_body(), decoder: FrameDecoder::new(), input: Bytes::new(), ltx: None })
    }

    /// The next frame; `Ok(None)` at a clean end of the response, an error if it was reset.
    pub async fn next(&mut self) -> Result<Option<Sent>, String> {
        loop {
            let mut input = &self.input[..];
            let event = self.decoder.next(&mut input).map_err(|e| e.to_string())?;
            let found = match event {
                Some(Event::Frame(Frame::Ltx { db })) => {
                    self.ltx = Some((db.to_string(), Vec::new()));
                    None
                }
                Some(Event::Data(b)) => {
                    self.ltx.as_mut().unwrap().1.extend_from_slice(b);
                    None
                }
                Some(Event::LtxEnd) => {
                    let (db, file) = self.ltx.take().unwrap();
                    Some(Sent::Ltx(db, file))
                }
                Some(Event::Frame(f)) => Some(Sent::Frame(f)),
                None => {
                    match timeout(Duration::from_secs(10), self.body.frame()).await.expect("a frame in time")
                    {
                        Some(Ok(f)) => self.input = f.into_data().unwrap_or_default(),
                        Some(Err(e)) => return Err(e.to_string()),
                        None => return Ok(None),
                    }
                    continue;
                }
            };
            let left = input.len();
            self.input = self.input.slice(self.input.len() - left..);
            if let Some(sent) = found {
                return Ok(Some(sent));
            }
        }
    }

    /// Everything up to and without the first heartbeat.
    pub async fn round(&mut self) -> Vec<Sent> {
        let mut out = Vec::new();
        loop {
            match self.next().await.unwrap().expect("a heartbeat before the end") {
                Sent::Frame(Frame::Heartbeat(_)) => return out,
                sent => out.push(sent),
            }
        }
    }
}
