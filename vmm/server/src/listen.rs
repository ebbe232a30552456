//! The socket: made under a lock, or inherited; removed at the end.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketType};
use sandbox::crash::LastAct;

use crate::{Error, Result};

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    cleanup: Cleanup,
}

/// What is to be undone when the server ends: in this order.
#[derive(Debug, Default)]
pub struct Cleanup {
    _socket: Option<LastAct>,
    _lock: Option<File>,
}

/// The file whose lock a monitor holds while it serves at `path`. It stays when the monitor ends: to remove it would
/// take the lock from under a monitor that starts at that moment.
#[must_use]
pub fn lock_path(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

impl Listener {
    /// Makes a socket at `path`. One that a monitor left there which has ended is replaced.
    ///
    /// # Errors
    /// [`Error::Busy`] if a monitor serves there, [`Error::NotASocket`] if something else is there, [`Error::Lock`] or
    /// [`Error::Listen`] if the file system refuses.
    pub fn bind(path: &Path) -> Result<Self> {
        let lock = lock(path)?;
        let failed = |source| Error::Listen {
            path: path.to_owned(),
            source,
        };
        match path.symlink_metadata() {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(Error::NotASocket(path.to_owned()));
            }
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        Ok(Self {
            socket,
            cleanup: Cleanup {
                _socket: Some(LastAct::remove_file(path)?),
                _lock: Some(lock),
            },
        })
    }

    /// Takes over a socket that was open when the process started, with this number.
    ///
    /// # Errors
    /// [`Error::Descriptor`] if it is not one, or does not listen.
    pub fn inherit(fd: i32) -> Result<Self> {
        let socket = sandbox::adopt_descriptor(fd).and_then(listening);
        Ok(Self {
            socket: socket.map_err(|source| Error::Descriptor { fd, source })?,
            cleanup: Cleanup::default(),
        })
    }

    /// The socket, and what is to be kept for as long as it is used.
    #[must_use]
    pub fn into_parts(self) -> (UnixListener, Cleanup) {
        (self.socket, self.cleanup)
    }
}

/// Takes the lock, which belongs to the process until it ends.
fn lock(socket: &Path) -> Result<File> {
    let path = lock_path(socket);
    let mut options = File::options();
    let failed = |source| Error::Lock {
        path: path.clone(),
        source,
    };
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Busy(socket.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn listening(fd: OwnedFd) -> io::Result<UnixListener> {
    let socket = fd.as_fd();
    let fits = sockopt::socket_domain(socket)? == AddressFamily::UNIX
        && sockopt::socket_type(socket)? == SocketType::STREAM
        && sockopt::socket_acceptconn(socket)?;
    if fits {
        Ok(fd.into())
    } else {
        Err(io::Error::other("it is not one that listens"))
    }
}
