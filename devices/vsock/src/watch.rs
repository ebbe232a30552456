//! Hears of the Unix sockets of all connections.
//!
//! An epoll set of its own, in which each socket reports a change once: one that waits for credit needs no system call
//! to be quiet, and one that goes on needs none to be heard. The set itself is one source of the worker, and stays
//! as it is when the worker stops.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;

/// Events fetched at once.
pub(crate) const BATCH: usize = 64;

/// What happened to a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// The connection's place.
    pub(crate) at: usize,
    /// There is something to read, or an error.
    pub(crate) readable: bool,
    /// There is room to write.
    pub(crate) writable: bool,
    /// The other side sends no more.
    pub(crate) hung_up: bool,
    /// The other side is gone.
    pub(crate) gone: bool,
}

/// The set.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Hears of a socket from now on: what can be read, and if asked for, whether it can be written. Closing it ends
    /// that.
    pub(crate) fn add(&self, fd: impl AsFd, at: usize) -> Result<(), Errno> {
        epoll::add(&self.0, fd, data(at), flags(false))
    }

    /// Reports also when the socket can be written, or no more. It is reported if it already can.
    pub(crate) fn hear_writable(&self, fd: impl AsFd, at: usize, wanted: bool) {
        if let Err(errno) = epoll::modify(&self.0, fd, data(at), flags(wanted)) {
            telemetry::warn!("vsock: cannot wait for a socket: {errno}");
        }
    }

    /// The changes since the last call, up to [`BATCH`].
    pub(crate) fn changes<'a>(
        &self,
        buffer: &'a mut [MaybeUninit<Event>; BATCH],
    ) -> impl Iterator<Item = Change> + 'a {
        let at_once = Timespec::default();
        let events: &[Event] = match epoll::wait(&self.0, buffer, Some(&at_once)) {
            Ok((events, _)) => events,
            Err(_) => &[],
        };
        events.iter().map(|event| {
            let (happened, token) = (event.flags, event.data);
            let has = |flags| happened.intersects(flags);
            let over = EventFlags::HUP | EventFlags::ERR;
            Change {
                at: usize::try_from(token.u64()).unwrap_or(usize::MAX),
                readable: has(EventFlags::IN | EventFlags::RDHUP | over),
                writable: has(EventFlags::OUT | over),
                hung_up: has(EventFlags::RDHUP | over),
                gone: has(over),
            }
        })
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn data(at: usize) -> EventData {
    EventData::new_u64(u64::try_from(at).unwrap_or(u64::MAX))
}

fn flags(writable: bool) -> EventFlags {
    let mut flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    flags.set(EventFlags::OUT, writable);
    flags
}
