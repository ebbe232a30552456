//! Numbers of the `ioctl` requests that this crate makes, for system call filters.
//!
//! The numbers are built as the kernel does (`include/uapi/asm-generic/ioctl.h`): direction, size of the
//! argument, the letter of the interface (`0xae` for KVM) and a number in it.

use kvm_bindings as kvm;

const NONE: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;

const fn number(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | 0xae << 8 | number
}

/// No argument, or one passed by value (`_IO`).
const fn io(nr: u64) -> u64 {
    number(NONE, nr, 0)
}

/// The kernel fills a `T` (`_IOR`).
const fn ior<T>(nr: u64) -> u64 {
    number(READ, nr, size_of::<T>())
}

/// The kernel reads a `T` (`_IOW`).
const fn iow<T>(nr: u64) -> u64 {
    number(WRITE, nr, size_of::<T>())
}

/// The kernel reads and fills a `T` (`_IOWR`).
const fn iowr<T>(nr: u64) -> u64 {
    number(READ | WRITE, nr, size_of::<T>())
}

pub(super) const RUN: u64 = io(0x80);
pub(super) const GET_NESTED_STATE: u64 = iowr::<kvm::kvm_nested_state>(0xbe);
pub(super) const SET_NESTED_STATE: u64 = iow::<kvm::kvm_nested_state>(0xbf);

/// Requests that a thread makes which runs a processor: running it, its state, and the grants that devices
/// change while they answer the guest (interrupt routes, doorbells and memory slots).
pub const VCPU_IOCTLS: &[u64] = &[
    RUN,
    GET_NESTED_STATE,
    SET_NESTED_STATE,
    iowr::<kvm::kvm_msr_list>(0x02), // KVM_GET_MSR_INDEX_LIST
    ior::<kvm::kvm_regs>(0x81),      // KVM_GET_REGS
    iow::<kvm::kvm_regs>(0x82),      // KVM_SET_REGS
    ior::<kvm::kvm_sregs>(0x83),     // KVM_GET_SREGS
    iow::<kvm::kvm_sregs>(0x84),     // KVM_SET_SREGS
    iowr::<kvm::kvm_msrs>(0x88),     // KVM_GET_MSRS
    iow::<kvm::kvm_msrs>(0x89),      // KVM_SET_MSRS
    ior::<kvm::kvm_lapic_state>(0x8e),
    iow::<kvm::kvm_lapic_state>(0x8f),
    iow::<kvm::kvm_cpuid2>(0x90), // KVM_SET_CPUID2
    ior::<kvm::kvm_mp_state>(0x98),
    iow::<kvm::kvm_mp_state>(0x99),
    io(0x9a), // KVM_NMI
    iow::<kvm::kvm_guest_debug>(0x9b),
    ior::<kvm::kvm_vcpu_events>(0x9f),
    iow::<kvm::kvm_vcpu_events>(0xa0),
    ior::<kvm::kvm_debugregs>(0xa1),
    iow::<kvm::kvm_debugregs>(0xa2),
    io(0xa2), // KVM_SET_TSC_KHZ
    io(0xa3), // KVM_GET_TSC_KHZ
    iow::<kvm::kvm_enable_cap>(0xa3),
    ior::<kvm::kvm_xsave>(0xa4), // KVM_GET_XSAVE
    iow::<kvm::kvm_xsave>(0xa5), // KVM_SET_XSAVE
    ior::<kvm::kvm_xcrs>(0xa6),
    iow::<kvm::kvm_xcrs>(0xa7),
    io(0xad),                    // KVM_KVMCLOCK_CTRL
    ior::<kvm::kvm_xsave>(0xcf), // KVM_GET_XSAVE2
    iow::<kvm::kvm_dirty_log>(0x42),
    iow::<kvm::kvm_userspace_memory_region>(0x46),
    iow::<kvm::kvm_irq_routing>(0x6a), // KVM_SET_GSI_ROUTING
    iow::<kvm::kvm_irqfd>(0x76),
    iow::<kvm::kvm_ioeventfd>(0x79),
    iow::<kvm::kvm_msi>(0xa5), // KVM_SIGNAL_MSI
];

/// Requests beyond [`VCPU_IOCTLS`] that a thread makes which opens the hypervisor and builds machines.
pub const VM_IOCTLS: &[u64] = &[
    io(0x00),                      // KVM_GET_API_VERSION
    io(0x01),                      // KVM_CREATE_VM
    io(0x03),                      // KVM_CHECK_EXTENSION
    io(0x04),                      // KVM_GET_VCPU_MMAP_SIZE
    iowr::<kvm::kvm_cpuid2>(0x05), // KVM_GET_SUPPORTED_CPUID
    io(0x41),                      // KVM_CREATE_VCPU
    io(0x47),                      // KVM_SET_TSS_ADDR
    iow::<u64>(0x48),              // KVM_SET_IDENTITY_MAP_ADDR
    iow::<kvm::kvm_clock_data>(0x7b),
    ior::<kvm::kvm_clock_data>(0x7c),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as the C compiler gives them for the kernel's header `linux/kvm.h`.
    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(RUN, 0xae80);
        for (number, name) in [
            (0x8090_ae81, "KVM_GET_REGS"),
            (0xc008_ae88, "KVM_GET_MSRS"),
            (0x8400_ae8e, "KVM_GET_LAPIC"),
            (0x4048_ae9b, "KVM_SET_GUEST_DEBUG"),
            (0x4040_aea0, "KVM_SET_VCPU_EVENTS"),
            (0x9000_aecf, "KVM_GET_XSAVE2"),
            (0xc080_aebe, "KVM_GET_NESTED_STATE"),
            (0x4020_ae46, "KVM_SET_USER_MEMORY_REGION"),
            (0x4010_ae42, "KVM_GET_DIRTY_LOG"),
            (0x4008_ae6a, "KVM_SET_GSI_ROUTING"),
            (0x4020_ae76, "KVM_IRQFD"),
            (0x4040_ae79, "KVM_IOEVENTFD"),
            (0x4020_aea5, "KVM_SIGNAL_MSI"),
        ] {
            assert!(VCPU_IOCTLS.contains(&number), "{name} {number:#x}");
        }
        for (number, name) in [
            (0xae01, "KVM_CREATE_VM"),
            (0xae41, "KVM_CREATE_VCPU"),
            (0xc008_ae05, "KVM_GET_SUPPORTED_CPUID"),
            (0x8030_ae7c, "KVM_GET_CLOCK"),
        ] {
            assert!(VM_IOCTLS.contains(&number), "{name} {number:#x}");
        }
    }

    #[test]
    fn no_request_is_in_both_lists() {
        assert!(VM_IOCTLS.iter().all(|number| !VCPU_IOCTLS.contains(number)));
    }
}
