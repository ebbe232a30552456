//! The block device (VIRTIO 1.3, 5.2).

use crate::machine::ticks;
use crate::memory::{bytes, fill, read8, take, write8, write32, write64};
use crate::virtio::{Device, Part, Queue, feature};

/// Request types.
pub(crate) const READ: u32 = 0;
pub(crate) const WRITE: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;
/// A flag of a segment of [`WRITE_ZEROES`]: its room may be given back.
pub(crate) const UNMAP: u32 = 1;
/// Bytes of a sector in requests.
pub(crate) const SECTOR: u64 = 512;

/// A disk that is set up.
pub(crate) struct Disk {
    pub(crate) queue: Queue,
    /// Request header and status of each descriptor's chain, 32 bytes each.
    requests: u64,
    /// In sectors.
    pub(crate) capacity: u64,
}

impl Disk {
    /// Sets the device up with its first queue.
    pub(crate) fn start(device: &Device) -> Self {
        let features = device.agree(feature::EVENT_IDX);
        let disk = Self::with_queue(device, 0, features);
        device.go();
        disk
    }

    /// The disk by one of its queues, which is set up before the device is told to go.
    pub(crate) fn with_queue(device: &Device, index: u16, features: u64) -> Self {
        let queue = device.queue(index, 256, features);
        let requests = take(32 * u64::from(queue.size), 4096);
        Self {
            queue,
            requests,
            capacity: crate::memory::read64(device.config),
        }
    }

    /// Makes a request available, with header and status number `slot`. Whether there was room.
    pub(crate) fn submit(
        &mut self,
        slot: u16,
        kind: u32,
        sector: u64,
        data: Option<(u64, u32)>,
    ) -> bool {
        let header = self.requests + 32 * u64::from(slot);
        write32(header, kind);
        write32(header + 4, 0);
        write64(header + 8, sector);
        write8(header + 16, 0xff);
        let (head, tail) = (Part::read(header, 16), Part::write(header + 16, 1));
        match data {
            Some((address, len)) => {
                let data = Part {
                    address,
                    len,
                    write: kind == READ,
                };
                self.queue.add(&[head, data, tail]).is_some()
            }
            None => self.queue.add(&[head, tail]).is_some(),
        }
    }

    /// The status that the device wrote: 0 is success, 0xff is none.
    pub(crate) fn status(&self, slot: u16) -> u8 {
        read8(self.requests + 32 * u64::from(slot) + 16)
    }

    /// Does one request and waits for it. Gives its status.
    pub(crate) fn request(
        &mut self,
        kind: u32,
        sector: u64,
        data: Option<(u64, u32)>,
    ) -> Option<u8> {
        self.submit(0, kind, sector, data);
        self.queue.notify();
        self.queue.wait()?;
        Some(self.status(0))
    }
}

/// Writes the last sector, flushes and reads it back.
pub(crate) fn work(device: &Device) {
    let mut disk = Disk::start(device);
    let (buffer, other) = (take(SECTOR, SECTOR), take(SECTOR, SECTOR));
    let last = disk.capacity.saturating_sub(1);
    let letter = (ticks() & 0xff) as u8 | 1;
    fill(buffer, SECTOR, letter);
    fill(other, SECTOR, !letter);
    for (what, kind, data) in [
        ("written", WRITE, Some((buffer, SECTOR as u32))),
        ("flushed", FLUSH, None),
        ("read", READ, Some((other, SECTOR as u32))),
    ] {
        let status = disk.request(kind, last, data);
        expect!(
            status == Some(0),
            "the last sector cannot be {what}: {status:?}"
        );
    }
    let same = bytes(other, SECTOR).iter().all(|byte| *byte == letter);
    expect!(same, "the last sector is not what was written");
}
