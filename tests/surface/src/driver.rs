//! A driver that knows the rules, so that what comes after it gets far.

use crate::Rig;

/// Size of the part of memory that each queue has.
const QUEUE_SPACE: u64 = 0x1_0000;
/// Where queues begin, behind the arena of the attack.
const QUEUES: u64 = 0x100_0000;
/// Descriptors of each queue at most.
const DESCRIPTORS: u16 = 64;

/// Offsets in the common configuration structure (VIRTIO 1.3, 4.1.4.3).
const DEVICE_FEATURE_SELECT: u64 = 0;
const DEVICE_FEATURE: u64 = 4;
const DRIVER_FEATURE_SELECT: u64 = 8;
const DRIVER_FEATURE: u64 = 12;
const NUM_QUEUES: u64 = 18;
const STATUS: u64 = 20;
const QUEUE_SELECT: u64 = 22;
const QUEUE_SIZE: u64 = 24;
const QUEUE_ENABLE: u64 = 28;
const QUEUE_DESC: u64 = 32;
const QUEUE_RESET: u64 = 58;
/// Where the doorbells are, and the bytes between two of them.
const NOTIFY: u64 = 0x6000;
const NOTIFY_STEP: u64 = 4;

/// The virtio device in one slot, and the queues set up for it.
#[derive(Debug)]
pub struct Driver<'a> {
    rig: &'a Rig,
    ecam: u64,
    /// Queues of the device.
    pub queues: u16,
    /// How many chains were made available in each queue.
    available: Vec<u16>,
}

impl<'a> Driver<'a> {
    /// The device in `slot`; `None` if it is not virtio's.
    #[must_use]
    pub fn find(rig: &'a Rig, slot: u8) -> Option<Self> {
        let segment = rig.pci().segment(0).ok()?;
        let mut driver = Self {
            rig,
            ecam: segment.ecam() + (u64::from(slot) << 15),
            queues: 0,
            available: Vec::new(),
        };
        (driver.config(0) & 0xffff == 0x1af4).then_some(())?;
        driver.queues = u16::try_from(driver.read(NUM_QUEUES, 2)).ok()?;
        driver.available = vec![0; driver.queues.into()];
        Some(driver)
    }

    /// Reads 32 bits of configuration space.
    #[must_use]
    pub fn config(&self, offset: u64) -> u32 {
        let mut bytes = [0xff; 4];
        self.rig.board().mmio().read(self.ecam + offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes configuration space.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        self.rig.board().mmio().write(self.ecam + offset, data);
    }

    /// Address of BAR 0.
    #[must_use]
    pub fn bar(&self) -> u64 {
        let low = self.config(0x10);
        let high = if low & 4 == 0 { 0 } else { self.config(0x14) };
        u64::from(low & !0xf) | u64::from(high) << 32
    }

    /// Reads device registers.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.rig
            .board()
            .mmio()
            .read(self.bar() + offset, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    }

    /// Writes device registers.
    pub fn write(&self, offset: u64, len: usize, value: u64) {
        let bytes = value.to_le_bytes();
        self.rig
            .board()
            .mmio()
            .write(self.bar() + offset, &bytes[..len]);
    }

    /// Resets the device, agrees on the features in `mask`, sets up all queues and says that the driver is ready.
    pub fn begin(&mut self, mask: u64) {
        self.write(STATUS, 1, 0);
        self.write(STATUS, 1, 3);
        for half in 0..2 {
            self.write(DEVICE_FEATURE_SELECT, 4, half);
            let offered = self.read(DEVICE_FEATURE, 4);
            // VERSION_1 is not for choice.
            let needed = if half == 1 { 1 } else { 0 };
            self.write(DRIVER_FEATURE_SELECT, 4, half);
            let wanted = (mask >> (32 * half)) & 0xffff_ffff | needed;
            self.write(DRIVER_FEATURE, 4, offered & wanted);
        }
        self.write(STATUS, 1, 11);
        for queue in 0..self.queues {
            self.set_up(queue);
        }
        self.write(STATUS, 1, 15);
    }

    fn set_up(&mut self, queue: u16) {
        self.write(QUEUE_SELECT, 2, queue.into());
        let size = self.read(QUEUE_SIZE, 2).min(DESCRIPTORS.into());
        self.write(QUEUE_SIZE, 2, size);
        let start = Self::start_of(queue);
        for (index, offset) in [0, 0x4000, 0x8000].into_iter().enumerate() {
            let field = QUEUE_DESC + 8 * u64::try_from(index).unwrap_or(0);
            self.write(field, 4, start + offset);
            self.write(field + 4, 4, 0);
        }
        self.rig
            .ram()
            .write_zeros(start, QUEUE_SPACE)
            .expect("it is RAM");
        self.available[usize::from(queue)] = 0;
        self.write(QUEUE_ENABLE, 2, 1);
    }

    fn start_of(queue: u16) -> u64 {
        // More queues than fit share their places: they are not meant to work then.
        QUEUES + QUEUE_SPACE * u64::from(queue % 256)
    }

    /// Takes a queue out of service and back in.
    pub fn reset_queue(&mut self, queue: u16) {
        if self.queues > 0 {
            let queue = queue % self.queues;
            self.write(QUEUE_SELECT, 2, queue.into());
            self.write(QUEUE_RESET, 2, 1);
            self.set_up(queue);
        }
    }

    /// Writes a descriptor of a queue.
    pub fn describe(&self, queue: u16, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        if self.queues == 0 {
            return;
        }
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let at = Self::start_of(queue % self.queues) + 16 * u64::from(index % DESCRIPTORS);
        self.rig.ram().write(at, &bytes).expect("it is RAM");
    }

    /// Makes a chain available and rings.
    pub fn offer(&mut self, queue: u16, head: u16) {
        if self.queues == 0 {
            return;
        }
        let queue = queue % self.queues;
        let start = Self::start_of(queue) + 0x4000;
        let index = &mut self.available[usize::from(queue)];
        let element = start + 4 + 2 * u64::from(*index % DESCRIPTORS);
        *index = index.wrapping_add(1);
        let ram = self.rig.ram();
        ram.write(element, &head.to_le_bytes()).expect("it is RAM");
        ram.write(start + 2, &index.to_le_bytes())
            .expect("it is RAM");
        self.ring(queue);
    }

    /// Rings a doorbell. There are no processors, so that the kernel does not answer it.
    pub fn ring(&self, queue: u16) {
        self.write(NOTIFY + NOTIFY_STEP * u64::from(queue), 2, queue.into());
    }
}
