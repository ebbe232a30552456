//! How guests see the hypervisor and its clocks.

use super::*;

/// The twelve characters in EBX, ECX, EDX of a hypervisor leaf.
fn signature(e: CpuidEntry) -> String {
    let text: Vec<u8> = [e.ebx, e.ecx, e.edx]
        .iter()
        .flat_map(|r| r.to_le_bytes())
        .collect();
    String::from_utf8(text)
        .unwrap()
        .trim_end_matches('\0')
        .to_owned()
}

#[test]
fn kvm_signature_stays_and_gets_frequencies() {
    let options = CpuOptions {
        tsc_khz: Some(2_100_000),
        ..CpuOptions::default()
    };
    for host in [hosts::intel(), hosts::amd()] {
        let entries = first(&host, &options);
        assert_eq!(signature(answer(&entries, 0x4000_0000, 0)), "KVMKVMKVM");
        assert_eq!(answer(&entries, 0x4000_0000, 0).eax, 0x4000_0010);
        assert_eq!(answer(&entries, 0x4000_0001, 0).eax, 0x0100_7efb);
        let clocks = answer(&entries, 0x4000_0010, 0);
        assert_eq!((clocks.eax, clocks.ebx), (2_100_000, 1_000_000));
        let without = first(&host, &CpuOptions::default());
        assert_eq!(answer(&without, 0x4000_0000, 0).eax, 0x4000_0001);
    }
}

#[test]
fn tsc_leaf_on_intel_gives_the_frequency() {
    let options = CpuOptions {
        tsc_khz: Some(2_100_000),
        ..CpuOptions::default()
    };
    let entries = first(&hosts::intel(), &options);
    let tsc = answer(&entries, 0x15, 0);
    assert_eq!(
        u64::from(tsc.ecx) * u64::from(tsc.ebx) / u64::from(tsc.eax),
        2_100_000_000
    );
    assert_eq!(tsc.ecx, 1_000_000_000, "the crystal drives the APIC timer");
    assert_eq!(answer(&entries, 0x16, 0).eax, 2100);
    assert_eq!(answer(&first(&hosts::amd(), &options), 0x15, 0).eax, 0);
    // A frequency that nobody knows, or that cannot be, is not told.
    for tsc_khz in [None, Some(0)] {
        let options = CpuOptions {
            tsc_khz,
            ..CpuOptions::default()
        };
        assert_eq!(answer(&first(&hosts::intel(), &options), 0x15, 0).eax, 0);
    }
}

#[test]
fn hyperv_leaves_come_first_and_kvms_after() {
    let options = CpuOptions {
        kvm_hyperv: true,
        hyperv_available: true,
        tsc_khz: Some(2_100_000),
        ..CpuOptions::default()
    };
    let entries = first(&hosts::intel(), &options);
    assert_eq!(signature(answer(&entries, 0x4000_0000, 0)), "Linux KVM Hv");
    assert_eq!(answer(&entries, 0x4000_0000, 0).eax, 0x4000_000a);
    assert_eq!(answer(&entries, 0x4000_0001, 0).eax.to_le_bytes(), *b"Hv#1");
    for leaf in 0x4000_0000..=0x4000_000a {
        assert!(entries.iter().any(|e| e.leaf == leaf), "{leaf:#x}");
    }
    assert!(
        !entries
            .iter()
            .any(|e| (0x4000_000b..0x4000_0100).contains(&e.leaf))
    );
    assert_eq!(signature(answer(&entries, 0x4000_0100, 0)), "KVMKVMKVM");
    assert_eq!(answer(&entries, 0x4000_0100, 0).eax, 0x4000_0101);
    assert_eq!(answer(&entries, 0x4000_0101, 0).eax, 0x0100_7efb);
    // Hypercall registers and processor index: the least that Hv#1 requires.
    let privileges = answer(&entries, 0x4000_0003, 0).eax;
    assert!(bit(privileges, 5) && bit(privileges, 6));
    assert!(
        !bit(privileges, 2) && !bit(privileges, 3),
        "no synthetic interrupts unless on"
    );
    let synic = CpuOptions {
        hyperv_synic: true,
        ..options
    };
    let privileges = answer(&first(&hosts::intel(), &synic), 0x4000_0003, 0).eax;
    assert!(bit(privileges, 2) && bit(privileges, 3));
}

#[test]
fn hyperv_needs_the_hypervisor() {
    let options = CpuOptions {
        kvm_hyperv: true,
        ..CpuOptions::default()
    };
    assert_eq!(
        profile(&hosts::intel(), &options).unwrap_err(),
        Error::NoHyperV
    );
}

#[test]
fn extended_destinations_are_promised_only_by_the_machine() {
    let mut host = hosts::amd();
    host.supported_mut(0x4000_0001, 0).eax |= 1 << 15;
    let promised = CpuOptions {
        msi_extended_destination: true,
        ..CpuOptions::default()
    };
    assert!(bit(
        answer(&first(&host, &promised), 0x4000_0001, 0).eax,
        15
    ));
    assert!(!bit(
        answer(&first(&host, &CpuOptions::default()), 0x4000_0001, 0).eax,
        15
    ));
    let hyperv = CpuOptions {
        kvm_hyperv: true,
        hyperv_available: true,
        ..promised
    };
    assert!(bit(answer(&first(&host, &hyperv), 0x4000_0101, 0).eax, 15));
}
