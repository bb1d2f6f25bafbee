//! `GET /info`.
//!
//! Owns its JSON, byte for byte the original's. Tested in `tests/tests/http_port.rs`.

use serde::Serialize;

use super::App;
use super::reply::{self, Reply};
use crate::events::escape_html;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    is_primary: bool,
    candidate: bool,
    path: std::borrow::Cow<'a, str>,
    primary: Primary,
}

#[derive(Serialize)]
struct Primary {
    hostname: String,
}

pub(super) fn info(app: &App) -> Reply {
    let info = Info {
        cluster_id: app.backend.cluster_id().map(|c| c.as_str().to_owned()),
        is_primary: app.node.is_primary(),
        candidate: app.node.candidate,
        path: app.node.data_dir.to_string_lossy(),
        primary: Primary { hostname: app.node.primary_hostname() },
    };
    match serde_json::to_string_pretty(&info) {
        // text/plain is what the original's content sniffing makes of it.
        Ok(json) => reply::full("text/plain; charset=utf-8", escape_html(json) + "\n"),
        Err(e) => reply::internal(e),
    }
}
