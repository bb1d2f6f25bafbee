//! `completions SHELL`

use clap_complete::Shell;

use crate::cli;

pub(crate) fn run(shell: Shell) {
    clap_complete::generate(shell, &mut cli::command(), "litefsctl", &mut std::io::stdout());
}
