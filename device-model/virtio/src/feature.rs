//! Feature bits that do not belong to one type of device (VIRTIO 1.3, chapter 6), as masks.

/// A descriptor can point to a table of descriptors (`VIRTIO_F_INDIRECT_DESC`).
pub const INDIRECT_DESC: u64 = 1 << 28;
/// Doorbells and interrupts are suppressed by index (`VIRTIO_F_EVENT_IDX`).
pub const EVENT_IDX: u64 = 1 << 29;
/// The device speaks VIRTIO 1 (`VIRTIO_F_VERSION_1`). Every device here does, and speaks nothing older.
pub const VERSION_1: u64 = 1 << 32;
/// The device's view of memory is the platform's: addresses go through an IOMMU, if there is one
/// (`VIRTIO_F_ACCESS_PLATFORM`).
pub const ACCESS_PLATFORM: u64 = 1 << 33;
/// The device uses buffers in the order in which they were made available (`VIRTIO_F_IN_ORDER`).
pub const IN_ORDER: u64 = 1 << 35;
/// Queues can be reset one by one (`VIRTIO_F_RING_RESET`).
pub const RING_RESET: u64 = 1 << 40;
