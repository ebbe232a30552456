//! The one list of device kinds.
//!
//! Nothing else knows a device by name. The order is the order of creation.
#![forbid(unsafe_code)]

use device::{AnyKind, Facts, OptionNames, Problem, Syscalls};
use sandbox::landlock::Access;
use serde_json::{Map, Value};

use std::path::PathBuf;

mod kinds;
mod members;
#[cfg(test)]
mod tests;

pub use kinds::{Kinds, Planned};
pub use members::{config_of, is_list, remove};

/// Every kind of device, in the order of creation.
pub static CATALOG: &[&dyn AnyKind] = &[
    &ioapic::IoApic,
    &i8042::I8042,
    &cmos::Cmos,
    &acpi_device::Acpi,
    &debug_port::DebugPort,
    &firmware_debug::FirmwareDebug,
    &serial::Serial,
    &debug_console::DebugConsole,
    // Before the disks that name them.
    &rate_limit_group::RateLimitGroup,
    // On PCI, in the order of their slots.
    &virtio_console::Console,
    &block::Block,
    &net::Net,
    &rng::Rng,
    &pmem::PersistentMemory,
    &vsock::Vsock,
    &balloon::MemoryBalloon,
    &watchdog::WatchdogKind,
    &rtc::RtcKind,
    &pvpanic::PvPanicKind,
];

/// The list, as something that answers.
pub static ALL: Kinds = Kinds(CATALOG);

/// See [`Kinds::options`].
pub fn options() -> impl Iterator<Item = (OptionNames, &'static dyn AnyKind)> {
    ALL.options()
}

/// See [`Kinds::settle`].
pub fn settle(devices: &mut Map<String, Value>) {
    ALL.settle(devices);
}

/// See [`Kinds::name_all`].
pub fn name_all(devices: &mut Map<String, Value>, next: u64) -> u64 {
    ALL.name_all(devices, next)
}

/// See [`Kinds::next_number`].
#[must_use]
pub fn next_number(devices: &Map<String, Value>) -> u64 {
    ALL.next_number(devices)
}

/// See [`Kinds::check`].
///
/// # Errors
/// The first problem found.
pub fn check(
    devices: &Map<String, Value>,
    facts: &Facts,
    other_members: &[&str],
) -> Result<(), Problem> {
    ALL.check(devices, facts, other_members)
}

/// See [`Kinds::plan`].
#[must_use]
pub fn plan(devices: &Map<String, Value>) -> Vec<Planned<'_>> {
    ALL.plan(devices)
}

/// See [`Kinds::syscalls`].
pub fn syscalls() -> impl Iterator<Item = Syscalls> {
    ALL.syscalls()
}

/// See [`Kinds::paths`].
///
/// # Errors
/// A [`Problem`] if a configuration does not read.
pub fn paths(devices: &Map<String, Value>) -> Result<Vec<(PathBuf, Access)>, Problem> {
    ALL.paths(devices)
}
