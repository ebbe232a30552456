//! The balloon (VIRTIO 1.3, 5.5).

use crate::memory::{bytes, fill, take, write32};
use crate::virtio::{Device, Part, feature};

/// Queues.
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const PAGE: u64 = 4096;
const PAGES: u64 = 16;
/// Offset of the field by which the driver tells how large the balloon is.
const ACTUAL: u64 = 4;

/// Gives pages to the host, which forgets what is in them, and takes them back.
pub(crate) fn work(device: &Device) {
    let features = device.agree(feature::EVENT_IDX);
    let queues = [INFLATE, DEFLATE].map(|index| device.queue(index, 16, features));
    device.go();
    let (pages, list) = (take(PAGES * PAGE, PAGE), take(4 * PAGES, 4));
    fill(pages, PAGES * PAGE, 0x55);
    for index in 0..PAGES {
        write32(list + 4 * index, (pages / PAGE + index) as u32);
    }
    for (mut queue, size) in queues.into_iter().zip([PAGES, 0]) {
        queue.add(&[Part::read(list, 4 * PAGES as u32)]);
        queue.notify();
        let answer = queue.wait();
        expect!(answer.is_some(), "queue {}: no answer", queue.index);
        write32(device.config + ACTUAL, size as u32);
    }
    let empty = bytes(pages, PAGES * PAGE).iter().all(|byte| *byte == 0);
    expect!(empty, "pages that were given away have kept their contents");
}
