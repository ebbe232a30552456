//! How a debugger reaches the processors and the memory of the machine that there is at the moment.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use hypervisor::{Trap, Vcpu};
use memory::GuestRam;
use rustix::event::{EventfdFlags, eventfd};

use super::{Shared, lock};
use crate::life::Refusal;
use crate::{Error, Result};

/// What a debugger is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A processor came to a breakpoint or has made a step. It stands still, and the others are about to.
    Trapped {
        /// Which one.
        index: u32,
        /// What it was.
        trap: Trap,
    },
    /// There is a machine, and none was there or it was another one. Its processors stand still.
    Built,
    /// There is no machine any more.
    Gone,
}

/// The way of one debugger to the machine, whichever there is. While there is a debugger, machines start with
/// processors that stand still.
pub struct Debugger {
    target: Mutex<Option<Target>>,
    expected: Mutex<Expected>,
    news: Mutex<Vec<News>>,
    /// Readable when there is news.
    wake: OwnedFd,
}

struct Target {
    shared: Arc<Shared>,
    ram: GuestRam,
}

/// Which traps are the debugger's. All others are the guest's.
#[derive(Default)]
struct Expected {
    software: BTreeSet<u64>,
    stepping: BTreeSet<u32>,
}

impl Debugger {
    /// One without a machine.
    ///
    /// # Errors
    /// If the process can have no more descriptors.
    pub fn new() -> io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self {
            target: Mutex::default(),
            expected: Mutex::default(),
            news: Mutex::default(),
            wake,
        }))
    }

    /// What has happened since the last time. Never waits; [`AsFd`] is readable when there is something.
    pub fn news(&self) -> Vec<News> {
        let mut news = lock(&self.news);
        // Nothing to read is no news.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        std::mem::take(&mut news)
    }

    /// Number of processors; 0 without a machine.
    #[must_use]
    pub fn processors(&self) -> usize {
        let target = lock(&self.target);
        target
            .as_ref()
            .map_or(0, |target| target.shared.control.held().0)
    }

    /// Whether it has stopped any processor.
    #[must_use]
    pub fn holds(&self) -> bool {
        let target = lock(&self.target);
        target
            .as_ref()
            .is_some_and(|target| target.shared.control.held().1)
    }

    /// The guest's memory.
    ///
    /// # Errors
    /// If there is no machine.
    pub fn ram(&self) -> Result<GuestRam> {
        let target = lock(&self.target);
        let target = target.as_ref().ok_or(Refusal::NotStarted)?;
        Ok(target.ram.clone())
    }

    /// Stops all processors; they stand still when this returns.
    ///
    /// # Errors
    /// If there is no machine, or [`Error::Stuck`].
    pub fn hold(&self) -> Result<()> {
        self.shared()?.control.hold_all()
    }

    /// Lets these processors go on. A machine that is paused stays so.
    ///
    /// # Errors
    /// If there is no machine.
    pub fn release(&self, which: impl Fn(usize) -> bool) -> Result<()> {
        self.shared()?.control.release(which);
        Ok(())
    }

    /// Does something with a processor, on its own thread.
    ///
    /// # Errors
    /// If there is no such processor, or [`Error::Stuck`].
    pub fn on<T: Send + 'static>(
        &self,
        index: usize,
        job: impl FnOnce(&mut dyn Vcpu) -> T + Send + 'static,
    ) -> Result<T> {
        self.shared()?.control.on_one(index, job)
    }

    /// Says which traps are the debugger's: software breakpoints by their linear addresses, and processors that make a
    /// step. Before they are released.
    pub fn expect(&self, software: BTreeSet<u64>, stepping: BTreeSet<u32>) {
        *lock(&self.expected) = Expected { software, stepping };
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        let target = lock(&self.target);
        let target = target.as_ref().ok_or(Error::Refused(Refusal::NotStarted))?;
        Ok(Arc::clone(&target.shared))
    }

    pub(super) fn attach(&self, shared: &Arc<Shared>, ram: &GuestRam) {
        *lock(&self.target) = Some(Target {
            shared: Arc::clone(shared),
            ram: ram.clone(),
        });
        self.tell(News::Built);
    }

    pub(super) fn detach(&self) {
        lock(&self.target).take();
        self.tell(News::Gone);
    }

    /// Whether a trap is the debugger's.
    pub(super) fn wants(&self, index: u32, address: u64, trap: Trap) -> bool {
        let expected = lock(&self.expected);
        match trap {
            Trap::Software => expected.software.contains(&address),
            Trap::Hardware { breakpoints, step } => {
                breakpoints.contains(&true) || (step && expected.stepping.contains(&index))
            }
        }
    }

    pub(super) fn tell(&self, what: News) {
        let mut news = lock(&self.news);
        // What was before is of another machine. A guest that starts again and again while nobody listens leaves one
        // line, and a processor that trapped stands still, so the list is bounded.
        if !matches!(what, News::Trapped { .. }) {
            news.clear();
        }
        news.push(what);
        // It can only be full if nobody has read it, and then it is readable.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl AsFd for Debugger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl fmt::Debug for Debugger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debugger").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_that_nobody_expects_are_the_guests() {
        let debugger = Debugger::new().unwrap();
        debugger.expect([0x1000].into(), [1].into());
        let hardware = |point: bool, step: bool| Trap::Hardware {
            breakpoints: [false, point, false, false],
            step,
        };
        assert!(debugger.wants(0, 0x1000, Trap::Software));
        assert!(!debugger.wants(0, 0x1001, Trap::Software));
        assert!(debugger.wants(0, 0, hardware(true, false)));
        assert!(debugger.wants(1, 0, hardware(false, true)));
        assert!(!debugger.wants(0, 0, hardware(false, true)));
    }

    #[test]
    fn news_is_told_once_and_without_a_machine_all_is_refused() {
        let debugger = Debugger::new().unwrap();
        assert!(debugger.news().is_empty());
        for _ in 0..3 {
            debugger.tell(News::Gone);
            debugger.tell(News::Built);
        }
        let trapped = News::Trapped {
            index: 0,
            trap: Trap::Software,
        };
        debugger.tell(trapped);
        assert_eq!(debugger.news(), [News::Built, trapped]);
        assert!(debugger.news().is_empty());
        debugger.tell(trapped);
        debugger.tell(News::Gone);
        assert_eq!(debugger.news(), [News::Gone], "of no machine any more");
        assert_eq!((debugger.processors(), debugger.holds()), (0, false));
        assert!(debugger.hold().is_err() && debugger.ram().is_err());
        assert!(debugger.on(0, |_| ()).is_err() && debugger.release(|_| true).is_err());
    }
}
