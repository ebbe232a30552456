//! What the machine says about itself: ACPI, SMBIOS and MP tables, as a guest sees them.
//!
//! A guest of a few instructions copies the BIOS area to the debug console; the tables in it are judged by
//! ACPICA's `iasl`, by `dmidecode`, and field by field. One Linux guest shows that a kernel reads the same.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "tables/area.rs"]
mod area;

use std::path::Path;
use std::process::Command;

use area::{Area, HEADER, SMBIOS, TOOLS, Table, processors, sum, u32_at, u64_at};
use testkit::Vm;

/// `--platform` with every key.
const PLATFORM: &str = "system_serial_number=SN 42,\
    system_uuid=01234567-89ab-cdef-0123-456789abcdef,oem_strings=[first one,second=2],\
    system_manufacturer=Example Makers,system_product_name=Model T,system_version=1.2.3,\
    system_family=Family F,system_sku_number=SKU-9,chassis_asset_tag=Tag 7";

/// Runs `iasl` in a folder and returns what it says.
fn iasl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("iasl")
        .args(arguments)
        .env("PATH", TOOLS)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "iasl {arguments:?}: {text}");
    text
}

/// Disassembles a table and compiles the result: no complaint either way, and the same table again.
fn check_with_iasl(table: &Table, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("table.dat"), &table.bytes).unwrap();
    let said = iasl(folder.path(), &["-d", "table.dat"]);
    let source = std::fs::read_to_string(file("table.dsl")).unwrap();
    for text in [&said, &source] {
        let lower = text.to_lowercase();
        let complaint = ["warning", "error", "invalid", "unknown", "***"]
            .into_iter()
            .find(|word| lower.contains(word));
        assert_eq!(complaint, None, "{} of {what}: {text}", table.name);
    }
    // -oa: no optimizations, since the result is to be the same.
    let said = iasl(folder.path(), &["-oa", "-p", "again", "table.dsl"]);
    assert!(
        said.contains("0 Errors, 0 Warnings, 0 Remarks"),
        "{} of {what}: {said}\n{source}",
        table.name
    );
    let mut again = std::fs::read(file("again.aml")).unwrap();
    let mut before = table.bytes.clone();
    for bytes in [&mut again, &mut before] {
        // Checksum, id and revision of the compiler.
        bytes[9] = 0;
        bytes[28..HEADER].fill(0);
        if table.name == "APIC" {
            forget_x2apic_flags(bytes);
        }
    }
    let changed = before.iter().zip(&again).position(|(a, b)| a != b);
    assert_eq!(
        (changed, before.len()),
        (None, again.len()),
        "{} of {what} changed: {source}",
        table.name
    );
}

/// Debian 12's `iasl` does not know "online capable" in x2APIC structures and takes it as reserved.
fn forget_x2apic_flags(madt: &mut [u8]) {
    let mut rest = &mut madt[HEADER + 8..];
    while let [kind, length, ..] = *rest {
        if kind == 9 {
            rest[8] &= !2;
        }
        rest = &mut rest[usize::from(length)..];
    }
}

#[test]
fn iasl_disassembles_and_recompiles_every_table_of_every_machine() {
    let machines: [(u32, &[&str]); 6] = [
        (8 << 10, &[]),
        (8 << 10, &["--serial", "off"]),
        (8 << 10, &["--cpus", "boot=4,topology=2:2:1:1"]),
        (8 << 10, &["--cpus", "boot=1,max=3"]),
        (8 << 10, &["--platform", PLATFORM]),
        (24 << 10, &["--cpus", "boot=2,max=300"]),
    ];
    for (size, words) in machines {
        let area = Area::read(size, words);
        for table in area.tables() {
            check_with_iasl(&table, &format!("{words:?}"));
        }
    }
}

#[test]
fn tables_have_the_ids_revisions_and_order_that_are_known() {
    let tables = Area::read(8 << 10, &[]).tables();
    let known = [
        ("DSDT", 6, "CHDSDT  "),
        ("FACP", 6, "CHFACP  "),
        ("APIC", 5, "CHMADT  "),
        ("MCFG", 1, "CHMCFG  "),
        ("XSDT", 1, "CHXSDT  "),
    ];
    let mut by_address: Vec<&Table> = tables.iter().collect();
    by_address.sort_by_key(|table| table.address);
    assert_eq!(by_address.len(), known.len());
    for (table, (name, revision, id)) in by_address.into_iter().zip(known) {
        assert_eq!((table.name.as_str(), table.bytes[8]), (name, revision));
        assert_eq!(&table.bytes[10..16], b"CLOUDH", "{name}");
        assert_eq!(&table.bytes[16..24], id.as_bytes(), "{name}");
    }
}

#[test]
fn the_fadt_leads_to_reset_power_off_and_timer() {
    let area = Area::read(8 << 10, &[]);
    let fadt = area.acpi_table("FACP").bytes;
    let flags = u32_at(&fadt, 112);
    assert_eq!(flags >> 20 & 1, 1, "hardware-reduced");
    assert_eq!(flags >> 10 & 1, 1, "reset register supported");
    // Generic addresses: I/O space, width, offset, access size, address.
    assert_eq!(&fadt[116..119], [1, 8, 0], "reset register");
    assert_eq!(
        (u64_at(&fadt, 120), fadt[128]),
        (0x600, 1),
        "reset port and value"
    );
    assert_eq!(u64_at(&fadt, 248), 0x600, "sleep control");
    assert_eq!((u32_at(&fadt, 76), fadt[91]), (0x608, 4), "PM timer");
    assert_eq!(u64_at(&fadt, 212), 0x608, "PM timer, extended");
    assert_eq!(&fadt[268..276], b"CLOUDHYP", "hypervisor vendor");
    // Name (_S5, Package () {5}): the sleep type for power-off.
    let dsdt = area.acpi_table("DSDT").bytes;
    let s5: &[u8] = &[b'_', b'S', b'5', b'_', 0x12, 4, 1, 0x0a, 5];
    assert!(
        dsdt.windows(s5.len()).any(|window| window == s5),
        "{dsdt:x?}"
    );
}

#[test]
fn a_machine_for_nested_hyper_v_has_the_register_blocks_that_it_looks_for() {
    let cpus = ["--cpus", "boot=1,nested=on,kvm_hyperv=on"];
    let area = match Area::try_read(8 << 10, &cpus) {
        Ok(area) => area,
        // Then the refusal is what is asked for.
        Err(log) => {
            assert!(log.contains("does not implement Hyper-V"), "{log}");
            return;
        }
    };
    for (words, event, control) in [(&cpus[..], 0x60c, 0x610), (&[], 0, 0)] {
        let area = if words.is_empty() {
            &Area::read(8 << 10, words)
        } else {
            &area
        };
        let fadt = area.acpi_table("FACP");
        check_with_iasl(&fadt, &format!("{words:?}"));
        let bytes = &fadt.bytes;
        assert_eq!(
            (u32_at(bytes, 56), u32_at(bytes, 64)),
            (event, control),
            "{words:?}"
        );
        let extended = (u64_at(bytes, 152), u64_at(bytes, 176));
        assert_eq!(extended, (event.into(), control.into()), "{words:?}");
    }
}

#[test]
fn the_madt_lists_as_many_processors_as_there_can_ever_be() {
    for (boot, max, size) in [
        (1, 1, 8 << 10),
        (2, 4, 8 << 10),
        (3, 3, 8 << 10),
        (1, 300, 24 << 10),
    ] {
        let cpus = format!("boot={boot},max={max}");
        let area = Area::read(size, &["--cpus", &cpus]);
        let madt = area.acpi_table("APIC");
        let found = processors(&madt);
        assert_eq!(found.len(), max, "{cpus}");
        for (index, &(uid, apic_id, flags)) in found.iter().enumerate() {
            assert_eq!(uid, u32::try_from(index).unwrap(), "{cpus}");
            // Enabled, or else online-capable.
            let expected = if index < boot { 1 } else { 2 };
            assert_eq!(flags & 3, expected, "{cpus}: processor {index}");
            assert!(
                index == 0 || apic_id > found[index - 1].1,
                "{cpus}: {found:?}"
            );
        }
        assert_eq!(u32_at(&madt.bytes, HEADER), 0xfee0_0000, "local APIC");
        let ioapic = [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];
        assert!(
            madt.bytes.windows(12).any(|window| window == ioapic),
            "{madt:x?}",
            madt = madt.bytes
        );
    }
}

#[test]
fn the_mp_table_lists_the_processors_that_boot() {
    for cpus in ["boot=1", "boot=2,max=4", "boot=4,topology=2:2:1:1"] {
        let area = Area::read(8 << 10, &["--cpus", cpus, "--platform", PLATFORM]);
        let pointers: Vec<usize> = (0..area.smbios.len() - 16)
            .step_by(16)
            .filter(|&at| &area.smbios[at..at + 4] == b"_MP_")
            .collect();
        let [at] = pointers[..] else {
            panic!("{cpus}: floating pointers at {pointers:x?}")
        };
        assert_eq!(
            sum(&area.smbios[at..at + 16]),
            0,
            "{cpus}: checksum of the pointer"
        );
        let start = usize::try_from(u32_at(&area.smbios, at + 4)).unwrap() - SMBIOS;
        let length = usize::from(u16::from_le_bytes([
            area.smbios[start + 4],
            area.smbios[start + 5],
        ]));
        let table = &area.smbios[start..start + length];
        assert_eq!((&table[..4], sum(table)), (&b"PCMP"[..], 0), "{cpus}");
        let count = u16::from_le_bytes([table[34], table[35]]);
        let (mut rest, mut ids, mut kinds) = (&table[44..], Vec::new(), Vec::new());
        while let [kind, ..] = *rest {
            kinds.push(kind);
            if kind == 0 {
                let boot = if ids.is_empty() { 3 } else { 1 };
                assert_eq!(rest[3], boot, "{cpus}: flags of processor {}", rest[1]);
                ids.push(u32::from(rest[1]));
            }
            rest = &rest[if kind == 0 { 20 } else { 8 }..];
        }
        assert_eq!(kinds.len(), usize::from(count), "{cpus}");
        let enabled = processors(&area.acpi_table("APIC")).into_iter();
        let enabled: Vec<u32> = enabled
            .filter(|found| found.2 & 1 == 1)
            .map(|found| found.1)
            .collect();
        assert_eq!(ids, enabled, "{cpus}: the same processors as in ACPI");
        for kind in [1, 2, 3, 4] {
            assert!(
                kinds.contains(&kind),
                "{cpus}: bus, I/O APIC, interrupts: {kinds:?}"
            );
        }
    }
}

#[test]
fn dmidecode_shows_the_defaults() {
    let area = Area::read(8 << 10, &[]);
    let text = area.dmidecode(&[]);
    for line in [
        "Vendor: cloud-hypervisor",
        "Version: 0",
        "Manufacturer: Cloud Hypervisor",
        "Product Name: cloud-hypervisor",
        "Serial Number: Not Specified",
        "SKU Number: Not Specified",
        "Family: Not Specified",
    ] {
        assert!(text.contains(&format!("\t{line}\n")), "{line}: {text}");
    }
    for kind in ["3", "11"] {
        let text = area.dmidecode(&["-q", "-t", kind]);
        assert_eq!(text.trim(), "", "type {kind} is there only on request");
    }
}

#[test]
fn dmidecode_shows_every_key_of_the_platform() {
    let area = Area::read(8 << 10, &["--platform", PLATFORM]);
    let types: [(&str, &[&str]); 4] = [
        ("0", &["Vendor: cloud-hypervisor", "Version: 0"]),
        (
            "1",
            &[
                "Manufacturer: Example Makers",
                "Product Name: Model T",
                "Version: 1.2.3",
                "Serial Number: SN 42",
                "UUID: 01234567-89ab-cdef-0123-456789abcdef",
                "SKU Number: SKU-9",
                "Family: Family F",
            ],
        ),
        ("3", &["Asset Tag: Tag 7"]),
        ("11", &["String 1: first one", "String 2: second=2"]),
    ];
    for (kind, lines) in types {
        let text = area.dmidecode(&["-t", kind]);
        for line in lines {
            assert!(
                text.contains(&format!("\t{line}\n")),
                "type {kind}, {line}: {text}"
            );
        }
    }
    // The names that the keys had before.
    let old = [
        "--platform",
        "serial_number=SN 43,uuid=01234567-89ab-cdef-0123-456789abcd00",
    ];
    let text = Area::read(8 << 10, &old).dmidecode(&["-t", "1"]);
    assert!(text.contains("\tSerial Number: SN 43\n"), "{text}");
    assert!(
        text.contains("\tUUID: 01234567-89ab-cdef-0123-456789abcd00\n"),
        "{text}"
    );
}

#[test]
fn linux_reads_the_same_tables_and_does_not_complain() {
    let cpus = "boot=2,max=4";
    let area = Area::read(8 << 10, &["--cpus", cpus, "--platform", PLATFORM]);
    let mut vm = Vm::linux()
        .cpus(cpus)
        .arg("--platform", PLATFORM)
        .spawn()
        .unwrap();
    let mut run = |script: &str| {
        let output = vm.run(script).unwrap();
        assert_eq!(output.status, 0, "{script}: {}", output.stdout);
        output.stdout
    };
    for name in ["DSDT", "FACP", "APIC"] {
        let seen = run(&format!("xxd -p /sys/firmware/acpi/tables/{name}"));
        assert_eq!(
            seen.replace('\n', ""),
            hex(&area.acpi_table(name).bytes),
            "{name}"
        );
    }
    let seen = run("xxd -p /sys/firmware/dmi/tables/DMI");
    assert_eq!(seen.replace('\n', ""), hex(area.structures()));
    let dumped = run("acpidump");
    for name in ["DSDT", "FACP", "APIC"] {
        assert!(dumped.contains(&format!("{name} @ ")), "{dumped}");
    }
    let system = run("dmidecode -t 1");
    assert!(
        system.contains("\tManufacturer: Example Makers\n"),
        "{system}"
    );
    assert_eq!(run("cat /sys/class/dmi/id/product_serial"), "SN 42\n");
    assert_eq!(run("cat /sys/devices/system/cpu/possible"), "0-3\n");
    let log = run("dmesg");
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("ACPI") || line.contains("DMI") || line.contains("irmware"))
        .filter(|line| {
            ["rror", "arning", "BUG", "Bug", "nvalid"]
                .iter()
                .any(|word| line.contains(word))
        })
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    vm.power_off().unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
