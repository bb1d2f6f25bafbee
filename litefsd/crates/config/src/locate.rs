//! Where the configuration file is, and reading it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::{ConfigError, Env, MAX_FILE_SIZE};

/// The name that is looked for.
const FILE_NAME: &str = "litefs.yml";

/// The places of the original, in order: working directory, home, `/etc`.
pub fn search_paths(env: &Env) -> Vec<PathBuf> {
    let mut v = vec![std::path::absolute(FILE_NAME).unwrap_or_else(|_| PathBuf::from(FILE_NAME))];
    // A service may run without HOME; the user database knows it, too.
    let home = env.get("HOME").filter(|h| !h.is_empty()).map(PathBuf::from).or_else(|| {
        nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten().map(|user| user.dir)
    });
    if let Some(home) = home {
        v.push(home.join(FILE_NAME));
    }
    v.push(Path::new("/etc").join(FILE_NAME));
    v
}

/// The file's path and text. `explicit` is read and nothing else; otherwise the first that exists.
pub fn read(explicit: Option<&Path>, env: &Env) -> Result<(PathBuf, String), ConfigError> {
    if let Some(path) = explicit {
        let text = read_text(path).map_err(|source| ConfigError::Open { path: path.to_owned(), source })?;
        return Ok((std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), text));
    }
    let searched = search_paths(env);
    for path in &searched {
        match read_text(path) {
            Ok(text) => return Ok((path.clone(), text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ConfigError::Read { path: path.clone(), source }),
        }
    }
    Err(ConfigError::NotFound { searched })
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(io::Error::other(format!("larger than {MAX_FILE_SIZE} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8 text"))
}
