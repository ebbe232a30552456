//! Devices are there and do what they are for.

use super::Test;
use crate::boot::Boot;
use crate::devices::{self, console::Console, entropy};
use crate::memory::{bytes, take};
use crate::pci::{self, Function};
use crate::virtio::{Device, Part, feature, kind};

pub(super) const TESTS: &[Test] = &[
    ("enumerate", enumerate),
    ("work", work),
    ("echo", echo),
    ("serve", serve),
    ("entropy", read_entropy),
];

/// Says what is on PCI.
fn enumerate(_: &Boot) {
    if let Some(ecam) = pci::ecam() {
        fact!("ecam {ecam:#x}");
    }
    for function in pci::functions() {
        let (vendor, device) = function.ids();
        let class = function.read(8, 4) >> 8;
        fact!(
            "function.{} {vendor:04x}:{device:04x} class {class:06x}",
            function.slot
        );
        check_function(function);
    }
    for device in Device::all() {
        let name = devices::name(device.kind);
        fact!("virtio.{} {name}", device.function.slot);
        fact!("{name}.features {:#x}", device.offered());
        fact!("{name}.queues {}", device.queues());
        for index in 0..device.queues() {
            fact!("{name}.queue.{index} {}", device.queue_size(index));
        }
        let msix = device.function.msix();
        fact!("{name}.vectors {}", msix.map_or(0, |msix| msix.vectors));
    }
}

/// Both ways to configuration space show the same; BARs lie where their sizes allow.
fn check_function(function: Function) {
    let slot = function.slot;
    for offset in (0..256).step_by(4) {
        let (ecam, ports) = (function.read(offset, 4), function.read_by_ports(offset, 4));
        expect!(
            ecam == ports,
            "slot {slot}, offset {offset:#x}: {ecam:#x} by ECAM, {ports:#x} by ports"
        );
    }
    let mut index = 0;
    while index < 6 {
        let Some(bar) = function.bar(index) else {
            index += 1;
            continue;
        };
        fact!(
            "bar.{slot}.{index} {:#x} {:#x} {}",
            bar.address,
            bar.size,
            if bar.wide { 64 } else { 32 }
        );
        expect!(
            bar.size.is_power_of_two(),
            "slot {slot}: BAR {index} has {:#x} bytes",
            bar.size
        );
        expect!(
            bar.address % bar.size.max(1) == 0,
            "slot {slot}: BAR {index} is not aligned"
        );
        index += if bar.wide { 2 } else { 1 };
    }
    for (at, id) in function.capabilities() {
        expect!(
            (0x40..0x100).contains(&at),
            "slot {slot}: capability {id:#x} at {at:#x}"
        );
    }
}

/// Every device does something.
fn work(_: &Boot) {
    for device in Device::all() {
        devices::work(&device);
        fact!("works.{} yes", devices::name(device.kind));
    }
}

/// The console sends back what is typed.
fn echo(_: &Boot) {
    let Some(device) = Device::find(kind::CONSOLE) else {
        return fail!("there is no console");
    };
    let mut console = Console::start(&device);
    console.print(b"type\n");
    fact!("typed {}", console.echo());
}

/// A program of the host talks to the guest.
fn serve(_: &Boot) {
    let Some(device) = Device::find(kind::VSOCK) else {
        return fail!("there is no socket device");
    };
    fact!("served {}", devices::vsock::serve(&device));
}

/// Random bytes by chains of all shapes; no two blocks are the same.
fn read_entropy(_: &Boot) {
    let Some(device) = Device::find(kind::ENTROPY) else {
        return fail!("there is no entropy device");
    };
    for features in [
        0,
        feature::EVENT_IDX,
        feature::EVENT_IDX | feature::INDIRECT_DESC,
    ] {
        let mut queue = entropy::start(&device, features, 16);
        let buffer = take(3 * 4096, 4096);
        let mut before = 0;
        for round in 0..100 {
            let parts = [0, 1, 2].map(|index| Part::write(buffer + 4096 * index, 16 + 16 * round));
            expect!(
                queue.add(&parts[..1 + round as usize % 3]).is_some(),
                "round {round}: no descriptors"
            );
            queue.notify();
            let Some((_, len)) = queue.wait() else {
                return fail!("round {round}: no answer");
            };
            expect!(len > 0, "round {round}: {len} bytes");
            let first = bytes(buffer, 8)
                .iter()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            expect!(first != before, "round {round}: {first:#x} twice");
            before = first;
        }
        expect!(
            queue.room() == queue.size,
            "{} descriptors are lost",
            queue.size - queue.room()
        );
    }
}
