//! What is where in BAR 0, and the capabilities that say so (VIRTIO 1.3, 4.1.4).

use device::{Shared, Target};
use pci::{Capability, CapabilityId, EndpointBuilder};

use crate::Result;
use crate::VirtioDevice;
use crate::registers::Registers;

/// Size of BAR 0.
pub(crate) const BAR_SIZE: u64 = 0x8_0000;
/// What its first address is a multiple of, above 4 GiB.
pub(crate) const BAR_ALIGN: u64 = 0x80_0000;

/// A structure's place in BAR 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

pub(crate) const COMMON: Place = Place { offset: 0, len: 56 };
/// With the fields that `RING_RESET` needs.
pub(crate) const COMMON_LONG: Place = Place { offset: 0, len: 64 };
pub(crate) const ISR: Place = Place {
    offset: 0x2000,
    len: 1,
};
pub(crate) const DEVICE: Place = Place {
    offset: 0x4000,
    len: 0x1000,
};
pub(crate) const NOTIFY: Place = Place {
    offset: 0x6000,
    len: 0x1000,
};
pub(crate) const MSIX_TABLE: Place = Place {
    offset: 0x8000,
    len: 0x4_0000,
};
pub(crate) const MSIX_PENDING: Place = Place {
    offset: 0x4_8000,
    len: 0x800,
};
/// Bytes between the doorbells of two queues.
pub(crate) const NOTIFY_MULTIPLIER: u64 = 4;
/// The most queues: each has its doorbell.
pub(crate) const MAX_QUEUES: usize = (NOTIFY.len / NOTIFY_MULTIPLIER) as usize;

impl Place {
    /// Offset in the structure of an access of `len` bytes that is inside of it.
    pub(crate) fn within(&self, offset: u64, len: usize) -> Option<u64> {
        let relative = offset.checked_sub(self.offset)?;
        let end = relative.checked_add(u64::try_from(len).ok()?)?;
        (end <= self.len).then_some(relative)
    }
}

/// Structure types (VIRTIO 1.3, 4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// The body of `struct virtio_pci_cap`, after its two header bytes, with `more` after it.
fn capability(kind: u8, place: Place, more: &[u8]) -> Vec<u8> {
    let len = 16 + u8::try_from(more.len()).unwrap_or(0);
    let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    // Length, type, BAR, id, padding.
    let mut body = vec![len, kind, 0, 0, 0, 0];
    body.extend(word(place.offset));
    body.extend(word(place.len));
    body.extend(more);
    body
}

/// Adds the virtio capabilities. `long` is for devices that offer `RING_RESET`.
pub(crate) fn add_capabilities<D: VirtioDevice>(
    function: &mut EndpointBuilder<'_>,
    long: bool,
    registers: Shared<Registers<D>>,
) -> Result<()> {
    let common = if long { COMMON_LONG } else { COMMON };
    let multiplier = u32::try_from(NOTIFY_MULTIPLIER).unwrap_or(0).to_le_bytes();
    for (kind, place, more) in [
        (COMMON_CFG, common, &[][..]),
        (ISR_CFG, ISR, &[]),
        (DEVICE_CFG, DEVICE, &[]),
        (NOTIFY_CFG, NOTIFY, &multiplier),
    ] {
        function.capability(CapabilityId::Vendor, &capability(kind, place, more), &[])?;
    }
    let nowhere = Place { offset: 0, len: 0 };
    let body = capability(PCI_CFG, nowhere, &[0; 4]);
    // BAR, offset, length and data can be written; length, type, id and padding cannot.
    let mut writable = vec![0xff; body.len()];
    writable[..6].copy_from_slice(&[0, 0, 0xff, 0, 0, 0]);
    let access = PciAccess(registers);
    function.active_capability(CapabilityId::Vendor, &body, &writable, access)?;
    Ok(())
}

/// Access to BAR 0 through configuration space (VIRTIO 1.3, 4.1.4.9), for firmware that has not mapped it.
struct PciAccess<D>(Shared<Registers<D>>);

/// Offsets of its fields in the capability.
const ACCESS_BAR: usize = 4;
const ACCESS_OFFSET: usize = 8;
const ACCESS_LENGTH: usize = 12;
const ACCESS_DATA: usize = 16;

impl<D: VirtioDevice> PciAccess<D> {
    /// What the capability's fields select, if an access of `len` bytes at `offset` of it touches the data.
    fn selected(bytes: &[u8], offset: usize, len: usize) -> Option<(u64, usize)> {
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let (start, count) = (word(ACCESS_OFFSET)?, word(ACCESS_LENGTH)?);
        let touches = offset < ACCESS_DATA + 4 && offset + len > ACCESS_DATA;
        let possible = bytes.get(ACCESS_BAR) == Some(&0)
            && matches!(count, 1 | 2 | 4)
            && start % count == 0
            && u64::from(start) + u64::from(count) <= BAR_SIZE;
        (touches && possible).then_some((start.into(), usize::try_from(count).ok()?))
    }
}

impl<D: VirtioDevice> Capability for PciAccess<D> {
    fn reading(&mut self, bytes: &mut [u8], offset: usize, len: usize) {
        if let Some((start, count)) = Self::selected(bytes, offset, len) {
            let data = &mut bytes[ACCESS_DATA..ACCESS_DATA + count];
            data.fill(0xff);
            self.0.lock().read(start, data);
        }
    }

    fn written(&mut self, bytes: &mut [u8], offset: usize, len: usize) {
        if let Some((start, count)) = Self::selected(bytes, offset, len) {
            self.0
                .lock()
                .write(start, &bytes[ACCESS_DATA..ACCESS_DATA + count]);
        }
    }
}
