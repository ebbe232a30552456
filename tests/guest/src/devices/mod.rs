//! Small drivers, and the question that every test ends with: does the device work?

pub(crate) mod balloon;
pub(crate) mod block;
pub(crate) mod console;
pub(crate) mod entropy;
pub(crate) mod pmem;
pub(crate) mod rtc;
pub(crate) mod vsock;
pub(crate) mod watchdog;

use crate::machine::wait_for;
use crate::memory::{take, write32, write64};
use crate::virtio::{Device, Part, Queue, kind};

/// Names of the types that tests choose from.
const NAMES: &[(&str, u16)] = &[
    ("net", kind::NET),
    ("block", kind::BLOCK),
    ("console", kind::CONSOLE),
    ("rng", kind::ENTROPY),
    ("balloon", kind::BALLOON),
    ("vsock", kind::VSOCK),
    ("pmem", kind::PMEM),
    ("watchdog", kind::WATCHDOG),
    ("rtc", kind::CLOCK),
];

/// The name of a type.
pub(crate) fn name(kind: u16) -> &'static str {
    NAMES
        .iter()
        .find(|(_, known)| *known == kind)
        .map_or("unknown", |(name, _)| name)
}

/// The queue that the device looks at as soon as it is rung, whatever is in it.
pub(crate) fn busy_queue(kind: u16) -> u16 {
    match kind {
        kind::CONSOLE | kind::NET | kind::VSOCK => 1,
        _ => 0,
    }
}

/// Bytes that a request of [`request`] needs.
pub(crate) const REQUEST: u64 = 0x2000;

/// A request for the busy queue that the device has to work for, in memory of its own.
pub(crate) fn request(kind: u16, memory: u64) -> ([Part; 3], usize) {
    let data = memory + 0x1000;
    // What is not used.
    let rest = Part::write(data, 0);
    match kind {
        kind::BLOCK => {
            write64(memory, block::READ.into());
            write64(memory + 8, 0);
            let (header, status) = (Part::read(memory, 16), Part::write(memory + 16, 1));
            ([header, Part::write(data, 0x1000), status], 3)
        }
        kind::NET => ([Part::read(memory, 12 + 60), rest, rest], 1),
        kind::VSOCK => ([Part::read(memory, 44), rest, rest], 1),
        kind::CONSOLE => ([Part::read(memory, 0x1000), rest, rest], 1),
        kind::PMEM => {
            write32(memory, 0);
            ([Part::read(memory, 4), Part::write(memory + 8, 4), rest], 2)
        }
        kind::BALLOON => {
            write32(memory, (data >> 12) as u32);
            ([Part::read(memory, 4), rest, rest], 1)
        }
        kind::CLOCK => {
            write64(memory, 1);
            write64(memory + 8, 0);
            let answer = Part::write(memory + 16, 16);
            ([Part::read(memory, 16), answer, rest], 2)
        }
        _ => ([Part::write(data, 0x1000), rest, rest], 1),
    }
}

/// Resets the device, sets it up as a good driver does and has it do something. Says what does not work.
pub(crate) fn work(device: &Device) {
    match device.kind {
        kind::CONSOLE => console::work(device),
        kind::ENTROPY => entropy::work(device),
        kind::BLOCK => block::work(device),
        kind::BALLOON => balloon::work(device),
        kind::PMEM => pmem::work(device),
        kind::WATCHDOG => watchdog::work(device),
        kind::CLOCK => rtc::work(device),
        kind::VSOCK => vsock::work(device),
        _ => {
            let features = device.agree(0);
            let mut queue = queues(device, 64, features);
            device.go();
            let (parts, count) = request(device.kind, take(REQUEST, 4096));
            queue.add(&parts[..count]);
            queue.notify();
            let name = name(device.kind);
            expect!(queue.wait().is_some(), "{name} takes no request");
            let fine = device.status() & crate::virtio::status::NEEDS_RESET == 0;
            expect!(fine, "{name} asks for a reset at once");
        }
    }
}

/// Has every device do something.
pub(crate) fn all_work() {
    Device::all().for_each(|device| work(&device));
}

/// Sets all queues up with `size` descriptors at most; some devices work with all of them or none. Gives the busy one.
pub(crate) fn queues(device: &Device, size: u16, features: u64) -> Queue {
    for index in (0..device.queues()).filter(|index| *index != busy_queue(device.kind)) {
        device.queue(index, size, features);
    }
    device.queue(busy_queue(device.kind), size, features)
}

/// Gives devices time to do what they should not do: some milliseconds.
pub(crate) fn pause() {
    wait_for(5_000_000, || None::<()>);
}
