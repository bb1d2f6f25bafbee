//! `sqlapp`: a SQLite application for the tests, with the newest SQLite built in.
//!
//! It knows nothing about LiteFS: it opens a path and does what applications do. `shell` obeys a test
//! statement by statement; `ledger-write`, `ledger-read` and `checkpoint` run by themselves.

mod ledger;
mod shell;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "A SQLite application for tests")]
struct Args {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Reads statements from stdin, one a line, and answers `r ROW`…, then `ok` or `err CODE TEXT`.
    Shell {
        /// A path or `file:` URI.
        #[arg(long)]
        db: String,
    },
    /// Moves money and writes a numbered log row in each transaction; prints `ack WRITER SEQ` after it.
    LedgerWrite(ledger::WriteArgs),
    /// Checks the ledger's invariants in one read transaction after another; prints `read ROWS`.
    LedgerRead(ledger::ReadArgs),
    /// Checkpoints in random modes.
    Checkpoint(ledger::CheckpointArgs),
    /// Prints the version of SQLite.
    Version {
        /// Ignored.
        #[arg(long)]
        db: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().mode {
        Mode::Shell { db } => shell::run(&db),
        Mode::LedgerWrite(args) => ledger::write(&args),
        Mode::LedgerRead(args) => ledger::read(&args),
        Mode::Checkpoint(args) => ledger::checkpoint(&args),
        Mode::Version { .. } => {
            println!("{}", rusqlite::version());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("fail {e}");
            ExitCode::FAILURE
        }
    }
}
