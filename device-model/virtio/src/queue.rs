//! A queue's place in memory: as the driver describes it, and as it was checked.

use memory::{GuestRam, Window};

use crate::{Error, Result};

/// Sizes of the three parts (VIRTIO 1.3, 2.7): bytes per element, and of the fixed fields around them.
pub(crate) const DESCRIPTOR: u64 = 16;
pub(crate) const AVAILABLE_ELEMENT: u64 = 2;
pub(crate) const USED_ELEMENT: u64 = 8;
/// Flags and index before the elements; the event field after them.
pub(crate) const RING_HEADER: u64 = 4;
const RING_EVENT: u64 = 2;

/// A queue while the driver sets it up. Nothing in here is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSetup {
    /// Number of descriptors.
    pub size: u16,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring ("driver area").
    pub available: u64,
    /// Guest physical address of the used ring ("device area").
    pub used: u64,
    /// The driver enabled it.
    pub enabled: bool,
}

/// A queue that can be used: size and addresses are possible, and each of its three parts is RAM. Made by
/// [`QueueSetup::check`] only, and cannot be changed.
#[derive(Clone, Debug)]
pub struct QueueAddresses {
    pub(crate) size: u16,
    pub(crate) descriptors: Window,
    pub(crate) available: Window,
    pub(crate) used: Window,
}

impl QueueSetup {
    /// The queue, if a device with at most `max` descriptors can use it.
    ///
    /// # Errors
    /// [`Error::QueueSize`], [`Error::Misaligned`] or [`Error::NotRam`]: the rule that the driver broke.
    pub fn check(&self, max: u16, ram: &GuestRam) -> Result<QueueAddresses> {
        let Self {
            size,
            descriptors,
            available,
            used,
            ..
        } = *self;
        if !size.is_power_of_two() || size > max {
            return Err(Error::QueueSize { size, max });
        }
        let count = u64::from(size);
        let around = RING_HEADER + RING_EVENT;
        let parts = [
            ("descriptor table", descriptors, 16, DESCRIPTOR * count),
            (
                "available ring",
                available,
                2,
                around + AVAILABLE_ELEMENT * count,
            ),
            ("used ring", used, 4, around + USED_ELEMENT * count),
        ];
        let [descriptors, available, used] = parts.map(|(part, address, align, len)| {
            if address % align != 0 {
                return Err(Error::Misaligned {
                    part,
                    address,
                    align,
                });
            }
            let not_ram = |_| Error::NotRam { part, address, len };
            ram.window(address, len).map_err(not_ram)
        });
        Ok(QueueAddresses {
            size,
            descriptors: descriptors?,
            available: available?,
            used: used?,
        })
    }
}

/// Places in a queue's parts, in bytes from the start of the part.
impl QueueAddresses {
    /// In the available ring: how many chains the driver has made available.
    pub(crate) const AVAILABLE_INDEX: u64 = 2;
    /// In the used ring: how many chains the device has used.
    pub(crate) const USED_INDEX: u64 = 2;

    pub(crate) fn available_element(&self, index: u16) -> u64 {
        RING_HEADER + AVAILABLE_ELEMENT * u64::from(index % self.size)
    }

    /// In the available ring: which used chain the driver wants an interrupt for.
    pub(crate) fn used_event(&self) -> u64 {
        RING_HEADER + AVAILABLE_ELEMENT * u64::from(self.size)
    }

    pub(crate) fn used_element(&self, index: u16) -> u64 {
        RING_HEADER + USED_ELEMENT * u64::from(index % self.size)
    }

    /// In the used ring: which available chain the device wants a doorbell for.
    pub(crate) fn available_event(&self) -> u64 {
        RING_HEADER + USED_ELEMENT * u64::from(self.size)
    }
}
