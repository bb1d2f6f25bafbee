//! What nodes of ours can do beyond the original, told in request and response headers that it ignores.
//!
//! Owns the names. `Litefs-Rs-Extensions` of a `/stream` request lists what the replica knows; without it the
//! peer is taken for LiteFS 0.5. If it knows `ack`, the response carries `Litefs-Rs-Stream`, a number, and
//! the replica may `POST /ack` with the same header (`primary/ack.rs`, `replica/ack.rs`).

use http::HeaderMap;

/// Request header of `/stream`: the extensions that the replica knows, with commas between.
pub const EXTENSIONS: &str = "litefs-rs-extensions";
/// Response header of `/stream` and request header of `/ack`: which stream, 16 hexadecimal digits.
pub const STREAM: &str = "litefs-rs-stream";
/// What this version knows.
pub const OURS: &str = "ack, page-size";

/// What a peer knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// It tells how far it is.
    pub ack: bool,
    /// The page size of a database may change under it. (LiteFS 0.5 ends itself then.)
    pub page_size: bool,
}

impl Extensions {
    /// Of the peer with these request headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let list = headers.get(EXTENSIONS).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let knows = |name: &str| list.split(',').any(|e| e.trim() == name);
        Self { ack: knows("ack"), page_size: knows("page-size") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_without_the_header_is_of_the_original() {
        let mut h = HeaderMap::new();
        assert_eq!(Extensions::of(&h), Extensions::default());
        h.insert(EXTENSIONS, OURS.parse().unwrap());
        assert_eq!(Extensions::of(&h), Extensions { ack: true, page_size: true });
        h.insert(EXTENSIONS, "ack,later".parse().unwrap());
        assert_eq!(Extensions::of(&h), Extensions { ack: true, page_size: false });
        h.insert(EXTENSIONS, "acks".parse().unwrap());
        assert_eq!(Extensions::of(&h), Extensions::default());
    }
}
