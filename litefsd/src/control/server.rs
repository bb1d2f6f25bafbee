//! Accepting and serving connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::backend::ControlBackend;
use super::handlers;
use super::socket::ControlSocket;

/// Connections at a time; each costs a task and some kilobytes. More wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 256;
/// Of these, readers of the event stream, which stay.
const MAX_EVENT_READERS: usize = 128;
/// Imports and exports at a time; each holds a blocking thread, an export SQLite read locks.
const MAX_TRANSFERS: usize = 4;
/// Time for a request's head to come in.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request.
const MAX_HEAD: usize = 64 << 10;
/// After `stop`, requests under way have this long.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after an accept error such as "too many open files", which passes only if others finish.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all requests share.
pub(super) struct App {
    pub(super) backend: Arc<dyn ControlBackend>,
    pub(super) transfers: Arc<Semaphore>,
    event_readers: Arc<Semaphore>,
    pub(super) stop: watch::Receiver<bool>,
}

impl App {
    /// A subscription that counts against the limit until it ends.
    pub(super) fn events(&self) -> Option<mpsc::Receiver<Bytes>> {
        let place = Arc::clone(&self.event_readers).try_acquire_owned().ok()?;
        let mut source = self.backend.events()?;
        let (tx, rx) = mpsc::channel(1);
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            let _place: OwnedSemaphorePermit = place;
            loop {
                let line = tokio::select! {
                    line = source.recv() => line,
                    () = stopped(&mut stop) => None,
                    // Noticed at once, not only at the next event.
                    () = tx.closed() => None,
                };
                let Some(line) = line else { return };
                if tx.send(line).await.is_err() {
                    return;
                }
            }
        });
        Some(rx)
    }
}

/// Serves until `stop` becomes true (or its sender is gone); requests under way are given a few
/// seconds. The socket's file is removed at the end.
pub async fn serve(socket: ControlSocket, backend: Arc<dyn ControlBackend>, mut stop: watch::Receiver<bool>) {
    let app = Arc::new(App {
        backend,
        transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
        event_readers: Arc::new(Semaphore::new(MAX_EVENT_READERS)),
        stop: stop.clone(),
    });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            place = Arc::clone(&places).acquire_owned() => {
                let Ok(place) = place else { break };
                tokio::select! {
                    () = stopped(&mut stop) => break,
                    accepted = socket.listener().accept() => accepted.map(|(stream, _)| (stream, place)),
                }
            }
        };
        match accepted {
            Ok((stream, place)) => {
                let app = Arc::clone(&app);
                connections.spawn(async move {
                    connection(app, stream).await;
                    drop(place);
                });
            }
            Err(e) => {
                tracing::warn!("control: accept: {e}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(socket);
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

/// Waits for the stop. (A function of its own: the guard of `wait_for` must not live in a `select!`.)
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await;
}

async fn connection(app: Arc<App>, stream: UnixStream) {
    let mut stop = app.stop.clone();
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(handlers::handle(&app, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        r = connection.as_mut() => r,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = result {
        tracing::debug!("control: connection: {e}");
    }
}
