//! What a guest can do to a function's configuration space, its BARs and its MSI-X table.

use super::Attack;
use crate::devices;
use crate::memory::{self, map, ram_end, read, read32, read64, take, write, write32};
use crate::pci::{self, Bar, COMMAND, Function, MEMORY};
use crate::virtio::{Device, Part, field};

pub(super) const ATTACKS: &[Attack] = &[
    ("unmapped-reads", unmapped_reads),
    ("bar-moved-and-back", bar_moved_and_back),
    ("bar-on-another-bar", bar_on_another_bar),
    ("bar-on-ram", bar_on_ram),
    ("bar-on-the-board", bar_on_the_board),
    ("bar-off-the-window", bar_off_the_window),
    ("bar-moved-while-decoding", bar_moved_while_decoding),
    ("decoding-off", decoding_off),
    ("msix-odd-widths", msix_odd_widths),
    ("msix-pending-bits", msix_pending_bits),
    ("msix-messages-anywhere", msix_messages_anywhere),
    (
        "msix-vectors-that-do-not-exist",
        msix_vectors_that_do_not_exist,
    ),
    ("config-access", config_access),
    ("config-access-out-of-bounds", config_access_out_of_bounds),
];

fn bar0(device: &Device) -> Option<Bar> {
    let bar = device.function.bar(0);
    expect!(bar.is_some(), "there is no BAR 0");
    bar
}

/// The nearest address below a BAR where no other one is.
fn below(bar: Bar) -> u64 {
    let taken = |address: u64| {
        let bars = |function: Function| (0..6).filter_map(move |index| function.bar(index));
        let holds = |bar: Bar| (bar.address..bar.address + bar.size).contains(&address);
        pci::functions().flat_map(bars).any(holds)
    };
    let mut address = bar.address - bar.size;
    while taken(address) {
        address -= bar.size;
    }
    address
}

/// Where nothing is, ones are read and writes are lost.
fn unmapped_reads(device: &mut Device) {
    let Some(bar) = bar0(device) else { return };
    let ecam = pci::ecam().unwrap_or(0);
    // The hole below 4 GiB, high memory below the BARs, a slot with nothing in it, a function that is not there.
    let nobody = [
        0xd000_0000,
        1 << 40,
        below(bar),
        ecam + (31 << 15),
        ecam + (1 << 12),
    ];
    for address in nobody {
        map(address, 16);
        for width in [1, 2, 4, 8] {
            write(address, width, 0);
            let value = read(address, width);
            expect!(
                value == u64::MAX >> (64 - 8 * width),
                "{width} bytes at {address:#x} are {value:#x}"
            );
        }
    }
    let (vendor, _) = Function { slot: 31 }.ids();
    expect!(vendor == 0xffff, "slot 31: {vendor:#x}");
}

/// The device works wherever in the window it is put, doorbells too.
fn bar_moved_and_back(device: &mut Device) {
    let Some(bar) = bar0(device) else { return };
    let first = bar.address;
    // Some have 32 bits, and a smaller window.
    let step = if bar.wide { 1 << 30 } else { 16 << 20 };
    for count in 1..=4 {
        let address = first - count * step;
        device.function.move_bar(&bar, address);
        expect!(
            device.function.bar_address(0) == address,
            "BAR 0 is not at {address:#x}"
        );
        device.locate();
        devices::work(device);
        let before = read32(first);
        expect!(
            before == u32::MAX,
            "something is left at {first:#x}: {before:#x}"
        );
    }
    device.function.move_bar(&bar, first);
    device.locate();
}

/// Two functions at one place: whoever answers, nothing breaks, and both work again when they are apart.
fn bar_on_another_bar(device: &mut Device) {
    let other = Device::all().find(|other| other.function != device.function);
    let (Some(bar), Some(other)) = (bar0(device), other) else {
        return fail!("there is no other device");
    };
    let first = bar.address;
    for offset in [0, 0x4_0000] {
        device
            .function
            .move_bar(&bar, other.function.bar_address(0) + offset);
        poke(other.function.bar_address(0));
        device.function.move_bar(&bar, first);
        device.locate();
        devices::work(device);
        devices::work(&other);
    }
}

/// RAM stays RAM.
fn bar_on_ram(device: &mut Device) {
    let Some(bar) = bar0(device) else { return };
    let first = bar.address;
    let ram = take(2 * bar.size, bar.size);
    for address in [ram, ram_end() - bar.size / 2] {
        device.function.move_bar(&bar, address);
        write32(ram, 0x1234_5678);
        expect!(read32(ram) == 0x1234_5678, "RAM at {ram:#x} is gone");
        device.function.move_bar(&bar, first);
        device.locate();
        devices::work(device);
    }
}

/// On configuration space, on the interrupt controllers, on address 0.
fn bar_on_the_board(device: &mut Device) {
    let Some(bar) = bar0(device) else { return };
    let first = bar.address;
    let ecam = pci::ecam().unwrap_or(0);
    for address in [ecam, 0xfec0_0000, 0xfee0_0000, 0xf800_0000, 0] {
        device.function.move_bar(&bar, address);
        let (vendor, _) = device.function.ids();
        expect!(
            vendor == 0x1af4,
            "BAR 0 at {address:#x}: vendor {vendor:#x}"
        );
        device.function.move_bar(&bar, first);
        device.locate();
        devices::work(device);
    }
}

/// Above what the processor can address, and at the top.
fn bar_off_the_window(device: &mut Device) {
    let Some(bar) = bar0(device) else { return };
    let first = bar.address;
    let top = 1 << crate::machine::physical_bits();
    // Nothing is mapped: these are no addresses.
    let unmapped = Bar { size: 0, ..bar };
    for address in [
        top,
        top - bar.size,
        1 << 62,
        !(bar.size - 1),
        0x5000_0000_0000,
    ] {
        device.function.move_bar(&unmapped, address);
        device.function.move_bar(&bar, first);
        device.locate();
        devices::work(device);
    }
}

/// One half of the address at a time, with decoding on, as drivers must not.
fn bar_moved_while_decoding(device: &mut Device) {
    let Some(bar) = bar0(device) else { return };
    let (low, high) = (bar.address & 0xffff_ffff, bar.address >> 32);
    for _ in 0..20 {
        for value in [0xffff_ffff, 0, 0xfee0_0000, 0xe800_0000, low] {
            device.function.write(bar.register, 4, value);
            device.function.write(bar.register + 4, 4, high ^ 1);
            device.function.write(bar.register + 4, 4, 0xffff_ffff);
        }
        device.function.write(bar.register, 4, low);
        device.function.write(bar.register + 4, 4, high);
        expect!(
            device.function.bar_address(0) == bar.address,
            "BAR 0 did not come back"
        );
    }
}

/// A function that does not decode is not there; its queues go on.
fn decoding_off(device: &mut Device) {
    for _ in 0..20 {
        device.function.disable();
        let value = read32(device.common);
        expect!(value == u32::MAX, "{value:#x} is read with decoding off");
        write32(device.notify, 0);
        device.function.write(COMMAND, 2, 0xffff);
        device.function.write(COMMAND, 2, 0);
        device.function.enable();
        expect!(
            device.function.read(COMMAND, 2) & MEMORY != 0,
            "decoding cannot be turned on"
        );
    }
}

/// Every width at every offset of the table and the pending bits, and around them.
fn msix_odd_widths(device: &mut Device) {
    let Some(msix) = device.function.msix() else {
        return fail!("there is no MSI-X");
    };
    msix.control(0xc000);
    let end = 16 * msix.vectors;
    for start in [msix.table, msix.pending] {
        for offset in (0..end + 16).chain(0x7f0..0x800) {
            for width in [1, 2, 4, 8] {
                let before = read(start + offset, width);
                write(start + offset, width, u64::MAX);
                write(start + offset, width, before);
            }
        }
    }
    // What a good driver writes can be read, by 4 and by 8 bytes.
    for vector in 0..msix.vectors {
        msix.entry(vector, 0xfee0_0000, 0x40, true);
        let at = msix.table + 16 * vector;
        expect!(
            read64(at) == 0xfee0_0000,
            "vector {vector}: the address is {:#x}",
            read64(at)
        );
        expect!(
            read64(at + 8) == 0x1_0000_0040,
            "vector {vector}: data and mask are {:#x}",
            read64(at + 8)
        );
    }
    msix.control(0);
}

/// A masked vector's interrupt is kept as a pending bit.
fn msix_pending_bits(device: &mut Device) {
    let Some(msix) = device.function.msix() else {
        return fail!("there is no MSI-X");
    };
    msix.control(0xc000);
    for vector in 0..msix.vectors {
        msix.entry(vector, 0xfee0_0000, 0x40, true);
    }
    msix.control(0x8000);
    device.agree(0);
    let mut queue = devices::queues(device, 8, 0);
    device.set(field::QUEUE_SELECT, 2, queue.index.into());
    device.set(field::QUEUE_VECTOR, 2, 1);
    expect!(
        device.get(field::QUEUE_VECTOR, 2) == 1,
        "vector 1 is not taken"
    );
    device.set(field::CONFIG_VECTOR, 2, 0);
    device.go();
    // A broken chain: the device asks for a reset, and says so by the vector for changes of its configuration.
    queue.offer(0xffff);
    queue.ring();
    expect!(device.comes_to_need_reset(), "it does not ask for a reset");
    let pending = || (read32(msix.pending) & 1 != 0).then_some(());
    let came = crate::machine::wait_for(crate::machine::PATIENCE, pending).is_some();
    expect!(came, "no pending bit: {:#x}", read32(msix.pending));
    msix.control(0);
}

/// Messages to addresses that are none, with any data: interrupts are lost, nothing else.
fn msix_messages_anywhere(device: &mut Device) {
    let Some(msix) = device.function.msix() else {
        return fail!("there is no MSI-X");
    };
    let ram = take(4096, 4096);
    for (address, data) in [
        (ram, 0x40),
        (0xd000_0000, 0x40),
        (u64::MAX, u32::MAX),
        (0xfee0_0000, u32::MAX),
        (0, 0),
    ] {
        device.agree(0);
        msix.control(0x8000);
        for vector in 0..msix.vectors {
            msix.entry(vector, address, data, false);
        }
        let mut queue = devices::queues(device, 8, 0);
        // This one wants interrupts.
        memory::write16(queue.addresses()[1], 0);
        device.set(field::QUEUE_SELECT, 2, queue.index.into());
        device.set(field::QUEUE_VECTOR, 2, 1);
        device.set(field::CONFIG_VECTOR, 2, 0);
        device.go();
        queue.add(&[Part::write(ram + 64, 64)]);
        queue.ring();
        queue.offer(0xffff);
        queue.ring();
        expect!(device.comes_to_need_reset(), "it does not ask for a reset");
        expect!(read64(ram) == 0, "the message was written to RAM");
        msix.control(0);
    }
}

fn msix_vectors_that_do_not_exist(device: &mut Device) {
    const NO_VECTOR: u64 = 0xffff;
    let Some(msix) = device.function.msix() else {
        return fail!("there is no MSI-X");
    };
    device.agree(0);
    device.set(
        field::QUEUE_SELECT,
        2,
        devices::busy_queue(device.kind).into(),
    );
    for vector in [msix.vectors, msix.vectors + 1, 0x7ff, 0x800, 0xfffe] {
        for field in [field::CONFIG_VECTOR, field::QUEUE_VECTOR] {
            device.set(field, 2, vector);
            let now = device.get(field, 2);
            expect!(
                now == NO_VECTOR,
                "vector {vector} of {} is taken: {now:#x}",
                msix.vectors
            );
        }
    }
}

/// Registers are reached through configuration space too (VIRTIO 1.3, 4.1.4.9).
fn config_access(device: &mut Device) {
    let Some(at) = device.config_access() else {
        return fail!("there is no capability for it");
    };
    device.agree(0);
    let function = device.function;
    let select = |offset, width| {
        function.write(at + 4, 1, 0);
        function.write(at + 8, 4, offset);
        function.write(at + 12, 4, width);
    };
    let base = device.common - function.bar_address(0);
    select(base + field::DEVICE_STATUS, 1);
    let (there, here) = (function.read(at + 16, 1), device.status());
    expect!(
        there == here,
        "status is {there:#x} by configuration space, {here:#x} by memory"
    );
    select(base + field::NUM_QUEUES, 2);
    let (there, here) = (function.read(at + 16, 2), u64::from(device.queues()));
    expect!(
        there == here,
        "{there} queues by configuration space, {here} by memory"
    );
    select(base + field::DEVICE_STATUS, 1);
    function.write(at + 16, 1, 0);
    expect!(
        device.status() == 0,
        "it was not reset through configuration space"
    );
}

fn config_access_out_of_bounds(device: &mut Device) {
    let Some(at) = device.config_access() else {
        return fail!("there is no capability for it");
    };
    let function = device.function;
    for bar in [0, 1, 2, 5, 6, 0xff] {
        for offset in [
            0,
            1,
            2,
            3,
            0x13,
            0x14,
            0x7_ffff,
            0x8_0000,
            0x7_fffe,
            0xffff_ffff,
            0x8000_0000,
        ] {
            for width in [0, 1, 2, 3, 4, 5, 8, 0x100, 0xffff_ffff] {
                function.write(at + 4, 1, bar);
                function.write(at + 8, 4, offset);
                function.write(at + 12, 4, width);
                function.read(at + 16, 4);
                function.write(at + 16, 4, 0xffff_ffff);
                function.read(at + 15, 1);
                function.write(at + 19, 1, 0xff);
            }
        }
    }
    device.reset();
}

/// Reads and writes a few registers without meaning.
fn poke(address: u64) {
    for offset in [0, 0x14, 0x2000, 0x4000, 0x6000, 0x8000] {
        let value = read32(address + offset);
        write32(address + offset, value);
    }
}
