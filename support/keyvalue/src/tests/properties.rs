//! What holds for every text and every value.

use std::path::PathBuf;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use schemars::{Schema, schema_for};

use super::fixture::{
    Affinity, Common, Console, CoreScheduling, Cpus, DebugConsole, Disk, Features, Mac, Memory,
    Mode, Net, Platform, Profile, Restore, Topology, ZoneUpdate,
};
use crate::{ByteSize, check_json, from_str, nearest, parse, to_string};

/// Texts made mostly of what the syntax is made of.
fn nasty() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => prop::sample::select(vec![
            ",", "=", "[", "]", "\"", "@", "-", ":", " ", "0", "65535", "18446744073709551615", "on",
            "boot", "affinity", "topology", "file", "off", "size", "512M", "net_fds", "ä", "\u{2028}",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    vec(word, 0..24).prop_map(|words| words.concat())
}

fn schemas() -> Vec<Schema> {
    vec![
        schema_for!(Cpus),
        schema_for!(Memory),
        schema_for!(Console),
        schema_for!(DebugConsole),
        schema_for!(Disk),
        schema_for!(Net),
        schema_for!(Platform),
        schema_for!(Restore),
        schema_for!(Vec<u64>),
        schema_for!(String),
    ]
}

fn cpus() -> impl Strategy<Value = Cpus> {
    let topology = any::<[u16; 4]>().prop_map(
        |[threads_per_core, cores_per_die, dies_per_package, packages]| Topology {
            threads_per_core,
            cores_per_die,
            dies_per_package,
            packages,
        },
    );
    // Neighbours, so that ranges come up.
    let host_cpus = vec(prop_oneof![0..8_usize, any::<usize>()], 0..8);
    let affinity =
        (any::<u32>(), host_cpus).prop_map(|(vcpu, host_cpus)| Affinity { vcpu, host_cpus });
    let core_scheduling = prop::sample::select(vec![
        CoreScheduling::Vm,
        CoreScheduling::Vcpu,
        CoreScheduling::Off,
    ]);
    let numbers = (0..4_u32, 0..4_u32, any::<u8>());
    let switches = any::<[bool; 4]>();
    (
        numbers,
        switches,
        of(topology),
        of(vec(affinity, 0..4)),
        core_scheduling,
    )
        .prop_map(
            |(
                (boot_vcpus, max_vcpus, max_phys_bits),
                [kvm_hyperv, amx, avx10, nested],
                topology,
                affinity,
                core_scheduling,
            )| {
                Cpus {
                    boot_vcpus,
                    max_vcpus,
                    topology,
                    kvm_hyperv,
                    max_phys_bits,
                    affinity,
                    features: Features { amx, avx10 },
                    nested,
                    core_scheduling,
                    profile: Profile::Host,
                }
            },
        )
}

fn console() -> impl Strategy<Value = Console> {
    let place = || nasty().prop_filter("a place cannot be empty", |text| !text.is_empty());
    let mode = prop_oneof![
        prop::sample::select(vec![Mode::Off, Mode::Pty, Mode::Tty, Mode::Null])
            .prop_map(|mode| (mode, None, None)),
        place().prop_map(|path| (Mode::File, Some(PathBuf::from(path)), None)),
        place().prop_map(|path| (Mode::Socket, None, Some(PathBuf::from(path)))),
    ];
    (mode, of(nasty()), any::<u16>()).prop_map(|((mode, file, socket), id, pci_segment)| Console {
        file,
        mode,
        socket,
        common: Common { id, pci_segment },
    })
}

fn net() -> impl Strategy<Value = Net> {
    let scale = any::<f64>().prop_filter("JSON has no others", |scale| scale.is_finite());
    (
        of(nasty()),
        of(any::<std::net::IpAddr>()),
        of(any::<[u8; 6]>().prop_map(Mac)),
        of(1280_u16..),
        of(vec(any::<i32>(), 0..5)),
        any::<i64>(),
        scale,
    )
        .prop_map(|(tap, ip, mac, mtu, fds, offset, scale)| Net {
            tap,
            ip,
            mac,
            mtu,
            fds,
            offset,
            scale,
        })
}

fn restore() -> impl Strategy<Value = Restore> {
    let zone = nasty().prop_filter("a key cannot be empty", |text| !text.is_empty());
    let update = (zone, nasty()).prop_map(|(zone, host_node)| ZoneUpdate { zone, host_node });
    (nasty(), vec(update, 0..4)).prop_map(|(source_url, zone_updates)| Restore {
        source_url,
        net_fds: None,
        zone_updates,
    })
}

fn platform() -> impl Strategy<Value = Platform> {
    (
        any::<u8>(),
        of(vec(any::<u16>(), 0..6)),
        of(nasty()),
        of(vec(nasty(), 0..3)),
    )
        .prop_map(
            |(width, iommu_segments, system_uuid, oem_strings)| Platform {
                width,
                iommu_segments,
                system_uuid,
                oem_strings,
            },
        )
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in nasty()) {
        for schema in schemas() {
            if let Ok(value) = parse(&schema, &text) {
                // What is read has no member that the schema does not have.
                prop_assert!(check_json(&schema, &value).is_ok(), "{text:?} gave {value}");
            }
        }
        let _ = from_str::<Net>(&text);
        let _ = nearest(&text, ["size", "shared"]);
    }

    #[test]
    fn cpus_come_back(cpus in cpus()) {
        let text = to_string(&cpus).unwrap();
        prop_assert_eq!(from_str::<Cpus>(&text).unwrap(), cpus, "{}", text);
    }

    #[test]
    fn consoles_come_back(console in console()) {
        let text = to_string(&console).unwrap();
        prop_assert_eq!(from_str::<Console>(&text).unwrap(), console, "{}", text);
    }

    #[test]
    fn nets_come_back(net in net()) {
        let text = to_string(&net).unwrap();
        prop_assert_eq!(from_str::<Net>(&text).unwrap(), net, "{}", text);
    }

    #[test]
    fn restores_come_back(restore in restore()) {
        let text = to_string(&restore).unwrap();
        prop_assert_eq!(from_str::<Restore>(&text).unwrap(), restore, "{}", text);
    }

    #[test]
    fn platforms_come_back_or_are_refused(platform in platform()) {
        if let Ok(text) = to_string(&platform) {
            prop_assert_eq!(from_str::<Platform>(&text).unwrap(), platform, "{}", text);
        } else {
            // Only lists of texts have values that no flag can say.
            prop_assert!(platform.oem_strings.is_some());
        }
    }

    #[test]
    fn sizes_come_back(bytes in any::<u64>(), shift in 0..64_u32) {
        let size = ByteSize(bytes >> shift << shift);
        prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
    }

    #[test]
    fn a_swap_of_letters_is_always_understood(at in 0..7_usize) {
        let mut word: Vec<_> = "readonly".chars().collect();
        word.swap(at, at + 1);
        let word: String = word.into_iter().collect();
        prop_assert_eq!(nearest(&word, ["path", "readonly", "direct"]), Some("readonly"));
    }
}
