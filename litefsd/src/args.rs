//! The command line of `litefsd`.

use std::path::PathBuf;

use clap::Parser;

/// Mounts SQLite databases, captures every committed transaction and replicates it.
#[derive(Parser, Debug)]
#[command(name = "litefsd", version, about)]
pub struct Args {
    /// Configuration file; without it litefs.yml in the working directory, the home directory, /etc.
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Take the file as it is, without replacing $VARIABLES.
    #[arg(long)]
    pub no_expand_env: bool,
    /// Check the configuration and end: 0 if it is valid, 2 if not.
    #[arg(long)]
    pub check: bool,
}
