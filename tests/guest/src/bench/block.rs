//! Load on a disk: `write=0|1`, `size=BYTES`, `random=0|1`, `depth=N` requests in flight on each of `queues=N`.

use super::{Work, measure, notify, number};
use crate::boot::Boot;
use crate::devices::block::{READ, SECTOR, WRITE};
use crate::memory::{fill, read8, read64, take, write8, write32, write64};
use crate::virtio::{Device, Part, Queue, feature, kind};

/// More than one queue (VIRTIO 1.3, 5.2.3).
const MULTI_QUEUE: u64 = 1 << 12;
/// Flushes are the driver's business; without it every write has to be on the disk when it is done.
const FLUSH: u64 = 1 << 9;
/// Descriptors of a queue, which is what all monitors offer at least.
const SIZE: u16 = 128;
/// Descriptors of a request: header, data, status.
const PARTS: u16 = 3;

/// One queue and where its requests are.
struct Lane {
    queue: Queue,
    /// Header and status of each request, 32 bytes.
    headers: u64,
    /// Data of each request.
    data: u64,
    /// Which request the chain with this head is.
    request_of: [u16; SIZE as usize],
    /// Next block in order, in blocks of the load's size.
    next: u64,
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Load {
    kind: u32,
    size: u64,
    random: bool,
    depth: u16,
    /// Blocks that the disk has.
    blocks: u64,
}

/// Runs it.
pub(super) fn run(boot: &Boot) {
    let Some(device) = Device::find(kind::BLOCK) else {
        return fail!("there is no disk");
    };
    let features = device.agree(feature::EVENT_IDX | MULTI_QUEUE | FLUSH);
    let word = |name, other| number(boot, name).unwrap_or(other);
    let size = word("size", 4096);
    let load = Load {
        kind: if word("write", 0) == 0 { READ } else { WRITE },
        size,
        random: word("random", 1) != 0,
        depth: (word("depth", 1) as u16).clamp(1, SIZE / PARTS),
        blocks: read64(device.config) * SECTOR / size,
    };
    let count = word("queues", 1).clamp(1, 2) as u16;
    expect!(device.queues() >= count, "{} queues", device.queues());
    let mut lanes = [0, 1].map(|index| {
        (index < count).then(|| Lane::new(device.queue(index, SIZE, features), load, count))
    });
    device.go();
    let mut random = 0x9e37_79b9_7f4a_7c15;
    for lane in lanes.iter_mut().flatten() {
        for request in 0..load.depth {
            lane.submit(load, request, &mut random);
        }
        lane.queue.notify();
    }
    measure(boot, || {
        let mut work = Work::default();
        for lane in lanes.iter_mut().flatten() {
            let done = lane.again(load, &mut random);
            work.done += done;
            if done > 0 && notify(&mut lane.queue) {
                work.doorbells += 1;
            }
        }
        work
    });
}

impl Lane {
    /// Queues begin in different parts of the disk.
    fn new(queue: Queue, load: Load, count: u16) -> Self {
        let depth = u64::from(load.depth);
        let data = take(load.size * depth, 4096);
        fill(data, load.size * depth, 0xa5);
        Self {
            next: load.blocks / u64::from(count) * u64::from(queue.index),
            queue,
            headers: take(32 * depth, 4096),
            data,
            request_of: [0; SIZE as usize],
        }
    }

    fn submit(&mut self, load: Load, request: u16, random: &mut u64) {
        let block = if load.random {
            // Xorshift: G. Marsaglia, 2003.
            *random ^= *random << 13;
            *random ^= *random >> 7;
            *random ^= *random << 17;
            *random % load.blocks
        } else {
            self.next = (self.next + 1) % load.blocks;
            self.next
        };
        let header = self.headers + 32 * u64::from(request);
        write32(header, load.kind);
        write32(header + 4, 0);
        write64(header + 8, block * (load.size / SECTOR));
        write8(header + 16, 0xff);
        let data = Part {
            address: self.data + load.size * u64::from(request),
            len: load.size as u32,
            write: load.kind == READ,
        };
        let (head, tail) = (Part::read(header, 16), Part::write(header + 16, 1));
        if let Some(head) = self.queue.add(&[head, data, tail]) {
            self.request_of[usize::from(head)] = request;
        }
    }

    /// Takes what is done and has as much done again. How many that were.
    fn again(&mut self, load: Load, random: &mut u64) -> u64 {
        let mut done = 0;
        while let Some((head, _)) = self.queue.poll() {
            let request = self.request_of[usize::from(head % SIZE)];
            let status = read8(self.headers + 32 * u64::from(request) + 16);
            expect!(status == 0, "status {status}");
            self.submit(load, request, random);
            done += 1;
        }
        done
    }
}
