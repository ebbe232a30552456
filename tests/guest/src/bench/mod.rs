//! What `cargo xtask bench data` measures: one load on one device, for as long as the command line says.
//!
//! `bench=block`, `bench=net` or `bench=vsock`, with words of their own; for all, `ticks=N` is how long in ticks of the
//! time stamp counter. Monitors that place nothing and tell nothing of ACPI need `ecam=ADDRESS` and
//! `window=ADDRESS`, where BARs can lie. The guest says `fact begin` and `fact end WORK DOORBELLS TICKS`, the last the time
//! that a doorbell takes it; the host looks at the clock and at the monitor's CPU time when each comes. Then the
//! guest waits to be killed.

mod block;
mod net;
mod stream;
mod vsock;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::acpi;
use crate::boot::Boot;
use crate::machine::{PATIENCE, ticks, wait_for};
use crate::pci;
use crate::virtio::Queue;

/// Does what `bench=NAME` on the command line says. `false` if nothing is to be measured.
pub(crate) fn run(boot: &Boot) -> bool {
    let Some(name) = boot.word("bench") else {
        return false;
    };
    pci::use_ecam(number(boot, "ecam").or_else(|| acpi::ecam(boot.rsdp)));
    if let Some(window) = number(boot, "window") {
        place(window);
    }
    match name {
        "block" => block::run(boot),
        "net" => net::run(boot),
        "vsock" => vsock::run(boot),
        _ => fail!("there is no benchmark {name}"),
    }
    true
}

/// The number after `name=`: decimal, or hexadecimal after `0x`.
fn number(boot: &Boot, name: &str) -> Option<u64> {
    let word = boot.word(name)?;
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

/// Gives every memory BAR that lies nowhere a place in the window.
fn place(window: u64) {
    let mut next = window;
    for function in pci::functions() {
        let mut index = 0;
        while index < 6 {
            let Some(bar) = function.bar(index) else {
                index += 1;
                continue;
            };
            if bar.address == 0 {
                next = next.next_multiple_of(bar.size);
                function.move_bar(&bar, next);
                next += bar.size;
            }
            index += if bar.wide { 2 } else { 1 };
        }
    }
}

/// What a load has done since it was last asked.
#[derive(Clone, Copy, Default)]
struct Work {
    /// Requests, frames or bytes.
    done: u64,
    /// Doorbells rung.
    doorbells: u64,
}

/// How many ticks the last doorbells took, and how many there were.
static RECENT: [AtomicU32; 255] = [const { AtomicU32::new(0) }; 255];
static RUNG: AtomicU64 = AtomicU64::new(0);

/// Rings if the device wants to be told, and takes the time of it. Whether it did.
fn notify(queue: &mut Queue) -> bool {
    let start = ticks();
    let rung = queue.notify();
    if rung {
        let took = u32::try_from(ticks().wrapping_sub(start)).unwrap_or(u32::MAX);
        let number = RUNG.load(Ordering::Relaxed);
        RUNG.store(number + 1, Ordering::Relaxed);
        RECENT[(number % RECENT.len() as u64) as usize].store(took, Ordering::Relaxed);
    }
    rung
}

/// What a doorbell takes: the least of the last ones. Others took what the host's processor did between, as waking up who
/// serves the queue may make it do something else.
fn doorbell_ticks() -> u32 {
    let count = (RUNG.load(Ordering::Relaxed) as usize).min(RECENT.len());
    let took = RECENT[..count]
        .iter()
        .map(|took| took.load(Ordering::Relaxed));
    took.min().unwrap_or(0)
}

/// Repeats `step`, first to warm up and then to be measured.
fn measure(boot: &Boot, mut step: impl FnMut() -> Work) {
    let ticks = number(boot, "ticks").unwrap_or(1_000_000_000);
    repeat(ticks / 8, &mut step);
    fact!("begin");
    let work = repeat(ticks, &mut step);
    fact!("end {} {} {}", work.done, work.doorbells, doorbell_ticks());
    wait_for(PATIENCE, || None::<()>);
}

fn repeat(most: u64, step: &mut impl FnMut() -> Work) -> Work {
    let start = ticks();
    let mut sum = Work::default();
    while ticks().wrapping_sub(start) < most {
        let work = step();
        sum.done += work.done;
        sum.doorbells += work.doorbells;
    }
    sum
}
