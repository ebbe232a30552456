//! The driver's side of a split virtqueue (VIRTIO 1.3, 2.7), and ways to break it.

use super::feature;
use crate::machine::{PATIENCE, wait_for};
use crate::memory::{barrier, read16, read32, take, write16, write32, write64};

/// Descriptor flags (VIRTIO 1.3, 2.7.5).
pub(crate) const DESCRIPTOR_NEXT: u16 = 1;
pub(crate) const DESCRIPTOR_WRITE: u16 = 2;
pub(crate) const DESCRIPTOR_INDIRECT: u16 = 4;

/// Flags of the rings: no interrupts please, no doorbells please.
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// A buffer of a chain.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Guest physical address.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) len: u32,
    /// The device writes it.
    pub(crate) write: bool,
}

impl Part {
    /// For the device to read.
    pub(crate) const fn read(address: u64, len: u32) -> Self {
        Self {
            address,
            len,
            write: false,
        }
    }

    /// For the device to write.
    pub(crate) const fn write(address: u64, len: u32) -> Self {
        Self {
            address,
            len,
            write: true,
        }
    }
}

/// A queue. Its free descriptors are a list in the table itself.
pub(crate) struct Queue {
    /// Index in the device.
    pub(crate) index: u16,
    /// Number of descriptors.
    pub(crate) size: u16,
    table: u64,
    available: u64,
    used: u64,
    doorbell: u64,
    event_index: bool,
    free: u16,
    free_count: u16,
    /// Chains made available and chains seen as used, counted without end.
    offered: u16,
    seen: u16,
    /// `offered` when the device was last told.
    told: u16,
}

impl Queue {
    /// A queue in fresh memory.
    pub(crate) fn new(index: u16, size: u16, doorbell: u64, features: u64) -> Self {
        let count = u64::from(size);
        let queue = Self {
            index,
            size,
            table: take(16 * count, 4096),
            available: take(6 + 2 * count, 4096),
            used: take(6 + 8 * count, 4096),
            doorbell,
            event_index: features & feature::EVENT_IDX != 0,
            free: 0,
            free_count: size,
            offered: 0,
            seen: 0,
            told: 0,
        };
        for index in 0..size {
            queue.describe(index, 0, 0, 0, index.wrapping_add(1));
        }
        write16(queue.available, NO_INTERRUPT);
        queue.want_no_interrupts();
        queue
    }

    /// Addresses of descriptor table, available ring, used ring.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        [self.table, self.available, self.used]
    }

    /// Descriptors that are free.
    pub(crate) fn room(&self) -> u16 {
        self.free_count
    }

    /// The descriptor that the next chain begins with, if one is free.
    pub(crate) fn next(&self) -> u16 {
        self.free
    }

    /// Writes one descriptor.
    pub(crate) fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        describe(self.table, index, address, len, flags, next);
    }

    /// Makes a chain available, if there are descriptors for it. Gives its head.
    pub(crate) fn add(&mut self, parts: &[Part]) -> Option<u16> {
        if usize::from(self.free_count) < parts.len() || parts.is_empty() {
            return None;
        }
        let head = self.free;
        let mut at = head;
        for (number, part) in parts.iter().enumerate() {
            let next = read16(self.table + 16 * u64::from(at) + 14);
            let mut flags = if part.write { DESCRIPTOR_WRITE } else { 0 };
            if number + 1 < parts.len() {
                flags |= DESCRIPTOR_NEXT;
            }
            self.describe(at, part.address, part.len, flags, next);
            at = next;
        }
        self.free = at;
        self.free_count -= parts.len() as u16;
        self.offer(head);
        Some(head)
    }

    /// Makes the chain that begins with `head` available, whatever it is.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.offered % self.size);
        write16(self.available + 4 + 2 * slot, head);
        barrier();
        self.set_offered(self.offered.wrapping_add(1));
    }

    /// Writes the available ring's index.
    pub(crate) fn set_offered(&mut self, index: u16) {
        self.offered = index;
        write16(self.available + 2, index);
    }

    /// Rings, wanted or not.
    pub(crate) fn ring(&mut self) {
        barrier();
        write16(self.doorbell, self.index);
        self.told = self.offered;
    }

    /// Rings if the device wants to be told (VIRTIO 1.3, 2.7.13.4). Whether it did.
    pub(crate) fn notify(&mut self) -> bool {
        barrier();
        let wanted = if self.event_index {
            let event = read16(self.used + 4 + 8 * u64::from(self.size));
            let new = self.offered.wrapping_sub(event).wrapping_sub(1);
            new < self.offered.wrapping_sub(self.told)
        } else {
            read16(self.used) & NO_NOTIFY == 0
        };
        if wanted {
            self.ring();
        }
        self.told = self.offered;
        wanted
    }

    /// The next used chain: its head, and how much was written to it.
    pub(crate) fn poll(&mut self) -> Option<(u16, u32)> {
        if read16(self.used + 2) == self.seen {
            return None;
        }
        barrier();
        let element = self.used + 4 + 8 * u64::from(self.seen % self.size);
        let (head, written) = (read32(element) as u16, read32(element + 4));
        self.seen = self.seen.wrapping_add(1);
        self.want_no_interrupts();
        self.release(head);
        Some((head, written))
    }

    /// Waits for the next used chain, for some seconds.
    pub(crate) fn wait(&mut self) -> Option<(u16, u32)> {
        wait_for(PATIENCE, || self.poll())
    }

    /// With the event index, an interrupt is wanted for a chain that is far away.
    fn want_no_interrupts(&self) {
        if self.event_index {
            let event = self.available + 4 + 2 * u64::from(self.size);
            write16(event, self.seen.wrapping_sub(1));
        }
    }

    fn release(&mut self, head: u16) {
        if head >= self.size {
            fail!("queue {}: used chain {head} of {}", self.index, self.size);
            return;
        }
        let mut last = head;
        let mut count = 1;
        while read16(self.table + 16 * u64::from(last) + 12) & DESCRIPTOR_NEXT != 0
            && count < self.size
        {
            last = read16(self.table + 16 * u64::from(last) + 14) % self.size;
            count += 1;
        }
        write16(self.table + 16 * u64::from(last) + 14, self.free);
        self.free = head;
        self.free_count += count;
    }
}

/// Writes one descriptor of any table.
pub(crate) fn describe(table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
    let at = table + 16 * u64::from(index);
    write64(at, address);
    write32(at + 8, len);
    write16(at + 12, flags);
    write16(at + 14, next);
}
