//! A machine's state at rest: types that exist only to be stored.

use arch::CpuidEntry;
use device::Saved;
use hypervisor::{ClockState, VcpuState};
use serde::{Deserialize, Serialize};

/// All of a machine but its configuration and what is in its RAM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachineState {
    /// Devices that come while the machine runs are named from this number on.
    pub(crate) number: u64,
    /// The paravirtual clock at the moment at which the processors were saved.
    pub(crate) clock: ClockState,
    /// What the source's hypervisor could give to processors: their features follow from it and the configuration.
    pub(crate) features: Vec<CpuidEntry>,
    /// Processors, in order.
    pub(crate) vcpus: Vec<VcpuState>,
    /// Devices, in the order of their creation.
    pub(crate) devices: Vec<DeviceState>,
    /// RAM in the memory file, lowest address first.
    pub(crate) memory: Vec<MemoryState>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeviceState {
    /// Its id.
    pub(crate) id: String,
    /// Its address on PCI, as `0000:00:03.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pci: Option<String>,
    /// What it says of itself.
    pub(crate) saved: Saved,
}

/// A range of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryState {
    /// First guest address.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Offset in the memory file.
    pub(crate) offset: u64,
}
