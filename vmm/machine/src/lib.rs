//! Builds, runs and takes apart one virtual machine.
//!
//! [`Driver`] is the thread that owns the machine: it builds a [`Machine`], waits for what happens to it
//! (the guest powers off or resets, a processor fails, the user ends the monitor) and takes it apart again. A
//! reset is a second machine built by the same path in the same process.
//!
//! ```text
//!  signal thread --\                       /--> vcpu0 .. vcpuN   run the guest
//!  devices ---------> Request --> Driver --+--> device workers
//!  vCPU threads ---/   (channel)   owns    \--> payload_loader   ends before the guest starts
//!                                  Machine
//! ```
#![forbid(unsafe_code)]

mod build;
mod driver;
mod error;
mod features;
mod processors;
mod syscalls;
mod tables;

pub use build::Machine;
pub use driver::{Driver, Options, Remote};
pub use error::{Error, Result};
