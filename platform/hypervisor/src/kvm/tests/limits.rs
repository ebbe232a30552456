//! What the host can do, and what is refused.

use std::collections::BTreeMap;
use std::thread;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::*;
use crate::{Address, DoorbellValue, Error, MsiMessage, VCPU_IOCTLS, VM_IOCTLS};

#[test]
fn capabilities_are_plausible() {
    let Some(host) = host() else { return };
    let capabilities = host.capabilities();
    assert_eq!(host.name(), "kvm");
    assert!(capabilities.max_vcpus >= 1 && capabilities.max_apic_ids >= capabilities.max_vcpus);
    assert!(capabilities.max_memory_slots >= 32);
    assert!(capabilities.xsave_size >= 4096);
    assert!(
        host.state_msrs().unwrap().contains(&0x10),
        "the time stamp counter"
    );
    assert!(
        host.supported_cpuid()
            .unwrap()
            .iter()
            .any(|entry| entry.leaf == 0)
    );
}

#[test]
fn a_device_file_that_cannot_be_opened_says_what_to_do() {
    let text =
        |errno| crate::kvm::explain_open(std::io::Error::from_raw_os_error(errno)).to_string();
    let missing = text(libc::ENOENT);
    assert!(
        missing.starts_with("cannot open /dev/kvm: load the kernel module kvm_intel"),
        "{missing}"
    );
    assert!(text(libc::EACCES).contains("group kvm"));
    assert_ne!(text(libc::EMFILE), missing);
}

#[test]
fn apic_ids_need_the_right_interface() {
    let Some(host) = host() else { return };
    let plain = host.create_vm(&VmOptions::default()).unwrap();
    assert!(matches!(
        plain.create_vcpu(255),
        Err(Error::NeedsX2apic(255))
    ));
    plain.create_vcpu(254).unwrap();
    let x2apic = host.create_vm(&VmOptions { x2apic: true }).unwrap();
    if host.capabilities().max_apic_ids > 300 {
        x2apic.create_vcpu(300).unwrap();
    }
    let limit = host.capabilities().max_apic_ids;
    let error = x2apic.create_vcpu(limit).err().unwrap();
    assert!(
        matches!(
            error,
            Error::TooManyVcpus {
                what: "APIC id",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_message_reaches_a_processor_beyond_the_first_256() {
    let Some(host) = host() else { return };
    if host.capabilities().max_apic_ids <= 300 {
        return;
    }
    let vm = host.create_vm(&VmOptions { x2apic: true }).unwrap();
    let mut vcpu = vm.create_vcpu(300).unwrap();
    // x2APIC mode is entered in two steps (Intel SDM volume 3A, 11.12.5).
    let cpuid = host.supported_cpuid().unwrap();
    vcpu.set_cpuid(&cpuid).unwrap();
    let mut special = vcpu.special_regs().unwrap();
    special.apic_base |= 1 << 11 | 1 << 10;
    vcpu.set_special_regs(&special).unwrap();
    let mut page = vcpu.lapic().unwrap();
    page[0xf0..0xf4].copy_from_slice(&0x1ff_u32.to_le_bytes());
    vcpu.set_lapic(&page).unwrap();
    // Bits 0 to 7 of the id in their usual place; bit 8 in the upper half, or in the extension of the lower one.
    let msi = vm.msi().unwrap();
    for (vector, bit_8) in [(0x55, 256 << 32), (0x57, 1 << 5)] {
        let address = bit_8 | 0xfee0_0000 | (300 - 256) << 12;
        msi.set(Some(MsiMessage {
            address,
            data: vector,
        }))
        .unwrap();
        msi.trigger().unwrap();
        let bit = 1 << (vector - 0x50);
        assert!(eventually(|| vcpu.lapic().unwrap()[0x222] & bit != 0));
    }
}

#[test]
fn hyperv_is_refused_by_name_where_there_is_none() {
    let Some(mut guest) = Guest::new(&[]) else {
        return;
    };
    match guest.vcpu.enable_hyperv() {
        Ok(()) => assert!(guest.host.capabilities().hyperv),
        Err(error) => {
            assert!(!guest.host.capabilities().hyperv, "{error:?}");
            assert!(error.to_string().contains("Hyper-V"), "{error}");
        }
    }
}

#[test]
fn amx_is_granted_or_refused_by_name() {
    match crate::request_amx() {
        Ok(()) => {}
        Err(error @ Error::Missing { .. }) => assert!(error.to_string().contains("amx"), "{error}"),
        // Another test has a processor already.
        Err(error) => assert!(matches!(error, Error::Ioctl { .. }), "{error:?}"),
    }
}

#[test]
fn all_message_interrupts_can_be_taken_and_freed() {
    let Some(host) = host() else { return };
    let vm = host.create_vm(&VmOptions::default()).unwrap();
    // Descriptors are the scarcer resource: the limit is tested with a few hundred and by the unit tests.
    let all: Vec<_> = (0..300).map(|_| vm.msi().unwrap()).collect();
    for (index, msi) in (0..).zip(&all) {
        msi.set(Some(MsiMessage {
            address: 0xfee0_0000,
            data: 0x30 + index % 128,
        }))
        .unwrap();
    }
    drop(all);
    vm.msi()
        .unwrap()
        .set(Some(MsiMessage {
            address: 0xfee0_0000,
            data: 0x30,
        }))
        .unwrap();
}

/// The lists for system call filters are complete: everything works on a thread that may make no other `ioctl`.
#[test]
fn the_lists_of_requests_are_complete() {
    if host().is_none() {
        return;
    }
    thread::spawn(|| {
        restrict(&[VM_IOCTLS, VCPU_IOCTLS].concat());
        let mut guest = everything_but_running();
        restrict(VCPU_IOCTLS);
        assert!(
            guest.host.create_vm(&VmOptions::default()).is_err(),
            "the filter works"
        );
        run_and_grant(&mut guest);
        let state = guest.vcpu.save().unwrap();
        guest.vcpu.restore(&state).unwrap();
    })
    .join()
    .unwrap();
}

/// Refuses the calling thread all other `ioctl` requests.
fn restrict(requests: &[u64]) {
    let other = requests.iter().map(|&request| {
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, request).unwrap()
    });
    let rule = SeccompRule::new(other.collect()).unwrap();
    let rules = BTreeMap::from([(libc::SYS_ioctl, vec![rule])]);
    let refuse = SeccompAction::Errno(libc::EACCES.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

fn everything_but_running() -> Guest {
    let mut guest = Guest::new(&[0xe6, 0xe9, 0xeb, 0xfe]).unwrap();
    guest
        .vcpu
        .set_cpuid(&guest.host.supported_cpuid().unwrap())
        .unwrap();
    let clock = guest.vm.clock().unwrap();
    guest.vm.set_clock(&clock).unwrap();
    guest
}

fn run_and_grant(guest: &mut Guest) {
    guest.said();
    guest.finish_access();
    guest.vcpu.inject_nmi().unwrap();
    guest.vcpu.notify_paused().unwrap();
    let khz = guest.vcpu.tsc_khz().unwrap();
    guest.vcpu.set_tsc_khz(khz).unwrap();
    let message = MsiMessage {
        address: 0xfee0_0000,
        data: 0x40,
    };
    guest.vm.msi().unwrap().set(Some(message)).unwrap();
    guest.vm.irq_line(1).unwrap();
    guest.vm.signal_msi(message).unwrap();
    guest
        .vm
        .doorbell(Address::Port(0x10), DoorbellValue::Any)
        .unwrap();
    let ram = Ram::new(0x1000);
    let slot = guest.vm.map_memory(region(&ram, 0x2_0000, true)).unwrap();
    guest.vm.take_dirty_pages(&slot).unwrap();
}
