//! A virtio device's state at rest. These types are for nothing else.

use device::Saved;
use pci::EndpointState;
use serde::{Deserialize, Serialize};

/// Version of [`OverPciState`].
pub(crate) const VERSION: u32 = 1;

/// A device with its transport, version 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OverPciState {
    /// Configuration space, BARs and MSI-X.
    pub(crate) function: EndpointState,
    /// What driver and device agreed on.
    pub(crate) transport: TransportState,
    /// The device's own.
    pub(crate) device: Saved,
}

/// What a driver has told the transport.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransportState {
    /// Device status, without `DEVICE_NEEDS_RESET`.
    pub(crate) status: u8,
    /// Features that the driver wrote.
    pub(crate) driver_features: u64,
    /// Which half of the device's features is shown.
    pub(crate) device_feature_select: u32,
    /// Which half of the driver's features is written.
    pub(crate) driver_feature_select: u32,
    /// Which queue's fields are shown.
    pub(crate) queue_select: u16,
    /// Vector for configuration changes; 0xffff for none.
    pub(crate) config_vector: u16,
    /// ISR status.
    pub(crate) isr: u8,
    /// Generation of the configuration fields.
    pub(crate) generation: u8,
    /// The driver broke a rule.
    pub(crate) needs_reset: bool,
    /// The queues, by index.
    pub(crate) queues: Vec<QueueState>,
}

/// A queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QueueState {
    /// Number of descriptors.
    pub(crate) size: u16,
    /// Descriptor table.
    pub(crate) descriptors: u64,
    /// Available ring.
    pub(crate) available: u64,
    /// Used ring.
    pub(crate) used: u64,
    /// The driver enabled it.
    pub(crate) enabled: bool,
    /// Vector for used buffers; 0xffff for none.
    pub(crate) vector: u16,
    /// Position in the available ring.
    pub(crate) next_available: u16,
    /// Position in the used ring.
    pub(crate) next_used: u16,
}
