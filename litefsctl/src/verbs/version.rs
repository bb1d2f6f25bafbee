//! `version`

use serde_json::json;

use super::{Context, print_json};
use crate::exit::Failure;

/// This program's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, if the build said so.
pub(crate) const COMMIT: Option<&str> = option_env!("LITEFS_COMMIT");

pub(crate) fn run(ctx: &Context) -> Result<(), Failure> {
    if ctx.global.json {
        return print_json(&json!({ "version": VERSION, "commit": COMMIT }));
    }
    match COMMIT {
        Some(commit) => println!("litefsctl {VERSION} ({commit})"),
        None => println!("litefsctl {VERSION}"),
    }
    Ok(())
}

/// The original's version line with our numbers.
pub(crate) fn line() -> String {
    format!("LiteFS v{VERSION}, commit={}", COMMIT.unwrap_or("unknown"))
}
