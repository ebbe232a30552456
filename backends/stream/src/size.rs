//! The sizes of terminals, and hearing that they change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reactor::Kick;
use rustix::termios::tcgetwinsize;

use crate::Error;

/// Those who want to hear of the monitor's own terminal.
static LISTENERS: Mutex<Vec<(u64, Kick)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

fn listeners() -> MutexGuard<'static, Vec<(u64, Kick)>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells every [`ResizeListener`] that the terminal which the monitor was started on may have another size. To be
/// called when `SIGWINCH` arrives.
pub fn announce_resize() {
    for (_, kick) in &*listeners() {
        kick.signal();
    }
}

/// Becomes readable when [`announce_resize`] is called, until [`ResizeListener::take`].
#[derive(Debug)]
pub struct ResizeListener {
    key: u64,
    kick: Kick,
}

impl ResizeListener {
    /// Listens from now on.
    ///
    /// # Errors
    /// [`Error::Bell`] if no descriptor is left.
    pub fn new() -> Result<Self, Error> {
        let kick = Kick::new().map_err(Error::Bell)?;
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        listeners().push((key, kick.clone()));
        Ok(Self { key, kick })
    }

    /// Forgets what was announced so far.
    pub fn take(&self) {
        self.kick.take();
    }
}

impl AsFd for ResizeListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }
}

impl Drop for ResizeListener {
    fn drop(&mut self) {
        listeners().retain(|(key, _)| *key != self.key);
    }
}

/// The terminal at a console's end, as something that has a size.
#[derive(Clone, Debug)]
pub enum Screen {
    /// The one the monitor was started on. Changes are [announced](ResizeListener).
    Terminal,
    /// A pseudo terminal. Whoever has it open changes its size, and nobody tells us: the kernel sends a signal to
    /// the processes that it is the controlling terminal of, and has nothing for the master's side to wait for.
    Pty(Arc<OwnedFd>),
}

impl Screen {
    /// Columns and rows now; 0 for unknown, as for what is no terminal.
    #[must_use]
    pub fn size(&self) -> (u16, u16) {
        let size = match self {
            Self::Terminal => tcgetwinsize(rustix::stdio::stdout())
                .or_else(|_| tcgetwinsize(rustix::stdio::stdin())),
            Self::Pty(master) => tcgetwinsize(master),
        };
        size.map_or((0, 0), |size| (size.ws_col, size.ws_row))
    }
}
