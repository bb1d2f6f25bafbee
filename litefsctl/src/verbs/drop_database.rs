//! `drop DB`

use std::io::{BufRead, IsTerminal, Write};

use super::{Context, print_json};
use crate::cli::DropArgs;
use crate::exit::{Failure, Kind};

pub(crate) async fn run(ctx: &Context, args: &DropArgs) -> Result<(), Failure> {
    let client = ctx.client()?;
    if !args.yes {
        // Known before anybody is asked to type its name.
        client.database(&args.name).await?;
        confirm(args.name.as_str())?;
    }
    let dropped = client.drop_database(&args.name).await?;
    if ctx.global.json {
        return print_json(&dropped);
    }
    ctx.note(format_args!("dropped {} at transaction {}", dropped.name, dropped.position.txid));
    Ok(())
}

fn confirm(name: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage("drop asks before it drops, and stdin is no terminal").hint("use --yes"));
    }
    eprint!("This removes the database on all nodes. Type its name to go on: ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(|e| Failure::failed(format!("cannot read the answer: {e}")))?;
    if answer.trim_end_matches(['\n', '\r']) == name {
        return Ok(());
    }
    Err(Failure::new(Kind::Refused, "that is not its name: nothing was dropped"))
}
