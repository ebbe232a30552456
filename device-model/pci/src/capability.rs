//! Capabilities: what a function can do beyond the header (PCI Local Bus specification 3.0, 6.7).

/// What a capability is (PCI Code and ID Assignment specification, chapter 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CapabilityId {
    /// The vendor's own; virtio has its structures in these.
    Vendor = 0x09,
    /// Message signalled interrupts with a table.
    MsiX = 0x11,
}

/// A capability that does something when the guest accesses it. Offsets count from the capability's start, its
/// two header bytes included.
pub trait Capability: Send {
    /// The guest is about to read `len` bytes at `offset`: bring `bytes`, the whole capability, up to date.
    fn reading(&mut self, _bytes: &mut [u8], _offset: usize, _len: usize) {}

    /// The guest wrote `len` bytes at `offset`. `bytes` is the whole capability after that.
    fn written(&mut self, _bytes: &mut [u8], _offset: usize, _len: usize) {}
}
