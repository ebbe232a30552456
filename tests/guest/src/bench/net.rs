//! Frames of `size=BYTES` bytes: `send=1` as fast as the device takes them, `send=0` as they come.

use super::{Work, measure, notify, number};
use crate::boot::Boot;
use crate::memory::{put, take};
use crate::virtio::{Device, Part, Queue, feature, kind};

/// Buffers may be given back in pieces (VIRTIO 1.3, 5.1.3): what drivers ask for.
const MERGE_BUFFERS: u64 = 1 << 15;
/// Bytes before each frame (VIRTIO 1.3, 5.1.6).
const HEADER: u32 = 12;
/// Descriptors of a queue.
const SIZE: u16 = 256;
/// Bytes of a buffer.
const BUFFER: u64 = 2048;
/// Destination and source that nobody has, and a protocol for experiments (IEEE 802.1).
const FRAME: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 3, 0x88, 0xb5];

/// Runs it.
pub(super) fn run(boot: &Boot) {
    let Some(device) = Device::find(kind::NET) else {
        return fail!("there is no network device");
    };
    let features = device.agree(feature::EVENT_IDX | MERGE_BUFFERS);
    let len = HEADER + number(boot, "size").unwrap_or(64) as u32;
    let sends = number(boot, "send").unwrap_or(1) != 0;
    let mut receive = device.queue(0, SIZE, features);
    let mut send = device.queue(1, SIZE, features);
    device.go();
    let buffers = take(BUFFER * u64::from(SIZE), 4096);
    let (queue, part) = if sends {
        (&mut send, Part::read(buffers, len))
    } else {
        (&mut receive, Part::write(buffers, BUFFER as u32))
    };
    for index in 0..u64::from(queue.size) {
        put(buffers + BUFFER * index + u64::from(HEADER), &FRAME);
        offer(queue, part, index);
    }
    queue.notify();
    fact!("ready");
    measure(boot, || {
        let mut work = Work::default();
        // Some at a time, so that a fast device does not keep the driver from ringing.
        while work.done < u64::from(SIZE / 4)
            && let Some((head, _)) = queue.poll()
        {
            offer(queue, part, head.into());
            work.done += 1;
        }
        if work.done > 0 && notify(queue) {
            work.doorbells += 1;
        }
        work
    });
}

/// A chain is one descriptor, and the one just freed is the next that is used: buffers belong to descriptors.
fn offer(queue: &mut Queue, part: Part, buffer: u64) {
    let address = part.address + BUFFER * buffer;
    expect!(
        queue.add(&[Part { address, ..part }]).is_some(),
        "no descriptor is free"
    );
}
