//! Profiles for real hosts, read as a guest would.

mod decode;
mod hosts;
mod hypervisor;
mod odd;

use super::*;
use hosts::Host;

fn profile(host: &Host, options: &CpuOptions) -> Result<CpuProfile, Error> {
    CpuProfile::on_host(&host.supported, options, &|leaf, subleaf| {
        host.native(leaf, subleaf)
    })
}

/// What the guest reads: zero where the list has no answer.
fn answer(entries: &[CpuidEntry], leaf: u32, subleaf: u32) -> CpuidEntry {
    let found = entries
        .iter()
        .find(|e| e.leaf == leaf && (!e.indexed || e.subleaf == subleaf));
    found.copied().unwrap_or_default()
}

fn first(host: &Host, options: &CpuOptions) -> Vec<CpuidEntry> {
    profile(host, options).unwrap().for_vcpu(0)
}

fn bit(value: u32, position: u32) -> bool {
    value >> position & 1 == 1
}

#[test]
fn hypervisor_features_are_on_and_runtime_mirrors_are_off() {
    for host in [hosts::intel(), hosts::amd(), hosts::this()] {
        let entries = first(&host, &CpuOptions::default());
        let ecx = answer(&entries, 1, 0).ecx;
        assert!(bit(ecx, 31) && bit(ecx, 24) && bit(ecx, 21));
        assert!(!bit(ecx, 27), "OSXSAVE follows CR4");
        assert!(!bit(answer(&entries, 7, 0).ecx, 4), "OSPKE follows CR4");
        assert_eq!(
            answer(&entries, 1, 0).ebx >> 8 & 0xff,
            8,
            "CLFLUSH of 64 bytes"
        );
        assert!(
            !bit(answer(&entries, 7, 0).ebx, 2),
            "SGX without enclave memory"
        );
        assert_eq!(answer(&entries, 0x12, 0).eax, 0);
    }
}

#[test]
fn deadline_timer_only_if_the_hypervisor_has_it() {
    let options = CpuOptions {
        tsc_deadline_timer: false,
        ..CpuOptions::default()
    };
    assert!(!bit(
        answer(&first(&hosts::intel(), &options), 1, 0).ecx,
        24
    ));
}

#[test]
fn vendors() {
    let vendor = |host: &Host| profile(host, &CpuOptions::default()).unwrap().vendor();
    assert_eq!(vendor(&hosts::intel()), Vendor::Intel);
    assert_eq!(vendor(&hosts::amd()), Vendor::Amd);
    let mut hygon = hosts::amd();
    let leaf0 = hygon.supported_mut(0, 0);
    [leaf0.ebx, leaf0.edx, leaf0.ecx] = [0x6f67_7948, 0x6e65_476e, 0x656e_6975];
    assert_eq!(vendor(&hygon), Vendor::Hygon);
    let options = CpuOptions {
        max: 2,
        ..CpuOptions::default()
    };
    assert_eq!(
        answer(
            &profile(&hygon, &options).unwrap().for_vcpu(1),
            0x8000_001e,
            0
        )
        .eax,
        1
    );
}

#[test]
fn nested_off_hides_virtualisation() {
    for nested in [true, false] {
        let options = CpuOptions {
            nested,
            ..CpuOptions::default()
        };
        let intel = first(&hosts::intel(), &options);
        assert_eq!(bit(answer(&intel, 1, 0).ecx, 5), nested);
        let amd = first(&hosts::amd(), &options);
        assert_eq!(bit(answer(&amd, 0x8000_0001, 0).ecx, 2), nested);
        assert_eq!(answer(&amd, 0x8000_000a, 0).eax != 0, nested);
    }
}

#[test]
fn nested_on_does_not_invent_virtualisation() {
    let mut host = hosts::intel();
    host.supported_mut(1, 0).ecx &= !(1 << 5);
    assert!(!bit(
        answer(&first(&host, &CpuOptions::default()), 1, 0).ecx,
        5
    ));
}

/// XCR0 components that the guest may enable, and the area they need by their own leaves.
fn xsave(entries: &[CpuidEntry]) -> (u32, u32) {
    let main = answer(entries, 0xd, 0);
    let end = (2..32)
        .filter(|component| bit(main.eax, *component))
        .map(|component| {
            let e = answer(entries, 0xd, component);
            assert_ne!(e.eax, 0, "component {component} has no description");
            e.ebx + e.eax
        });
    (main.eax, end.fold(576, u32::max))
}

#[test]
fn amx_is_masked_without_a_trace() {
    let entries = first(&hosts::intel(), &CpuOptions::default());
    let e = answer(&entries, 7, 0);
    assert!(![22, 24, 25].iter().any(|feature| bit(e.edx, *feature)));
    assert!(bit(e.edx, 23), "its neighbour AVX512-FP16 stays");
    assert!(!bit(answer(&entries, 7, 1).eax, 21) && !bit(answer(&entries, 7, 1).edx, 8));
    assert!(bit(answer(&entries, 7, 1).edx, 14), "PREFETCHI stays");
    assert!(!entries.iter().any(|e| [0x1d, 0x1e].contains(&e.leaf)));
    assert!(
        !entries
            .iter()
            .any(|e| e.leaf == 0xd && [17, 18].contains(&e.subleaf))
    );
    assert_eq!(xsave(&entries), (0x2e7, 0xa88));
    assert_eq!(answer(&entries, 0xd, 0).ecx, 0xa88);
    assert_eq!(answer(&entries, 0xd, 0).ebx, 576);
    assert!(!bit(answer(&entries, 0xd, 1).eax, 4), "XFD");
}

#[test]
fn amx_on_request() {
    let options = CpuOptions {
        amx: true,
        ..CpuOptions::default()
    };
    let entries = first(&hosts::intel(), &options);
    assert!(
        [22, 24, 25]
            .iter()
            .all(|feature| bit(answer(&entries, 7, 0).edx, *feature))
    );
    assert_eq!(answer(&entries, 0x1d, 1).eax, 0x0400_2000);
    assert_eq!(answer(&entries, 0x1e, 0).ebx, 0x4010);
    assert_eq!(xsave(&entries), (0x6_02e7, 0x2b00));
    assert_eq!(answer(&entries, 0xd, 0).ecx, 0x2b00);
    assert!(bit(answer(&entries, 0xd, 1).eax, 4));
}

#[test]
fn amx_refused_where_it_is_not() {
    let options = CpuOptions {
        amx: true,
        ..CpuOptions::default()
    };
    assert_eq!(profile(&hosts::amd(), &options).unwrap_err(), Error::NoAmx);
    // The processor has it, but the process may not use it: KVM then leaves tile data out of XCR0.
    let mut host = hosts::intel();
    host.supported_mut(0xd, 0).eax &= !(1 << 18);
    assert_eq!(profile(&host, &options).unwrap_err(), Error::NoAmx);
}

#[test]
fn xsave_size_covers_all_components_on_amd() {
    let entries = first(&hosts::amd(), &CpuOptions::default());
    assert_eq!(xsave(&entries), (0x2e7, 0x988));
    assert_eq!(answer(&entries, 0xd, 0).ecx, 0x988);
}

#[test]
fn phys_bits_are_the_least_of_all_limits() {
    let bits = |host: &Host, max_phys_bits| {
        let options = CpuOptions {
            max_phys_bits,
            ..CpuOptions::default()
        };
        let profile = profile(host, &options).unwrap();
        let sizes = answer(&profile.for_vcpu(0), 0x8000_0008, 0).eax;
        assert_eq!(sizes & 0xff, u32::from(profile.phys_bits()));
        assert!(sizes >> 16 & 0xff <= sizes & 0xff);
        (profile.phys_bits(), sizes >> 8 & 0xff)
    };
    let mut host = hosts::intel();
    assert_eq!(bits(&host, 46), (46, 57));
    assert_eq!(bits(&host, 52), (52, 57));
    assert_eq!(bits(&host, 255), (52, 57));
    assert_eq!(bits(&host, 36), (36, 57));
    // Nested page tables of four levels: 48 bits can be mapped.
    host.supported_mut(0x8000_0008, 0).eax = 0x0030_3934;
    assert_eq!(bits(&host, 52), (48, 57));
    assert_eq!(bits(&hosts::amd(), 52), (48, 48));
    assert_eq!(bits(&hosts::minimal_amd(), 46), (36, 48));
}

#[test]
fn phys_bits_below_any_real_processor_are_refused() {
    let options = CpuOptions {
        max_phys_bits: 35,
        ..CpuOptions::default()
    };
    let error = profile(&hosts::intel(), &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "35 physical address bits: at least 36 are needed (--cpus max_phys_bits=)"
    );
}

#[test]
fn five_level_paging_stays() {
    assert!(bit(
        answer(&first(&hosts::intel(), &CpuOptions::default()), 7, 0).ecx,
        16
    ));
}

#[test]
fn brand_is_the_hosts() {
    let brand = |host: &Host| {
        let entries = first(host, &CpuOptions::default());
        assert!(answer(&entries, 0x8000_0000, 0).eax >= 0x8000_0004);
        let parts = BRAND.map(|leaf| answer(&entries, leaf, 0));
        let text: Vec<u8> = parts
            .flat_map(|e| [e.eax, e.ebx, e.ecx, e.edx])
            .flat_map(u32::to_le_bytes)
            .collect();
        String::from_utf8(text)
            .unwrap()
            .trim_end_matches(['\0', ' '])
            .to_owned()
    };
    assert_eq!(
        brand(&hosts::intel()),
        "Intel(R) Xeon(R) Gold 6430 @ 2.10GHz"
    );
    assert_eq!(brand(&hosts::amd()), "AMD EPYC 9454 48-Core Processor");
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "))
        .unwrap();
    assert_eq!(brand(&hosts::this()), line.trim_end());
}

#[test]
fn topology_extensions_need_cache_descriptions() {
    let options = CpuOptions {
        max: 2,
        ..CpuOptions::default()
    };
    let with = first(&hosts::amd(), &options);
    let without = first(&hosts::minimal_amd(), &options);
    assert!(bit(answer(&with, 0x8000_0001, 0).ecx, 22));
    assert!(!bit(answer(&without, 0x8000_0001, 0).ecx, 22));
    assert!(answer(&without, 0x8000_0000, 0).eax < 0x8000_001d);
    // It still learns its two cores.
    assert_eq!(answer(&without, 0, 0).eax, 0xb);
    assert_eq!(answer(&without, 0xb, 1).ebx, 2);
    assert_eq!(answer(&without, 0x8000_0008, 0).ecx & 0xff, 1);
}

#[test]
fn answers_are_unique_and_within_their_ranges() {
    let options = CpuOptions {
        max: 3,
        tsc_khz: Some(2_000_000),
        ..CpuOptions::default()
    };
    for host in [
        hosts::intel(),
        hosts::amd(),
        hosts::amd_with_extended_topology(),
        hosts::this(),
    ] {
        let entries = profile(&host, &options).unwrap().for_vcpu(2);
        for pair in entries.windows(2) {
            assert!(
                (pair[0].leaf, pair[0].subleaf) < (pair[1].leaf, pair[1].subleaf),
                "{pair:x?}"
            );
        }
        for e in &entries {
            let last = answer(&entries, e.leaf & 0xf000_0000, 0).eax;
            assert!(e.leaf <= last, "{:#x} is beyond {last:#x}", e.leaf);
        }
        // KVM_SET_CPUID2 takes 256.
        assert!(entries.len() <= 256, "{}", entries.len());
    }
}

#[test]
fn processor_counts_are_checked() {
    let counts = |boot, max| {
        let options = CpuOptions {
            boot,
            max,
            ..CpuOptions::default()
        };
        profile(&hosts::amd(), &options).map(|_| ())
    };
    assert_eq!(counts(0, 1), Err(Error::ProcessorCount { boot: 0, max: 1 }));
    assert_eq!(counts(3, 2), Err(Error::ProcessorCount { boot: 3, max: 2 }));
    assert_eq!(
        counts(2, 8193),
        Err(Error::TooManyProcessors {
            max: 8193,
            limit: 8192
        })
    );
    assert_eq!(counts(2, 2), Ok(()));
    let topology = Some(Topology::default_for(4));
    let options = CpuOptions {
        max: 8,
        topology,
        ..CpuOptions::default()
    };
    assert!(matches!(
        profile(&hosts::amd(), &options),
        Err(Error::TopologyCount { product: 4, .. })
    ));
}

#[test]
fn an_empty_list_is_told() {
    assert_eq!(
        CpuProfile::new(&[], &CpuOptions::default()).unwrap_err(),
        Error::NoVendor
    );
}
