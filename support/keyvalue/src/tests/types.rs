//! The rows of `cli.json`, `types`: how each type of value is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::fixture::{
    Affinity, Console, CoreScheduling, Cpus, DebugConsole, Disk, Features, HotplugMethod,
    ImageType, Lock, Mac, Memory, Mode, Net, Platform, Profile, Restore, Topology,
};
use super::{error, read};
use crate::ByteSize;

#[test]
fn toggle() {
    for text in ["on", "true", "ON", "True"] {
        assert!(
            read::<Cpus>(&format!("kvm_hyperv={text}")).kvm_hyperv,
            "{text}"
        );
    }
    for text in ["off", "false", "OFF", "False"] {
        assert!(!read::<Cpus>(&format!("nested={text}")).nested, "{text}");
    }
    assert_eq!(
        error::<Cpus>("nested=yes"),
        "nested \"yes\": must be on or off"
    );
    assert!(error::<Cpus>("nested=1").contains("must be on or off"));
}

#[test]
fn bytesize() {
    let memory: Memory = read("size=1G,hotplug_size=64M,hugepage_size=2M");
    assert_eq!(memory.size, ByteSize(1 << 30));
    assert_eq!(memory.hotplug_size, Some(ByteSize(64 << 20)));
    assert_eq!(memory.hugepage_size, Some(2 << 20));
    let suffix = "suffix must be K, M or G (one, in upper case, after a whole number)";
    assert_eq!(
        error::<Memory>("size=512m"),
        format!("size \"512m\": {suffix}")
    );
    assert_eq!(
        error::<Memory>("hotplug_size=10MM"),
        format!("hotplug_size \"10MM\": {suffix}")
    );
    assert_eq!(
        error::<Memory>("hugepage_size=2G"),
        "hugepage_size \"2G\": is out of range: must be from 0 to 1073741824"
    );
}

#[test]
fn integers() {
    assert_eq!(
        read::<Cpus>("boot=4294967295,max_phys_bits=007").max_phys_bits,
        7
    );
    for text in [
        "0x10", "1K", "+1", "-1", "1.0", "1_000", "eight", "\"\"", "٣",
    ] {
        let message = error::<Cpus>(&format!("max_phys_bits={text}"));
        assert!(
            message.ends_with("must be a plain decimal number from 0 to 255"),
            "{message}"
        );
    }
    for text in ["256", "99999999999999999999999999999999999999999999999999"] {
        let message = error::<Cpus>(&format!("max_phys_bits={text}"));
        assert_eq!(
            message,
            format!("max_phys_bits {text:?}: is out of range: must be from 0 to 255")
        );
    }
    assert_eq!(read::<Net>("offset=-9223372036854775808").offset, i64::MIN);
    assert!(error::<Net>("offset=9223372036854775808").contains("to 9223372036854775807"));
    assert!(error::<Net>("offset=--1").contains("plain decimal"));
    assert!(error::<Net>("offset=-").contains("plain decimal"));
    assert!(error::<Net>("mtu=1279").contains("must be from 1280 to 65535"));
}

#[test]
fn numbers_with_fractions() {
    assert_eq!(read::<Net>("scale=-0.25").scale, -0.25);
    for text in ["inf", "NaN", "1e999", "x"] {
        assert!(
            error::<Net>(&format!("scale={text}")).ends_with("must be a number"),
            "{text}"
        );
    }
}

#[test]
fn int_list() {
    let segments = |text: &str| {
        read::<Platform>(&format!("iommu_segments={text}"))
            .iommu_segments
            .unwrap()
    };
    assert_eq!(segments("[0,2-4]"), [0, 2, 3, 4]);
    assert_eq!(segments("5"), [5]);
    assert_eq!(segments("1-3"), [1, 2, 3]);
    assert_eq!(segments("[7]"), [7]);
    assert!(segments("[]").is_empty());
    assert_eq!(segments("[3,1,1]"), [3, 1, 1]);
    assert_eq!(read::<Net>("fd=[3,-1]").fds, Some(vec![3, -1]));
    assert_eq!(read::<Net>("fd=-3--1").fds, Some(vec![-3, -2, -1]));
    let wrong = |text: &str| error::<Platform>(&format!("iommu_segments={text}"));
    assert!(wrong("[2-2]").contains("iommu_segments \"2-2\": is not a range"));
    assert!(wrong("[3-1]").contains("is not a range"));
    assert!(wrong("[1,,2]").contains("has an empty entry"));
    assert!(wrong("[1-]").contains("plain decimal"));
    assert!(wrong("[-1]").contains("plain decimal"));
    assert!(wrong("[1-2-3]").contains("plain decimal"));
    assert!(wrong("[0,65536]").contains("\"65536\": is out of range: must be from 0 to 65535"));
    assert!(wrong("[[1]]").contains("plain decimal"));
    // Without brackets the comma ends the value.
    assert!(wrong("1,2").contains("unknown key \"2\""));
}

#[test]
fn lists_do_not_fill_the_memory() {
    let whole: Platform = read("iommu_segments=[0-65535]");
    assert_eq!(whole.iommu_segments.unwrap().len(), 65536);
    let longer = "makes the list longer than 65536 numbers";
    assert!(error::<Platform>("iommu_segments=[0-65535,1]").contains(longer));
    assert!(error::<Platform>("iommu_segments=[1,0-65535]").contains(longer));
    let many = format!("affinity=[{}0@0]", "0@[0-65535],".repeat(64));
    assert_eq!(
        error::<Cpus>(&many),
        "affinity \"0@0\": makes all lists together longer than 4194304 numbers"
    );
    let all = "affinity=[0@[0-18446744073709551615]]";
    assert_eq!(
        error::<Cpus>(all),
        format!("affinity \"0-18446744073709551615\": {longer}")
    );
}

#[test]
fn string_list() {
    let strings = |text: &str| {
        read::<Platform>(&format!("oem_strings={text}"))
            .oem_strings
            .unwrap()
    };
    assert_eq!(strings("[a,b c, d ]"), ["a", "b c", "d"]);
    assert_eq!(strings("one"), ["one"]);
    assert_eq!(strings("[]"), Vec::<String>::new());
    assert_eq!(strings("[\"a,b\",c]"), ["\"a,b\"", "c"]);
    assert!(error::<Platform>("oem_strings=[a,,b]").contains("has an empty entry"));
}

#[test]
fn tuple_list() {
    let affinity = |text: &str| read::<Cpus>(&format!("affinity={text}")).affinity.unwrap();
    let of = |vcpu, host_cpus: &[usize]| Affinity {
        vcpu,
        host_cpus: host_cpus.to_vec(),
    };
    assert_eq!(
        affinity("[0@[0,1],1@[2-3]]"),
        [of(0, &[0, 1]), of(1, &[2, 3])]
    );
    assert_eq!(affinity("[0@1]"), [of(0, &[1])]);
    assert_eq!(affinity("[]"), []);
    let wrong = |text: &str| error::<Cpus>(&format!("affinity={text}"));
    assert_eq!(
        wrong("0@1"),
        "affinity \"0@1\": must be a list in brackets: [<u32>@[<integer>,...],...]"
    );
    assert_eq!(
        wrong("[0]"),
        "affinity \"0\": must be <u32>@[<integer>,...]"
    );
    assert!(wrong("[@[1]]").contains("must be <u32>@"));
    assert!(wrong("[\"\"@[1]]").contains("must be <u32>@"));
    assert!(wrong("[0@]").contains("must be <u32>@"));
    assert!(wrong("[0@[1],]").contains("must be <u32>@"));
    assert!(wrong("[x@[1]]").contains("affinity \"x\": must be a plain decimal number"));
}

#[test]
fn keys_of_tuples_can_be_quoted() {
    let restore: Restore = read("source_url=file:///s,net_fds=[\"a@b,c\"@[3,4],d@5]");
    let fds = restore.net_fds.unwrap();
    assert_eq!(
        (fds[0].id.as_str(), fds[0].fds.as_deref()),
        ("a@b,c", Some(&[3, 4][..]))
    );
    assert_eq!(
        (fds[1].id.as_str(), fds[1].fds.as_deref()),
        ("d", Some(&[5][..]))
    );
    let restore: Restore = read("source_url=s,zone_updates=[a@b@c, x @ \"y,z\"]");
    let updates: Vec<_> = restore
        .zone_updates
        .iter()
        .map(|u| (u.zone.as_str(), u.host_node.as_str()))
        .collect();
    assert_eq!(updates, [("a", "b@c"), ("x", "y,z")]);
}

#[test]
fn macaddr() {
    assert_eq!(
        read::<Net>("mac=02:00:5e:10:00:Ff").mac,
        Some(Mac([2, 0, 0x5e, 0x10, 0, 0xff]))
    );
    // The type itself refuses it, and the key is named all the same.
    assert_eq!(
        error::<Net>("tap=t,mac=02:00,offset=1"),
        "mac \"02:00\" is not valid: a MAC address has six groups of two hex digits"
    );
}

#[test]
fn ipaddr() {
    assert_eq!(
        read::<Net>("ip=192.168.249.1").ip,
        Some(IpAddr::V4(Ipv4Addr::new(192, 168, 249, 1)))
    );
    assert_eq!(
        read::<Net>("ip=::1").ip,
        Some(IpAddr::V6(Ipv6Addr::LOCALHOST))
    );
    assert_eq!(
        error::<Net>("ip=1.2.3"),
        "ip \"1.2.3\": must be an IPv4 or IPv6 address"
    );
    assert!(error::<Ipv4Addr>("::1").contains("must be an IPv4 address"));
    assert!(error::<Ipv6Addr>("1.2.3.4").contains("must be an IPv6 address"));
}

#[test]
fn topology() {
    let expected = Topology {
        threads_per_core: 2,
        cores_per_die: 4,
        dies_per_package: 1,
        packages: 65535,
    };
    assert_eq!(
        read::<Cpus>("topology=2:4:1:65535").topology,
        Some(expected)
    );
    let names = "threads_per_core:cores_per_die:dies_per_package:packages";
    assert_eq!(
        error::<Cpus>("topology=2:4:1"),
        format!("topology \"2:4:1\": must be 4 numbers, {names}; these are 3")
    );
    assert!(error::<Cpus>("topology=1:2:3:4:5").contains("these are 5"));
    assert!(
        error::<Cpus>("topology=1:2:3:65536").starts_with("topology.packages \"65536\": is out")
    );
    assert!(error::<Cpus>("topology=1::3:4").starts_with("topology.cores_per_die \"\""));
    assert!(error::<Cpus>("topology=[1:2:3:4]").starts_with("topology.threads_per_core \"[1\""));
}

#[test]
fn flag() {
    assert_eq!(read::<Console>("null").mode, Mode::Null);
    assert_eq!(read::<DebugConsole>("null").mode, Mode::Null);
    // There is no place for its value.
    assert!(error::<DebugConsole>("socket=/s").starts_with("unknown key \"socket\""));
    assert_eq!(
        error::<DebugConsole>("iobase=0xe9"),
        "no mode given: write one of off, pty, tty, null, file=<string>"
    );
}

#[test]
fn hex_u16() {
    let iobase = |text: &str| read::<DebugConsole>(&format!("off,{text}")).iobase;
    assert_eq!(iobase("iobase=0x3F8"), Some(0x3f8));
    assert_eq!(iobase("iobase=0xffff"), Some(0xffff));
    assert_eq!(iobase("iobase="), Some(0xe9));
    let wrong = |text: &str| error::<DebugConsole>(&format!("off,iobase={text}"));
    for text in ["e9", "233", "0x", "0xzz", "0X10", "0x+1", "0x-1"] {
        assert!(
            wrong(text).ends_with("must be a hexadecimal number that starts with 0x"),
            "{text}"
        );
    }
    for text in ["0x10000", "0xffffffffffffffffffffffffffffffffffff"] {
        assert!(
            wrong(text).ends_with("is out of range: must be from 0x0 to 0xffff"),
            "{text}"
        );
    }
}

#[test]
fn enums() {
    let scheduling = |text| read::<Cpus>(text).core_scheduling;
    assert_eq!(scheduling("core_scheduling=vcpu"), CoreScheduling::Vcpu);
    assert_eq!(scheduling("core_scheduling=VCPU"), CoreScheduling::Vcpu);
    assert_eq!(scheduling("core_scheduling=Off"), CoreScheduling::Off);
    let message = error::<Cpus>("core_scheduling=vcup");
    assert!(
        message.starts_with("core_scheduling \"vcup\": must be one of "),
        "{message}"
    );
    assert!(message.ends_with("did you mean \"vcpu\"?"), "{message}");
}

#[test]
fn words_for_variants() {
    let method = |text| read::<Memory>(text).hotplug_method;
    assert_eq!(
        method("hotplug_method=virtio-mem"),
        HotplugMethod::VirtioMem
    );
    assert_eq!(
        method("hotplug_method=Virtio-Mem"),
        HotplugMethod::VirtioMem
    );
    assert_eq!(method("hotplug_method=ACPI"), HotplugMethod::Acpi);
    // The word replaces the name.
    assert_eq!(
        error::<Memory>("hotplug_method=VirtioMem"),
        "hotplug_method \"VirtioMem\": must be one of acpi, virtio-mem; did you mean \"virtio-mem\"?"
    );
    let image = |text| read::<Disk>(text).image_type;
    assert_eq!(image("image_type=QCOW2"), ImageType::Qcow2);
    assert_eq!(image("image_type=vhd"), ImageType::FixedVhd);
    assert_eq!(image("image_type=fixed-vhd"), ImageType::FixedVhd);
    assert_eq!(image(""), ImageType::Unknown);
    assert_eq!(
        error::<Disk>("image_type=unknown"),
        "image_type \"unknown\": must be one of raw, qcow2, vhd"
    );
}

#[test]
fn words_that_have_to_match_in_case() {
    assert_eq!(
        read::<Disk>("lock_granularity=full").lock_granularity,
        Lock::Full
    );
    assert_eq!(
        read::<Disk>("lock_granularity=byte-range").lock_granularity,
        Lock::ByteRange
    );
    assert!(error::<Disk>("lock_granularity=Full").contains("did you mean \"full\"?"));
    assert_eq!(read::<Cpus>("profile=Host").profile, Profile::Host);
    assert!(error::<Cpus>("profile=host").contains("must be one of Host"));
}

#[test]
fn sets_of_names() {
    let features = |text| read::<Cpus>(text).features;
    assert_eq!(
        features("features=amx"),
        Features {
            amx: true,
            avx10: false
        }
    );
    assert_eq!(
        features("features=[amx,avx-ten]"),
        Features {
            amx: true,
            avx10: true
        }
    );
    assert_eq!(features("features=[]"), Features::default());
    assert_eq!(
        error::<Cpus>("features=[amx,amz]"),
        "features \"amz\": is not known, did you mean \"amx\"? known entries: amx, avx-ten"
            .replace("? known", "?; known")
    );
    assert!(error::<Cpus>("features=AMX").contains("is not known"));
}
