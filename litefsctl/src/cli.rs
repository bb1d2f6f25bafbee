//! What can be typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use litefs_config::GoDuration;
use litefs_types::{DbName, Txid};

/// Controls litefsd, the daemon that replicates SQLite databases.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused (wrong role), 5 daemon unreachable,
/// 6 timed out.
#[derive(Parser, Debug)]
#[command(name = "litefsctl", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// The daemon's socket [default: api.socket of the configuration]
    #[arg(long, global = true, value_name = "PATH", env = "LITEFS_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The configuration file [default: litefs.yml in ., ~, /etc]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Print only results and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print more
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// When to use colors
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    pub(crate) color: When,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the node: role, primary, lease, replicas and databases
    Status(StatusArgs),
    /// Put a SQLite database in place of one in the cluster, or add it
    Import(ImportArgs),
    /// Write a consistent copy of a database to a file
    Export(ExportArgs),
    /// List the databases
    Databases,
    /// Drop a database on all nodes
    Drop(DropArgs),
    /// Follow the event stream, one line of JSON per event
    Events,
    /// Look into the log and into LTX files
    #[command(subcommand)]
    Ltx(LtxVerb),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Check what this machine needs to run litefsd, and say how to fix it
    Doctor,
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Redraw until interrupted
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Time between redraws
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) interval: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// Name of the database in the cluster
    #[arg(long, value_name = "DB")]
    pub(crate) name: DbName,
    /// Replace a database of this name
    #[arg(long)]
    pub(crate) replace: bool,
    /// Skip SQLite's integrity check of the file
    #[arg(long)]
    pub(crate) no_check: bool,
    /// Use the cluster port of this node instead of the daemon's socket
    #[arg(long, value_name = "URL", conflicts_with = "socket")]
    pub(crate) url: Option<String>,
    /// The SQLite database file
    pub(crate) path: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Name of the database in the cluster
    #[arg(long, value_name = "DB")]
    pub(crate) name: DbName,
    /// Replace the target although a journal or WAL beside it says that it may be in use
    #[arg(long)]
    pub(crate) force: bool,
    /// Use the cluster port of this node instead of the daemon's socket
    #[arg(long, value_name = "URL", conflicts_with = "socket")]
    pub(crate) url: Option<String>,
    /// Where to write; replaced only when the copy is complete and checked
    pub(crate) path: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct DropArgs {
    /// The database
    pub(crate) name: DbName,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum LtxVerb {
    /// List the transactions in a database's log, or the LTX files of a directory
    List {
        /// The database
        #[arg(required_unless_present = "dir", conflicts_with = "dir")]
        name: Option<DbName>,
        /// A directory with LTX files; no daemon is asked
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// First transaction to list
        #[arg(long, value_name = "TXID", value_parser = txid)]
        from: Option<Txid>,
    },
    /// Print header, pages and trailer of an LTX file
    Dump {
        /// The file
        #[arg(required_unless_present = "name", conflicts_with = "name")]
        path: Option<PathBuf>,
        /// A database; its transaction --txid is fetched from the daemon
        #[arg(long, value_name = "DB", requires = "txid")]
        name: Option<DbName>,
        /// The transaction
        #[arg(long, value_name = "TXID", value_parser = txid, requires = "name")]
        txid: Option<Txid>,
    },
    /// Check LTX files: structure, order, checksums, and that one continues the other
    Verify {
        /// The files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Apply LTX files to a database file, in order
    Apply {
        /// The database file; made if it is missing
        #[arg(long, value_name = "PATH")]
        db: PathBuf,
        /// The files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigVerb {
    /// Check the configuration; problems are printed with line and key
    Check(ConfigArgs),
    /// Show the effective values, secrets redacted
    Show(ConfigArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    /// Take the file as it is: no environment variables
    #[arg(long)]
    pub(crate) no_expand_env: bool,
}

/// A Go duration, as in the configuration.
fn duration(s: &str) -> Result<Duration, String> {
    let d = s.parse::<GoDuration>().map_err(|e| e.to_string())?;
    d.positive().ok_or_else(|| "must be more than zero".to_owned())
}

/// A transaction id as it is printed, or shorter.
fn txid(s: &str) -> Result<Txid, String> {
    let digits = s.strip_prefix("0x").unwrap_or(s);
    let ok = !digits.is_empty() && digits.len() <= 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let n = if ok { u64::from_str_radix(digits, 16).ok() } else { None };
    n.and_then(Txid::new).ok_or_else(|| "up to 16 hexadecimal digits, at least 1".to_owned())
}

/// Parses the command line; ends the program with code 2 (or 0 after `--help`) if it is wrong.
pub(crate) fn parse(mut args: Vec<OsString>) -> Cli {
    // The original's spelling of two flags, so that scripts need only another program name.
    for arg in &mut args {
        for flag in ["-name", "-url"] {
            if arg == flag
                || arg.to_str().is_some_and(|a| a.strip_prefix(flag).is_some_and(|r| r.starts_with('=')))
            {
                let mut long = OsString::from("-");
                long.push(&*arg);
                *arg = long;
            }
        }
    }
    Cli::parse_from(args)
}

/// The command, for completions.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn flags_of_the_original() {
        let parse = |args: &[&str]| parse(args.iter().map(OsString::from).collect());
        let cli = parse(&["litefsctl", "import", "-name", "a.db", "-url=http://h:1", "file"]);
        let Verb::Import(a) = cli.verb else { panic!() };
        assert_eq!((a.name.as_str(), a.url.as_deref()), ("a.db", Some("http://h:1")));
    }

    #[test]
    fn short_transaction_ids() {
        assert_eq!(txid("1f"), Ok(Txid::new(31).unwrap()));
        assert_eq!(txid("0x1f"), txid("000000000000001f"));
        assert!(txid("0").is_err() && txid("").is_err() && txid("+1").is_err());
    }
}
