//! The entropy device (VIRTIO 1.3, 5.4).

use crate::memory::{bytes, take};
use crate::virtio::{Device, Part, Queue, feature};

/// Sets it up. Gives its queue.
pub(crate) fn start(device: &Device, features: u64, size: u16) -> Queue {
    let features = device.agree(features);
    let queue = device.queue(0, size, features);
    device.go();
    queue
}

/// Reads some bytes.
pub(crate) fn work(device: &Device) {
    let mut queue = start(device, feature::EVENT_IDX, 8);
    let buffer = take(64, 64);
    queue.add(&[Part::write(buffer, 64)]);
    queue.notify();
    match queue.wait() {
        Some((_, 1..=64)) => {
            let zeros = bytes(buffer, 64).iter().all(|byte| *byte == 0);
            expect!(!zeros, "64 random bytes are zeros");
        }
        other => fail!("no random bytes: {other:?}"),
    }
}
