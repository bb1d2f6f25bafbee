//! `export --name DB PATH`: the target is replaced only when the copy is complete and checked.

use std::io::{BufWriter, Write};

use litefs_api::client::cluster::ClusterClient;
use serde_json::json;

use super::import::cluster_failure;
use super::{Context, print_json};
use crate::check;
use crate::cli::ExportArgs;
use crate::exit::Failure;
use crate::progress::Bar;
use crate::replace::Replacement;
use crate::units::bytes;

/// Bytes between the connection and the file.
const BUFFER: usize = 1 << 20;

pub(crate) async fn run(ctx: &Context, args: &ExportArgs) -> Result<(), Failure> {
    let mut target = Replacement::new(&args.path)?;
    if !args.force {
        target.refuse_companions()?;
    }
    let mut bar = Bar::new(format!("exporting {}", args.name), ctx.global.quiet);
    let mut out = BufWriter::with_capacity(BUFFER, target.file());
    let (pos, len) = if let Some(url) = &args.url {
        let client = ClusterClient::new(url).map_err(|e| Failure::usage(format!("--url {url}: {e}")))?;
        let len = client
            .export(args.name.as_str(), &mut out, &mut bar)
            .await
            .map_err(|e| cluster_failure(e, url))?;
        (None, len)
    } else {
        let result = ctx.client()?.export(&args.name, &mut out, &mut bar).await;
        result.map_err(|e| Failure::from(e).while_doing(format_args!("cannot export {}", args.name)))?
    };
    out.flush().map_err(|e| {
        Failure::failed(format!("cannot write {}: {}", args.path.display(), check::reason(&e)))
    })?;
    drop((out, bar));
    finish(target, len)?;
    if ctx.global.json {
        let pos = pos.map(|p| p.to_string());
        return print_json(
            &json!({ "name": args.name.as_str(), "path": args.path, "size": len, "position": pos }),
        );
    }
    let at = pos.map(|p| format!(" at {p}")).unwrap_or_default();
    ctx.note(format_args!("exported {} ({}){at} to {}", args.name, bytes(len), args.path.display()));
    Ok(())
}

/// Checks what was received and puts it in place.
pub(crate) fn finish(mut target: Replacement, len: u64) -> Result<(), Failure> {
    let written = target.file().metadata().map(|m| m.len());
    if written.as_ref().ok() != Some(&len) {
        return Err(Failure::failed(
            "the copy is not as long as it was said to be: the target was left as it was",
        ));
    }
    // A database without pages is an empty file.
    if len > 0 {
        check::header(target.file(), len).map_err(|why| {
            Failure::failed(format!("the copy is no good: {why}; the target was left as it was"))
        })?;
    }
    target.remove_companions()?;
    target.commit()
}
