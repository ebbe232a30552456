//! Facts per architecture: memory map, CPU profiles, boot registers.
//!
//! A machine is built from three kinds of facts that no device owns, and this crate computes all of them as plain
//! data, without a hypervisor and without guest memory:
//!
//! - [`layout`]: what lies where in the guest's address spaces, and the memory map that a kernel is told;
//! - [`CpuProfile`]: what each processor says about itself (on x86, its `CPUID` answers), computed from what
//!   the hypervisor supports, what the user asked for ([`CpuOptions`]) and how processors are arranged
//!   ([`Topology`]);
//! - [`boot_state`]: the registers and tables with which the first processor enters a kernel.
//!
//! Each architecture is a folder with the same file names and the same public items. This file is the only
//! place that picks one.
#![forbid(unsafe_code)]

mod error;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use error::Error;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
