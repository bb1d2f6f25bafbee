//! What can be asked: method and path to a [`Route`] and back. Server and client share it.

use http::Method;
use litefs_types::{DbName, Txid};

/// A health question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// The process answers and its mount is alive.
    Live,
    /// It has joined, caught up, and applications may be sent to it.
    Ready,
    /// It is ready and the primary.
    Primary,
    /// It is ready and a replica.
    Replica,
}

impl Probe {
    /// The last part of its path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// One thing that can be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// `GET /v1/status`
    Status,
    /// `GET /v1/databases`
    Databases,
    /// `GET /v1/databases/{name}`
    Database(DbName),
    /// `GET /v1/events`
    Events,
    /// `GET /v1/metrics`
    Metrics,
    /// `GET /v1/health/{probe}`
    Health(Probe),
    /// `GET /v1/databases/{name}/wait?txid=…&timeout=…`
    Wait(DbName),
    /// `PUT /v1/databases/{name}?replace=…`
    Import(DbName),
    /// `GET /v1/databases/{name}/export`
    Export(DbName),
    /// `DELETE /v1/databases/{name}`
    Drop(DbName),
    /// `GET /v1/databases/{name}/ltx?from=…&limit=…`
    LtxList(DbName),
    /// `GET /v1/databases/{name}/ltx/{txid}`
    Ltx(DbName, Txid),
}

/// Why a request has no route.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    /// Nothing is at this path.
    #[error("no such path")]
    NotFound,
    /// Something is, but not for this method. Holds the methods it takes.
    #[error("method not allowed; this path takes {0}")]
    Method(&'static str),
    /// The name or number in the path is not valid.
    #[error("{0}")]
    Invalid(String),
}

impl Route {
    /// The route of a request. `path` is without the query.
    pub fn parse(method: &Method, path: &str) -> Result<Self, RouteError> {
        let rest = path.strip_prefix("/v1/").ok_or(RouteError::NotFound)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let get = |r: Self| if method == Method::GET { Ok(r) } else { Err(RouteError::Method("GET")) };
        match parts.as_slice() {
            ["status"] => get(Self::Status),
            ["databases"] => get(Self::Databases),
            ["events"] => get(Self::Events),
            ["metrics"] => get(Self::Metrics),
            ["health", probe] => {
                let all = [Probe::Live, Probe::Ready, Probe::Primary, Probe::Replica];
                let probe = all.into_iter().find(|p| p.as_str() == *probe).ok_or(RouteError::NotFound)?;
                get(Self::Health(probe))
            }
            ["databases", name] => {
                let name = db_name(name)?;
                match *method {
                    Method::GET => Ok(Self::Database(name)),
                    Method::PUT => Ok(Self::Import(name)),
                    Method::DELETE => Ok(Self::Drop(name)),
                    _ => Err(RouteError::Method("GET, PUT, DELETE")),
                }
            }
            ["databases", name, "wait"] => get(Self::Wait(db_name(name)?)),
            ["databases", name, "export"] => get(Self::Export(db_name(name)?)),
            ["databases", name, "ltx"] => get(Self::LtxList(db_name(name)?)),
            ["databases", name, "ltx", txid] => {
                let txid = txid.parse().map_err(|e| RouteError::Invalid(format!("{e}")))?;
                get(Self::Ltx(db_name(name)?, txid))
            }
            _ => Err(RouteError::NotFound),
        }
    }

    /// The method of its requests.
    pub const fn method(&self) -> Method {
        match self {
            Self::Import(_) => Method::PUT,
            Self::Drop(_) => Method::DELETE,
            _ => Method::GET,
        }
    }

    /// The path of its requests, without a query.
    pub fn path(&self) -> String {
        let db = |name: &DbName, tail: &str| format!("/v1/databases/{}{tail}", encode_segment(name.as_str()));
        match self {
            Self::Status => "/v1/status".to_owned(),
            Self::Databases => "/v1/databases".to_owned(),
            Self::Events => "/v1/events".to_owned(),
            Self::Metrics => "/v1/metrics".to_owned(),
            Self::Health(p) => format!("/v1/health/{}", p.as_str()),
            Self::Database(n) | Self::Import(n) | Self::Drop(n) => db(n, ""),
            Self::Wait(n) => db(n, "/wait"),
            Self::Export(n) => db(n, "/export"),
            Self::LtxList(n) => db(n, "/ltx"),
            Self::Ltx(n, txid) => db(n, &format!("/ltx/{txid}")),
        }
    }
}

fn db_name(segment: &str) -> Result<DbName, RouteError> {
    let bytes =
        decode_segment(segment).ok_or_else(|| RouteError::Invalid("bad escape in the path".to_owned()))?;
    DbName::try_from(bytes.as_slice()).map_err(|e| RouteError::Invalid(e.to_string()))
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub fn encode_segment(s: &str) -> String {
    use std::fmt::Write as _;
    s.bytes().fold(String::with_capacity(s.len()), |mut out, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

/// Undoes [`encode_segment`]; `None` after a `%` without two hexadecimal digits.
pub fn decode_segment(s: &str) -> Option<Vec<u8>> {
    let mut bytes = s.bytes();
    let mut out = Vec::with_capacity(s.len());
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            out.push((digit()? * 16 + digit()?) as u8);
        } else {
            out.push(b);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_round_trip() {
        let name: DbName = "mä db%2F.sqlite?".parse().unwrap();
        let routes = [
            Route::Status,
            Route::Databases,
            Route::Events,
            Route::Metrics,
            Route::Health(Probe::Primary),
            Route::Database(name.clone()),
            Route::Wait(name.clone()),
            Route::Import(name.clone()),
            Route::Export(name.clone()),
            Route::Drop(name.clone()),
            Route::LtxList(name.clone()),
            Route::Ltx(name, Txid::FIRST),
        ];
        for r in routes {
            assert_eq!(Route::parse(&r.method(), &r.path()), Ok(r));
        }
    }

    #[test]
    fn what_is_no_route() {
        let get = |p: &str| Route::parse(&Method::GET, p).unwrap_err();
        for p in
            ["/", "/v1", "/v1/", "/v1/nope", "/v1/health/x", "/v1/databases/a/b", "/v2/status", "/v1/status/"]
        {
            assert_eq!(get(p), RouteError::NotFound, "{p}");
        }
        for p in [
            "/v1/databases/",
            "/v1/databases/%2e%2e",
            "/v1/databases/a%2Fb",
            "/v1/databases/x%",
            "/v1/databases/%ff/ltx",
        ] {
            assert!(matches!(get(p), RouteError::Invalid(_)), "{p}");
        }
        assert!(matches!(get("/v1/databases/a/ltx/1"), RouteError::Invalid(_)));
        assert_eq!(Route::parse(&Method::POST, "/v1/status"), Err(RouteError::Method("GET")));
        assert_eq!(
            Route::parse(&Method::POST, "/v1/databases/a"),
            Err(RouteError::Method("GET, PUT, DELETE"))
        );
    }
}
