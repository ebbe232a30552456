//! Instructions that Rust has no words for: ports, the time stamp counter, the table of exceptions.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, _rdtsc};

unsafe extern "C" {
    static mut idt: [u64; 64];
    static exceptions: u8;
}

/// Ring 0's code segment in `start.s`.
const CODE: u64 = 0x10;
/// A 64-bit interrupt gate, present (Intel SDM volume 3, 7.14.1).
const GATE: u64 = 0x8e00;

/// ACPI sleep control register of the machine, and sleep type 5 with sleep enable.
const SLEEP: (u16, u8) = (0x600, 0x34);
/// A device that ends QEMU, which has no register at 0x600.
const DEBUG_EXIT: u16 = 0xf4;

/// Ticks to wait for something that has to come: some seconds on any processor.
pub(crate) const PATIENCE: u64 = 20_000_000_000;

/// Leads all exceptions to `exception_report`.
pub(crate) fn take_exceptions() {
    for vector in 0..32 {
        let handler = &raw const exceptions as u64 + 16 * vector as u64;
        let gate = (handler & 0xffff) | CODE << 16 | GATE << 32 | (handler >> 16 & 0xffff) << 48;
        let place = (&raw mut idt).cast::<u64>().wrapping_add(2 * vector);
        // SAFETY: `start.s` reserves 32 entries of 16 bytes there, and nobody else knows them.
        unsafe { place.write_volatile(gate) };
        // SAFETY: As above; it is the upper half of the same entry.
        unsafe { place.wrapping_add(1).write_volatile(handler >> 32) };
    }
}

/// Writes to a port.
pub(crate) fn out8(port: u16, value: u8) {
    // SAFETY: Devices that answer to ports do not touch this program's memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Writes to a port.
pub(crate) fn out16(port: u16, value: u16) {
    // SAFETY: As for `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) };
}

/// Writes to a port.
pub(crate) fn out32(port: u16, value: u32) {
    // SAFETY: As for `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}

/// Reads from a port.
pub(crate) fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: As for `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// Reads from a port.
pub(crate) fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: As for `out8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack)) };
    value
}

/// Reads from a port.
pub(crate) fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: As for `out8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
    value
}

/// Writes bytes to a port, one after the other.
pub(crate) fn out_bytes(port: u16, bytes: &[u8]) {
    for byte in bytes {
        out8(port, *byte);
    }
}

/// The time stamp counter.
pub(crate) fn ticks() -> u64 {
    // SAFETY: Every processor with 64-bit mode has it, and CR4.TSD is 0.
    unsafe { _rdtsc() }
}

/// Bits of a physical address.
pub(crate) fn physical_bits() -> u32 {
    if __cpuid(0x8000_0000).eax < 0x8000_0008 {
        return 36;
    }
    __cpuid(0x8000_0008).eax & 0xff
}

/// Waits until `come` gives something, or for so many ticks.
pub(crate) fn wait_for<T>(ticks_at_most: u64, mut come: impl FnMut() -> Option<T>) -> Option<T> {
    let start = ticks();
    loop {
        if let Some(value) = come() {
            return Some(value);
        }
        if ticks().wrapping_sub(start) > ticks_at_most {
            return None;
        }
        core::hint::spin_loop();
    }
}

/// Resets the machine: the pulse on the keyboard controller's line that IBM's PC/AT has for it.
pub(crate) fn reset() -> ! {
    out8(0x64, 0xfe);
    loop {
        core::hint::spin_loop();
    }
}

/// Ends the machine.
pub(crate) fn power_off() -> ! {
    out8(SLEEP.0, SLEEP.1);
    out8(DEBUG_EXIT, 0);
    loop {
        core::hint::spin_loop();
    }
}
