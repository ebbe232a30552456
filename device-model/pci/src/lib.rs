//! PCI as a guest sees it.
//!
//! A *function* is what a driver finds: 256 bytes of configuration space that say who made it, what it can do
//! (capabilities) and where its registers are (base address registers, BARs). The guest may move a BAR: it
//! writes another address, and from then on the registers are there. Interrupts are messages: the function
//! keeps a table of addresses and values (MSI-X), one entry per *vector*, each of which the guest can mask.
//!
//! Functions sit in the 32 *slots* of a *segment*; there is one bus per segment and one function per slot. The
//! guest reads configuration space through two windows: the ports 0xcf8 and 0xcfc for segment 0, and memory
//! (ECAM, 1 MiB per segment) for all.
//!
//! ```text
//! Pci ── Segment 0 ── Slot 0   host bridge
//!  │        │   └──── Slot 1   Endpoint ── config space, capabilities
//!  │        │                     ├─ Bars ── Region on a device::Bus, for as long as it is decoded
//!  │        │                     └─ Msix ── one hypervisor::Msi per vector
//!  │        └─ Window  addresses that BARs of this segment get
//!  └─ ECAM, ports 0xcf8-0xcff: Regions that find the function and ask it
//! ```
//!
//! What a device does to be on PCI: take a [`Slot`], describe itself with an [`EndpointBuilder`], put the
//! finished [`Endpoint`] into the slot. Dropping the slot takes it off the bus. [`Pci`] also describes itself
//! to the guest's firmware ([`Pci::nodes`], [`Pci::mcfg`]).
//!
//! Slots are filled and emptied while the guest runs, too. [`HotPlug`] is how it learns of that, and how it says
//! that it is done with a device: what is in a slot and what the guest was told of it are two things.
//!
//! # When a guest moves a BAR badly
//!
//! A BAR that would overlap another one that is decoded, or leave the segment's windows, is not moved: what was
//! mapped stays, the register goes back to the address that still works, and the log says so. Values of all
//! ones are how a driver asks for the size, and are kept until the next write.
#![forbid(unsafe_code)]

mod acpi;
mod address;
mod bar;
mod capability;
mod config_access;
mod endpoint;
mod error;
mod function;
mod hotplug;
mod msix;
mod segment;
mod window;

pub use address::PciAddress;
pub use bar::{BarKind, BarState, Contents};
pub use capability::{Capability, CapabilityId};
pub use endpoint::{Endpoint, EndpointBuilder, EndpointState, Identification};
pub use error::{Error, Result};
pub use function::{Function, SharedFunction, share};
pub use hotplug::{HOT_PLUG_LEN, HotPlug, HotPlugState};
pub use msix::{Interrupts, Msix, MsixState, Vector, VectorState};
pub use segment::{Layout, Pci, SLOTS, Segment, Slot};
pub use window::{Span, Window};
