//! Builds, runs and takes apart one virtual machine.
//!
//! [`Driver`] is the thread that owns the machine: it builds a [`Machine`], serves what users ask of it ([`Call`])
//! and what happens to it (the guest powers off or resets, a processor fails), and takes it apart again. What may
//! be asked when is the table in [`life`]. A reset is a second machine built by the same path in the same process.
//!
//! ```text
//!  API, signals ---\                       /--> vcpu0 .. vcpuN   run the guest
//!  devices ---------> Request --> Driver --+--> device workers
//!  vCPU threads ---/   (channel)   owns    \--> payload_loader   ends before the guest starts
//!                                  Machine
//! ```
#![forbid(unsafe_code)]

mod build;
mod call;
mod change;
mod core_dump;
mod descriptors;
mod driver;
mod error;
mod features;
mod fork;
mod inspect;
pub mod life;
mod loader;
mod operate;
mod owner;
mod paging;
mod plug;
mod prepare;
mod processors;
mod receive;
mod restore;
mod save;
mod saved;
mod state;
mod syscalls;
mod tables;

pub use build::Machine;
pub use call::{
    Answer, Call, CoreDump, Counters, Info, Measures, Node, PciDevice, RemoveDevice, Reply, Resize,
    ResizeDisk, Snapshot,
};
pub use driver::{Driver, First, Options, Remote};
pub use error::{Error, Kind, Result};
pub use fork::{Fork, ForkChild, ForkMemory, Forked};
pub use prepare::{check, settle};
pub use processors::{Debugger, News};
pub use receive::{MemorySource, ReceiveFork, Received};
pub use restore::{MemoryRestoreMode, Restore, RestoredNet};
pub use saved::{Checked, check_snapshot, merge_snapshot};
