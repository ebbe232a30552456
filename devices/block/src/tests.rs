//! The device with a driver that does what Linux's does, or breaks the rules.

mod double;
mod durability;
mod files;
mod hostile;
mod life;
mod limits;
mod neighbours;
mod options;
mod requests;

use std::sync::Arc;

use ::device::Device;
use disk::OpenOptions;
use sandbox::Filter;
use virtio::testing::{Bench, Driver, DriverQueue, Part, RAM_SIZE, eventually};

use super::*;
use double::Double;

/// Types of requests (VIRTIO 1.3, 5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What RAM holds before the device writes to it.
const UNTOUCHED: u8 = 0xaa;

/// What a disk of these tests is made of.
fn parts(disk: Arc<dyn Disk>) -> Parts {
    Parts {
        id: "_disk0".into(),
        rules: Filter::none(),
        disk,
        options: OpenOptions::new("/vm/disk.raw"),
        queue_size: 16,
        queues: vec![vec![]],
        limiter: None,
        serial: *b"serial number\0\0\0\0\0\0\0",
    }
}

/// Puts a disk on PCI, and starts it.
fn plug(bench: &Bench, parts: Parts) -> OverPci<BlockDevice> {
    let device = BlockDevice::new(parts);
    let mut device = OverPci::new(Block::KIND, device, bench.environment("_disk0")).unwrap();
    device.start().unwrap();
    device
}

/// A driver at work.
struct Guest<'b> {
    driver: Driver<'b>,
    queues: Vec<DriverQueue>,
}

impl<'b> Guest<'b> {
    /// Sets up the device in slot 1 with these features.
    fn new(bench: &'b Bench, device: &mut OverPci<BlockDevice>, features: u64) -> Self {
        let upper = vec![UNTOUCHED; usize::try_from(RAM_SIZE / 2).unwrap()];
        bench.ram.write(RAM_SIZE / 2, &upper).unwrap();
        let driver = Driver::find(bench, 1);
        let queues = driver.start(features);
        bench.attend(device);
        Self { driver, queues }
    }

    /// Makes a request available. Gives the addresses of the data's parts and of the status.
    fn add(&mut self, queue: u16, kind: u32, sector: u64, data: &[Part<'_>]) -> Vec<u64> {
        let header = header(kind, sector);
        let mut all = vec![Part::Read(&header)];
        all.extend(data);
        all.push(Part::Write(1));
        self.queues[usize::from(queue)].add(&all).split_off(1)
    }

    fn kick(&self, queue: u16) {
        self.driver.kick(queue);
    }

    /// Waits until the device has used this many chains.
    fn wait(&self, queue: u16, used: u16) {
        eventually(|| self.queues[usize::from(queue)].used_index() == used);
    }

    /// The status at the last of these addresses.
    fn status(&self, addresses: &[u64]) -> u8 {
        self.bytes(*addresses.last().unwrap(), 1)[0]
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        self.queues[0].bytes(address, len)
    }

    /// Does one request on the first queue, on which there is no other. Gives its status and addresses.
    fn request(&mut self, kind: u32, sector: u64, data: &[Part<'_>]) -> (u8, Vec<u64>) {
        let used = self.queues[0].used_index().wrapping_add(1);
        let addresses = self.add(0, kind, sector, data);
        self.kick(0);
        self.wait(0, used);
        (self.status(&addresses), addresses)
    }

    /// Whatever happened, it still works.
    fn assert_alive(&mut self) {
        assert!(!self.driver.needs_reset());
        assert_eq!(self.request(IN, 1, &[Part::Write(512)]).0, OK);
    }
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

/// A range of a discard or write zeroes request.
fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut range = sector.to_le_bytes().to_vec();
    range.extend(sectors.to_le_bytes());
    range.extend(flags.to_le_bytes());
    range
}

/// A disk and a driver that took all features.
macro_rules! at_work {
    ($bench:ident, $disk:ident, $device:ident, $guest:ident) => {
        let $bench = Bench::new();
        let $disk = Double::new(1 << 20);
        let mut $device = plug(&$bench, parts($disk.clone()));
        let mut $guest = Guest::new(&$bench, &mut $device, u64::MAX);
    };
}
use at_work;
