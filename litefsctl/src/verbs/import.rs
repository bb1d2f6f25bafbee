//! `import --name DB [--replace] PATH`: the file is checked before anything is touched.

use litefs_api::ErrorCode;
use litefs_api::client::ClientError;
use litefs_api::client::cluster::{ClusterClient, ClusterError};

use super::{Context, print_json};
use crate::check;
use crate::cli::ImportArgs;
use crate::exit::{Failure, Kind};
use crate::progress::Bar;
use crate::units::bytes;

pub(crate) async fn run(ctx: &Context, args: &ImportArgs) -> Result<(), Failure> {
    let (file, len) = check::open(&args.path)?;
    if !args.no_check {
        check::integrity(&args.path)?;
    }
    let label = format!("importing {}", args.name);
    if let Some(url) = &args.url {
        return to_cluster(ctx, args, url, file, len, label).await;
    }
    let client = ctx.client()?;
    let again =
        file.try_clone().map_err(|e| Failure::failed(format!("cannot read {}: {e}", args.path.display())))?;
    let bar = Bar::new(label.clone(), ctx.global.quiet);
    match client.import(&args.name, file, len, args.replace, bar).await {
        Ok(done) if ctx.global.json => print_json(&done),
        Ok(done) => {
            let verb = if done.replaced { "replaced" } else { "imported" };
            ctx.note(format_args!(
                "{verb} {} ({}) as transaction {}",
                done.name,
                bytes(done.size),
                done.position.txid
            ));
            Ok(())
        }
        // From any node: a replica's daemon knows who the primary is.
        Err(ClientError::Api(e)) if e.code == ErrorCode::NotPrimary => {
            let status = client.status().await?;
            let Some(url) = status.primary.and_then(|p| p.url) else {
                return Err(ClientError::Api(e).into());
            };
            if !args.replace && status.databases.iter().any(|d| d.name == args.name.as_str() && !d.dropped) {
                return Err(exists(args));
            }
            let mut again = again;
            std::io::Seek::rewind(&mut again)
                .map_err(|e| Failure::failed(format!("cannot read {}: {e}", args.path.display())))?;
            to_cluster(ctx, args, &url, again, len, label).await
        }
        Err(ClientError::Api(e)) if e.code == ErrorCode::Exists => Err(exists(args)),
        Err(e) => Err(Failure::from(e).while_doing(format_args!("cannot import {}", args.name))),
    }
}

fn exists(args: &ImportArgs) -> Failure {
    Failure::new(Kind::Refused, format!("database {:?} exists", args.name.as_str()))
        .hint("use --replace to replace it")
}

/// Through the cluster port, which replaces without asking.
async fn to_cluster(
    ctx: &Context,
    args: &ImportArgs,
    url: &str,
    file: std::fs::File,
    len: u64,
    label: String,
) -> Result<(), Failure> {
    let client = ClusterClient::new(url).map_err(|e| Failure::usage(format!("--url {url}: {e}")))?;
    let bar = Bar::new(label, ctx.global.quiet);
    client.import(args.name.as_str(), file, len, bar).await.map_err(|e| cluster_failure(e, url))?;
    if ctx.global.json {
        return print_json(&serde_json::json!({ "name": args.name.as_str(), "size": len, "url": url }));
    }
    ctx.note(format_args!("imported {} ({}) through {url}", args.name, bytes(len)));
    Ok(())
}

/// What the cluster port's answer means for the exit code.
pub(crate) fn cluster_failure(e: ClusterError, url: &str) -> Failure {
    match e {
        ClusterError::Client(e @ ClientError::Unreachable { .. }) => {
            Failure::from(e).hint(format!("does a node listen at {url}?"))
        }
        ClusterError::Client(e) => e.into(),
        ClusterError::NotFound => Failure::new(Kind::NotFound, "database not found"),
        ClusterError::Refused { status, .. } if status.as_u16() == 503 => {
            Failure::new(Kind::Refused, e.to_string()).hint("is that node the primary?")
        }
        ClusterError::Url(_) => Failure::usage(e.to_string()),
        ClusterError::Refused { .. } => Failure::failed(e.to_string()),
    }
}
