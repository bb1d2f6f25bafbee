//! `litefs.yml`: finding it, reading it, and what its values mean.
//!
//! The path of a configuration: [`locate`] finds the file, [`mod@env`] expands variables in its text,
//! [`yaml`] makes a tree that remembers lines and quoting, [`raw`] is the file as written with the
//! original's defaults, [`settings`] is what the programs use. [`load`] does all of it.
//!
//! *Invariant:* a [`Settings`] that exists is valid: every address, name, duration and path in it was
//! checked, and nothing that starts a daemon can fail later because of the file's text.
//!
//! Not here: acting on a setting, looking up users or hosts, command-line flags. Tested by
//! `tests/*.rs` of this crate and by `litefsctl config check`.

mod address;
mod data_dir;
mod duration;
pub mod env;
mod error;
mod exec;
pub mod locate;
mod nearest;
pub mod raw;
pub mod settings;
mod show;
mod size;
mod visit;
pub mod yaml;

use std::path::{Path, PathBuf};

pub use address::{HttpUrl, InvalidAddress, ListenAddr, Scheme};
pub use data_dir::volatile_file_system;
pub use duration::{GoDuration, InvalidDuration};
pub use env::Env;
pub use error::{ConfigError, Problem};
pub use exec::ExecItem;
pub use raw::Raw;
pub use settings::Settings;
pub use show::{Shown, ShownValue};
pub use size::{ByteSize, InvalidSize};

/// Largest configuration file in bytes. Real ones have a few kilobytes.
pub const MAX_FILE_SIZE: u64 = 1 << 20;

/// A configuration that was found, read and checked.
#[derive(Debug)]
pub struct Loaded {
    /// The file it came from, absolute where the working directory is known.
    pub path: PathBuf,
    /// The file as written, with defaults.
    pub raw: Raw,
    /// What the programs use.
    pub settings: Settings,
    /// What is suspicious, but no error.
    pub warnings: Vec<Problem>,
}

/// Finds, reads, expands, parses and checks the configuration.
///
/// `explicit` is the path of a `--config` flag; without it the original's places are searched.
/// `expand` is false for `--no-expand-env`.
pub fn load(explicit: Option<&Path>, expand: bool, env: &Env) -> Result<Loaded, ConfigError> {
    let (path, text) = locate::read(explicit, env)?;
    let (raw, settings, mut warnings) = check(&text, expand, env)
        .map_err(|problems| ConfigError::Invalid { file: path.clone(), problems })?;
    if let Some(fs) = volatile_file_system(&settings.data.dir) {
        warnings.push(Problem {
            key: "data.dir".to_owned(),
            line: raw.line_of("data.dir"),
            message: format!("{} is on {fs}: its content does not survive", settings.data.dir.display()),
            hint: Some("put it on a persistent volume".to_owned()),
        });
    }
    Ok(Loaded { path, raw, settings, warnings })
}

/// Everything of [`load`] that looks only at the text and the environment.
pub fn check(text: &str, expand: bool, env: &Env) -> Result<(Raw, Settings, Vec<Problem>), Vec<Problem>> {
    let (raw, warnings) = Raw::parse(text, expand, env)?;
    let settings = Settings::from_raw(&raw, env)?;
    Ok((raw, settings, warnings))
}
