//! What some devices alone do, for the host to look at.

use super::Test;
use crate::boot::Boot;
use crate::devices::rtc::{Clocks, MONOTONIC, UTC};
use crate::devices::watchdog::Watchdog;
use crate::memory::{map, read8, write8};
use crate::pci::{self, Function};
use crate::virtio::{Device, kind};

pub(super) const TESTS: &[Test] = &[
    ("clocks", clocks),
    ("watchdog", watchdog),
    ("panic", panic_notifier),
];

/// Vendor and device id of the panic notifier (Linux `Documentation/misc-devices/pvpanic.rst`).
const PANIC_NOTIFIER: (u64, u64) = (0x1b36, 0x0011);
const SECOND: u64 = 1_000_000_000;

fn start_clocks() -> Option<Clocks> {
    let device = Device::find(kind::CLOCK);
    expect!(device.is_some(), "there are no clocks");
    device.map(|device| Clocks::start(&device))
}

/// Says what the clocks show.
fn clocks(_: &Boot) {
    let Some(mut clocks) = start_clocks() else {
        return;
    };
    fact!("clocks {}", clocks.count().unwrap_or(0));
    fact!("utc {}", clocks.read(UTC).unwrap_or(0));
    let mut before = 0;
    for round in 0..100 {
        let Some(now) = clocks.read(MONOTONIC) else {
            return fail!("the monotonic clock cannot be read");
        };
        expect!(now > before, "round {round}: {now} after {before}");
        before = now;
    }
    let other = clocks.read(3);
    expect!(other.is_none(), "clock 3 shows {other:?}");
}

/// Pings for `seconds=` by the monotonic clock, and then no more, until the watchdog ends it.
fn watchdog(boot: &Boot) {
    let (Some(mut clocks), Some(device)) = (start_clocks(), Device::find(kind::WATCHDOG)) else {
        return fail!("there is no watchdog, or no clock");
    };
    let seconds = boot.word("seconds").and_then(|word| word.parse().ok());
    let end = seconds.unwrap_or(0) * SECOND;
    let mut watchdog = Watchdog::start(&device);
    let mut now = 0;
    let mut last = None;
    while now < end {
        if last.is_none_or(|last| now - last > 5 * SECOND) {
            watchdog.ping();
            last = Some(now);
        }
        now = clocks.read(MONOTONIC).unwrap_or(u64::MAX);
    }
    watchdog.ping();
    fact!("silent {now}");
    if boot.word("leave").is_some() {
        // A driver that is unloaded resets the device.
        device.reset();
        return;
    }
    loop {
        core::hint::spin_loop();
    }
}

/// Tells of a panic, of one with a crash kernel, and of something that is not known.
fn panic_notifier(_: &Boot) {
    let mut functions = pci::functions();
    let Some(function) = functions.find(|function| function.ids() == PANIC_NOTIFIER) else {
        return fail!("there is no panic notifier");
    };
    function.enable();
    let register = function.bar_address(0);
    map(register, 16);
    fact!("events {:#x}", read8(register));
    for event in [1, 2, 4] {
        write8(register, event);
    }
    odd_accesses(function, register);
}

/// What is no event: other widths, other offsets, nothing at all.
fn odd_accesses(function: Function, register: u64) {
    write8(register, 0);
    for offset in 1..16 {
        for width in [1, 2, 4, 8] {
            if offset + width <= 16 {
                crate::memory::write(register + offset, width, u64::MAX);
                let value = crate::memory::read(register + offset, width);
                expect!(value == 0, "{width} bytes at {offset} are {value:#x}");
            }
        }
    }
    function.disable();
    let value = read8(register);
    expect!(value == 0xff, "{value:#x} with decoding off");
}
