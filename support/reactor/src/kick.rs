//! A doorbell between threads, or between a guest and a thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// A doorbell: an eventfd that counts how often it was rung.
///
/// Clones ring the same bell. Rings add up until somebody takes them, so a worker that was busy
/// sees one event for many rings and misses none. The kernel can ring it too: lend the
/// descriptor ([`AsFd`]) as an ioeventfd.
#[derive(Clone, Debug)]
pub struct Kick(Arc<OwnedFd>);

impl Kick {
    /// A bell that nobody has rung yet.
    ///
    /// # Errors
    /// The process or the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Rings the bell. Never blocks.
    pub fn signal(&self) {
        // The only failure of a write of 8 bytes to a non-blocking eventfd is a full counter
        // (eventfd(2)), and then the bell is ringing already.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Takes all rings since the last call, and so silences the bell; 0 if there were none.
    pub fn take(&self) -> u64 {
        read_counter(self.0.as_fd())
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads and resets the counter of a non-blocking eventfd or timerfd; 0 if nothing happened.
pub(crate) fn read_counter(fd: BorrowedFd<'_>) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}
