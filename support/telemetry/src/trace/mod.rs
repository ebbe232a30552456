//! Where the time of a start goes: named steps, written as one file when the machine runs.
//!
//! Only in builds with the feature `tracing`. In others a [`Step`] is nothing, and nothing is left of these calls.
//!
//! The file is JSON in the Trace Event Format (Google, "Trace Event Format", JSON Object Format, complete events), which
//! `cargo xtask trace` and the usual viewers of browsers read. Times count from [`crate::start_clock`], in microseconds.

#[cfg(any(test, feature = "tracing"))]
mod recorder;

#[cfg(feature = "tracing")]
use std::{
    fs::File,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[cfg(feature = "tracing")]
static RECORDER: Mutex<recorder::Recorder> = Mutex::new(recorder::Recorder::new());

/// A step of the start, on the thread that began it. It ends when it is dropped; steps within steps are told apart by
/// their times.
#[derive(Debug)]
#[must_use = "a step ends when it is dropped"]
pub struct Step {
    #[cfg(feature = "tracing")]
    name: String,
    #[cfg(feature = "tracing")]
    begin: Duration,
}

/// Begins a step.
pub fn step(name: &'static str) -> Step {
    step_of(name, "")
}

/// Begins a step that concerns one of several things: `build _disk0`.
#[cfg_attr(
    not(feature = "tracing"),
    expect(unused_variables, reason = "nothing is recorded in this build")
)]
pub fn step_of(name: &'static str, whose: &str) -> Step {
    Step {
        #[cfg(feature = "tracing")]
        name: if whose.is_empty() {
            name.to_owned()
        } else {
            format!("{name} {whose}")
        },
        #[cfg(feature = "tracing")]
        begin: crate::elapsed(),
    }
}

impl Step {
    /// Ends it here.
    pub fn end(self) {}
}

#[cfg(feature = "tracing")]
impl Drop for Step {
    fn drop(&mut self) {
        let (begin, end) = (self.begin, crate::elapsed());
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        recorder().add(thread, std::mem::take(&mut self.name), begin..end);
    }
}

/// Says where the steps are written to by [`finish`]. Those before this call count, too.
#[cfg(feature = "tracing")]
pub fn write_to(file: File) {
    recorder().file = Some(file);
}

/// Writes the steps that have ended. What comes later is not recorded, so that a running machine pays for nothing.
#[cfg(feature = "tracing")]
pub fn finish() {
    let written = recorder().finish();
    if let Err(error) = written {
        crate::warn!("the trace of the start cannot be written: {error}");
    }
}

/// Does nothing in this build.
#[cfg(not(feature = "tracing"))]
pub fn finish() {}

#[cfg(feature = "tracing")]
fn recorder() -> MutexGuard<'static, recorder::Recorder> {
    // A list that is appended to is right after a panic, too.
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}
