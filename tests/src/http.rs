//! A minimal HTTP/1.1 client: enough to ask a node for `/info` or `/export`, or to send it garbage.
//!
//! Written out on purpose: the daemon's own client would hide what is on the wire.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::node::Node;

/// The largest body a test reads (an export of the > 1 GiB database is compared on disk instead).
const MAX_BODY: u64 = 512 << 20;

/// A response read whole.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines as they came, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// GET on a node's cluster port.
pub fn get(node: &Node, path: &str, limit: Duration) -> io::Result<Response> {
    request(node, "GET", path, &[], limit)
}

/// Any method on a node's cluster port.
pub fn request(node: &Node, method: &str, path: &str, body: &[u8], limit: Duration) -> io::Result<Response> {
    if let Some(ns) = &node.netns {
        return through_namespace(ns, method, &format!("{}{path}", node.url()), limit);
    }
    let stream = TcpStream::connect((node.host.as_str(), node.port()))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    exchange(stream, method, path, body)
}

/// `POST /import`: what the node says to these bytes under this name, which goes into the URL as it is.
pub fn import(node: &Node, name: &str, bytes: &[u8]) -> Response {
    let path = format!("/import?name={name}");
    request(node, "POST", &path, bytes, Duration::from_secs(20)).expect("/import answers")
}

/// Sends `bytes` as they are; what comes back (a mebibyte at most) until the other side closes or says
/// nothing for `silence`.
pub fn raw(node: &Node, bytes: &[u8], silence: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect((node.host.as_str(), node.port())).expect("connect");
    stream.set_read_timeout(Some(silence)).expect("a limit");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a limit");
    // The other side may have closed already; what it said counts.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.take(1 << 20).read_to_end(&mut answer);
    answer
}

/// Any method on an API socket.
pub fn on_socket(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    exchange(stream, method, path, body)
}

/// The bytes of a database as `/export` gives them.
pub fn export(node: &Node, db: &str) -> Vec<u8> {
    let answer = get(node, &format!("/export?name={db}"), Duration::from_secs(60)).expect("/export answers");
    assert_eq!(answer.status, 200, "/export of {db} on {}: {}", node.name, answer.text());
    answer.body
}

fn exchange<S: Read + Write>(mut stream: S, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    // A server that refuses early may close before it has read the body; its answer counts.
    let sent = stream.write_all(body);
    read_response(&mut BufReader::new(stream)).or_else(|e| sent.and(Err(e)))
}

fn read_response(reader: &mut impl BufRead) -> io::Result<Response> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|s| s.trim().parse().ok());
    let status = status.ok_or_else(|| bad("no status line"))?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let find = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if find("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| bad("no chunk size"))?;
            if size == 0 {
                break;
            }
            if body.len() as u64 + size > MAX_BODY {
                return Err(bad("body too large"));
            }
            let at = body.len();
            body.resize(at + size as usize, 0);
            reader.read_exact(&mut body[at..])?;
            reader.read_line(&mut String::new())?;
        }
    } else if let Some(size) = find("content-length").and_then(|v| v.parse::<u64>().ok()) {
        if size > MAX_BODY {
            return Err(bad("body too large"));
        }
        body.resize(size as usize, 0);
        reader.read_exact(&mut body)?;
    } else if status != 204 && status != 304 {
        reader.take(MAX_BODY).read_to_end(&mut body)?;
    }
    Ok(Response { status, headers, body })
}

/// A connection made in another network namespace: `curl` goes there for us.
fn through_namespace(ns: &str, method: &str, url: &str, limit: Duration) -> io::Result<Response> {
    let out = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{ns}"))
        .args(["curl", "-sS", "-g", "--http1.1", "-i", "-X", method, "--max-time"])
        .arg(limit.as_secs().max(1).to_string())
        .arg(url)
        .stdin(Stdio::null())
        .output()?;
    if !out.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&out.stderr).into_owned()));
    }
    // curl has joined the chunks already; what follows the head is the body.
    let split = out.stdout.windows(4).position(|w| w == b"\r\n\r\n").map_or(out.stdout.len(), |i| i + 4);
    let (head, body) = out.stdout.split_at(split);
    let mut response = read_response(&mut BufReader::new(&b"HTTP/1.1 204 X\r\n\r\n"[..]))?;
    let head = String::from_utf8_lossy(head);
    response.status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    response.body = body.to_vec();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_lengths_respected() {
        let mut raw =
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"[..];
        let r = read_response(&mut raw).unwrap();
        assert_eq!((r.status, r.text().as_str()), (200, "abcde"));
        let mut raw = &b"HTTP/1.1 404 No\r\nContent-Length: 2\r\nX-A: b\r\n\r\nxyz"[..];
        let r = read_response(&mut raw).unwrap();
        assert_eq!((r.status, r.text().as_str(), r.header("x-a")), (404, "xy", Some("b")));
        assert!(read_response(&mut &b"garbage"[..]).is_err());
    }
}
