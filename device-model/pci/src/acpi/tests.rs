use std::process::Command;

use acpi_tables::aml::{Device, Scope};
use acpi_tables::sdt::Sdt;
use device::Bus;

use super::*;
use crate::segment::Layout;

fn pci(segments: u16) -> Pci {
    let layout = Layout {
        segments,
        memory32: 0xc000_0000..0xe800_0000,
        memory64: 0x10_0000_0000..0x3ff_0000_0000,
    };
    Pci::new(&Bus::new("ports"), &Bus::new("memory"), &layout).unwrap()
}

/// Members of a node, as the firmware renders them around our own.
struct Rendered<'a>(&'a Node);

impl Aml for Rendered<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let AcpiId::Eisa(id) = self.0.acpi_id else {
            panic!("all ids here are compressed")
        };
        let hid = Name::new("_HID".into(), &EISAName::new(id));
        let uid = Name::new("_UID".into(), &self.0.uid.unwrap());
        let mut members: Vec<&dyn Aml> = vec![&hid, &uid];
        members.extend(self.0.objects.iter().map(|object| &**object as &dyn Aml));
        Device::new(self.0.name.into(), members).to_aml_bytes(sink);
    }
}

/// Writes a table, takes it apart with ACPICA and gives the text.
fn disassembled(table: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.aml");
    std::fs::write(&file, table).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new("iasl")
            .args(args)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text + &String::from_utf8_lossy(&output.stderr)
    };
    run(&["-d", "table.aml"]);
    let text = std::fs::read_to_string(folder.path().join("table.dsl")).unwrap();
    if table.starts_with(b"DSDT") {
        let log = run(&["-p", "again", "table.dsl"]);
        assert!(log.contains("0 Errors, 0 Warnings"), "{log}");
    }
    text
}

#[test]
fn acpica_reads_the_bridges_without_a_warning() {
    let pci = pci(17);
    let mut nodes = pci.nodes();
    nodes.push(pci.hot_plug_node(0x3f_fff0_0000));
    let rendered: Vec<Rendered<'_>> = nodes.iter().map(Rendered).collect();
    let devices = rendered.iter().map(|node| node as &dyn Aml).collect();
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, *b"CLOUDH", *b"CHDSDT  ", 1);
    let mut body = Vec::new();
    Scope::new("_SB_".into(), devices).to_aml_bytes(&mut body);
    dsdt.append_slice(&body);
    let mut table = Vec::new();
    dsdt.to_aml_bytes(&mut table);
    let text = disassembled(&table);
    for expected in [
        "Device (PC00)",
        "Device (PC10)",
        "PNP0A08",
        "PNP0A03",
        "Name (_SEG, 0x10)",
        "WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,",
        "QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,",
        "0x00000000C0000000, // Range Minimum",
        "WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,",
        "0x0CF7,             // Range Maximum",
        "0x0D00,             // Range Minimum",
    ] {
        assert!(text.contains(expected), "no {expected} in\n{text}");
    }
    assert_eq!(text.matches("WordIO").count(), 2, "segment 0 only");
    slots_are_described(&text);
}

/// Spaces and comments aside.
fn squeezed(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line));
    let mut squeezed: String = lines
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();
    while let (Some(start), Some(end)) = (squeezed.find("/*"), squeezed.find("*/")) {
        squeezed.replace_range(start..end + 2, "");
    }
    squeezed
}

fn slots_are_described(text: &str) {
    let text = squeezed(text);
    let slot = "Device(S017){Name(_SUN,0x11)Name(_ADR,0x00110000)\
        Method(_EJ0,1,Serialized){\\_SB.PHPR.PCEJ(_SUN,_SEG)}}";
    assert_eq!(text.matches(&squeezed(slot)).count(), 17, "in each segment");
    assert_eq!(text.matches("Device(S").count(), 17 * 31);
    for expected in [
        "OperationRegion(PCST,SystemMemory,0x0000003FFFF00000,0x10)",
        "Field(PCST,DWordAcc,NoLock,WriteAsZeros){PCIU,32,PCID,32,B0EJ,32,PSEG,32}",
        "Method(PCEJ,2,Serialized){Local0=(One<<Arg0)Acquire(BLCK,0xFFFF)PSEG=Arg1B0EJ=Local0Release(BLCK)}",
        "\\_SB.PC10.PCNT()",
        "\\_SB.PHPR.PSEG=0x10Local0=\\_SB.PHPR.PCIULocal1=\\_SB.PHPR.PCID",
        "If((Local1&0x80000000)){Notify(S031,0x03)}If((Local0&0x80000000)){Notify(S031,One)}",
    ] {
        assert!(text.contains(expected), "no {expected}");
    }
}

#[test]
fn configuration_space_is_reserved_and_listed() {
    let pci = pci(2);
    let nodes = pci.nodes();
    assert_eq!(nodes.len(), 3);
    assert_eq!(
        nodes[2].resources,
        [Resource::Mmio {
            base: 0xe800_0000,
            len: 0x20_0000
        }]
    );
    assert_eq!(nodes[1].uid, Some(1), "the segment's number");
    let mut mcfg = Sdt::new(*b"MCFG", 36, 1, *b"CLOUDH", *b"CHMCFG  ", 1);
    mcfg.append_slice(&pci.mcfg());
    let mut table = Vec::new();
    mcfg.to_aml_bytes(&mut table);
    let text = disassembled(&table);
    for expected in [
        "Base Address : 00000000E8000000",
        "Base Address : 00000000E8100000",
    ] {
        assert!(text.contains(expected), "no {expected} in\n{text}");
    }
    assert_eq!(text.matches("Segment Group Number : 0001").count(), 1);
    assert_eq!(text.matches("End Bus Number : 00").count(), 2);
}

#[test]
fn names_are_hexadecimal_and_all_different() {
    let all: std::collections::HashSet<_> = NAMES.iter().collect();
    assert_eq!(all.len(), 256);
    assert_eq!((&NAMES[0x5f], &NAMES[255]), (b"PC5F", b"PCFF"));
}
