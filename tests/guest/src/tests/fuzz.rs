//! Nonsense in quantity. The sequence is the same each time.

use super::Attack;
use crate::memory::{self, read32, take, write16, write32};
use crate::pci::{self, BAR0, COMMAND};
use crate::virtio::{Device, field, kind};

pub(super) const ATTACKS: &[Attack] = &[
    ("fuzz-registers", fuzz_registers),
    ("fuzz-rings", fuzz_rings),
    ("fuzz-config-space", fuzz_config_space),
];

/// How much of it there is for each device.
const ACCESSES: u32 = 4_000;
const ROUNDS: u32 = 60;

/// RAM from here on is nobody's, so that the device may write there.
const FREE: u64 = 32 << 20;

/// Numbers that look random (Marsaglia, "Xorshift RNGs", 2003).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A value as drivers write it, or not: small, all ones, an address, anything.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(4),
            1 => u64::MAX,
            2 => FREE + self.below(memory::ram_end() - FREE),
            3 => 1 << (26 + self.below(38)),
            4 => self.below(0x1_0000),
            _ => self.next(),
        }
    }
}

/// Random registers get random values with random widths.
fn fuzz_registers(device: &mut Device) {
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let base = device.function.bar_address(0);
    for _ in 0..ACCESSES {
        let start = match numbers.below(8) {
            0..4 => device.common,
            4 => device.config,
            5 => device.notify,
            6 => device.function.msix().map_or(base, |msix| msix.table),
            _ => base + numbers.below(0x7_f000),
        };
        let (at, width) = (start + numbers.below(64), 1 << numbers.below(4));
        if numbers.below(4) == 0 {
            memory::read(at, width);
        } else {
            memory::write(at, width, numbers.value());
        }
        if numbers.below(64) == 0 {
            // Otherwise it would soon be broken for good.
            device.agree(0);
        }
    }
    device.reset();
    if let Some(msix) = device.function.msix() {
        msix.control(0);
    }
}

/// Rings and descriptors of random content, in queues that are set up well.
fn fuzz_rings(device: &mut Device) {
    const SIZE: u16 = 16;
    let mut numbers = Numbers(0xfeed_beef_0bad_cafe);
    let place = take(0x1_0000, 4096);
    let ram = take(0x1_0000, 4096);
    for _ in 0..ROUNDS {
        device.agree(crate::virtio::feature::INDIRECT_DESC | crate::virtio::feature::EVENT_IDX);
        for index in 0..device.queues().min(16) {
            device.set(field::QUEUE_SELECT, 2, index.into());
            device.set(field::QUEUE_SIZE, 2, SIZE.into());
            let base = place + 0x1000 * u64::from(index);
            device.set_addresses([base, base + 0x400, base + 0x800]);
            device.set(field::QUEUE_ENABLE, 2, 1);
            for descriptor in 0..SIZE {
                let address = if numbers.below(8) == 0 {
                    numbers.value()
                } else {
                    ram + numbers.below(0xf000)
                };
                let len = if numbers.below(8) == 0 {
                    numbers.value()
                } else {
                    numbers.below(0x1000)
                };
                let known = if numbers.below(8) == 0 { 8 } else { 4 };
                let flags = numbers.below(known) as u16;
                let next = numbers.below(u64::from(SIZE) + 1) as u16;
                crate::virtio::describe(base, descriptor, address, len as u32, flags, next);
                write16(
                    base + 0x404 + 2 * u64::from(descriptor),
                    numbers.below(u64::from(SIZE)) as u16,
                );
            }
            write16(base + 0x400, numbers.below(2) as u16);
            write16(base + 0x402, numbers.below(u64::from(SIZE) + 1) as u16);
            write32(base + 0x800, 0);
        }
        headers(device.kind, ram, &mut numbers);
        device.go();
        for index in 0..device.queues().min(16) {
            write16(device.doorbell(index), index);
        }
        // It may ask for a reset, or work on what happens to make sense.
        read32(device.common);
    }
    device.reset();
}

/// Fills 64 KiB that devices take for headers.
fn headers(kind: u16, ram: u64, numbers: &mut Numbers) {
    for _ in 0..64 {
        let at = ram + 4 * numbers.below(0x4000);
        // For a balloon they are pages that the host may take away: none that this program is in. Of these bytes, in
        // whatever order, are pages below 1 MiB, and beyond the end.
        let value = match kind {
            kind::BALLOON => [0, u64::MAX][numbers.below(2) as usize],
            _ => numbers.value(),
        };
        write32(at, value as u32);
    }
}

/// Random writes to all of configuration space; then the BAR and the command register are put back.
fn fuzz_config_space(device: &mut Device) {
    let mut numbers = Numbers(0x0dd0_5eed_0dd0_5eed);
    let function = device.function;
    let ecam = pci::ecam().unwrap_or(0) + (function.slot << 15);
    let before = [BAR0, BAR0 + 4].map(|at| function.read(at, 4));
    let ids = function.ids();
    for _ in 0..ACCESSES {
        let (width, limit) = (
            1 << numbers.below(4),
            if numbers.below(4) == 0 { 0x1000 } else { 0x100 },
        );
        let at = (numbers.below(limit)).min(0xff8);
        match numbers.below(3) {
            0 => {
                memory::read(ecam + at, width);
            }
            1 => memory::write(ecam + at, width, numbers.value()),
            _ => function.write_by_ports(at & 0xfc, 4, numbers.value()),
        }
    }
    function.write(COMMAND, 2, 0);
    for (at, value) in [BAR0, BAR0 + 4].into_iter().zip(before) {
        function.write(at, 4, value);
    }
    function.enable();
    expect!(function.ids() == ids, "its ids have changed");
    device.locate();
    if let Some(msix) = function.msix() {
        msix.control(0);
    }
}
