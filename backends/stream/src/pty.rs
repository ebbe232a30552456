//! A pseudo terminal whose other side users open and close as they like.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Mode, OFlags, inotify};
use rustix::io::Errno;
use rustix::pty::{self, OpenptFlags};
use rustix::termios::{self, OptionalActions};

use crate::Error;

/// Our side of a pseudo terminal.
#[derive(Debug)]
pub(crate) struct Pty {
    /// Non-blocking.
    pub(crate) master: Arc<OwnedFd>,
    /// The file for users to open: `/dev/pts/N`.
    pub(crate) path: PathBuf,
    /// An inotify descriptor that becomes readable when somebody opens the path. The master
    /// tells when the last user went, but not when one comes (the kernel wakes nobody then).
    /// `None` if the user's inotify instances are used up (inotify(7),
    /// `max_user_instances`): then one looks every now and then.
    pub(crate) openings: Option<OwnedFd>,
}

impl Pty {
    /// Makes a pseudo terminal in raw mode that nobody has open.
    pub(crate) fn open() -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let master =
            rustix::fs::openat(CWD, "/dev/ptmx", flags, Mode::empty()).map_err(failed("open"))?;
        pty::grantpt(&master).map_err(failed("grant access to"))?;
        pty::unlockpt(&master).map_err(failed("unlock"))?;
        let name = pty::ptsname(&master, Vec::new()).map_err(failed("name"))?;
        let path = PathBuf::from(OsString::from_vec(name.into_bytes()));

        // The mode outlives the descriptor it was set through. That it was open once and is
        // closed makes the master report a hang-up until a user opens it.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = pty::ioctl_tiocgptpeer(&master, flags).map_err(failed("open"))?;
        let mut mode = termios::tcgetattr(&slave).map_err(failed("configure"))?;
        mode.make_raw();
        termios::tcsetattr(&slave, OptionalActions::Now, &mode).map_err(failed("configure"))?;
        drop(slave);

        let openings = watch(&path).map_err(failed("watch"))?;
        Ok(Self {
            master: Arc::new(master),
            path,
            openings,
        })
    }

    /// Whether a user has it open.
    pub(crate) fn has_user(&self) -> bool {
        !is_hung_up(&self.master)
    }

    /// Forgets the openings reported so far.
    pub(crate) fn silence(&self) {
        if let Some(openings) = &self.openings {
            // What is left after one read is reported again.
            let _ = rustix::io::read(openings, &mut [0; 1024]);
        }
    }
}

fn watch(path: &std::path::Path) -> Result<Option<OwnedFd>, Errno> {
    match inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK) {
        Ok(openings) => {
            inotify::add_watch(&openings, path, inotify::WatchFlags::OPEN)?;
            Ok(Some(openings))
        }
        Err(Errno::MFILE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the other side of a pseudo terminal or connection is closed.
pub(crate) fn is_hung_up(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let polled = rustix::event::poll(&mut fds, Some(&Timespec::default()));
    polled.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn failed(action: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Pty {
        action,
        source: errno.into(),
    }
}
