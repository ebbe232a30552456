//! Connects a guest's consoles to the host.
//!
//! Serial port, virtio console and debug console differ in how the guest sees them. Their host
//! side is the same, and is here: an [`Endpoint`] says where the bytes go, [`Stream::open`] opens
//! it, and [`Stream::split`] takes it apart:
//!
//! - [`Output`] takes what the guest prints. vCPU threads write to it, so it never waits for a
//!   reader for long: to a pseudo terminal or a socket nothing is waited for at all, and what
//!   cannot be delivered yet is kept in a ring of 1 MiB that forgets its oldest bytes first.
//!   Output printed before a client connects is there when it does.
//! - [`Input`] is what the user types. An [`InputWorker`] runs on a thread of its own
//!   ([`reactor::Task`]), takes clients in and out, and gives each byte to the device's
//!   [`Receiver`] when that has room for it: if the guest does not read, neither do we, and the
//!   user's writes block. Nothing typed is dropped.
//!
//! | Endpoint | Output | Input | Worker needed |
//! |---|---|---|---|
//! | `null` | thrown away | none | no |
//! | `file=` | to the file | none | no |
//! | `tty` | to standard output | from standard input | for input |
//! | `pty` | kept, then to whoever opens it | from them | yes |
//! | `socket=` | kept, then to the client | from the client | yes |
//!
//! A device that only prints uses [`Stream::output_only`], which leaves the keyboard to others.
//!
//! # Several devices on one terminal
//!
//! Any number of streams may be on `tty`. The terminal becomes raw with the first and is restored
//! with the last, or by a [`sandbox::crash::LastAct`] if the process dies. All of them print;
//! the first opened that can take input gets the keyboard, because two readers would each get
//! some of the letters.
#![forbid(unsafe_code)]

mod config;
mod error;
mod kept;
mod open;
mod output;
mod pty;
mod ring;
mod size;
mod socket;
mod syscalls;
mod terminal;
#[cfg(test)]
mod tests;
mod worker;

pub use config::ConsoleMode;
pub use error::Error;
pub use open::{Endpoint, Input, Stream};
pub use output::Output;
pub use size::{ResizeListener, Screen, announce_resize};
pub use syscalls::{OPEN_SYSCALLS, OUTPUT_SYSCALLS, SYSCALLS};
pub use worker::{Discard, InputWorker, Receiver};
