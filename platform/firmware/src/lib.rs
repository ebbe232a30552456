//! What a guest reads before it has drivers: firmware tables, and the kernel or firmware it starts with.
//!
//! A machine describes each of its platform devices once, as a [`Node`]: a name, what it is compatible with
//! and the ports, memory and interrupts it uses. This crate renders that description:
//!
//! * [`acpi`] as hardware-reduced ACPI tables, which is what a guest normally reads,
//! * [`mptable`] as an Intel MultiProcessor table, for a guest that was started with `acpi=off`,
//! * [`smbios`] has the identity of the machine (`--platform serial_number=…` and so on).
//!
//! [`payload`] puts the kernel or the firmware, the initramfs and the command line into guest RAM, and then
//! writes the structure by which the payload finds all of that: the `start_info` of the PVH boot protocol or
//! the zero page of the Linux one.
//!
//! Tables are byte buffers with the guest physical address they belong at; nothing here touches guest memory
//! except [`payload`]. All integers in all of these formats are little-endian.
#![forbid(unsafe_code)]

pub mod acpi;
mod bytes;
mod error;
mod ioapic;
pub mod mptable;
mod node;
pub mod payload;
pub mod smbios;

pub use acpi_tables::{Aml, AmlSink, aml};
pub use error::Error;
pub use ioapic::IoApic;
pub use node::{AcpiId, Node, Resource};
