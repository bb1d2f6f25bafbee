//! `doctor`: what a support engineer would ask for, checked, each with how to fix it.
//!
//! Checks look and never change anything. One that can hang (a dead mount) runs on a thread of its own
//! with a limit. Exit code 1 if something is broken; warnings do not count.

mod daemon;
mod files;
mod system;

use litefs_config::{ConfigError, Env, Settings};
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{Tone, printable};
use crate::verbs::{Context, print_json};

/// Outcome of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Ok,
    Warn,
    Fail,
}

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    name: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Ok, detail: detail.into(), fix: String::new() }
    }

    fn warn(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Warn, detail: detail.into(), fix: fix.into() }
    }

    fn fail(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Fail, detail: detail.into(), fix: fix.into() }
    }
}

pub(crate) async fn run(ctx: &Context) -> Result<(), Failure> {
    let mut checks = Vec::new();
    let settings = config(ctx, &mut checks);
    let status = daemon::check(ctx, &mut checks).await;
    let running = status.is_some();
    system::check(settings.as_ref(), &mut checks);
    if let Some(settings) = &settings {
        files::check(settings, running, &mut checks);
        daemon::ports(settings, running, &mut checks);
    }
    files::stale_mounts(&mut checks);
    if ctx.global.json {
        print_json(&checks)?;
    } else {
        print(ctx, &checks);
    }
    if checks.iter().any(|c| c.state == State::Fail) { Err(Failure::silent()) } else { Ok(()) }
}

fn print(ctx: &Context, checks: &[Check]) {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    for c in checks {
        let (tone, word) = match c.state {
            State::Ok if ctx.global.quiet => continue,
            State::Ok => (Tone::Good, "ok  "),
            State::Warn => (Tone::Warn, "warn"),
            State::Fail => (Tone::Bad, "FAIL"),
        };
        println!("{}  {:width$}  {}", ctx.style.paint(tone, word), c.name, printable(&c.detail));
        if !c.fix.is_empty() {
            println!("      {:width$}  fix: {}", "", printable(&c.fix));
        }
    }
}

/// The configuration; every problem is a check of its own.
fn config(ctx: &Context, checks: &mut Vec<Check>) -> Option<Settings> {
    match litefs_config::load(ctx.global.config.as_deref(), true, &Env::from_process()) {
        Ok(loaded) => {
            checks.push(Check::ok("config", format!("{} is valid", loaded.path.display())));
            for w in loaded.warnings {
                let fix =
                    w.hint.clone().unwrap_or_else(|| "see the configuration's documentation".to_owned());
                checks.push(Check::warn(
                    "config",
                    litefs_config::Problem { hint: None, ..w }.to_string(),
                    fix,
                ));
            }
            Some(loaded.settings)
        }
        Err(ConfigError::Invalid { file, problems }) => {
            for p in problems {
                let fix = p.hint.clone().unwrap_or_else(|| format!("edit {}", file.display()));
                checks.push(Check::fail(
                    "config",
                    litefs_config::Problem { hint: None, ..p }.to_string(),
                    fix,
                ));
            }
            None
        }
        Err(e) => {
            checks.push(Check::fail("config", e.to_string(), "write one, or name it with --config"));
            None
        }
    }
}
