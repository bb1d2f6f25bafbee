//! The socket's place in the file system.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Members of this group may use the socket.
const GROUP: &str = "litefs";
/// Owner and group may connect (which takes write permission).
const MODE: u32 = 0o660;
/// `sun_path` holds 108 bytes with its final zero.
const MAX_PATH: usize = 107;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another litefsd answers at {}; stop it, or set api.socket", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{} exists and is no socket; move it away, or set api.socket", .0.display())]
    NotASocket(PathBuf),
    /// The kernel takes no such path.
    #[error("the path {} is longer than {MAX_PATH} bytes; set api.socket to a shorter one", .0.display())]
    TooLong(PathBuf),
    /// The file system refused.
    #[error("cannot make the control socket {}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening control socket. Its file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that only our own is removed.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Listens at `path`; its directory is made if it is missing. A socket that nobody answers at is
    /// left over from a crash and replaced. Call inside a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io = |source| BindError::Io { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Ok(m) if !m.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
            Ok(_) => match StdStream::connect(path) {
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {}
                Ok(_) | Err(_) => return Err(BindError::InUse(path.to_owned())),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
                    std::fs::create_dir_all(dir).map_err(io)?;
                }
            }
            Err(e) => return Err(io(e)),
        }
        // Made beside the path and renamed over it: there is no moment with wrong permissions, and
        // none without a socket.
        let mut staged = path.as_os_str().to_owned();
        staged.push(format!(".{}", std::process::id()));
        let staged = PathBuf::from(staged);
        if staged.as_os_str().len() > MAX_PATH {
            return Err(BindError::TooLong(path.to_owned()));
        }
        let _ = std::fs::remove_file(&staged);
        let made = Self::stage(&staged, path).map_err(io);
        if made.is_err() {
            let _ = std::fs::remove_file(&staged);
        }
        made
    }

    fn stage(staged: &Path, path: &Path) -> io::Result<Self> {
        let listener = StdListener::bind(staged)?;
        listener.set_nonblocking(true)?;
        // Without the right to give the file away the socket is for its owner's own group.
        if let Ok(Some(group)) = nix::unistd::Group::from_name(GROUP) {
            let _ = nix::unistd::chown(staged, None, Some(group.gid));
        }
        std::fs::set_permissions(staged, std::fs::Permissions::from_mode(MODE))?;
        let meta = std::fs::symlink_metadata(staged)?;
        std::fs::rename(staged, path)?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            path: path.to_owned(),
            identity: (meta.dev(), meta.ino()),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
