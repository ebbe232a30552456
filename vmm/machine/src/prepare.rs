//! Completes a configuration and checks it as a whole.

use config::{Problem, VmConfig};
use device::Facts;

/// Fills in what follows from the rest and what is there by default, as `vm.info` shows it.
pub fn settle(config: &mut VmConfig) {
    if let Some(payload) = &mut config.payload {
        for option in payload.settle() {
            telemetry::warn!("{option} has no effect together with --firmware");
        }
    }
    config.settle();
    catalog::settle(&mut config.devices);
}

/// Checks a configuration that was [settled](settle).
///
/// # Errors
/// The first problem found.
pub fn check(config: &VmConfig) -> Result<(), Problem> {
    config.payload.clone().unwrap_or_default().check()?;
    config.check()?;
    check_devices(config)
}

/// Checks the devices alone.
pub(crate) fn check_devices(config: &VmConfig) -> Result<(), Problem> {
    let facts = Facts {
        boot_vcpus: config.cpus.boot_vcpus,
        ..Facts::default()
    };
    catalog::check(&config.devices, &facts, VmConfig::FIXED_MEMBERS)
}
