//! `litefs`: the original's command line, for its `import`, `export` and `version`.
//!
//! Flags, default URL, output lines and exit codes are the original's (2: usage; 1: `ERROR: …`). Not
//! copied: an export that deletes its target first. `mount` and `run` are not here yet and say so.

mod flags;
mod transfer;

use std::ffi::OsString;
use std::process::ExitCode;

use flags::FlagError;

use crate::verbs::version_line;

const USAGE: &str = "\
litefs is the command line of a replicated SQLite file system.

Usage:

\tlitefs <command> [arguments]

The commands are:

\texport       write a copy of a database to a file
\timport       put a SQLite database into the cluster
\tversion      print the version

More is in litefsctl: run `litefsctl help`.
";

/// How a command ended.
enum End {
    Done,
    /// The usage has been printed: exit code 2.
    Usage,
    /// `ERROR: …`: exit code 1.
    Error(String),
}

impl From<FlagError> for End {
    fn from(e: FlagError) -> Self {
        match e {
            FlagError::Help => Self::Usage,
            FlagError::Bad(message) => Self::Error(message),
        }
    }
}

/// Runs `litefs`.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let args: Vec<String> = args.iter().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    match run(&args) {
        End::Done => ExitCode::SUCCESS,
        End::Usage => ExitCode::from(2),
        End::Error(message) => {
            eprintln!("ERROR: {}", message.replace(['\n', '\r'], " "));
            ExitCode::from(1)
        }
    }
}

fn run(args: &[String]) -> End {
    let (command, rest) = match args.split_first() {
        Some((c, rest)) => (c.as_str(), rest),
        None => ("help", args),
    };
    match command {
        "import" => transfer::import(rest),
        "export" => transfer::export(rest),
        "version" => {
            println!("{}", version_line());
            End::Done
        }
        "mount" | "run" => End::Error(format!(
            "litefs {command}: not available in this version; run litefsd, and start the application yourself"
        )),
        "help" => {
            print!("{USAGE}");
            End::Usage
        }
        c if c.is_empty() || c.starts_with('-') => {
            print!("{USAGE}");
            End::Usage
        }
        c => End::Error(format!("litefs {c}: unknown command")),
    }
}
