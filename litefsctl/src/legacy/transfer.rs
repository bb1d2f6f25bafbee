//! `litefs import` and `litefs export`, over the cluster port of any daemon, the original's included.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use litefs_api::client::cluster::{ClusterClient, ClusterError, DEFAULT_URL};

use super::{End, flags};
use crate::exit::Failure;
use crate::replace::Replacement;
use crate::units::go_duration;
use crate::{check, runtime, verbs};

const IMPORT_USAGE: &str = "\
The import command puts a SQLite database into the cluster, in place of one of that name.

Usage:

\tlitefs import [arguments] PATH

Arguments:
";

const EXPORT_USAGE: &str = "\
The export command writes a consistent copy of a database to a file.

Usage:

\tlitefs export [arguments] PATH

Arguments:
";

const FLAGS: &str = "  -name string
    \tname of the database
  -url string
    \tURL of a node (default \"http://localhost:20202\")
";

/// What both commands take; `Err` ends the command.
struct Args {
    url: String,
    name: String,
    path: String,
}

fn args(words: &[String], usage: &str) -> Result<Args, End> {
    let (mut url, mut name) = (DEFAULT_URL.to_owned(), String::new());
    let rest = match flags::parse(words, &mut [("url", &mut url), ("name", &mut name)]) {
        Ok(rest) => rest,
        Err(e) => {
            print_usage(usage);
            return Err(e.into());
        }
    };
    match rest {
        [] => {
            print_usage(usage);
            Err(End::Usage)
        }
        [path] => Ok(Args { url, name, path: path.clone() }),
        _ => Err(End::Error("too many arguments".to_owned())),
    }
}

/// As the original does: the text on stdout, the flags on stderr.
fn print_usage(usage: &str) {
    println!("{usage}");
    eprint!("{FLAGS}");
}

fn text(f: &Failure) -> String {
    if f.hint.is_empty() { f.message.clone() } else { format!("{}; {}", f.message, f.hint) }
}

/// The error in one line, without Rust's way of naming an errno.
fn in_words(e: ClusterError) -> String {
    match e {
        ClusterError::Client(e) => Failure::from(e).message,
        e => e.to_string(),
    }
}

pub(super) fn import(words: &[String]) -> End {
    let args = match args(words, IMPORT_USAGE) {
        Ok(a) => a,
        Err(end) => return end,
    };
    let done = || -> Result<(), String> {
        let client = ClusterClient::new(&args.url).map_err(|e| e.to_string())?;
        // A file that is no database must not reach the server: one of the original loses data over it.
        let (file, len) = check::open(Path::new(&args.path)).map_err(|f| text(&f))?;
        let rt = runtime().map_err(|f| text(&f))?;
        rt.block_on(client.import(&args.name, file, len, ())).map_err(in_words)
    };
    let from = Instant::now();
    match done() {
        Ok(()) => {
            println!("Import of database {:?} in {}", args.name, go_duration(from.elapsed()));
            End::Done
        }
        Err(message) => End::Error(message),
    }
}

pub(super) fn export(words: &[String]) -> End {
    let args = match args(words, EXPORT_USAGE) {
        Ok(a) => a,
        Err(end) => return end,
    };
    let done = || -> Result<(), String> {
        let client = ClusterClient::new(&args.url).map_err(|e| e.to_string())?;
        let mut target = Replacement::new(Path::new(&args.path)).map_err(|f| text(&f))?;
        let rt = runtime().map_err(|f| text(&f))?;
        let mut out = BufWriter::with_capacity(1 << 20, target.file());
        let len = rt.block_on(client.export(&args.name, &mut out, &mut ())).map_err(in_words)?;
        out.flush().map_err(|e| format!("cannot write {}: {}", args.path, check::reason(&e)))?;
        drop(out);
        verbs::finish_export(target, len).map_err(|f| text(&f))
    };
    let from = Instant::now();
    match done() {
        Ok(()) => {
            println!("Export of database {:?} in {}", args.name, go_duration(from.elapsed()));
            End::Done
        }
        Err(message) => End::Error(message),
    }
}
