//! What integration tests stand on.
//!
//! A test says which monitor to start ([`Vm::linux`], [`Vm::builder`]), waits for text on the
//! guest's serial console and runs commands inside the guest; when something does not happen in
//! time, the error has the last lines of the console and of the monitor's log. Four smaller tools
//! go with it: [`bare`] runs our own guest without an operating system, [`payload`] builds guests of a
//! few instructions, [`cpio`] and [`guest`] build initramfs archives, [`terminal`] plays the terminal
//! that a user sits at.
//!
//! ```no_run
//! # fn main() -> testkit::Result<()> {
//! let mut vm = testkit::Vm::linux().cpus("boot=2").memory("size=256M").spawn()?;
//! assert_eq!(vm.run("nproc")?.stdout, "2\n");
//! vm.power_off()?;
//! # Ok(())
//! # }
//! ```
//!
//! Tests do not know whether they run on the developer's machine or inside the emulated host that
//! `cargo xtask test` starts where `/dev/kvm` cannot run a stock kernel. What they need comes
//! through the variables in [`env`](mod@crate::env).

#![forbid(unsafe_code)]

pub mod bare;
pub mod cpio;
pub mod env;
mod error;
pub mod guest;
mod output;
pub mod payload;
pub mod terminal;
mod vm;

pub use error::{Error, Result};
pub use output::Output;
pub use rustix::process::Signal;
pub use vm::{Builder, Exit, SerialLink, Vm};
