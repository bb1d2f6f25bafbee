//! `litefsd`: parses the command line, runs the daemon until a signal, sets the exit code.

use std::process::ExitCode;

use clap::Parser;
use litefs_config::{Env, Loaded};
use litefsd::args::Args;
use litefsd::daemon::Daemon;
use tokio::signal::unix::{SignalKind, signal};

/// A valid command line with an invalid configuration.
const EXIT_CONFIG: u8 = 2;
/// Network tasks: the data path has its own threads.
const RUNTIME_THREADS: usize = 2;
/// Blocking tasks: one a database that applies, one a stream that catches up.
const BLOCKING_THREADS: usize = 256;

fn main() -> ExitCode {
    let args = Args::parse();
    let loaded = match litefs_config::load(args.config.as_deref(), !args.no_expand_env, &Env::from_process())
    {
        Ok(loaded) => loaded,
        Err(e) => {
            eprintln!("ERROR: {e}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if args.check {
        for w in &loaded.warnings {
            eprintln!("WARNING: {w}");
        }
        println!("{}: valid", loaded.path.display());
        return ExitCode::SUCCESS;
    }
    litefsd::logging::init(&loaded.settings.log);
    for w in &loaded.warnings {
        tracing::warn!("{w}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    match runtime {
        Ok(rt) => rt.block_on(run(loaded)),
        Err(e) => {
            eprintln!("ERROR: cannot start threads: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(loaded: Loaded) -> ExitCode {
    // Before anything else: a signal during a long recovery ends the start, too.
    let signals = signal(SignalKind::terminate()).and_then(|t| Ok((t, signal(SignalKind::interrupt())?)));
    let (mut term, mut int) = match signals {
        Ok(s) => s,
        Err(e) => {
            eprintln!("ERROR: cannot handle signals: {e}");
            return ExitCode::FAILURE;
        }
    };
    let start = Daemon::start(&loaded.settings);
    let daemon = tokio::select! {
        started = start => match started {
            Ok(d) => d,
            Err(e) => {
                eprintln!("ERROR: {e}");
                return ExitCode::FAILURE;
            }
        },
        _ = term.recv() => return ExitCode::SUCCESS,
        _ = int.recv() => return ExitCode::SUCCESS,
    };
    // The mount serves and the API answers; being caught up is a second state.
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&daemon.summary())]);
    tracing::info!("waiting to connect to cluster");
    tokio::select! {
        () = daemon.ready() => tracing::info!("connected to cluster, ready"),
        _ = term.recv() => return stop(daemon).await,
        _ = int.recv() => return stop(daemon).await,
    }
    notify(&[sd_notify::NotifyState::Status(&daemon.summary())]);
    let mut alive = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = alive.tick() => if !daemon.is_alive() {
                tracing::error!("the mount is gone: somebody unmounted it");
                stop(daemon).await;
                return ExitCode::FAILURE;
            },
        }
    }
    stop(daemon).await
}

async fn stop(daemon: Daemon) -> ExitCode {
    tracing::info!("signal received, litefs shutting down");
    notify(&[sd_notify::NotifyState::Stopping]);
    daemon.stop().await;
    ExitCode::SUCCESS
}

/// Tells systemd; without systemd nothing happens.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!("sd_notify: {e}");
    }
}
