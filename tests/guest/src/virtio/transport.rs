//! The structures of a virtio device on PCI (VIRTIO 1.3, 4.1.4).

use super::{Queue, feature};
use crate::machine::{PATIENCE, wait_for};
use crate::memory::{self, map};
use crate::pci::{self, Function};

/// Vendor of virtio devices, and the device id of type 0 (VIRTIO 1.3, 4.1.2).
const VENDOR: u64 = 0x1af4;
const FIRST_ID: u64 = 0x1040;

/// Offsets in the common configuration structure (VIRTIO 1.3, 4.1.4.3).
pub(crate) mod field {
    pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0;
    pub(crate) const DEVICE_FEATURE: u64 = 4;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 8;
    pub(crate) const DRIVER_FEATURE: u64 = 12;
    pub(crate) const CONFIG_VECTOR: u64 = 16;
    pub(crate) const NUM_QUEUES: u64 = 18;
    pub(crate) const DEVICE_STATUS: u64 = 20;
    pub(crate) const QUEUE_SELECT: u64 = 22;
    pub(crate) const QUEUE_SIZE: u64 = 24;
    pub(crate) const QUEUE_VECTOR: u64 = 26;
    pub(crate) const QUEUE_ENABLE: u64 = 28;
    pub(crate) const QUEUE_NOTIFY_OFF: u64 = 30;
    pub(crate) const QUEUE_DESC: u64 = 32;
    pub(crate) const QUEUE_DRIVER: u64 = 40;
    pub(crate) const QUEUE_DEVICE: u64 = 48;
    pub(crate) const QUEUE_RESET: u64 = 58;
}

/// Device status bits (VIRTIO 1.3, 2.1).
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u64 = 1;
    pub(crate) const DRIVER: u64 = 2;
    pub(crate) const DRIVER_OK: u64 = 4;
    pub(crate) const FEATURES_OK: u64 = 8;
    pub(crate) const NEEDS_RESET: u64 = 64;
}

/// A virtio device.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    /// Its place on PCI.
    pub(crate) function: Function,
    /// Its type.
    pub(crate) kind: u16,
    /// Address of the common structure.
    pub(crate) common: u64,
    /// Address of the notification area, and bytes between doorbells.
    pub(crate) notify: u64,
    pub(crate) multiplier: u64,
    /// Address of the interrupt status.
    pub(crate) isr: u64,
    /// Address of the device's own fields.
    pub(crate) config: u64,
}

impl Device {
    /// All of them, in the order of their slots.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        pci::functions().filter_map(Self::at)
    }

    /// The first of this type.
    pub(crate) fn find(kind: u16) -> Option<Self> {
        Self::all().find(|device| device.kind == kind)
    }

    /// The device in this slot, if it is a virtio device.
    pub(crate) fn at(function: Function) -> Option<Self> {
        let (vendor, id) = function.ids();
        if vendor != VENDOR || id < FIRST_ID {
            return None;
        }
        let mut device = Self {
            function,
            kind: (id - FIRST_ID) as u16,
            common: 0,
            notify: 0,
            multiplier: 0,
            isr: 0,
            config: 0,
        };
        function.enable();
        device.locate();
        Some(device)
    }

    /// Reads where its structures are; again after BARs have moved.
    pub(crate) fn locate(&mut self) {
        for (at, id) in self.function.capabilities() {
            if id != pci::VENDOR {
                continue;
            }
            let place = || {
                let bar = self.function.bar_address(self.function.read(at + 4, 1));
                let (offset, len) = (
                    self.function.read(at + 8, 4),
                    self.function.read(at + 12, 4),
                );
                map(bar + offset, len.min(1 << 20));
                bar + offset
            };
            match self.function.read(at + 3, 1) {
                1 => self.common = place(),
                2 => {
                    self.notify = place();
                    self.multiplier = self.function.read(at + 16, 4);
                }
                3 => self.isr = place(),
                4 => self.config = place(),
                _ => {}
            }
        }
    }

    /// Offset of the capability for access through configuration space (VIRTIO 1.3, 4.1.4.9).
    pub(crate) fn config_access(&self) -> Option<u64> {
        let mut all = self.function.capabilities();
        let found = all.find(|(at, id)| *id == pci::VENDOR && self.function.read(at + 3, 1) == 5);
        found.map(|(at, _)| at)
    }

    /// Reads a field of the common structure.
    pub(crate) fn get(&self, field: u64, width: u64) -> u64 {
        memory::read(self.common + field, width)
    }

    /// Writes a field of the common structure.
    pub(crate) fn set(&self, field: u64, width: u64, value: u64) {
        memory::write(self.common + field, width, value);
    }

    /// Device status.
    pub(crate) fn status(&self) -> u64 {
        self.get(field::DEVICE_STATUS, 1)
    }

    /// Writes device status.
    pub(crate) fn set_status(&self, value: u64) {
        self.set(field::DEVICE_STATUS, 1, value);
    }

    /// Waits until the device asks to be reset. Whether it does.
    pub(crate) fn comes_to_need_reset(&self) -> bool {
        let asks = || (self.status() & status::NEEDS_RESET != 0).then_some(());
        wait_for(PATIENCE, asks).is_some()
    }

    /// Features that it offers.
    pub(crate) fn offered(&self) -> u64 {
        let half = |select| {
            self.set(field::DEVICE_FEATURE_SELECT, 4, select);
            self.get(field::DEVICE_FEATURE, 4)
        };
        half(0) | half(1) << 32
    }

    /// Number of queues.
    pub(crate) fn queues(&self) -> u16 {
        self.get(field::NUM_QUEUES, 2) as u16
    }

    /// Largest size of a queue.
    pub(crate) fn queue_size(&self, index: u16) -> u16 {
        self.set(field::QUEUE_SELECT, 2, index.into());
        self.get(field::QUEUE_SIZE, 2) as u16
    }

    /// Resets it and waits until it says that it is.
    pub(crate) fn reset(&self) {
        self.set_status(0);
        let is_reset = || (self.status() == 0).then_some(());
        expect!(
            wait_for(PATIENCE, is_reset).is_some(),
            "a reset of {} does not end",
            self.kind
        );
    }

    /// Resets it and negotiates exactly these features. Whether it agrees.
    pub(crate) fn negotiate(&self, features: u64) -> bool {
        self.reset();
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.set(field::DRIVER_FEATURE_SELECT, 4, select);
            self.set(field::DRIVER_FEATURE, 4, half);
        }
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        self.status() & status::FEATURES_OK != 0
    }

    /// Negotiates what is offered of `features`, and what it cannot do without. Gives what was agreed on.
    pub(crate) fn agree(&self, features: u64) -> u64 {
        let offered = self.offered();
        let wanted = offered & (features | feature::VERSION_1 | feature::ACCESS_PLATFORM);
        expect!(
            self.negotiate(wanted),
            "device type {} does not agree to {wanted:#x}",
            self.kind
        );
        wanted
    }

    /// Sets `DRIVER_OK`.
    pub(crate) fn go(&self) {
        self.set_status(self.status() | status::DRIVER_OK);
    }

    /// Address of a queue's doorbell.
    pub(crate) fn doorbell(&self, index: u16) -> u64 {
        self.set(field::QUEUE_SELECT, 2, index.into());
        self.notify + self.get(field::QUEUE_NOTIFY_OFF, 2) * self.multiplier
    }

    /// Tells the selected queue's addresses, 4 bytes at a time.
    pub(crate) fn set_addresses(&self, addresses: [u64; 3]) {
        let fields = [field::QUEUE_DESC, field::QUEUE_DRIVER, field::QUEUE_DEVICE];
        for (field, address) in fields.into_iter().zip(addresses) {
            self.set(field, 4, address & 0xffff_ffff);
            self.set(field + 4, 4, address >> 32);
        }
    }

    /// Sets a queue up with `size` descriptors at most, without interrupts, and enables it.
    pub(crate) fn queue(&self, index: u16, size: u16, features: u64) -> Queue {
        let size = self.queue_size(index).min(size);
        let queue = Queue::new(index, size, self.doorbell(index), features);
        self.set(field::QUEUE_SELECT, 2, index.into());
        self.set(field::QUEUE_SIZE, 2, size.into());
        self.set(field::QUEUE_VECTOR, 2, 0xffff);
        self.set_addresses(queue.addresses());
        self.set(field::QUEUE_ENABLE, 2, 1);
        queue
    }
}
