//! A Unix socket that takes one client at a time.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sandbox::crash::LastAct;

use crate::Error;

/// Clients that may wait to be taken in or refused.
const BACKLOG: i32 = 8;

/// A listening socket and the path it is at. Removes the path when dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Dropped first: while somebody listens here, nobody else can take the path, so it is ours
    /// that is removed.
    _remove: LastAct,
    /// Non-blocking.
    pub(crate) fd: OwnedFd,
}

impl Listener {
    /// Listens at `path`, which only the user of this process can connect to. What a VMM that
    /// died left there is removed; a socket in use is not.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |action| {
            move |errno: Errno| Error::Socket {
                action,
                path: path.to_owned(),
                source: errno.into(),
            }
        };
        let address = SocketAddrUnix::new(path).map_err(failed("bind to"))?;
        remove_stale(path, &address)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = stream_socket(flags).map_err(failed("make"))?;
        // Linux gives the path the mode of the socket, less the umask, so it is never open to
        // others even for a moment.
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(failed("protect"))?;
        rustix::net::bind(&fd, &address).map_err(failed("bind to"))?;
        let remove = LastAct::remove_file(path).map_err(Error::CleanUp)?;
        rustix::net::listen(&fd, BACKLOG).map_err(failed("listen on"))?;
        Ok(Self {
            _remove: remove,
            fd,
        })
    }

    /// The client that waits longest, if one does. Its descriptor is non-blocking.
    pub(crate) fn accept(&self) -> Result<OwnedFd, Errno> {
        rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), Error> {
    let failed = |action| {
        move |errno: Errno| Error::Socket {
            action,
            path: path.to_owned(),
            source: errno.into(),
        }
    };
    match rustix::fs::statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        rustix::fs::StatxFlags::TYPE,
    ) {
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("look at")(errno)),
        Ok(found) if FileType::from_raw_mode(found.stx_mode.into()) != FileType::Socket => {
            return Err(Error::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let probe =
        stream_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(failed("probe"))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            rustix::fs::unlinkat(CWD, path, AtFlags::empty()).map_err(failed("replace the old"))
        }
        // A full backlog, or a socket of another type: alive too.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(Error::SocketInUse {
            path: path.to_owned(),
        }),
        Err(errno) => Err(failed("probe the old")(errno)),
    }
}

fn stream_socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}
