//! The control tool. Called as `litefs` it is the drop-in command of the original.
//!
//! Start with [`cli`] for what can be typed, `verbs/` for what it does (one file a verb), `legacy/` for
//! `litefs`. It holds no state and links no FUSE or lease code: it talks to the daemon's socket, and
//! the `ltx`, `config` and `doctor` verbs look at files. Tested by `tests/`.
//!
//! *Invariant:* a command that fails says so in one line on stderr (what, why, what to do), with an
//! exit code of [`exit::Failure`], and leaves every file of the user as it was.

mod check;
mod cli;
mod doctor;
mod exit;
mod legacy;
mod output;
mod progress;
mod replace;
mod units;
mod verbs;

use std::process::ExitCode;

use exit::Failure;

fn main() -> ExitCode {
    // A closed pipe (`litefsctl events | head`) ends the program silently, as it does any other tool.
    // SAFETY: nothing else runs yet, and the default action has no handler that could run.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    let args: Vec<_> = std::env::args_os().collect();
    let called = args.first().map(std::path::PathBuf::from).unwrap_or_default();
    if called.file_name().is_some_and(|n| n == "litefs") {
        return legacy::main(&args);
    }
    let cli = cli::parse(args);
    match runtime().and_then(|rt| rt.block_on(verbs::run(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("litefsctl"),
    }
}

/// Current-thread: one request at a time, and start-up is what the user feels.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))
}
