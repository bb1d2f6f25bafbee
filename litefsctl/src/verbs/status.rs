//! `status [--watch]`

use std::io::Write;

use litefs_api::client::Client;
use litefs_api::{LeaseStatus, ReplicaStatus, Role, Status};

use super::{Context, databases};
use crate::cli::StatusArgs;
use crate::exit::Failure;
use crate::output::{Style, Table, Tone, printable};
use crate::units::{bytes, duration};

/// Clears the screen and goes to its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(crate) async fn run(ctx: &Context, args: &StatusArgs) -> Result<(), Failure> {
    let client = ctx.client()?;
    if !args.watch {
        let text = once(ctx, &client).await?;
        println!("{}", text.trim_end());
        return Ok(());
    }
    loop {
        // A daemon that restarts is something to watch, not a reason to end.
        let text = once(ctx, &client).await.unwrap_or_else(|e| e.message);
        let clear = if ctx.global.json { "" } else { CLEAR };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{clear}{}", text.trim_end())
            .and_then(|()| out.flush())
            .map_err(|e| Failure::failed(format!("stdout: {e}")))?;
        drop(out);
        tokio::time::sleep(args.interval).await;
    }
}

async fn once(ctx: &Context, client: &Client) -> Result<String, Failure> {
    if ctx.global.json {
        // As the daemon says it: it may know fields that this program does not.
        return Ok(client.status_text().await?);
    }
    Ok(render(&client.status().await?, ctx.style).join("\n"))
}

/// The status for people.
fn render(s: &Status, style: Style) -> Vec<String> {
    let role = match s.role {
        Role::Primary => style.paint(Tone::Good, "primary"),
        Role::Replica => style.paint(Tone::Good, "replica"),
        other => style.paint(Tone::Warn, other.as_str()),
    };
    let health = if s.health.ok {
        style.paint(Tone::Good, "ready")
    } else {
        style.paint(Tone::Bad, &format!("not ready: {}", s.health.reasons.join("; ")))
    };
    let primary = match &s.primary {
        None => style.paint(Tone::Warn, "unknown"),
        Some(p) => match &p.url {
            Some(url) => format!("{} ({url})", p.hostname),
            None => p.hostname.clone(),
        },
    };
    let mount = if s.mount.mounted { "" } else { ", not mounted" };
    let space = s.data.free.map(|f| format!(", {} free", bytes(f))).unwrap_or_default();
    let cluster = s.cluster_id.as_deref().unwrap_or("none yet");
    let name = style.paint(Tone::Strong, &printable(&s.node.name));
    let mut fields = vec![
        ("node", format!("{name} (id {}, pid {}, up {})", s.node.id, s.node.pid, duration(s.node.uptime_ms))),
        ("role", format!("{role}, {health}")),
        ("primary", primary),
        ("lease", lease(&s.lease)),
    ];
    if let Some(epoch) = s.epoch {
        fields.push(("epoch", epoch.to_string()));
    }
    if s.role != Role::Primary {
        fields.push(("lag", s.lag_ms.map_or_else(|| "unknown".to_owned(), signed_duration)));
    }
    fields.push(("mount", format!("{}{mount}", s.mount.path)));
    fields.push(("data", format!("{}{space}", s.data.path)));
    fields.push(("cluster", cluster.to_owned()));
    fields.push(("version", s.node.version.clone()));
    let mut lines: Vec<String> = fields.into_iter().map(|(k, v)| format!("{k:<9}{v}")).collect();
    if s.role == Role::Primary {
        lines.push(String::new());
        lines.extend(replicas(&s.replicas, style));
    }
    lines.push(String::new());
    lines.extend(databases::table(&s.databases, style));
    lines
}

fn lease(l: &LeaseStatus) -> String {
    let held = if l.held { "held" } else { "not held" };
    let remaining = l.remaining_ms.map(|ms| format!(", {} left", duration(ms))).unwrap_or_default();
    let candidate = if l.candidate { "candidate" } else { "no candidate" };
    format!("{}, {held}{remaining}, {candidate}", l.r#type)
}

fn signed_duration(ms: i64) -> String {
    let text = duration(ms.unsigned_abs());
    if ms < 0 { format!("-{text}") } else { text }
}

fn replicas(all: &[ReplicaStatus], style: Style) -> Vec<String> {
    if all.is_empty() {
        return vec!["no replicas connected".to_owned()];
    }
    let mut table =
        Table::new(&["REPLICA", "ADDRESS", "CONNECTED", "LAG", "UNSENT", "UNAPPLIED"], &[2, 3, 4, 5]);
    let count = |n: u64| if n == 0 { "0".to_owned() } else { format!("{n} tx") };
    let mut held = Vec::new();
    for r in all {
        let unsent = r.databases.values().map(|d| d.behind).sum();
        // Nodes of the original do not tell.
        let unapplied: Option<u64> = r.databases.values().map(|d| d.unapplied).sum();
        let name = r.name.clone().or_else(|| r.id.clone()).unwrap_or_else(|| "unknown".to_owned());
        let whys = r.databases.iter().filter_map(|(db, d)| Some((db, d.held.as_ref()?)));
        held.extend(whys.map(|(db, why)| format!("{name}: {db} is not sent any more: {why}")));
        table.row(vec![
            name,
            r.address.clone(),
            duration(r.connected_ms),
            r.lag_ms.map_or_else(|| "-".to_owned(), signed_duration),
            count(unsent),
            unapplied.map_or_else(|| "-".to_owned(), count),
        ]);
    }
    let mut lines = table.lines(style);
    lines.extend(held);
    lines
}
