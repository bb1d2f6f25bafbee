//! One file a verb.

mod completions;
mod config;
mod databases;
mod drop_database;
mod events;
mod export;
mod import;
mod ltx;
mod ltx_apply;
mod status;
mod version;

pub(crate) use export::finish as finish_export;
pub(crate) use version::line as version_line;

use std::path::PathBuf;

use litefs_api::client::Client;
use litefs_config::Env;

use crate::cli::{Cli, Global, Verb};
use crate::doctor;
use crate::exit::Failure;
use crate::output::Style;

/// What every verb may need.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) style: Style,
}

impl Context {
    /// The daemon: `--socket`, `LITEFS_SOCKET`, the configuration's, the default.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let socket = self.socket()?;
        if self.global.verbose {
            eprintln!("asking the daemon at {}", socket.display());
        }
        Ok(Client::new(socket))
    }

    pub(crate) fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.global.socket {
            return Ok(path.clone());
        }
        match litefs_config::load(self.global.config.as_deref(), true, &Env::from_process()) {
            Ok(loaded) => Ok(loaded.settings.socket),
            // A tool must work beside a broken or missing file, unless the user named it.
            Err(e) if self.global.config.is_some() => Err(Failure::failed(e.to_string())),
            Err(_) => Ok(litefs_api::DEFAULT_SOCKET.into()),
        }
    }

    /// Something that is nice to know, on stderr.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        if !self.global.quiet {
            eprintln!("{text}");
        }
    }
}

/// Prints a value as JSON, for people to read and programs to parse.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Failure::failed(format!("cannot print: {e}")))?;
    println!("{text}");
    Ok(())
}

pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let ctx = Context { style: Style::new(cli.global.color), global: cli.global };
    match cli.verb {
        Verb::Status(args) => status::run(&ctx, &args).await,
        Verb::Import(args) => import::run(&ctx, &args).await,
        Verb::Export(args) => export::run(&ctx, &args).await,
        Verb::Databases => databases::run(&ctx).await,
        Verb::Drop(args) => drop_database::run(&ctx, &args).await,
        Verb::Events => events::run(&ctx).await,
        Verb::Ltx(verb) => ltx::run(&ctx, verb).await,
        Verb::Config(verb) => config::run(&ctx, &verb),
        Verb::Doctor => doctor::run(&ctx).await,
        Verb::Version => version::run(&ctx),
        Verb::Completions { shell } => {
            completions::run(shell);
            Ok(())
        }
    }
}
