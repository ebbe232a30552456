//! The Unix socket that host programs connect to, and those of the host that the guest connects to.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sandbox::crash::LastAct;

use crate::Error;

/// Clients that may wait to be taken in, beyond those that are.
const BACKLOG: i32 = 128;
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A listening socket and the path it is at. Removes the path when dropped.
#[derive(Debug)]
pub struct Listener {
    /// Dropped first: while somebody listens here nobody else can take the path, so it is ours that is removed.
    _remove: LastAct,
    /// Non-blocking.
    pub(crate) fd: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, which only the user of this process can connect to. What a monitor that died left there is
    /// removed; a socket in use is not.
    ///
    /// # Errors
    /// If the path is taken, or no socket can be made there.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let address = SocketAddrUnix::new(path).map_err(failed("bind to", path))?;
        remove_stale(path, &address)?;
        let fd = stream_socket().map_err(failed("make", path))?;
        // Linux gives the path the mode of the socket, less the umask: it is never open to others.
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(failed("protect", path))?;
        rustix::net::bind(&fd, &address).map_err(failed("bind to", path))?;
        let remove = LastAct::remove_file(path).map_err(Error::CleanUp)?;
        rustix::net::listen(&fd, BACKLOG).map_err(failed("listen on", path))?;
        Ok(Self {
            _remove: remove,
            fd,
            path: path.to_owned(),
        })
    }

    /// The client that waits longest, if one does. Its descriptor is non-blocking.
    pub(crate) fn accept(&self) -> Result<OwnedFd, Errno> {
        rustix::net::accept_with(&self.fd, FLAGS)
    }

    /// Connects to the program of the host that serves `port` for the guest: at this path with `_port` at its end.
    /// Never waits: a program that has too many clients waiting refuses.
    pub(crate) fn connect(&self, port: u32) -> Result<OwnedFd, Errno> {
        let mut path = self.path.as_os_str().as_bytes().to_vec();
        path.extend_from_slice(format!("_{port}").as_bytes());
        let address = SocketAddrUnix::new(path)?;
        let fd = stream_socket()?;
        rustix::net::connect(&fd, &address)?;
        Ok(fd)
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(Errno) -> Error + use<'a> {
    move |errno| Error::Socket {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), Error> {
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("look at", path)(errno)),
        Ok(found) if FileType::from_raw_mode(found.stx_mode.into()) != FileType::Socket => {
            let path = path.to_owned();
            return Err(Error::NotASocket { path });
        }
        Ok(_) => {}
    }
    let probe = stream_socket().map_err(failed("probe", path))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => rustix::fs::unlinkat(CWD, path, AtFlags::empty())
            .map_err(failed("replace the old", path)),
        // A full backlog, or a socket of another type: alive too.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            let path = path.to_owned();
            Err(Error::InUse { path })
        }
        Err(errno) => Err(failed("probe the old", path)(errno)),
    }
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)
}
