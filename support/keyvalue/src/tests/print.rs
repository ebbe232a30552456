//! What is written: help, the syntax line, and flags.

use schemars::{json_schema, schema_for};

use super::fixture::{
    Console, Cpus, DebugConsole, Disk, Features, ImageType, Memory, Mode, NetFds, Platform,
    Restore, Seccomp, Window, Zone,
};
use super::read;
use crate::{ByteSize, entries, help, syntax, to_string};

/// The text of what `text` is read as.
fn again<T>(text: &str) -> String
where
    T: serde::Serialize + serde::de::DeserializeOwned + schemars::JsonSchema,
{
    to_string(&read::<T>(text)).unwrap()
}

#[test]
fn help_has_a_line_for_each_key() {
    let expected = "\
boot=<u32>                      Number of vCPUs at boot [default: 1]
max=<u32>                       Largest number of vCPUs, e.g. after all of them are added [default: =boot]
topology=<threads_per_core>:<cores_per_die>:<dies_per_package>:<packages>
                                Threads, cores, dies and packages
kvm_hyperv=on|off               [default: off]
max_phys_bits=<u8>              Width of physical addresses [default: 46]
affinity=[<u32>@[<integer>,...],...]
                                Host CPUs of each vCPU
features=[amx,avx-ten]          Optional CPU features
nested=on|off                   Virtualisation in the guest [default: on]
core_scheduling=<choice>        Which vCPUs may share a core [default: vm] [values: off|vm|vcpu]
";
    let text = help(&schema_for!(Cpus));
    // Where the descriptions start is set by the longest short key.
    let squeeze = |text: &str| {
        text.lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(squeeze(&text), squeeze(expected));
    let columns: Vec<_> = text
        .lines()
        .filter_map(|line| {
            line.find("  ")
                .map(|gap| line.len() - line[gap..].trim_start().len())
        })
        .collect();
    assert!(
        columns.len() >= 9 && columns.iter().all(|column| *column == columns[0]),
        "{text}"
    );
}

#[test]
fn help_lists_the_modes_first() {
    assert_eq!(
        help(&schema_for!(Console)),
        "\
off                No device
pty                A new pseudo-terminal
tty                The terminal of the VMM
null               A device whose output is lost
file=<path>        File to write to
socket=<path>      Socket to listen on
id=<string>
pci_segment=<u16>  PCI segment [default: 0]
"
    );
}

#[test]
fn entries_have_what_a_page_says() {
    let entries = entries(&schema_for!(Memory));
    let size = entries.iter().find(|entry| entry.usage == "size=<size>");
    let size = size.unwrap();
    assert_eq!(size.default.as_deref(), Some("512M"));
    assert!(!size.required && size.values.is_empty());
    assert!(size.description.starts_with(&size.summary));
    let method = entries.iter().find(|entry| !entry.values.is_empty());
    let method = method.unwrap();
    assert!(method.usage.ends_with("=<choice>"), "{method:?}");
    assert_eq!(method.values, ["acpi", "virtio-mem"]);
}

#[test]
fn help_has_defaults_as_they_are_written() {
    let text = help(&schema_for!(Memory));
    assert!(text.contains("[default: 512M]"), "{text}");
    assert!(
        text.contains("[default: acpi] [values: acpi|virtio-mem]"),
        "{text}"
    );
    assert!(!text.contains("zones") && !text.contains("extra"), "{text}");
    assert!(help(&schema_for!(DebugConsole)).contains("iobase=0x<hex>  [default: 0xe9]"));
    let text = help(&schema_for!(Disk));
    assert!(text.contains("[values: raw|qcow2|vhd]"), "{text}");
    assert!(!text.contains("disable_aio"), "{text}");
    assert!(help(&schema_for!(Restore)).contains("source_url=<string>  "));
    assert!(help(&schema_for!(Restore)).contains("[required]"));
    assert_eq!(help(&schema_for!(Seccomp)), "");
}

#[test]
fn syntax_is_one_line() {
    assert_eq!(
        syntax(&schema_for!(Cpus)),
        "boot=<u32>,max=<u32>,\
         topology=<threads_per_core>:<cores_per_die>:<dies_per_package>:<packages>,\
         kvm_hyperv=on|off,max_phys_bits=<u8>,affinity=[<u32>@[<integer>,...],...],\
         features=[amx,avx-ten],nested=on|off,core_scheduling=off|vm|vcpu"
    );
    assert_eq!(
        syntax(&schema_for!(Console)),
        "off|pty|tty|null|file=<path>|socket=<path>,id=<string>,pci_segment=<u16>"
    );
    assert_eq!(syntax(&schema_for!(Seccomp)), "true|false|log|errno");
    assert_eq!(syntax(&schema_for!(Vec<u16>)), "[<u16>,...]");
}

#[test]
fn defaults_are_not_written() {
    assert_eq!(again::<Cpus>(""), "");
    assert_eq!(
        again::<Cpus>("boot=1,max=1,max_phys_bits=46,nested=on,features="),
        ""
    );
    assert_eq!(again::<Cpus>("boot=2,max=2"), "boot=2");
    assert_eq!(again::<Cpus>("boot=2,max=1"), "boot=2,max=1");
    assert_eq!(again::<Memory>("size=512M"), "");
    assert_eq!(again::<Platform>("width=64,uuid=u"), "system_uuid=u");
    assert_eq!(again::<Platform>("width=0"), "width=0");
}

#[test]
fn values_are_written_as_they_are_read() {
    let text =
        "topology=2:4:1:1,affinity=[0@[0-3],1@[5]],features=[amx],nested=off,core_scheduling=vcpu";
    assert_eq!(again::<Cpus>(text), text);
    for text in [
        "size=1536M,shared=on,hotplug_method=virtio-mem,hotplug_size=1G",
        "size=1000",
    ] {
        assert_eq!(again::<Memory>(text), text);
    }
    for text in [
        "file=\"/a,b\",id=x",
        "socket=/s",
        "null,pci_segment=1",
        "off,id=\" \"",
    ] {
        assert_eq!(again::<Console>(text), text);
    }
    let text = "source_url=s,net_fds=[\"a@b\"@[3-4],c@[]],zone_updates=[x@\"\"]";
    assert_eq!(again::<Restore>(text), text);
    assert_eq!(
        again::<DebugConsole>("pty,iobase=0x3F8"),
        "pty,iobase=0x3f8"
    );
    assert_eq!(
        again::<Disk>("image_type=fixed-vhd,_disable_aio=on"),
        "image_type=vhd,_disable_aio=on"
    );
    assert_eq!(
        again::<Platform>("oem_strings=[a,\"b,c\"]"),
        "oem_strings=[a,\"b,c\"]"
    );
    assert_eq!(
        again::<Platform>("oem_strings=[],iommu_segments=[]"),
        "iommu_segments=[],oem_strings=[]"
    );
    assert_eq!(to_string(&Seccomp::Log).unwrap(), "log");
    assert_eq!(to_string(&vec![1_u8, 2, 3, 7]).unwrap(), "[1-3,7]");
    assert_eq!(to_string(&ByteSize(4096)).unwrap(), "4K");
}

#[test]
fn what_no_flag_can_say_is_an_error() {
    let fails = |result: Result<String, crate::Error>| result.unwrap_err().to_string();
    let window = Window {
        first: None,
        last: 9,
    };
    assert!(fails(to_string(&window)).starts_with("first cannot be written as a flag: it is null"));
    let zone = Zone {
        id: "z".into(),
        host_numa_node: None,
    };
    let memory: Memory = read("");
    let zones = Memory {
        zones: Some(vec![zone.clone()]),
        ..memory.clone()
    };
    assert_eq!(
        fails(to_string(&zones)),
        "zones cannot be written as a flag: it is a member of the JSON only"
    );
    let extra = Memory {
        extra: Some(zone),
        ..memory
    };
    assert_eq!(
        fails(to_string(&extra)),
        "extra cannot be written as a flag: it is an object"
    );
    for entry in ["", "a,b", " a", "[", "\""] {
        let platform = Platform {
            oem_strings: Some(vec![entry.into()]),
            width: 64,
            ..read("")
        };
        assert!(
            fails(to_string(&platform)).starts_with("oem_strings cannot"),
            "{entry:?}"
        );
    }
    let unset = DebugConsole {
        iobase: None,
        ..read("off")
    };
    assert!(fails(to_string(&unset)).starts_with("iobase cannot be written as a flag: it is null"));
    let nowhere = DebugConsole {
        mode: Mode::File,
        ..read("off")
    };
    assert!(fails(to_string(&nowhere)).starts_with("file cannot be written"));
    let both = DebugConsole {
        file: Some("/a".into()),
        ..read("off")
    };
    assert!(fails(to_string(&both)).starts_with("file cannot be written"));
    let wordless = DebugConsole {
        mode: Mode::Socket,
        ..read("off")
    };
    assert!(fails(to_string(&wordless)).starts_with("mode cannot be written"));
    let fds = NetFds {
        id: "n".into(),
        num_fds: 1,
        fds: Some(vec![3]),
    };
    let long = vec![7_u8; 65537];
    assert!(fails(to_string(&long)).contains("more than 65536 numbers"));
    let restore = Restore {
        net_fds: Some(vec![fds]),
        ..read("source_url=s")
    };
    assert!(fails(to_string(&restore)).starts_with("net_fds cannot be written"));
}

#[test]
fn a_default_that_cannot_be_typed_is_still_left_out() {
    assert_eq!(read::<Disk>("").image_type, ImageType::Unknown);
    assert_eq!(again::<Disk>("path=/a"), "path=/a");
    assert_eq!(read::<Cpus>("").features, Features::default());
}

#[test]
fn misused_attributes_are_refused_not_ignored() {
    for (misuse, reason) in [
        (
            json_schema!({"type": "integer", "x-flag-syntax": "sizes"}),
            "not one that exists",
        ),
        (
            json_schema!({"type": "integer", "x-flag-syntax": "colon"}),
            "an object of integers",
        ),
        (
            json_schema!({"type": "string", "x-flag-syntax": "pairs"}),
            "two simple members",
        ),
        (
            json_schema!({"type": "object", "x-flag-syntax": "true-set"}),
            "an object of booleans",
        ),
        (
            json_schema!({"enum": ["A"], "x-flag-syntax": "modes"}),
            "enum member",
        ),
        (
            json_schema!({"type": "array", "items": {"$ref": "#"}}),
            "neither numbers nor texts",
        ),
        (
            json_schema!({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
            "several types",
        ),
    ] {
        let message = crate::parse(&misuse, "1").unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}
