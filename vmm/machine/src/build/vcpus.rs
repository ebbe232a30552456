//! The processors of a machine: how many and which, what they can do, where they begin.

use arch::{CpuOptions, CpuProfile, CpuidEntry, MpState, Topology};
use config::VmConfig;
use hypervisor::{Capabilities, Hypervisor, Vcpu, Vm};

use crate::Result;

/// The local APIC is in x2APIC mode (Intel SDM volume 3A, 11.12.1, `IA32_APIC_BASE`).
const APIC_BASE_X2APIC: u64 = 1 << 10;

fn topology(config: &VmConfig) -> Result<Topology> {
    let max = config.cpus.max();
    let topology = config
        .cpus
        .arch_topology()
        .unwrap_or_else(|| Topology::default_for(max));
    topology.check(max)?;
    Ok(topology)
}

/// The host must be able to give the machine all processors that it may ever have.
pub(crate) fn check_host_limits(config: &VmConfig, host: &Capabilities) -> Result<()> {
    let max = config.cpus.max();
    let last_id = topology(config)?.apic_id(max - 1);
    let problem = if max > host.max_vcpus {
        let limit = host.max_vcpus;
        format!("max={max}: this host gives a machine at most {limit} processors")
    } else if last_id >= host.max_apic_ids {
        let limit = host.max_apic_ids;
        format!(
            "the last processor's APIC id is {last_id}, and this host has ids below {limit}: change topology or max"
        )
    } else {
        return Ok(());
    };
    Err(config::Problem::new("--cpus", problem).into())
}

/// Ids from 255 on need the extended interface of the local APIC.
pub(super) fn needs_x2apic(config: &VmConfig) -> Result<bool> {
    Ok(topology(config)?.apic_id(config.cpus.max() - 1) > 254)
}

pub(super) fn create_vcpus(config: &VmConfig, vm: &dyn Vm) -> Result<Vec<Box<dyn Vcpu>>> {
    let topology = topology(config)?;
    (0..config.cpus.boot_vcpus)
        .map(|index| Ok(vm.create_vcpu(topology.apic_id(index))?))
        .collect()
}

/// How fast the time stamp counter of the first processor runs.
pub(super) fn tsc_khz(vcpus: &[Box<dyn Vcpu>]) -> Option<u32> {
    vcpus.first().and_then(|vcpu| vcpu.tsc_khz().ok())
}

/// What the processors can do.
pub(super) fn cpu_profile(
    config: &VmConfig,
    hypervisor: &dyn Hypervisor,
    features: &[CpuidEntry],
    tsc_khz: Option<u32>,
) -> Result<CpuProfile> {
    let cpus = &config.cpus;
    let capabilities = hypervisor.capabilities();
    let options = CpuOptions {
        boot: cpus.boot_vcpus,
        max: cpus.max(),
        topology: cpus.arch_topology(),
        max_phys_bits: cpus.max_phys_bits,
        kvm_hyperv: cpus.kvm_hyperv,
        nested: cpus.nested,
        amx: cpus.features.amx,
        tsc_khz,
        hyperv_available: capabilities.hyperv,
        // The I/O APIC device reads these bits.
        msi_extended_destination: true,
        ..CpuOptions::default()
    };
    Ok(CpuProfile::new(features, &options)?)
}

/// Gives each processor its features; the first one starts at the entry point, the others wait for it.
pub(super) fn prepare_vcpus(
    vcpus: &mut [Box<dyn Vcpu>],
    profile: &CpuProfile,
    boot: &arch::BootState,
    x2apic: bool,
) -> Result<()> {
    for (index, vcpu) in (0u32..).zip(vcpus) {
        vcpu.set_cpuid(&profile.for_vcpu(index))?;
        vcpu.set_msrs(&boot.msrs)?;
        let mut lapic = vcpu.lapic()?;
        arch::lapic_boot(&mut lapic, index == 0);
        vcpu.set_lapic(&lapic)?;
        if index == 0 {
            // What the processor has at reset and the boot state does not name stays: the APIC base.
            let mut special = boot.sregs;
            special.apic_base = vcpu.special_regs()?.apic_base;
            if x2apic {
                // As firmware does: a kernel that finds the mode off ignores processors that need it.
                special.apic_base |= APIC_BASE_X2APIC;
            }
            vcpu.set_special_regs(&special)?;
            vcpu.set_regs(&boot.regs)?;
        } else {
            vcpu.set_mp_state(MpState::Uninitialized)?;
        }
    }
    Ok(())
}
