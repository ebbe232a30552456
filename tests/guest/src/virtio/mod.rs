//! A driver of virtio devices on PCI (VIRTIO 1.3, 4.1), without interrupts.

mod queue;
mod transport;

pub(crate) use queue::{
    DESCRIPTOR_INDIRECT, DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Part, Queue, describe,
};
pub(crate) use transport::{Device, field, status};

/// Device types (VIRTIO 1.3, 5).
pub(crate) mod kind {
    pub(crate) const NET: u16 = 1;
    pub(crate) const BLOCK: u16 = 2;
    pub(crate) const CONSOLE: u16 = 3;
    pub(crate) const ENTROPY: u16 = 4;
    pub(crate) const BALLOON: u16 = 5;
    pub(crate) const CLOCK: u16 = 17;
    pub(crate) const VSOCK: u16 = 19;
    pub(crate) const PMEM: u16 = 27;
    pub(crate) const WATCHDOG: u16 = 35;
}

/// Feature bits that every type has (VIRTIO 1.3, 6), as masks.
pub(crate) mod feature {
    pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
    pub(crate) const EVENT_IDX: u64 = 1 << 29;
    pub(crate) const VERSION_1: u64 = 1 << 32;
    pub(crate) const ACCESS_PLATFORM: u64 = 1 << 33;
    pub(crate) const RING_RESET: u64 = 1 << 40;
}
