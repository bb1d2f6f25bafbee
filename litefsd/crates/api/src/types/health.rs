//! Health answers and events.

use serde::{Deserialize, Serialize};

/// `GET /v1/health/{probe}`: 200 if `ok`, otherwise 503.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// The answer to the probe.
    pub ok: bool,
    /// Why not; empty if `ok`.
    pub reasons: Vec<String>,
}

/// One line of `GET /v1/events`: the original's `init`, `tx` and `primaryChange`, and ours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// What happened. Programs ignore types they do not know.
    pub r#type: String,
    /// The database it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db: Option<String>,
    /// Depends on the type; always an object.
    pub data: serde_json::Map<String, serde_json::Value>,
}
