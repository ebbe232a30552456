#![expect(
    clippy::cast_possible_truncation,
    reason = "the values of these tests are small"
)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use acpi_tables::aml::{self, Equal, If, Method, Name, Notify};

use super::*;
use crate::bytes::{u16_at, u32_at, u64_at};

const IOAPIC: IoApic = IoApic {
    id: 0,
    address: 0xfec0_0000,
    version: 0x11,
};
const FIXED: FixedHardware = FixedHardware {
    sleep_control: 0x600,
    sleep_status: 0x600,
    reset: 0x600,
    reset_value: 1,
    pm_timer: 0x608,
    pm1a: None,
};

fn processors(count: u32) -> Vec<Processor> {
    (0..count)
        .map(|apic_id| Processor {
            apic_id,
            enabled: true,
        })
        .collect()
}

fn platform<'a>(vcpus: &'a [Processor], nodes: &'a [Node]) -> Platform<'a> {
    Platform {
        vcpus,
        nodes,
        fixed: FIXED,
        ioapic: IOAPIC,
        mcfg: None,
        spare_ram: 0x800_0000..0x1000_0000,
    }
}

/// A method that notifies the power button, as a generic event device has.
struct PowerButtonEvent;

impl Aml for PowerButtonEvent {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let button = aml::Path::new("\\_SB_.PWRB");
        let notify = Notify::new(&button, &0x80u8);
        let is_ours = Equal::new(&aml::Arg(0), &13u8);
        let pressed = If::new(&is_ours, vec![&notify]);
        Method::new("_EVT".into(), 1, true, vec![&pressed]).to_aml_bytes(sink);
    }
}

fn nodes() -> Vec<Node> {
    let mut serial = Node::new("COM1", AcpiId::Eisa("PNP0501"));
    serial.uid = Some(0);
    serial.description = Some("COM1");
    serial.resources = vec![
        Resource::Ports {
            base: 0x3f8,
            len: 8,
        },
        Resource::edge(4),
    ];
    let mut events = Node::new("GED", AcpiId::Text("ACPI0013"));
    events.uid = Some(0);
    events.resources = vec![Resource::edge(13)];
    events.objects = vec![Box::new(PowerButtonEvent)];
    let mut button = Node::new("PWRB", AcpiId::Eisa("PNP0C0C"));
    button.uid = Some(0);
    let mut board = Node::new("MBRD", AcpiId::Eisa("PNP0C02"));
    board.resources = vec![
        Resource::Mmio {
            base: 0xe800_0000,
            len: 0x10_0000,
        },
        Resource::Mmio {
            base: 0xff_fff0_0000,
            len: 0x1000,
        },
        Resource::Ports {
            base: 0x1000,
            len: 0x1fe,
        },
        Resource::Interrupt {
            gsi: 5,
            level: true,
            active_low: true,
            shared: true,
        },
        Resource::Interrupt {
            gsi: 20,
            level: true,
            active_low: true,
            shared: true,
        },
    ];
    vec![serial, button, events, board]
}

/// The finished tables by signature, each checked for its place, length and checksum.
fn by_signature(tables: &Tables) -> HashMap<String, Vec<u8>> {
    let mut found = HashMap::new();
    for (_, bytes) in tables.writes.iter().filter(|(_, bytes)| bytes.len() > 36) {
        let name = String::from_utf8(bytes[0..4].to_vec()).unwrap();
        assert_eq!(u32_at(bytes, 4), Some(bytes.len() as u32), "{name}");
        assert_eq!(
            bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
            0,
            "{name}"
        );
        assert_eq!(&bytes[10..16], b"CLOUDH", "{name}");
        found.insert(name, bytes.clone());
    }
    found
}

fn iasl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("iasl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("iasl is installed (Debian package acpica-tools)");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "iasl {arguments:?}: {text}");
    text
}

/// Disassembles every table, compiles that again and compares. Returns the sources.
fn round_trip(tables: &Tables) -> HashMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut sources = HashMap::new();
    for (name, bytes) in by_signature(tables) {
        let folder = folder.path();
        fs::write(folder.join(format!("{name}.dat")), &bytes).unwrap();
        iasl(folder, &["-d", &format!("{name}.dat")]);
        let source = fs::read_to_string(folder.join(format!("{name}.dsl"))).unwrap();
        let text = iasl(
            folder,
            &["-we", "-on", "-p", "again", &format!("{name}.dsl")],
        );
        assert!(text.contains("0 Errors"), "{name}: {text}");
        assert!(
            !text.contains("Warning") || text.contains("0 Warnings"),
            "{name}: {text}"
        );
        let again = fs::read(folder.join("again.aml")).unwrap();
        // The header has the compiler's name. Compilers before ACPI 6.3 clear the "online capable" flag of
        // processors that are off; the tests of the MADT look at that.
        if name == "APIC" && source.contains("Processor Enabled : 0") {
            sources.insert(name, source);
            continue;
        }
        let different = (36..bytes.len()).find(|at| bytes.get(*at) != again.get(*at));
        assert!(
            again.len() == bytes.len() && different.is_none(),
            "{name} at {different:x?}"
        );
        sources.insert(name, source);
    }
    sources
}

#[test]
fn iasl_disassembles_and_recompiles_every_table() {
    let (nodes, vcpus) = (nodes(), processors(4));
    let sources = round_trip(&build(&platform(&vcpus, &nodes)).unwrap());
    assert_eq!(sources.len(), 4, "DSDT, FACP, APIC, XSDT");

    let dsdt: String = sources["DSDT"]
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    for expected in [
        r#"DefinitionBlock ("", "DSDT", 6, "CLOUDH", "CHDSDT ", 0x00000001)"#,
        r#"Name (_HID, EisaId ("PNP0501")"#,
        r#"Name (_DDN, "COM1")"#,
        r#"Device (GED) { Name (_HID, "ACPI0013""#,
        "IO (Decode16, 0x03F8, // Range Minimum",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000004, }",
        "Interrupt (ResourceConsumer, Level, ActiveLow, Shared, ,, ) { 0x00000014, }",
        "Memory32Fixed (ReadWrite, 0xE8000000, // Address Base",
        "QWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite, 0x0000000000000000, // Granularity 0x000000FFFFF00000, // Range Minimum 0x000000FFFFF00FFF",
        r#"Device (CPUS) { Name (_HID, "ACPI0010""#,
        r#"Device (C003) { Name (_HID, "ACPI0007""#,
        "Name (_S5, Package (0x01) // _S5_: S5 System State { 0x05 })",
    ] {
        assert!(dsdt.contains(expected), "{expected} is not in\n{dsdt}");
    }
}

#[test]
fn iasl_takes_a_processor_count_that_needs_x2apic_and_spare_ram() {
    // With SMT of 3 threads ids have gaps, as a topology that is no power of two gives them.
    let vcpus: Vec<Processor> = (0..8192)
        .map(|index| Processor {
            apic_id: index / 3 * 4 + index % 3,
            enabled: true,
        })
        .collect();
    let nodes = nodes();
    let tables = build(&platform(&vcpus, &nodes)).unwrap();
    let sources = round_trip(&tables);
    assert!(sources["DSDT"].contains("Device (DFFF)"));

    let reserved = tables.reserved.clone().unwrap();
    assert_eq!(reserved.end, 0x1000_0000);
    assert_eq!(reserved.start % 4096, 0);
    for (address, bytes) in &tables.writes {
        let end = address + bytes.len() as u64;
        let inside = *address >= reserved.start && end <= reserved.end;
        assert!(inside || end <= RSDP + 36, "{address:#x}");
    }
}

#[test]
fn the_chain_from_ebda_to_every_table_holds() {
    let (nodes, vcpus) = (nodes(), processors(2));
    let tables = build(&platform(&vcpus, &nodes)).unwrap();
    assert_eq!(tables.reserved, None);
    let at = |address: u64| {
        let (_, bytes) = tables
            .writes
            .iter()
            .find(|write| write.0 == address)
            .unwrap();
        bytes
    };

    let segment = u16_at(at(0x40e), 0).unwrap();
    assert_eq!(u64::from(segment) << 4, tables.rsdp);
    let rsdp = at(tables.rsdp);
    assert_eq!(&rsdp[0..8], b"RSD PTR ");
    assert_eq!(
        rsdp[0..20]
            .iter()
            .fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
        0
    );
    let xsdt = at(u64_at(rsdp, 24).unwrap());
    assert_eq!(&xsdt[0..4], b"XSDT");
    let fadt = at(u64_at(xsdt, 36).unwrap());
    assert_eq!(&fadt[0..4], b"FACP");
    assert_eq!(&at(u64_at(xsdt, 44).unwrap())[0..4], b"APIC");
    assert_eq!(&at(u64_at(fadt, 140).unwrap())[0..4], b"DSDT");

    let mut ranges: Vec<(u64, u64)> = tables
        .writes
        .iter()
        .map(|(start, bytes)| (*start, start + bytes.len() as u64))
        .collect();
    ranges.sort_unstable();
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{ranges:x?}"
    );
    assert!(ranges.last().unwrap().1 <= IN_PLACE_END);
}

#[test]
fn fadt_names_the_fixed_hardware() {
    let vcpus = processors(1);
    let tables = build(&platform(&vcpus, &[])).unwrap();
    let fadt = &by_signature(&tables)["FACP"];
    assert_eq!(fadt[8], 6);
    let flags = u32_at(fadt, 112).unwrap();
    assert_eq!(flags & (1 << 20), 1 << 20, "hardware-reduced");
    assert_eq!(flags & (1 << 10), 1 << 10, "reset register");
    // Address structures: space (1 = I/O), width, offset, access size, address.
    assert_eq!(fadt[116..120], [1, 8, 0, 1]);
    assert_eq!(u64_at(fadt, 120), Some(0x600));
    assert_eq!(fadt[128], 1, "reset value");
    assert_eq!(fadt[208..212], [1, 32, 0, 3]);
    assert_eq!(u64_at(fadt, 212), Some(0x608), "PM timer");
    assert_eq!(fadt[244..248], [1, 8, 0, 1]);
    assert_eq!(u64_at(fadt, 248), Some(0x600), "sleep control");
    assert_eq!(u64_at(fadt, 260), Some(0x600), "sleep status");
    assert_eq!(&fadt[268..276], b"CLOUDHYP");
    assert_eq!(u32_at(fadt, 56), Some(0), "no PM1a event block");
}

#[test]
fn fadt_has_pm1a_only_if_asked() {
    let vcpus = processors(1);
    let mut platform = platform(&vcpus, &[]);
    platform.fixed.pm1a = Some(Pm1a {
        event: 0x60c,
        control: 0x610,
    });
    let tables = build(&platform).unwrap();
    round_trip(&tables);
    let fadt = &by_signature(&tables)["FACP"];
    assert_eq!(u32_at(fadt, 56), Some(0x60c));
    assert_eq!(u32_at(fadt, 64), Some(0x610));
}

/// Structures of the MADT: type and content.
fn madt_structures(tables: &Tables) -> Vec<(u8, Vec<u8>)> {
    let madt = &by_signature(tables)["APIC"];
    assert_eq!(madt[8], 5);
    assert_eq!(&madt[16..24], b"CHMADT  ");
    assert_eq!(u32_at(madt, 36), Some(0xfee0_0000));
    let (mut rest, mut found) = (&madt[44..], Vec::new());
    while let [kind, length, ..] = *rest {
        found.push((kind, rest[2..usize::from(length)].to_vec()));
        rest = &rest[usize::from(length)..];
    }
    found
}

#[test]
fn madt_changes_to_x2apic_where_eight_bits_end() {
    let vcpus: Vec<Processor> = [0, 254, 255, 1000]
        .map(|apic_id| Processor {
            apic_id,
            enabled: apic_id != 1000,
        })
        .to_vec();
    let structures = madt_structures(&build(&platform(&vcpus, &[])).unwrap());
    assert_eq!(structures[0], (0, vec![0, 0, 1, 0, 0, 0]));
    assert_eq!(structures[1], (0, vec![1, 254, 1, 0, 0, 0]));
    assert_eq!(
        structures[2],
        (9, vec![0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])
    );
    let online_capable = (9, vec![0, 0, 0xe8, 3, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(structures[3], online_capable);
    assert_eq!(structures[4], (1, vec![0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]));
    assert_eq!(structures.len(), 5);
}

#[test]
fn madt_overrides_only_what_differs_from_isa() {
    let (nodes, vcpus) = (nodes(), processors(1));
    let structures = madt_structures(&build(&platform(&vcpus, &nodes)).unwrap());
    let overrides: Vec<_> = structures
        .into_iter()
        .filter(|(kind, _)| *kind == 2)
        .collect();
    // GSI 5 is level-triggered and active-low; 4 and 13 are as on ISA, and 20 is not on ISA.
    assert_eq!(overrides, [(2, vec![0, 5, 5, 0, 0, 0, 0b1111, 0])]);
}

#[test]
fn a_processor_that_is_off_says_so() {
    let vcpus = [(0, true), (1, false)].map(|(apic_id, enabled)| Processor { apic_id, enabled });
    let sources = round_trip(&build(&platform(&vcpus, &[])).unwrap());
    let dsdt: String = sources["DSDT"]
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(dsdt.matches("Name (_STA, Zero)").count(), 1, "{dsdt}");
}

#[test]
fn bad_nodes_are_refused_by_name() {
    let vcpus = processors(1);
    let message = |nodes: &[Node]| build(&platform(&vcpus, nodes)).unwrap_err().to_string();
    let ok = AcpiId::Eisa("PNP0501");
    for name in ["", "TOOLONG", "com1", "1COM", "A.B"] {
        assert!(
            message(&[Node::new(name, ok)]).contains("is not an ACPI name"),
            "{name}"
        );
    }
    let twice = message(&[Node::new("GED", ok), Node::new("GED_", ok)]);
    assert!(
        twice.contains("two platform devices are named \"GED_\""),
        "{twice}"
    );
    assert!(message(&[Node::new("CPUS", ok)]).contains("two platform devices"));
    for id in [
        AcpiId::Eisa("PNP501"),
        AcpiId::Eisa("pnp0501"),
        AcpiId::Eisa("PNP050G"),
        AcpiId::Text("ACPI 013"),
        AcpiId::Text(""),
    ] {
        assert!(
            message(&[Node::new("COM1", id)]).starts_with("device COM1:"),
            "{id:?}"
        );
    }
    for resource in [
        Resource::Ports { base: 0, len: 0 },
        Resource::Ports {
            base: 0xffff,
            len: 2,
        },
        Resource::Mmio { base: 0, len: 0 },
        Resource::Mmio {
            base: u64::MAX,
            len: 2,
        },
    ] {
        let mut node = Node::new("COM1", ok);
        node.resources = vec![resource];
        assert!(
            message(&[node]).contains("is empty or ends past"),
            "{resource:?}"
        );
    }
}

#[test]
fn ranges_that_end_with_their_address_space_are_fine() {
    let vcpus = processors(1);
    let mut node = Node::new("EDGE", AcpiId::Eisa("PNP0C02"));
    node.resources = vec![
        Resource::Ports {
            base: 0xffff,
            len: 1,
        },
        Resource::Ports {
            base: 0xfe00,
            len: 0x200,
        },
        Resource::Mmio {
            base: 0xffff_f000,
            len: 0x1000,
        },
        Resource::Mmio {
            base: 0xffff_f000,
            len: 0x1001,
        },
        Resource::Mmio {
            base: u64::MAX,
            len: 1,
        },
    ];
    build(&platform(&vcpus, &[node])).unwrap();
}

#[test]
fn processor_counts_are_limited() {
    assert!(matches!(
        build(&platform(&[], &[])),
        Err(Error::ProcessorCount { count: 0, .. })
    ));
    let vcpus = processors(MAX_PROCESSORS as u32);
    let mut most = platform(&vcpus, &[]);
    most.spare_ram.end = 0x4000_0000;
    build(&most).unwrap();
    let vcpus = processors(MAX_PROCESSORS as u32 + 1);
    assert!(matches!(
        build(&platform(&vcpus, &[])),
        Err(Error::ProcessorCount { .. })
    ));
}

#[test]
fn too_little_spare_ram_is_an_error_with_both_sizes() {
    let vcpus = processors(8192);
    for spare in [
        0..0,
        0x10_0800..0x11_0000,
        0x2000_0001..0x2000_0002,
        u64::MAX..u64::MAX,
    ] {
        let mut platform = platform(&vcpus, &[]);
        platform.spare_ram = spare;
        let error = build(&platform).unwrap_err();
        assert!(
            matches!(error, Error::AcpiTooLarge { need, .. } if need > 0x5_0000),
            "{error}"
        );
    }
}

#[test]
fn objects_of_a_node_are_rendered_inside_it() {
    let vcpus = processors(1);
    let mut node = Node::new("TEST", AcpiId::Text("ACPI0013"));
    node.objects = vec![Box::new(Name::new("VALU".into(), &0x1234u16))];
    let nodes = [node];
    let tables = build(&platform(&vcpus, &nodes)).unwrap();
    let dsdt = &by_signature(&tables)["DSDT"];
    let device = dsdt
        .windows(4)
        .position(|window| window == b"TEST")
        .unwrap();
    let object = dsdt
        .windows(4)
        .position(|window| window == b"VALU")
        .unwrap();
    let processors = dsdt
        .windows(4)
        .position(|window| window == b"CPUS")
        .unwrap();
    assert!(device < object && object < processors);
}
