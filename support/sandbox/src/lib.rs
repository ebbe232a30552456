//! Confines the process to what it said it needs.
//!
//! A virtual machine monitor runs code that hostile guests, disk images and peers drive. This
//! crate takes away what that code does not need, so that a mistake in it gains an attacker
//! little. Each part of the program *declares* its needs as data next to its code, and the edge of
//! the program turns the declarations into limits:
//!
//! | Need | Declared as | Turned into |
//! |---|---|---|
//! | system calls of a thread | [`Allow`] | [`Filter`], a seccomp program on that thread |
//! | paths | [`HostFile`], [`landlock::Access`] | [`landlock::Rules`] on the process |
//! | tidy ends | [`crash::LastAct`] | acts run on drop, panic and fatal signal |
//! | processor placement | [`CoreScope`], CPU numbers | [`core_scheduling`], [`pin_current_thread`] |
//!
//! A thread's filter is folded from the sets its parts declare:
//!
//! ```
//! use sandbox::{Allow, COMMON, Filter, Mode};
//!
//! const SYSCALLS: &[Allow] = &[
//!     Allow::call(libc::SYS_pread64),
//!     Allow::ioctl(&[libc::TIOCGWINSZ]),
//! ];
//!
//! let filter = Filter::compile(Mode::Trap, &[COMMON, SYSCALLS])?;
//! std::thread::spawn(move || filter.apply()).join().unwrap()?;
//! # Ok::<(), sandbox::Error>(())
//! ```
//!
//! What cannot be had is an error that names the option which asks for less; nothing is skipped
//! silently.

mod allow;
mod arch;
mod common;
pub mod crash;
mod error;
mod filter;
mod host_file;
mod inherit;
pub mod landlock;
mod process;
#[cfg(test)]
mod testing;

pub use allow::Allow;
pub use common::{COMMON, SPAWN};
pub use error::Error;
pub use filter::{Filter, Mode};
pub use host_file::{CreateTruncate, FileAccess, HostFile, ReadOnly, ReadWrite};
pub use inherit::adopt_descriptor;
pub use process::{CoreScope, core_scheduling, pin_current_thread, prepare_process};
