//! Persistent memory (VIRTIO 1.3, 5.19).

use crate::machine::ticks;
use crate::memory::{map, read32, read64, take, write32, write64};
use crate::virtio::{Device, Part, feature};

/// The only type of request.
const FLUSH: u32 = 0;

/// Writes to both ends of the memory, and has that taken to the disk.
pub(crate) fn work(device: &Device) {
    let features = device.agree(feature::EVENT_IDX);
    let mut queue = device.queue(0, 8, features);
    device.go();
    let (start, size) = (read64(device.config), read64(device.config + 8));
    if size < 16 {
        return fail!("{size} bytes of persistent memory");
    }
    map(start, size);
    let number = ticks();
    for place in [start, start + size - 8] {
        write64(place, number);
        expect!(read64(place) == number, "{place:#x} is no memory");
    }
    let request = take(16, 16);
    write32(request, FLUSH);
    write32(request + 8, 0xffff_ffff);
    queue.add(&[Part::read(request, 4), Part::write(request + 8, 4)]);
    queue.notify();
    let answer = queue.wait();
    let result = read32(request + 8);
    expect!(
        answer.is_some() && result == 0,
        "flush: {answer:?}, {result:#x}"
    );
}
