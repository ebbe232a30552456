//! What the machine tells its guest at boot: firmware tables and the first processor's registers.

use arch::layout::{self, E820Entry, E820Kind};
use config::VmConfig;
use firmware::payload::Loaded;
use firmware::{IoApic, Node, acpi, mptable, smbios};
use memory::GuestRam;

use crate::{Error, Result};

/// Where the FADT sends the guest: the ports of the `acpi` device.
fn fixed_hardware(config: &VmConfig) -> acpi::FixedHardware {
    acpi::FixedHardware {
        sleep_control: layout::PORT_ACPI_SLEEP,
        sleep_status: layout::PORT_ACPI_SLEEP + 1,
        reset: layout::PORT_ACPI_SLEEP,
        reset_value: layout::ACPI_RESET_VALUE,
        pm_timer: layout::PORT_PM_TIMER,
        pm1a: nested_hyperv(config).then_some(acpi::Pm1a {
            event: layout::PORT_PM1A_EVENT,
            control: layout::PORT_PM1A_CONTROL,
        }),
    }
}

/// Whether the guest may be Hyper-V, which looks for the PM1a blocks even on hardware-reduced platforms.
pub(crate) fn nested_hyperv(config: &VmConfig) -> bool {
    config.cpus.kvm_hyperv && config.cpus.nested
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "constants that fit their registers"
)]
const IO_APIC: IoApic = IoApic {
    id: layout::IOAPIC_ID,
    address: layout::IOAPIC_START as u32,
    version: layout::IOAPIC_VERSION as u8,
};

/// Writes ACPI, SMBIOS and MP tables and what the kernel expects beside them; gives the first processor's
/// start state.
pub(crate) fn write(
    config: &VmConfig,
    profile: &arch::CpuProfile,
    nodes: &[Node],
    mcfg: &[u8],
    loaded: &Loaded,
    ram: &GuestRam,
) -> Result<arch::BootState> {
    let processors: Vec<acpi::Processor> = (0..config.cpus.max())
        .map(|index| acpi::Processor {
            apic_id: profile.apic_id(index),
            enabled: index < config.cpus.boot_vcpus,
        })
        .collect();
    let acpi = acpi::build(&acpi::Platform {
        vcpus: &processors,
        nodes,
        fixed: fixed_hardware(config),
        ioapic: IO_APIC,
        mcfg: Some(mcfg),
        spare_ram: loaded.spare_ram.clone(),
    })
    .map_err(Error::Tables)?;
    for (address, bytes) in &acpi.writes {
        ram.write(*address, bytes)?;
    }
    let identity = config.platform.clone().unwrap_or_default().identity();
    let smbios = smbios::build(&identity).map_err(Error::Tables)?;
    ram.write(smbios::ADDRESS, &smbios)?;
    write_mp_table(config, profile, smbios.len(), ram)?;
    let acpi_memory = acpi.reserved.map(|range| E820Entry {
        start: range.start,
        size: range.end - range.start,
        kind: E820Kind::Acpi,
    });
    let e820 = layout::e820(ram.size(), acpi_memory.as_slice());
    let entry = firmware::payload::finish(loaded, &e820, acpi.rsdp, ram).map_err(Error::Payload)?;
    let state = arch::boot_state(entry);
    for (address, bytes) in &state.memory {
        ram.write(*address, bytes)?;
    }
    Ok(state)
}

/// For kernels that run without ACPI. It can name processors up to APIC id 254 only.
fn write_mp_table(
    config: &VmConfig,
    profile: &arch::CpuProfile,
    smbios_len: usize,
    ram: &GuestRam,
) -> Result<()> {
    let ids: Vec<u32> = (0..config.cpus.boot_vcpus)
        .map(|index| profile.apic_id(index))
        .collect();
    let address = mptable::address_after(smbios_len);
    if let Some(table) = mptable::build(&ids, &IO_APIC, address) {
        ram.write(address, &table)?;
    }
    Ok(())
}
