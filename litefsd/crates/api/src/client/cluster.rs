//! The two verbs of the cluster port that the original's command line uses: `/import` and `/export`.
//!
//! Works against litefsd and the original alike: both take HTTP/1.1 there beside HTTP/2. As the
//! original's client does, only scheme, host and port of the base URL count.

use std::io::{self, Read, Write};
use std::time::Duration;

use http::{Method, StatusCode};
use hyper::body::Incoming;
use litefs_types::DbName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::{self, Progress};
use super::{ClientError, collect, http1};
use crate::encode_segment;

/// Time to connect to one address.
const CONNECT: Duration = Duration::from_secs(10);
/// Time to the answer after the body was sent: the original checks, writes and replicates first.
const ANSWER: Duration = Duration::from_secs(600);
/// How much of an error's text is read.
const MAX_ERROR: usize = 4096;

/// The default of the original's `-url`.
pub const DEFAULT_URL: &str = "http://localhost:20202";

/// What the cluster port answered, if it was not success.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The URL has no scheme that is known, or no host.
    #[error("{0}")]
    Url(&'static str),
    /// There is no such database.
    #[error("database not found")]
    NotFound,
    /// Any other refusal, in the original's words, and the server's own behind it.
    #[error("invalid response: code={}{}", .status.as_u16(), if .text.is_empty() { String::new() } else { format!(" ({})", .text) })]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// The body's text, one line, cut.
        text: String,
    },
    /// It did not get that far.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Asks the cluster port of one node.
#[derive(Clone, Debug)]
pub struct ClusterClient {
    host: String,
    port: u16,
}

impl ClusterClient {
    /// For this base URL.
    pub fn new(url: &str) -> Result<Self, ClusterError> {
        let (scheme, rest) = url.split_once("://").ok_or(ClusterError::Url("invalid URL scheme"))?;
        let default_port = match scheme {
            "http" => 80,
            // Cleartext, too: the original's client speaks nothing else.
            "https" => 443,
            _ => return Err(ClusterError::Url("invalid URL scheme")),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        let authority = authority.rsplit_once('@').map_or(authority, |(_, a)| a);
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']').ok_or(ClusterError::Url("missing ']' in URL host"))?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        if host.is_empty() {
            return Err(ClusterError::Url("URL host required"));
        }
        let port = match port.strip_prefix(':') {
            None | Some("") => default_port,
            Some(p) => p.parse().map_err(|_| ClusterError::Url("invalid URL port"))?,
        };
        Ok(Self { host: host.to_owned(), port })
    }

    /// Replaces the database by `len` bytes of `from`. Reads block the executor.
    pub async fn import(
        &self,
        name: &str,
        from: impl Read + Send + 'static,
        len: u64,
        progress: impl Progress + 'static,
    ) -> Result<(), ClusterError> {
        let path = format!("/import?name={}", encode_segment(name));
        let response = self.send(Method::POST, &path, body::reader(from, len, progress)).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(refused(response).await)
    }

    /// Writes a consistent copy of the database to `to`; returns its length.
    pub async fn export(
        &self,
        name: &str,
        to: &mut (impl Write + ?Sized),
        progress: &mut dyn Progress,
    ) -> Result<u64, ClusterError> {
        let path = format!("/export?name={}", encode_segment(name));
        let response = self.send(Method::GET, &path, body::empty()).await?;
        match response.status() {
            StatusCode::OK => Ok(body::copy(response.into_body(), to, progress).await?),
            StatusCode::NOT_FOUND => Err(ClusterError::NotFound),
            _ => Err(refused(response).await),
        }
    }

    /// As [`ClusterClient::import`] for a checked name.
    pub async fn import_database(
        &self,
        name: &DbName,
        from: impl Read + Send + 'static,
        len: u64,
        progress: impl Progress + 'static,
    ) -> Result<(), ClusterError> {
        self.import(name.as_str(), from, len, progress).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: body::Outgoing,
    ) -> Result<http::Response<Incoming>, ClientError> {
        let bracket = self.host.contains(':');
        let target = if bracket {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let stream = self.connect(&target).await?;
        http1::request(stream, &target, method, path, body, ANSWER).await
    }

    /// Tries all addresses of the name.
    async fn connect(&self, target: &str) -> Result<TcpStream, ClientError> {
        let unreachable = |source| ClientError::Unreachable { target: target.to_owned(), source };
        let addresses =
            tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => last = e,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(unreachable(last))
    }
}

async fn refused(response: http::Response<Incoming>) -> ClusterError {
    let status = response.status();
    let text = match collect(response, MAX_ERROR).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().replace(['\r', '\n'], " "),
        Err(_) => String::new(),
    };
    ClusterError::Refused { status, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scheme_host_and_port_count() {
        let parse = |u: &str| ClusterClient::new(u).map(|c| (c.host, c.port)).map_err(|e| e.to_string());
        assert_eq!(parse(DEFAULT_URL), Ok(("localhost".into(), 20202)));
        assert_eq!(parse("http://u:p@[fd00::1]:20202/x?y"), Ok(("fd00::1".into(), 20202)));
        assert_eq!(parse("https://h"), Ok(("h".into(), 443)));
        assert_eq!(parse("http://[::1]"), Ok(("::1".into(), 80)));
        assert_eq!(parse("localhost:20202"), Err("invalid URL scheme".into()));
        assert_eq!(parse("ftp://x"), Err("invalid URL scheme".into()));
        assert_eq!(parse("http://:80"), Err("URL host required".into()));
        assert!(parse("http://h:x").is_err() && parse("http://[::1").is_err());
    }
}
