//! One request over one connection.

use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::body::Outgoing;
use super::error::ClientError;

/// Sends the request and waits for the head of the answer. `limit` counts from the moment the body
/// has been sent: how long that takes depends on its size, so while it is sent only silence counts.
pub(super) async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    method: Method,
    path: &str,
    body: Outgoing,
    limit: Duration,
) -> Result<Response<Incoming>, ClientError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("litefsctl/", env!("CARGO_PKG_VERSION")))
        .body(body)
        .map_err(|e| ClientError::Protocol(format!("cannot make the request: {e}")))?;
    let watch = request.body().watch();
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| ClientError::broken(&e))?;
    // It ends with the body of the answer, or when that is dropped.
    tokio::spawn(connection);
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    loop {
        let (deadline, what) = watch.deadline(limit);
        match timeout_at(deadline, &mut answer).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(e)) => {
                return Err(watch.take_error().map_or_else(|| ClientError::broken(&e), ClientError::Local));
            }
            // The body moved meanwhile: the deadline did, too.
            Err(_) if watch.deadline(limit).0 > Instant::now() => {}
            Err(_) => return Err(ClientError::Timeout { what: what.to_owned(), limit }),
        }
    }
}
