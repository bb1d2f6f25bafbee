//! `GET /debug/vars`: the `store` part of the original's page, from which peers can read positions.
//!
//! Not there: `memstats` (Go's), `cmdline` (none of a peer's business) and lock states (the kernel keeps
//! the locks). Tested in `tests/tests/http_port.rs`.

use serde_json::{Map, json};

use super::App;
use super::reply::{self, Reply};

pub(super) fn vars(app: &App) -> Reply {
    let dbs: Map<_, _> = app
        .backend
        .databases_stats()
        .into_iter()
        .map(|d| {
            let pos = d.pos.unwrap_or(litefs_types::Pos::ZERO);
            let row = json!({
                "name": d.name,
                "txid": format!("{:016x}", pos.txid_raw()),
                "checksum": pos.checksum().to_string(),
            });
            (d.name, row)
        })
        .collect();
    let page = json!({
        "store": { "isPrimary": app.node.is_primary(), "candidate": app.node.candidate, "dbs": dbs }
    });
    reply::full("application/json; charset=utf-8", format!("{page}\n"))
}
