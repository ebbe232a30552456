//! The set of descriptors that a worker waits for.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::Timer;

/// The name a worker gives to one of its sources. Any value but `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The loop's own bell, which no worker may use.
pub(crate) const STOP: Token = Token(u64::MAX);

/// What to be told about a source. Errors and hang-ups are always reported, also for
/// [`Interest::NONE`]: to hear nothing more of a source, remove it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Tell when reading does not block.
    pub read: bool,
    /// Tell when writing does not block.
    pub write: bool,
}

impl Interest {
    /// Only errors and hang-ups.
    pub const NONE: Self = Self {
        read: false,
        write: false,
    };
    /// When reading does not block.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };
    /// When writing does not block.
    pub const WRITE: Self = Self {
        read: false,
        write: true,
    };
    /// When reading or writing does not block.
    pub const BOTH: Self = Self {
        read: true,
        write: true,
    };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

/// What a source became ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Reading does not block; at the end of a stream it reads nothing.
    pub read: bool,
    /// Writing does not block.
    pub write: bool,
    /// The other side went away for good; what it sent before can still be read.
    pub hung_up: bool,
    /// The descriptor has an error pending; reading or writing returns it.
    pub error: bool,
}

impl Readiness {
    fn from_flags(flags: EventFlags) -> Self {
        Self {
            read: flags.contains(EventFlags::IN),
            write: flags.contains(EventFlags::OUT),
            hung_up: flags.contains(EventFlags::HUP),
            error: flags.contains(EventFlags::ERR),
        }
    }
}

/// How many events one system call fetches: enough for a worker with many queues under load, and
/// little enough that a fetched event is still true when its turn comes.
const BATCH: usize = 16;

/// The descriptors a worker waits for, level triggered: a source that is ready is reported again
/// and again until it is served, changed or removed.
///
/// Remove a descriptor before it is closed. (A closed one vanishes from the set by itself only
/// if no duplicate of it is open anywhere, and an event fetched before still has its token.)
#[derive(Debug)]
pub struct Sources {
    epoll: OwnedFd,
    /// Events fetched and not handed out yet, the next one last. Never more than [`BATCH`].
    fetched: Vec<(Token, Readiness)>,
}

impl Sources {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            fetched: Vec::with_capacity(BATCH),
        })
    }

    /// Starts to wait for `fd`.
    ///
    /// # Errors
    /// `EEXIST`: it is in the set already. `EPERM`: nothing can wait for this kind of file (a
    /// regular file, `/dev/null`). `EINVAL`: the token is `u64::MAX`. `ENOSPC`, `ENOMEM`: the
    /// system's limits.
    pub fn add(&mut self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        if token == STOP {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.add_any(fd, token, interest)
    }

    pub(crate) fn add_any(
        &mut self,
        fd: impl AsFd,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(token.0),
            interest.flags(),
        )?;
        self.forget_fetched();
        Ok(())
    }

    /// Changes the token of `fd` or what to be told about it.
    ///
    /// # Errors
    /// `ENOENT`: it is not in the set. `EINVAL`: the token is `u64::MAX`.
    pub fn modify(&mut self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        if token == STOP {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        epoll::modify(
            &self.epoll,
            fd,
            EventData::new_u64(token.0),
            interest.flags(),
        )?;
        self.forget_fetched();
        Ok(())
    }

    /// Stops waiting for `fd`. No event of it is reported after this returns.
    ///
    /// # Errors
    /// `ENOENT`: it is not in the set.
    pub fn remove(&mut self, fd: impl AsFd) -> io::Result<()> {
        epoll::delete(&self.epoll, fd)?;
        self.forget_fetched();
        Ok(())
    }

    /// Makes a timer, not set yet, and waits for it.
    ///
    /// # Errors
    /// As [`Timer::new`] and [`Sources::add`].
    pub fn add_timer(&mut self, token: Token) -> io::Result<Timer> {
        let timer = Timer::new()?;
        self.add(&timer, token, Interest::READ)?;
        Ok(timer)
    }

    /// An event that was fetched before a change of the set may be about what was removed, under
    /// a token that means something else by now. As readiness is level triggered, throwing all
    /// fetched events away loses nothing: what is still true is reported again.
    fn forget_fetched(&mut self) {
        self.fetched.clear();
    }

    /// The next event; waits for one if necessary.
    pub(crate) fn next(&mut self) -> io::Result<(Token, Readiness)> {
        loop {
            if let Some(event) = self.fetched.pop() {
                return Ok(event);
            }
            let mut buffer = [MaybeUninit::uninit(); BATCH];
            match epoll::wait(&self.epoll, &mut buffer, None) {
                // The kernel's order is the fair one: a source served last comes last.
                Ok((events, _)) => self.fetched.extend(
                    events
                        .iter()
                        .rev()
                        .map(|event| (Token(event.data.u64()), Readiness::from_flags(event.flags))),
                ),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
