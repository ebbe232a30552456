//! What the guest can be told to do.

mod basic;
mod fuzz;
mod images;
mod pci;
mod resets;
mod rings;
mod setup;
mod special;

use crate::acpi;
use crate::boot::Boot;
use crate::devices;
use crate::memory;
use crate::virtio::Device;

/// A test: its name and what it does.
type Test = (&'static str, fn(&Boot));

/// A test of how one device takes what a driver must not do. It gets the device, which it finds working; afterwards
/// the device and all others have to work.
type Attack = (&'static str, fn(&mut Device));

/// Does what `test=NAME` on the command line says. `test=attack` takes `attack=NAME`.
pub(crate) fn run(boot: &Boot) {
    crate::pci::use_ecam(acpi::ecam(boot.rsdp));
    let name = boot.word("test").unwrap_or("enumerate");
    if name == "attack" {
        return attack_all(boot.word("attack").unwrap_or(""));
    }
    let tests = [basic::TESTS, special::TESTS, images::TESTS];
    match tests
        .into_iter()
        .flatten()
        .find(|(known, _)| *known == name)
    {
        Some((_, test)) => test(boot),
        None => fail!("there is no test {name}"),
    }
}

/// One attack on one device after the other.
fn attack_all(name: &str) {
    let attacks = [
        rings::ATTACKS,
        setup::ATTACKS,
        resets::ATTACKS,
        pci::ATTACKS,
        fuzz::ATTACKS,
    ];
    let mut attacks = attacks.into_iter().flatten();
    let Some((_, attack)) = attacks.find(|(known, _)| *known == name) else {
        return fail!("there is no attack {name}");
    };
    devices::all_work();
    for mut victim in Device::all() {
        fact!("victim {}", devices::name(victim.kind));
        let taken = memory::taken();
        attack(&mut victim);
        devices::all_work();
        // Nobody uses what they were told any more.
        Device::all().for_each(|device| device.reset());
        memory::give_back(taken);
    }
}
