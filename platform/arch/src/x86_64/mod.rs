//! x86_64.

mod core_dump;
mod cpuid;
pub mod layout;
mod paging;
mod regs;
mod state;
mod topology;

pub use core_dump::{ELF_MACHINE, FXSAVE_SIZE, core_status, cpu_state};
pub use cpuid::{CpuOptions, CpuProfile, MIN_PHYS_BITS, Vendor};
pub use paging::{Mapped, translate};
pub use regs::{BootState, Entry, boot_msrs, boot_state, lapic_boot};
pub use state::{CpuidEntry, DescriptorTable, MpState, Msr, Regs, Segment, SpecialRegs};
pub use topology::{MAX_VCPUS, Position, Topology};
