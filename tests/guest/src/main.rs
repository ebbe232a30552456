//! A guest without an operating system, for tests of the monitor and for its benchmarks.
//!
//! It drives virtio devices on PCI by polling: by the rules, to see that they work and how fast; and against the
//! rules, in every way that a hostile guest could. What it does comes on the kernel command line (`test=NAME` and
//! further words), what it finds goes line by line to the debug console (see [`report`]). Then it powers off.
//!
//! All but the first instructions run in ring 3: see `start.s`.
#![no_std]
#![no_main]

#[macro_use]
mod report;

mod acpi;
mod bench;
mod boot;
mod devices;
mod machine;
mod memory;
mod pci;
mod tests;
mod virtio;

core::arch::global_asm!(include_str!("start.s"), options(att_syntax));

/// Where `start.s` enters, in ring 3. `start_info` is the address of PVH's `hvm_start_info`.
#[unsafe(no_mangle)]
extern "C" fn main(start_info: u64) -> ! {
    machine::take_exceptions();
    let boot = boot::Boot::read(start_info);
    memory::prepare(boot.ram_end);
    if !bench::run(&boot) {
        tests::run(&boot);
    }
    report::done();
    machine::power_off()
}

/// Where `start.s` leads exceptions, in ring 0.
#[unsafe(no_mangle)]
extern "C" fn exception_report(vector: u64, at: u64, fault_address: u64) -> ! {
    fail!("exception {vector} at {at:#x}, fault address {fault_address:#x}");
    machine::power_off()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fail!("{info}");
    machine::power_off()
}
