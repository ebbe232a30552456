//! Runs workers that own their state and returns it when stopped.
//!
//! A *worker* is a value with everything one thread of a device needs: its queue, its file, its
//! interrupt line. It is never shared. While it runs it belongs to its thread, and to look at it
//! one stops it: [`Task::stop`] wakes the thread, joins it and hands the worker back as a plain
//! value. Pausing a device is `stop`, saving it is reading the value, resuming it is
//! [`Task::spawn`] once more with the same value. There is no lock and no "paused" flag.
//!
//! A worker waits for *sources*, file descriptors that become ready: an eventfd the guest's
//! doorbell writes ([`Kick`]), a timer ([`Timer`]), a socket. It names them in
//! [`Worker::register`], each with a [`Token`] of its choice, and is told about each in
//! [`Worker::ready`].
//!
//! ```
//! use std::{io, ops::ControlFlow};
//! use reactor::{Interest, Kick, Readiness, Sources, Task, Token, Worker};
//!
//! struct Counter {
//!     bell: Kick,
//!     rung: u64,
//! }
//!
//! const BELL: Token = Token(0);
//!
//! impl Worker for Counter {
//!     fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
//!         sources.add(&self.bell, BELL, Interest::READ)
//!     }
//!     fn ready(&mut self, _: Token, _: Readiness, _: &mut Sources) -> io::Result<ControlFlow<()>> {
//!         self.rung += self.bell.take();
//!         Ok(ControlFlow::Break(()))
//!     }
//! }
//!
//! let bell = Kick::new()?;
//! bell.signal();
//! let task = Task::spawn("counter", sandbox::Filter::none(), Counter { bell, rung: 0 })?;
//! while !task.is_finished() {
//!     std::thread::yield_now();
//! }
//! assert_eq!(task.stop()?.rung, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Nothing is lost over a stop
//!
//! Readiness is level triggered and lives in the kernel: a source that became ready and was not
//! served yet is reported again by the next task that registers it. So a worker keeps no record
//! of events, and a doorbell rung while the device was paused is served after it resumes.
//!
//! # System calls
//!
//! The thread applies the [`sandbox::Filter`] it is given before it runs any code of the worker.
//! What this crate calls on it is all in [`sandbox::COMMON`].
#![forbid(unsafe_code)]

mod busy_poll;
mod error;
mod kick;
mod sources;
mod task;
#[cfg(test)]
mod tests;
mod timer;

use std::io;
use std::ops::ControlFlow;

pub use busy_poll::BusyPoll;
pub use error::Error;
pub use kick::Kick;
pub use sources::{Interest, Readiness, Sources, Token};
pub use task::Task;
pub use timer::Timer;

/// A value that serves events on a thread of its own, and is given back when that thread stops.
///
/// Both methods run on the worker's thread, under its system call filter. Neither should block:
/// [`Task::stop`] waits for the method that is running.
pub trait Worker: Send + 'static {
    /// Names what to wait for. Called once per [`Task::spawn`], before the first wait.
    ///
    /// # Errors
    /// Ends the thread; [`Task::stop`] reports the error.
    fn register(&mut self, sources: &mut Sources) -> io::Result<()>;

    /// Serves one source that became ready.
    ///
    /// `Break` ends the thread early; [`Task::stop`] still returns the worker.
    ///
    /// # Errors
    /// Ends the thread; [`Task::stop`] reports the error.
    fn ready(
        &mut self,
        token: Token,
        readiness: Readiness,
        sources: &mut Sources,
    ) -> io::Result<ControlFlow<()>>;
}

/// A value that waits in a loop of its own, for what [`Sources`] cannot wait for: the completions of an io_uring,
/// together with everything else. Otherwise as a [`Worker`].
pub trait Loop: Send + 'static {
    /// Works until `stop` is readable, then returns soon; `stop` is left as it is.
    ///
    /// # Errors
    /// [`Task::stop`] reports the error; the worker is lost.
    fn run(&mut self, stop: &Kick) -> io::Result<()>;
}
