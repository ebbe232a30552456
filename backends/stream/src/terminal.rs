//! The terminal the VMM was started on: standard input and output.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::termios::{self, OptionalActions};
use sandbox::crash::LastAct;

use crate::Error;

/// How many [`RawMode`]s there are, and how to undo the first.
static RAW: Mutex<Raw> = Mutex::new(Raw {
    users: 0,
    restore: None,
});

struct Raw {
    users: usize,
    restore: Option<LastAct>,
}

/// While one of these exists, the terminal at standard input is in raw mode: every key goes to
/// the guest as it is pressed, Ctrl-C too, and only the guest echoes.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes the terminal raw; `None` if standard input is no terminal.
    pub(crate) fn enter() -> Result<Option<Self>, Error> {
        let stdin = rustix::stdio::stdin();
        if !termios::isatty(stdin) {
            return Ok(None);
        }
        let mut raw = lock();
        if raw.users == 0 {
            // First note down how to undo it: what follows may be the last thing that happens.
            let restore = LastAct::keep_terminal(stdin).map_err(Error::CleanUp)?;
            let mut mode =
                termios::tcgetattr(stdin).map_err(terminal("read the terminal's mode"))?;
            mode.make_raw();
            termios::tcsetattr(stdin, OptionalActions::Now, &mode)
                .map_err(terminal("make the terminal raw"))?;
            raw.restore = Some(restore);
        }
        raw.users += 1;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let mut raw = lock();
        raw.users -= 1;
        if raw.users == 0 {
            raw.restore = None;
        }
    }
}

fn lock() -> MutexGuard<'static, Raw> {
    RAW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether somebody reads standard input already.
static KEYBOARD_TAKEN: AtomicBool = AtomicBool::new(false);

/// The right to read standard input, of which there is one.
#[derive(Debug)]
pub(crate) struct Keyboard(());

impl Keyboard {
    /// The keyboard, unless somebody has it.
    pub(crate) fn take() -> Option<Self> {
        let free = !KEYBOARD_TAKEN.swap(true, Ordering::AcqRel);
        free.then_some(Self(()))
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        KEYBOARD_TAKEN.store(false, Ordering::Release);
    }
}

/// A descriptor of our own for standard input or output, so that nobody closes it under us.
pub(crate) fn duplicate(fd: impl AsFd) -> Result<OwnedFd, Error> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(terminal("duplicate standard input or output"))
}

pub(crate) fn terminal(action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |errno| Error::Terminal {
        action,
        source: errno.into(),
    }
}
