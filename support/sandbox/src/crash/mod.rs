//! The ways out: what is left tidy when the process ends, however it ends.
//!
//! Some things outlive a process: the terminal it switched to raw mode, the socket files it made.
//! Each is registered as a [`LastAct`] when it comes into being. Normally the guard's drop does
//! the act. A panic, an abort, a memory fault or a forbidden system call skips all drops: there
//! [`install`] and [`install_panic_hook`] see to it that every pending act is done, newest first,
//! and that the process still ends as it would have (the same signal, or 101 for a panic).
//!
//! Everything on the path of a signal is async-signal-safe: no allocation, no lock, no formatting
//! machinery, only calls that are in every filter ([`SYSCALLS`]).

mod last_act;
mod line;
mod names;
mod signals;

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

pub use last_act::{LastAct, MAX_LAST_ACTS};
pub use signals::{SYSCALLS, install};

/// The thread that is ending the process; 0 while none is.
static ENDING: AtomicI32 = AtomicI32::new(0);

/// Whether the end is a panic's, whose exit status is 101 whatever else goes wrong.
static PANICKING: AtomicBool = AtomicBool::new(false);

/// The exit status of a panic.
const PANIC_STATUS: libc::c_int = 101;

/// Makes a panic in any thread end the process: last acts first, so that the message meets a
/// terminal in its normal mode, then the message as usual, then exit status 101.
///
/// Threads do not unwind afterwards; the release build aborts on panic anyway. The hook that was
/// in place prints the message.
pub fn install_panic_hook() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKING.store(true, Ordering::SeqCst);
        claim_the_end();
        last_act::perform_all();
        print(panic);
        exit(PANIC_STATUS);
    }));
}

/// Makes the calling thread the one that ends the process, or stops here for good if another
/// thread already is. The same thread may come again, with a fault in its last acts.
fn claim_the_end() {
    // SAFETY: takes nothing, cannot fail.
    let me = unsafe { libc::gettid() };
    match ENDING.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(other) if other == me => {}
        Err(_) => loop {
            // SAFETY: takes a number only; a signal merely shortens the wait.
            unsafe { libc::sleep(1) };
        },
    }
}

/// Ends the process at once: no destructors, no exit handlers, which could wait for other threads.
fn exit(status: libc::c_int) -> ! {
    // SAFETY: takes a number only and does not return.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests;
