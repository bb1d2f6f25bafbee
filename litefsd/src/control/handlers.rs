//! One request: find its route, ask the backend, answer.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use litefs_api::{
    ApiError, DEFAULT_LTX_LIMIT, DatabaseList, Dropped, ErrorCode, Health, MAX_LTX_LIMIT, MAX_WAIT_SECS,
    Probe, Route, RouteError, Waited,
};
use litefs_config::GoDuration;
use litefs_types::{DbName, Txid};
use tokio::time::{Instant, timeout_at};

use super::reply::{self, Reply, blocking, blocking_within};
use super::server::{App, stopped};
use super::transfer;
use crate::http::query_param;

/// Time for an answer from memory. Longer means that something hangs, and the caller should know.
const ANSWER: Duration = Duration::from_secs(10);
/// Time for a health answer: probes have short limits themselves.
const HEALTH: Duration = Duration::from_secs(3);
/// How long a wait lasts unless the request says otherwise.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// A waiting request looks again after this time even if nothing seems to have happened.
const RECHECK: Duration = Duration::from_secs(1);

pub(super) async fn handle(app: &Arc<App>, request: Request<Incoming>) -> Reply {
    let route = match Route::parse(request.method(), request.uri().path()) {
        Ok(route) => route,
        Err(e) => {
            let code = match e {
                RouteError::NotFound => ErrorCode::NotFound,
                RouteError::Method(_) => ErrorCode::MethodNotAllowed,
                RouteError::Invalid(_) => ErrorCode::BadRequest,
            };
            return reply::error(&ApiError::new(code, e.to_string()));
        }
    };
    let query = request.uri().query().map(str::to_owned);
    let query = query.as_deref();
    let b = Arc::clone(&app.backend);
    match route {
        Route::Status => reply::result(
            blocking_within(ANSWER, "the status", move || {
                let mut s = b.status();
                s.databases.sort_by(|x, y| x.name.cmp(&y.name));
                s
            })
            .await,
        ),
        Route::Databases => reply::result(
            blocking_within(ANSWER, "the list of databases", move || {
                let mut databases = b.databases();
                databases.sort_by(|x, y| x.name.cmp(&y.name));
                DatabaseList { databases }
            })
            .await,
        ),
        Route::Database(name) => {
            let asked = name.clone();
            let found = blocking_within(ANSWER, "the database's status", move || b.database(&asked)).await;
            reply::result(found.and_then(|d| d.ok_or_else(|| ApiError::no_database(name.as_str()))))
        }
        Route::Events => match app.events() {
            Some(rx) => reply::lines(rx),
            None => reply::error(&ApiError::new(ErrorCode::Busy, "too many readers of the event stream")),
        },
        Route::Metrics => match blocking_within(ANSWER, "the metrics", move || b.metrics()).await {
            Ok(text) => reply::full(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into()),
            Err(e) => reply::error(&e),
        },
        Route::Health(probe) => health(app, probe).await,
        Route::Wait(name) => reply::result(wait(app, name, query).await),
        Route::Import(name) => {
            transfer::import(app, name, query_param(query, "replace"), request.into_body()).await
        }
        Route::Export(name) => transfer::export(app, name).await,
        Route::Drop(name) => {
            let dropped = name.clone();
            let result = blocking(move || b.drop_database(&dropped)).await.and_then(|r| r);
            reply::result(result.map(|pos| Dropped { name: name.to_string(), position: pos.into() }))
        }
        Route::LtxList(name) => reply::result(ltx_list(app, name, query).await),
        Route::Ltx(name, txid) => transfer::ltx(app, name, txid).await,
    }
}

/// A backend that does not answer is the very thing a probe has to find out.
async fn health(app: &Arc<App>, probe: Probe) -> Reply {
    let b = Arc::clone(&app.backend);
    let answer = blocking_within(HEALTH, "the health check", move || b.health(probe)).await;
    let health = answer.unwrap_or_else(|e| Health { ok: false, reasons: vec![e.message] });
    reply::json(if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &health)
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message)
}

fn txid_param(query: Option<&str>, key: &str) -> Result<Option<Txid>, ApiError> {
    query_param(query, key).map(|t| t.parse().map_err(|e| bad(format!("{key}: {e}")))).transpose()
}

async fn ltx_list(
    app: &Arc<App>,
    name: DbName,
    query: Option<&str>,
) -> Result<litefs_api::LtxList, ApiError> {
    let from = txid_param(query, "from")?;
    let limit = match query_param(query, "limit") {
        None => DEFAULT_LTX_LIMIT,
        Some(text) => match text.parse() {
            Ok(n) if (1..=MAX_LTX_LIMIT).contains(&n) => n,
            _ => return Err(bad(format!("limit: a number from 1 to {MAX_LTX_LIMIT}"))),
        },
    };
    let b = Arc::clone(&app.backend);
    blocking_within(ANSWER, "listing the log", move || b.ltx_list(&name, from, limit)).await?
}

/// Answers when the database has reached the transaction. One that is not there yet may still come.
async fn wait(app: &Arc<App>, name: DbName, query: Option<&str>) -> Result<Waited, ApiError> {
    let txid = txid_param(query, "txid")?.ok_or_else(|| bad("txid is required"))?;
    let limit = match query_param(query, "timeout") {
        None => DEFAULT_WAIT,
        Some(text) => text
            .parse::<GoDuration>()
            .ok()
            .and_then(GoDuration::non_negative)
            .filter(|d| d.as_secs() <= MAX_WAIT_SECS)
            .ok_or_else(|| bad(format!("timeout: a duration such as 10s, at most {MAX_WAIT_SECS}s")))?,
    };
    let deadline = Instant::now() + limit;
    let mut changes = app.backend.changes();
    let mut stop = app.stop.clone();
    loop {
        // Marked before the position is read, so that a change after that ends the sleep below.
        changes.mark_unchanged();
        let (b, asked) = (Arc::clone(&app.backend), name.clone());
        let position = blocking_within(ANSWER, "reading the position", move || b.position(&asked)).await?;
        if let Some(pos) = position.filter(|p| p.txid_raw() >= txid.get()) {
            return Ok(Waited { name: name.to_string(), position: pos.into() });
        }
        if Instant::now() >= deadline {
            return Err(match position {
                None => ApiError::no_database(name.as_str()),
                Some(pos) => ApiError::new(
                    ErrorCode::Timeout,
                    format!("{name} is at {pos} after {limit:?}, not yet at {txid}"),
                ),
            });
        }
        let until = deadline.min(Instant::now() + RECHECK);
        tokio::select! {
            _ = timeout_at(until, changes.changed()) => {}
            () = stopped(&mut stop) => return Err(ApiError::new(ErrorCode::NotReady, "the daemon is stopping")),
        }
    }
}
