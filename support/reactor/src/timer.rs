//! Timers that a worker waits for like for any other source.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::kick::read_counter;

/// A timer on the monotonic clock, which also runs while the VM is paused.
///
/// It becomes readable when it expires and stays so until [`Timer::take`].
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set. [`Sources::add_timer`](crate::Sources::add_timer) makes one and
    /// registers it in one step.
    ///
    /// # Errors
    /// The process or the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Expires once, `after` from now. Replaces what was set before, and forgets an expiry that
    /// was not taken yet. A duration of zero expires at once.
    ///
    /// # Errors
    /// Only if a system call filter forbids it.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        self.arm(timespec(after), Timespec::default())
    }

    /// Expires `period` from now and then every `period`. Replaces what was set before. A period
    /// of zero counts as one nanosecond.
    ///
    /// # Errors
    /// Only if a system call filter forbids it.
    pub fn set_periodic(&self, period: Duration) -> io::Result<()> {
        self.arm(timespec(period), timespec(period))
    }

    /// Never expires until set again, and forgets an expiry that was not taken yet.
    ///
    /// # Errors
    /// Only if a system call filter forbids it.
    pub fn cancel(&self) -> io::Result<()> {
        self.arm(Timespec::default(), Timespec::default())
    }

    /// Takes the number of expiries since the last call or since it was set; 0 if none.
    pub fn take(&self) -> u64 {
        read_counter(self.0.as_fd())
    }

    fn arm(&self, first: Timespec, period: Timespec) -> io::Result<()> {
        let setting = Itimerspec {
            it_interval: period,
            it_value: first,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &setting)?;
        Ok(())
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel reads zero as "disarm" (timerfd_settime(2)), so the shortest time is 1 ns; times
/// too long for the kernel are as good as for ever.
fn timespec(time: Duration) -> Timespec {
    let time = time.max(Duration::from_nanos(1));
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
