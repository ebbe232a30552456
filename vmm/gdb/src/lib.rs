//! Lets gdb debug the guest, whatever runs in it.
//!
//! A thread named `gdb` takes one connection at a time on a Unix socket and speaks gdb's remote serial protocol, which
//! is the crate `gdbstub`'s. Each of the guest's processors is a thread to gdb, counted from 1. Addresses are linear
//! ones: memory is read and written by the page tables of a processor, whatever they protect.
//!
//! While gdb is connected and has not let the guest go on, all processors stand still; devices do not. When gdb
//! detaches or its connection breaks, its breakpoints are taken back and the guest goes on. A reset ends the session: gdb
//! is told that the program has ended, and the guest stands still at its new start until gdb connects again.
#![forbid(unsafe_code)]

mod registers;
mod session;
mod target;

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use machine::{Debugger, Remote};
use sandbox::{Allow, Filter};

/// Name of the thread.
const THREAD: &str = "gdb";

/// What the thread calls beyond [`sandbox::COMMON`].
pub const SYSCALLS: &[Allow] = &[
    Allow::call(libc::SYS_accept4),
    Allow::call(libc::SYS_poll),
    Allow::call(libc::SYS_ppoll),
    Allow::call(libc::SYS_recvfrom),
    Allow::call(libc::SYS_sendto),
    Allow::call(libc::SYS_setsockopt),
    // The connection is read and written through descriptors of their own.
    Allow::arg32(libc::SYS_fcntl, 1, &[libc::F_DUPFD_CLOEXEC as u64]),
    // Making a processor's thread leave the guest.
    Allow::call(libc::SYS_getpid),
    Allow::call(libc::SYS_tgkill),
];

/// Serves gdb at a socket, for as long as the process runs.
///
/// # Errors
/// If the thread cannot be started.
pub fn start(
    listener: UnixListener,
    debugger: Arc<Debugger>,
    remote: Remote,
    filter: Filter,
) -> io::Result<()> {
    let serve = move || {
        if let Err(error) = filter.apply() {
            telemetry::error!("gdb: {}", telemetry::chain(&error).join(": "));
            return;
        }
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => session::serve(stream, &debugger, &remote),
                Err(error) => {
                    telemetry::error!("gdb cannot be served any more: {error}");
                    return;
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name(THREAD.into());
    thread.spawn(serve).map(drop)
}
