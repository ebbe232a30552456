//! A driver.

use memory::GuestRam;

use super::Bench;
use crate::common::{field, status};
use crate::feature;

/// Where the driver puts its queues, one every [`QUEUE_SPACE`], and its buffers.
const QUEUES: u64 = 0x10_0000;
const QUEUE_SPACE: u64 = 0x2_0000;
const BUFFERS: u64 = 0x80_0000;
/// The place in [`QUEUE_SPACE`] of the rings; the descriptors are at its start.
const AVAILABLE: u64 = 0x1_0000;
const USED: u64 = 0x1_4000;

/// Message address and data of vector 0; others count on from there.
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
const MESSAGE_DATA: u32 = 0x40;

/// A driver of one device.
pub struct Driver<'a> {
    bench: &'a Bench,
    ecam: u64,
    common: u64,
    notify: u64,
    isr: u64,
    config: u64,
    msix: Option<(u64, u64)>,
}

impl<'a> Driver<'a> {
    /// Finds the device in `slot` and its structures.
    #[must_use]
    pub fn find(bench: &'a Bench, slot: u8) -> Self {
        let ecam = arch_ecam() + (u64::from(slot) << 15);
        let mut driver = Self {
            bench,
            ecam,
            common: 0,
            notify: 0,
            isr: 0,
            config: 0,
            msix: None,
        };
        assert_eq!(
            driver.config_read(0, 2),
            0x1af4,
            "no virtio device in slot {slot}"
        );
        driver.locate();
        driver
    }

    /// Reads the addresses of the structures again, after BARs have moved.
    pub fn locate(&mut self) {
        let mut at = self.config_read(0x34, 1);
        while at != 0 {
            let id = self.config_read(at, 1);
            if id == 9 {
                // The fields of others mean nothing here: type 5's are the driver's own.
                match self.config_read(at + 3, 1) {
                    1 => self.common = self.place(at),
                    2 => self.notify = self.place(at),
                    3 => self.isr = self.place(at),
                    4 => self.config = self.place(at),
                    _ => {}
                }
            } else if id == 0x11 {
                let table = self.config_read(at + 4, 4);
                self.msix = Some((at, self.bar(table & 7) + (table & !7)));
            }
            at = self.config_read(at + 1, 1);
        }
    }

    /// The address that the virtio capability at `at` tells.
    fn place(&self, at: u64) -> u64 {
        self.bar(self.config_read(at + 4, 1)) + self.config_read(at + 8, 4)
    }

    /// Offset of the capability with this id, and for virtio's this type.
    #[must_use]
    pub fn capability(&self, id: u64, kind: Option<u64>) -> Option<u64> {
        let mut at = self.config_read(0x34, 1);
        while at != 0 {
            let is_kind = kind.is_none_or(|kind| self.config_read(at + 3, 1) == kind);
            if self.config_read(at, 1) == id && is_kind {
                return Some(at);
            }
            at = self.config_read(at + 1, 1);
        }
        None
    }

    /// The address in a 64-bit BAR.
    #[must_use]
    pub fn bar(&self, index: u64) -> u64 {
        let low = self.config_read(0x10 + 4 * index, 4);
        let high = if low & 4 == 0 {
            0
        } else {
            self.config_read(0x14 + 4 * index, 4)
        };
        (low & !0xf) | high << 32
    }

    /// Reads configuration space.
    #[must_use]
    pub fn config_read(&self, offset: u64, len: usize) -> u64 {
        self.read(self.ecam + offset, len)
    }

    /// Writes configuration space.
    pub fn config_write(&self, offset: u64, len: usize, value: u64) {
        self.bench
            .write(self.ecam + offset, &value.to_le_bytes()[..len]);
    }

    /// Reads device memory.
    #[must_use]
    pub fn read(&self, address: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.bench.memory.read(address, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    }

    /// Reads a field of the common structure.
    #[must_use]
    pub fn common(&self, field: usize, len: usize) -> u64 {
        self.read(self.common + as_u64(field), len)
    }

    /// Writes a field of the common structure.
    pub fn set_common(&self, field: usize, len: usize, value: u64) {
        self.bench
            .write(self.common + as_u64(field), &value.to_le_bytes()[..len]);
    }

    /// Device status.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.common(field::DEVICE_STATUS, 1).to_le_bytes()[0]
    }

    /// Writes device status.
    pub fn set_status(&self, status: u8) {
        self.set_common(field::DEVICE_STATUS, 1, status.into());
    }

    /// The device asks to be reset.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.status() & status::NEEDS_RESET != 0
    }

    /// Reads and clears ISR status.
    #[must_use]
    pub fn isr(&self) -> u64 {
        self.read(self.isr, 1)
    }

    /// Reads a configuration field of the device.
    #[must_use]
    pub fn field(&self, offset: u64, len: usize) -> u64 {
        self.read(self.config + offset, len)
    }

    /// Writes configuration fields of the device: 1 to 8 bytes.
    pub fn set_field(&self, offset: u64, bytes: &[u8]) {
        self.bench.write(self.config + offset, bytes);
    }

    /// Address of the MSI-X table.
    #[must_use]
    pub fn msix_table(&self) -> u64 {
        self.msix.expect("it has MSI-X").1
    }

    /// Address of a queue's doorbell.
    #[must_use]
    pub fn doorbell(&self, queue: u16) -> u64 {
        self.notify + 4 * u64::from(queue)
    }

    /// Features that the device offers.
    #[must_use]
    pub fn offered(&self) -> u64 {
        let half = |select| {
            self.set_common(field::DEVICE_FEATURE_SELECT, 4, select);
            self.common(field::DEVICE_FEATURE, 4)
        };
        half(0) | half(1) << 32
    }

    /// Resets the device and negotiates exactly these features. Whether the device agrees.
    pub fn negotiate(&self, features: u64) -> bool {
        self.set_status(0);
        assert_eq!(self.status(), 0, "reset is over when the write is");
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.set_common(field::DRIVER_FEATURE_SELECT, 4, select);
            self.set_common(field::DRIVER_FEATURE, 4, half);
        }
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        self.status() & status::FEATURES_OK != 0
    }

    /// Turns MSI-X on: vector 0 for configuration changes, vector `n + 1` for queue `n`.
    pub fn use_msix(&self) {
        let (capability, table) = self.msix.expect("it has MSI-X");
        let count = (self.config_read(capability + 2, 2) & 0x7ff) + 1;
        // Enabled with all masked, then one by one, as Linux does.
        self.config_write(capability + 2, 2, 0xc000);
        for vector in 0..count {
            let entry = table + 16 * vector;
            self.bench.write(entry, &MESSAGE_ADDRESS.to_le_bytes()[..4]);
            self.bench.write(entry + 4, &0u32.to_le_bytes());
            let data = MESSAGE_DATA + u32::try_from(vector).expect("at most 2048");
            self.bench.write(entry + 8, &data.to_le_bytes());
            self.bench.write(entry + 12, &0u32.to_le_bytes());
        }
        self.config_write(capability + 2, 2, 0x8000);
        self.set_common(field::CONFIG_VECTOR, 2, 0);
        for queue in 0..self.common(field::NUM_QUEUES, 2) {
            self.set_common(field::QUEUE_SELECT, 2, queue);
            self.set_common(field::QUEUE_VECTOR, 2, queue + 1);
        }
    }

    /// The data of the message that a queue sends after [`Driver::use_msix`].
    #[must_use]
    pub fn queue_message(queue: u16) -> u32 {
        MESSAGE_DATA + 1 + u32::from(queue)
    }

    /// The data of the message for configuration changes.
    #[must_use]
    pub fn config_message() -> u32 {
        MESSAGE_DATA
    }

    /// Sets a queue up with `size` descriptors, and enables it.
    #[must_use]
    pub fn queue(&self, index: u16, size: u16) -> DriverQueue {
        let queue = DriverQueue::new(self.bench.ram.clone(), index, size);
        self.set_common(field::QUEUE_SELECT, 2, index.into());
        self.set_common(field::QUEUE_SIZE, 2, size.into());
        for (field, address) in [
            (field::QUEUE_DESC, queue.base),
            (field::QUEUE_DRIVER, queue.base + AVAILABLE),
            (field::QUEUE_DEVICE, queue.base + USED),
        ] {
            self.set_common(field, 4, address & 0xffff_ffff);
            self.set_common(field + 4, 4, address >> 32);
        }
        self.set_common(field::QUEUE_ENABLE, 2, 1);
        queue
    }

    /// Sets `DRIVER_OK`.
    pub fn go(&self) {
        self.set_status(self.status() | status::DRIVER_OK);
    }

    /// Does all of it: negotiates what is offered of `features`, turns MSI-X on, sets up all queues with their
    /// largest size, and goes.
    #[must_use]
    pub fn start(&self, features: u64) -> Vec<DriverQueue> {
        assert!(self.negotiate(self.offered() & (features | feature::VERSION_1)));
        self.use_msix();
        let queues = (0..self.common(field::NUM_QUEUES, 2))
            .map(|index| {
                self.set_common(field::QUEUE_SELECT, 2, index);
                let size = self.common(field::QUEUE_SIZE, 2);
                let narrow = |value| u16::try_from(value).expect("a 16-bit field");
                self.queue(narrow(index), narrow(size))
            })
            .collect();
        self.go();
        queues
    }

    /// Rings a queue's doorbell.
    pub fn kick(&self, queue: u16) {
        self.bench.write(self.doorbell(queue), &queue.to_le_bytes());
    }
}

fn arch_ecam() -> u64 {
    0xe800_0000
}

fn as_u64(field: usize) -> u64 {
    u64::try_from(field).expect("a small number")
}

/// One descriptor of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// These bytes are for the device to read.
    Read(&'a [u8]),
    /// So many bytes are for the device to write.
    Write(u32),
}

/// The driver's side of a queue. Descriptors are not used twice until they run out.
pub struct DriverQueue {
    ram: GuestRam,
    /// Index in the device.
    pub index: u16,
    /// Number of descriptors.
    pub size: u16,
    base: u64,
    next_descriptor: u16,
    next_buffer: u64,
    available: u16,
    seen: u16,
}

impl DriverQueue {
    /// A queue in RAM that is all zeros there.
    #[must_use]
    pub fn new(ram: GuestRam, index: u16, size: u16) -> Self {
        let base = QUEUES + QUEUE_SPACE * u64::from(index);
        ram.write_zeros(base, QUEUE_SPACE).expect("RAM");
        let next_buffer = BUFFERS + 0x10_0000 * u64::from(index);
        Self {
            ram,
            index,
            size,
            base,
            next_descriptor: 0,
            next_buffer,
            available: 0,
            seen: 0,
        }
    }

    /// Guest physical addresses of descriptor table, available ring and used ring.
    #[must_use]
    pub fn addresses(&self) -> [u64; 3] {
        [self.base, self.base + AVAILABLE, self.base + USED]
    }

    /// Writes one descriptor.
    pub fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.describe_at(self.base, index, address, len, flags, next);
    }

    /// Writes one descriptor of the table at `table`.
    pub fn describe_at(
        &self,
        table: u64,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let at = table + 16 * u64::from(index);
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Makes the chain that begins with `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        self.put(self.base + AVAILABLE + 4 + 2 * slot, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.put(self.base + AVAILABLE + 2, &self.available.to_le_bytes());
    }

    /// Writes the available index.
    pub fn set_available(&mut self, index: u16) {
        self.available = index;
        self.put(self.base + AVAILABLE + 2, &index.to_le_bytes());
    }

    /// Makes a chain of these parts available. Gives the addresses of the parts.
    pub fn add(&mut self, parts: &[Part<'_>]) -> Vec<u64> {
        let head = self.next_descriptor % self.size;
        let mut addresses = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let index = self.next_descriptor % self.size;
            self.next_descriptor = (index + 1) % self.size;
            let more = u16::from(number + 1 < parts.len());
            let address = self.next_buffer;
            let (len, flags) = match part {
                Part::Read(bytes) => {
                    self.put(address, bytes);
                    (u32::try_from(bytes.len()).expect("a small buffer"), more)
                }
                Part::Write(len) => (*len, more | 2),
            };
            self.next_buffer += u64::from(len).next_multiple_of(16);
            self.describe(index, address, len, flags, self.next_descriptor);
            addresses.push(address);
        }
        self.offer(head);
        addresses
    }

    /// Chains that the device has used since the last call: head and length.
    #[must_use]
    pub fn used(&mut self) -> Vec<(u32, u32)> {
        let mut used = Vec::new();
        while self.seen != self.used_index() {
            let at = self.base + USED + 4 + 8 * u64::from(self.seen % self.size);
            used.push((self.get32(at), self.get32(at + 4)));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }

    /// The device's used index.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.get16(self.base + USED + 2)
    }

    /// Used ring flags.
    #[must_use]
    pub fn used_flags(&self) -> u16 {
        self.get16(self.base + USED)
    }

    /// For which available index the device wants a doorbell.
    #[must_use]
    pub fn available_event(&self) -> u16 {
        self.get16(self.base + USED + 4 + 8 * u64::from(self.size))
    }

    /// Writes available ring flags.
    pub fn set_available_flags(&self, flags: u16) {
        self.put(self.base + AVAILABLE, &flags.to_le_bytes());
    }

    /// Says for which used index the driver wants an interrupt.
    pub fn set_used_event(&self, index: u16) {
        self.put(
            self.base + AVAILABLE + 4 + 2 * u64::from(self.size),
            &index.to_le_bytes(),
        );
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read(address, &mut bytes).expect("RAM");
        bytes
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.ram.write(address, bytes).expect("RAM");
    }

    fn get16(&self, address: u64) -> u16 {
        let mut bytes = [0; 2];
        self.ram.read(address, &mut bytes).expect("RAM");
        u16::from_le_bytes(bytes)
    }

    fn get32(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.ram.read(address, &mut bytes).expect("RAM");
        u32::from_le_bytes(bytes)
    }
}
