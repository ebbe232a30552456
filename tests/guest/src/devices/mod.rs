//! Small drivers, and the question that every test ends with: does the device work?

pub(crate) mod block;
pub(crate) mod console;
pub(crate) mod entropy;

use crate::virtio::{Device, kind};

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
];

/// The type with this name.
pub(crate) fn kind_named(name: &str) -> Option<u16> {
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, kind)| *kind)
}

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

/// Resets the device, sets it up as a good driver does and has it do something. Says what does not work.
pub(crate) fn work(device: &Device) {
    match device.kind {
        kind::CONSOLE => console::work(device),
        kind::ENTROPY => entropy::work(device),
        kind::BLOCK => block::work(device),
        _ => {
            device.agree(0);
            for index in 0..device.queues() {
                device.queue(index, 64, 0);
            }
            device.go();
            let fine = device.status() & crate::virtio::status::NEEDS_RESET == 0;
            expect!(fine, "{} asks for a reset at once", name(device.kind));
        }
    }
}

/// Has every other device do something.
pub(crate) fn others_work(victim: &Device) {
    Device::all()
        .filter(|device| device.function != victim.function)
        .for_each(|device| work(&device));
}
