//! What this host's KVM can do, asked once.

use kvm_bindings as bindings;
use kvm_ioctls::{Cap, Kvm};

use crate::{Capabilities, Error, Result};

/// Size of the `XSAVE` area that every processor has in KVM's interface.
pub(super) const XSAVE_MIN: usize = 4096;

/// What no machine can do without. All are in Linux since 4.13.
const NEEDED: [(u32, &str); 7] = [
    (bindings::KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"),
    (bindings::KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
    (bindings::KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"),
    (bindings::KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"),
    (bindings::KVM_CAP_IRQFD, "KVM_CAP_IRQFD"),
    (bindings::KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"),
    (
        bindings::KVM_CAP_IOEVENTFD_ANY_LENGTH,
        "KVM_CAP_IOEVENTFD_ANY_LENGTH",
    ),
];

/// Asks for everything.
///
/// # Errors
/// [`Error::Missing`] for what no machine can do without.
pub(super) fn probe(kvm: &Kvm) -> Result<Capabilities> {
    for (number, what) in NEEDED {
        if ask(kvm, number) == 0 {
            return Err(Error::Missing {
                what,
                hint: "run a kernel of version 4.13 or later",
            });
        }
    }
    let limit = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Capabilities {
        max_vcpus: limit(kvm.get_max_vcpus()),
        max_apic_ids: limit(kvm.get_max_vcpu_id()),
        max_memory_slots: limit(kvm.get_nr_memslots()),
        read_only_memory: kvm.check_extension(Cap::ReadonlyMem),
        nested_state: kvm.check_extension(Cap::NestedState),
        hyperv: kvm.check_extension(Cap::Hyperv) && kvm.check_extension(Cap::HypervSynic),
        tsc_scaling: kvm.check_extension(Cap::TscControl),
        xsave_size: xsave_size(kvm.check_extension_int(Cap::Xsave2)),
        emulation_failure_details: ask(kvm, bindings::KVM_CAP_EXIT_ON_EMULATION_FAILURE) != 0,
    })
}

/// Size of the `XSAVE` area from the kernel's answer about `KVM_CAP_XSAVE2`, which is 0 before Linux 5.17.
pub(super) fn xsave_size(answer: i32) -> usize {
    usize::try_from(answer).unwrap_or(0).max(XSAVE_MIN)
}

/// The kernel's answer about a capability: 0 if it does not have or know it.
fn ask(kvm: &Kvm, number: u32) -> u32 {
    u32::try_from(kvm.check_extension_raw(number.into())).unwrap_or(0)
}
