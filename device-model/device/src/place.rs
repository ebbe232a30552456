//! Where a device is on PCI, for whoever looks at the machine from outside.

/// The place of a device on PCI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciPlace {
    /// Segment, bus, device and function, as `0000:00:03.0`.
    pub address: String,
    /// Its memory, where the guest has put it.
    pub bars: Vec<PciBar>,
}

/// A range of memory of a device on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciBar {
    /// Number of its first base address register, 0 to 5.
    pub index: u8,
    /// Guest physical address.
    pub base: u64,
    /// Size in bytes.
    pub size: u64,
    /// Its address can be above 4 GiB.
    pub wide: bool,
    /// Reading has no side effect.
    pub prefetchable: bool,
}
