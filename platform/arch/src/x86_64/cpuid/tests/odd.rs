//! Hosts that no manual describes.

use proptest::prelude::*;

use super::*;

fn odd_entry() -> impl Strategy<Value = CpuidEntry> {
    let leaf = prop_oneof![
        0u32..0x20,
        0x4000_0000u32..0x4000_0012,
        0x8000_0000u32..0x8000_0028
    ];
    let parts = (leaf, 0u32..20, any::<bool>(), any::<[u32; 4]>());
    parts.prop_map(
        |(leaf, subleaf, indexed, [eax, ebx, ecx, edx])| CpuidEntry {
            leaf,
            subleaf,
            indexed,
            eax,
            ebx,
            ecx,
            edx,
        },
    )
}

proptest! {
    /// Whatever an emulator lists, a profile comes out with the right ids, or an error.
    #[test]
    fn odd_hosts_do_not_panic(
        entries in proptest::collection::vec(odd_entry(), 0..60),
        vendor in 0..3usize,
        kvm_hyperv: bool,
        amx: bool,
        tsc_khz: Option<u32>,
        apic_bus_khz: u32,
        max in 1u32..40,
    ) {
        let mut host = vec![hosts::intel(), hosts::amd(), hosts::minimal_amd()].swap_remove(vendor);
        host.supported.retain(|e| e.leaf == 0 || !entries.iter().any(|odd| odd.leaf == e.leaf));
        host.supported.extend(entries.iter().filter(|e| e.leaf != 0));
        let options = CpuOptions {
            max, kvm_hyperv, hyperv_available: true, amx, tsc_khz, apic_bus_khz,
            ..CpuOptions::default()
        };
        match profile(&host, &options) {
            Ok(profile) => {
                let entries = profile.for_vcpu(max - 1);
                prop_assert_eq!(answer(&entries, 0xb, 0).edx, profile.apic_id(max - 1));
                prop_assert!(profile.phys_bits() <= 46);
            }
            Err(error) => prop_assert_eq!(error, Error::NoAmx),
        }
    }
}
