//! `POST /import` and `GET /export`: whole databases in and out.
//!
//! Owns names, limits and the order of checks; the store checks and replaces the database. Tested in
//! `tests/tests/http_port.rs`.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use litefs_store::spool::Spooled;
use litefs_types::DbName;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::App;
use super::backend::{ImportError, SourceError};
use super::channel::{CHANNEL_PARTS, ChannelWriter};
use super::query::param;
use super::reply::{self, Body, Part, Refused, Reply};
use super::spool::{MEMORY_LIMIT, Spooler};

/// A client that sends nothing for this long has gone.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// SQLite file format, section 1.3: the header is 100 bytes and starts with this.
const HEADER_LEN: usize = 100;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Either a parsed name or the answer to a bad one.
fn name_of(req: &Request<Incoming>) -> Result<String, Refused> {
    match param(req.uri().query(), "name") {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(Box::new(reply::bad_request("name required"))),
    }
}

pub(super) async fn import(app: &Arc<App>, req: Request<Incoming>) -> Reply {
    let name = match name_of(&req) {
        Ok(n) => n,
        Err(r) => return *r,
    };
    if !app.node.is_primary() {
        return reply::unavailable("lease expired");
    }
    let db: DbName = match name.parse() {
        Ok(db) => db,
        Err(e) => return reply::bad_request(format_args!("invalid database name: {e}")),
    };
    let Ok(permit) = Arc::clone(&app.transfers).acquire_owned().await else {
        return reply::unavailable("shutting down");
    };
    let file = match receive(app, &db, req.into_body()).await {
        Ok(f) => f,
        Err(r) => return *r,
    };
    let backend = Arc::clone(&app.backend);
    let done = spawn_blocking(move || {
        let _permit = permit;
        backend.import(&db, file)
    });
    match done.await {
        Ok(Ok(_)) => reply::ok(),
        Ok(Err(e @ ImportError::NotPrimary)) => reply::unavailable(e),
        Ok(Err(e @ (ImportError::Invalid(_) | ImportError::Local(_)))) => reply::internal(e),
        Err(_) => reply::internal("import failed"),
    }
}

/// Takes the whole body before the database is touched; refuses what cannot be a database at once.
async fn receive(app: &Arc<App>, db: &DbName, mut body: Incoming) -> Result<Spooled, Refused> {
    let too_large = || {
        let why = "not enough disk space for this database";
        Box::new(reply::error(StatusCode::PAYLOAD_TOO_LARGE, why))
    };
    let gone = || Box::new(reply::bad_request("read database: unexpected EOF"));
    let budget = if body.size_hint().upper().is_some_and(|n| n <= MEMORY_LIMIT as u64) {
        u64::MAX
    } else {
        let backend = Arc::clone(&app.backend);
        spawn_blocking(move || backend.spool_budget()).await.map_err(|_| too_large())?
    };
    if body.size_hint().lower() > budget {
        return Err(too_large());
    }
    let mut spooler = Spooler::default();
    let mut checked = false;
    loop {
        let frame = match timeout(BODY_TIMEOUT, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return Err(gone()),
        };
        let Ok(data) = frame.into_data() else { continue };
        let full = spooler.push(&data);
        if !checked && spooler.len() >= HEADER_LEN as u64 {
            check_header(spooler.head())?;
            checked = true;
        }
        if spooler.len() > budget {
            return Err(too_large());
        }
        if full {
            let (backend, db) = (Arc::clone(&app.backend), db.clone());
            spooler = on_blocking_thread(move || {
                spooler.flush(&|| backend.spool(&db))?;
                Ok(spooler)
            })
            .await?;
        }
    }
    if !checked {
        check_header(spooler.head())?;
    }
    if spooler.is_file() {
        on_blocking_thread(move || spooler.finish()).await
    } else {
        spooler.finish().map_err(|e| Box::new(reply::internal(e)))
    }
}

async fn on_blocking_thread<T: Send + 'static>(
    f: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Refused> {
    match spawn_blocking(f).await {
        Ok(Ok(v)) => Ok(v),
        Ok(Err(e)) => Err(Box::new(reply::internal(format_args!("write temporary file: {e}")))),
        Err(_) => Err(Box::new(reply::internal("write temporary file"))),
    }
}

fn check_header(head: &[u8]) -> Result<(), Refused> {
    if head.is_empty() {
        return Err(Box::new(reply::internal("read database header: EOF")));
    }
    if head.len() < HEADER_LEN || !head.starts_with(MAGIC) {
        return Err(Box::new(reply::internal("read database header: invalid database header")));
    }
    Ok(())
}

pub(super) async fn export(app: &Arc<App>, req: Request<Incoming>) -> Reply {
    let name = match name_of(&req) {
        Ok(n) => n,
        Err(r) => return *r,
    };
    let Ok(db) = name.parse::<DbName>() else { return reply::not_found(SourceError::NotFound) };
    let Ok(permit) = Arc::clone(&app.transfers).acquire_owned().await else {
        return reply::unavailable("shutting down");
    };
    let (tx, mut rx) = mpsc::channel::<Part>(CHANNEL_PARTS);
    let mut out = ChannelWriter::new(tx, Handle::current(), app.stopping());
    let backend = Arc::clone(&app.backend);
    let path = app.node.data_dir.join("dbs").join(db.as_str()).join("database");
    let worker = spawn_blocking(move || {
        let _permit = permit;
        let result = backend.export(&db, &mut out).and_then(|()| out.flush_buf().map_err(SourceError::Io));
        if let Err(e) = &result {
            if !out.is_closed() {
                tracing::warn!("export of {db:?}: {e}");
            }
            out.abort();
        }
        result
    });
    // The status waits for the first bytes: a client must never take an error for a database.
    if let Some(Ok(first)) = rx.recv().await {
        return reply::stream(Some("application/octet-stream"), Body::Stream(Some(first), rx));
    }
    match worker.await {
        Ok(Ok(())) => reply::ok(),
        Ok(Err(e @ SourceError::NotFound)) => reply::not_found(e),
        Ok(Err(SourceError::Dropped)) => reply::internal(format_args!(
            "write snapshot: open database file: open {}: no such file or directory",
            path.display()
        )),
        Ok(Err(e)) => reply::internal(format_args!("write snapshot: {e}")),
        Err(_) => reply::internal("write snapshot: failed"),
    }
}
