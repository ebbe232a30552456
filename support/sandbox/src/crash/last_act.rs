//! The table of acts that are still to be done.
//!
//! A signal handler must be able to walk it at any moment, on any thread, even while another
//! thread adds or removes an entry. So it is an array that never moves, and each slot is handed
//! from owner to owner by one atomic state.

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use libc::pid_t;

use crate::Error;

/// How many acts can be pending at once.
pub const MAX_LAST_ACTS: usize = 64;

static TABLE: [Slot; MAX_LAST_ACTS] = [const { Slot::new() }; MAX_LAST_ACTS];

/// Gives acts their age.
static NEXT_TICKET: AtomicU64 = AtomicU64::new(1);

/// Nobody's. Whoever moves it to [`OWNED`] may write the act.
const FREE: u8 = 0;
/// One thread's, to be filled, done or emptied.
const OWNED: u8 = 1;
/// Filled and pending. Whoever moves it to [`OWNED`] does the act.
const PENDING: u8 = 2;
/// Done by a crash; stays so until the process is gone.
const DONE: u8 = 3;

/// How long a crash waits for acts that other threads are doing, in milliseconds.
const MAX_WAIT_MS: u32 = 100;

struct Slot {
    state: AtomicU8,
    ticket: AtomicU64,
    entry: UnsafeCell<Option<Entry>>,
}

// SAFETY: `entry` is only touched by the thread that moved `state` to OWNED, and the atomic
// exchange orders its accesses after those of the owner before.
unsafe impl Sync for Slot {}

struct Entry {
    act: Act,
    /// The process that registered it: a child made by `fork` has a copy but not the duty.
    process: pid_t,
}

enum Act {
    RestoreTerminal {
        terminal: OwnedFd,
        settings: libc::termios,
    },
    RemoveFile {
        path: CString,
    },
}

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(FREE),
            ticket: AtomicU64::new(0),
            entry: UnsafeCell::new(None),
        }
    }

    /// Takes ownership if the slot is in the given state.
    fn claim(&self, from: u8) -> bool {
        self.state
            .compare_exchange(from, OWNED, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Does the act of a slot that the caller owns.
    fn perform(&self) {
        // SAFETY: the caller owns the slot, so nobody writes to the entry.
        let entry = unsafe { &*self.entry.get() };
        if let Some(entry) = entry
            && entry.process == process()
        {
            entry.act.perform();
        }
    }

    /// Changes the entry of a slot that the caller owns.
    fn set(&self, entry: Option<Entry>) {
        // SAFETY: the caller owns the slot, so nobody reads or writes the entry besides.
        unsafe { *self.entry.get() = entry };
    }
}

impl Act {
    /// Does it, as well as possible: at the end there is nobody to tell about a failure.
    fn perform(&self) {
        match self {
            Self::RestoreTerminal { terminal, settings } => {
                // Not `tcsetattr`: that may make further calls, which a filter refuses.
                // SAFETY: the descriptor is ours and open. The kernel reads its own structure,
                // which is the first part of the C library's.
                unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TCSETS, &raw const *settings) };
            }
            Self::RemoveFile { path } => {
                // SAFETY: the path is a C string that lives in the entry.
                unsafe { libc::unlinkat(libc::AT_FDCWD, path.as_ptr(), 0) };
            }
        }
    }
}

/// A guard for something that outlives the process.
///
/// Dropping it does the act; a crash does all pending ones, newest first. See [`crate::crash`].
#[derive(Debug)]
#[must_use = "dropping it does the act at once"]
pub struct LastAct {
    index: usize,
}

impl LastAct {
    /// Gives a terminal these settings at the end, those it had before it was changed.
    ///
    /// The descriptor is duplicated, so the caller's may be closed before.
    ///
    /// # Errors
    ///
    /// [`Error::LastAct`] if no descriptor is left, [`Error::TooManyLastActs`] if the table is
    /// full.
    pub fn restore_terminal(terminal: impl AsFd, settings: libc::termios) -> Result<Self, Error> {
        let terminal = terminal
            .as_fd()
            .try_clone_to_owned()
            .map_err(terminal_error)?;
        Self::add(Act::RestoreTerminal { terminal, settings })
    }

    /// Gives a terminal the settings it has now back at the end.
    ///
    /// # Errors
    ///
    /// As [`LastAct::restore_terminal`], and [`Error::LastAct`] if this is not a terminal.
    pub fn keep_terminal(terminal: impl AsFd) -> Result<Self, Error> {
        let mut settings = MaybeUninit::<libc::termios>::zeroed();
        let fd = terminal.as_fd().as_raw_fd();
        // SAFETY: the descriptor is borrowed and so open. The kernel writes its own structure,
        // which is the first part of the C library's.
        if unsafe { libc::ioctl(fd, libc::TCGETS, settings.as_mut_ptr()) } != 0 {
            return Err(terminal_error(io::Error::last_os_error()));
        }
        // SAFETY: the kernel filled its part, and zeros are valid for the rest.
        let settings = unsafe { settings.assume_init() };
        Self::restore_terminal(terminal, settings)
    }

    /// Removes a file, such as a socket, at the end. A relative path counts from the current
    /// folder of now.
    ///
    /// # Errors
    ///
    /// [`Error::LastAct`] if the path has a zero byte or is empty, [`Error::TooManyLastActs`] if
    /// the table is full.
    pub fn remove_file(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::LastAct {
            act: format!("remove {}", path.display()),
            source,
        };
        let absolute = std::path::absolute(path)
            .map_err(failed)?
            .into_os_string()
            .into_vec();
        let path = CString::new(absolute).map_err(|e| failed(e.into()))?;
        Self::add(Act::RemoveFile { path })
    }

    fn add(act: Act) -> Result<Self, Error> {
        let free = TABLE.iter().position(|slot| slot.claim(FREE));
        let index = free.ok_or(Error::TooManyLastActs)?;
        let slot = &TABLE[index];
        slot.set(Some(Entry {
            act,
            process: process(),
        }));
        slot.ticket.store(
            NEXT_TICKET.fetch_add(1, Ordering::Relaxed),
            Ordering::Relaxed,
        );
        slot.state.store(PENDING, Ordering::Release);
        Ok(Self { index })
    }
}

impl Drop for LastAct {
    fn drop(&mut self) {
        let slot = &TABLE[self.index];
        // If a crash was first, the process is about to end: the slot stays as it is.
        if slot.claim(PENDING) {
            without_stopping(|| slot.perform());
            slot.set(None);
            slot.state.store(FREE, Ordering::Release);
        }
    }
}

/// Does every pending act, newest first. Async-signal-safe.
pub(super) fn perform_all() {
    // Acts are few: looking for the newest each time is quicker than it looks.
    let newest = || {
        let pending = TABLE
            .iter()
            .filter(|slot| slot.state.load(Ordering::Acquire) == PENDING);
        pending.max_by_key(|slot| slot.ticket.load(Ordering::Relaxed))
    };
    without_stopping(|| {
        while let Some(slot) = newest() {
            if slot.claim(PENDING) {
                slot.perform();
                slot.state.store(DONE, Ordering::Release);
            }
        }
    });
    wait_for_others();
}

/// Waits until other threads have done what they are at: the process must not end in between.
///
/// The owner may also be the code that this crash interrupted, so the wait has an end.
fn wait_for_others() {
    let millisecond = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    let is_busy = || {
        TABLE
            .iter()
            .any(|slot| slot.state.load(Ordering::Acquire) == OWNED)
    };
    for _ in 0..MAX_WAIT_MS {
        if !is_busy() {
            return;
        }
        // SAFETY: reads the time, which lives across the call; null: what is left is not wanted.
        unsafe { libc::nanosleep(&raw const millisecond, std::ptr::null_mut()) };
    }
}

/// Runs `act` with `SIGTTOU` blocked: a process in the background that changes its terminal is
/// stopped by that signal, but allowed to if it blocks it (POSIX, `tcsetattr`).
fn without_stopping(act: impl FnOnce()) {
    let mut blocked = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call fills the set it is given.
    unsafe { libc::sigemptyset(blocked.as_mut_ptr()) };
    // SAFETY: the set is filled and the signal's number is valid.
    unsafe { libc::sigaddset(blocked.as_mut_ptr(), libc::SIGTTOU) };
    // SAFETY: both sets live across the call, which reads the first and fills the second.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, blocked.as_ptr(), before.as_mut_ptr()) };
    act();
    // SAFETY: the set was filled by the call above, which cannot fail with these arguments.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
}

fn process() -> pid_t {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::getpid() }
}

fn terminal_error(source: io::Error) -> Error {
    Error::LastAct {
        act: "restore a terminal".to_owned(),
        source,
    }
}
