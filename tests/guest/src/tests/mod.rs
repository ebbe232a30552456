//! What the guest can be told to do.

mod basic;
mod fuzz;
mod pci;
mod rings;
mod setup;

use crate::acpi;
use crate::boot::Boot;
use crate::devices;
use crate::virtio::Device;

/// A test: its name and what it does.
type Test = (&'static str, fn(&Boot));

/// A test of how one device takes what a driver must not do. It gets the device, which it finds working; afterwards
/// the device and all others have to work.
type Attack = (&'static str, fn(&mut Device));

/// Does what `test=NAME` on the command line says. `test=attack` takes `attack=NAME` and the name of a device,
/// `dev=NAME`.
pub(crate) fn run(boot: &Boot) {
    crate::pci::use_ecam(acpi::ecam(boot.rsdp));
    let name = boot.word("test").unwrap_or("enumerate");
    if name == "attack" {
        return attack(boot);
    }
    match basic::TESTS.iter().find(|(known, _)| *known == name) {
        Some((_, test)) => test(boot),
        None => fail!("there is no test {name}"),
    }
}

fn attack(boot: &Boot) {
    let (name, device) = (
        boot.word("attack").unwrap_or(""),
        boot.word("dev").unwrap_or(""),
    );
    let attacks = [rings::ATTACKS, setup::ATTACKS, pci::ATTACKS, fuzz::ATTACKS];
    let Some((_, attack)) = attacks
        .into_iter()
        .flatten()
        .find(|(known, _)| *known == name)
    else {
        return fail!("there is no attack {name}");
    };
    let Some(mut victim) = devices::kind_named(device).and_then(Device::find) else {
        return fail!("there is no device {device}");
    };
    devices::work(&victim);
    attack(&mut victim);
    devices::others_work(&victim);
    devices::work(&victim);
    devices::others_work(&victim);
}
