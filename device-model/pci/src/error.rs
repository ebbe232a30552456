//! What can go wrong on the host's side. What a guest does is never an error.

use crate::PciAddress;

/// Result of a PCI operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a function cannot be made or placed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration names a segment that the machine does not have.
    #[error(
        "there is no PCI segment {segment}, only {count} (0 to {last}): choose a smaller pci_segment or raise \
         --platform num_pci_segments", last = count.saturating_sub(1)
    )]
    NoSegment {
        /// The segment asked for.
        segment: u16,
        /// How many there are.
        count: usize,
    },
    /// More segments than their area of configuration space holds.
    #[error("{0} PCI segments are not possible: 1 to 96 are")]
    SegmentCount(u16),
    /// Every slot of the segment is taken.
    #[error("all 32 PCI slots of segment {0} are taken: use another pci_segment")]
    NoFreeSlot(u16),
    /// The slot asked for does not exist, is the host bridge's or is taken.
    #[error(
        "PCI slot {address} cannot be had: {why}; choose another pci_device_id or leave it out"
    )]
    Slot {
        /// Where.
        address: PciAddress,
        /// Why not.
        why: &'static str,
    },
    /// A text is no address of a function.
    #[error("\"{0}\" is no PCI address, such as 0000:00:03.0")]
    Address(String),
    /// No room is left for a BAR.
    #[error(
        "no {size:#x} bytes are left in the {window} window of PCI segment {segment} for a device's registers"
    )]
    NoSpace {
        /// The window's name.
        window: &'static str,
        /// The segment.
        segment: u16,
        /// Bytes asked for.
        size: u64,
    },
    /// The address space is too small for the segments to have windows.
    #[error(
        "{segments} PCI segments do not fit into {size:#x} bytes of device memory: fewer segments, less RAM or \
         more physical address bits (--cpus max_phys_bits) help"
    )]
    NoWindow {
        /// Segments wanted.
        segments: u16,
        /// Bytes there are for all of them.
        size: u64,
    },
    /// A function's description contradicts itself. A mistake in a device, not in a configuration.
    #[error("a PCI function cannot be built like this: {0}")]
    Design(&'static str),
    /// An address range of the bus is taken.
    #[error("cannot put PCI registers on the bus")]
    Bus(#[source] Box<device::Error>),
    /// The hypervisor refused an interrupt vector.
    #[error("cannot make an MSI-X vector")]
    Vector(#[source] hypervisor::Error),
    /// A saved state does not fit the function.
    #[error("saved PCI state does not fit this function: {0}")]
    State(String),
}

impl From<Error> for device::Error {
    fn from(error: Error) -> Self {
        Self::Backend {
            what: "cannot put the device on PCI".into(),
            source: Box::new(error),
        }
    }
}
