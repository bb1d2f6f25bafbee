//! `events`: the daemon's event stream as it comes, one line of JSON per event.

use std::io::Write;

use super::Context;
use crate::exit::Failure;

pub(crate) async fn run(ctx: &Context) -> Result<(), Failure> {
    let mut events = ctx.client()?.events().await?;
    while let Some(line) = events.next().await? {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(|e| Failure::failed(format!("stdout: {e}")))?;
    }
    Err(Failure::failed("the daemon ended the event stream").hint("it stopped, or this reader was too slow"))
}
