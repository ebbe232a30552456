//! The map has no overlaps, and splits RAM where it says.

use super::*;

/// Fixed ranges that may all be in use at once in a guest with more than 4 GiB of RAM.
fn fixed() -> Vec<(&'static str, Range<u64>)> {
    let sized = |start: u64, size: u64| start..start + size;
    vec![
        ("ebda pointer", sized(EBDA_POINTER, 2)),
        ("gdt", sized(GDT_START, 4 * 8)),
        ("idt", sized(IDT_START, 8)),
        ("pvh start info", sized(PVH_START_INFO, 56)),
        ("pvh modlist", sized(PVH_MODLIST, 32)),
        ("zero page", sized(ZERO_PAGE, 0x1000)),
        ("stack", BOOT_STACK_START..BOOT_STACK_POINTER),
        ("pml5", sized(PML5_START, 0x1000)),
        ("pml4", sized(PML4_START, 0x1000)),
        ("pdpt", sized(PDPT_START, 0x1000)),
        ("pd", sized(PD_START, 0x1000)),
        ("cmdline", sized(CMDLINE_START, CMDLINE_MAX_SIZE)),
        ("acpi", RSDP_START..SMBIOS_START),
        ("smbios", SMBIOS_START..SMBIOS_END),
        ("low ram", KERNEL_START..LOW_RAM_MAX),
        ("mmio32", sized(MMIO32_START, MMIO32_SIZE)),
        ("ecam", sized(ECAM_START, ECAM_SIZE)),
        ("kvm tss", sized(KVM_TSS_START, KVM_TSS_SIZE)),
        (
            "kvm identity map",
            sized(KVM_IDENTITY_MAP_START, KVM_IDENTITY_MAP_SIZE),
        ),
        ("ioapic", sized(IOAPIC_START, IOAPIC_SIZE)),
        ("tpm", sized(TPM_START, TPM_SIZE)),
        ("msi window", MSI_WINDOW),
        ("high ram", HIGH_RAM_START..ram_end(16 * GIB)),
        ("device area", device_area(ram_end(16 * GIB), 46).unwrap()),
        ("platform area", platform_area(46)),
    ]
}

#[test]
fn fixed_ranges_are_disjoint_and_in_order() {
    for pair in fixed().windows(2) {
        let [(below, a), (above, b)] = pair else {
            unreachable!()
        };
        assert!(
            !a.is_empty() && a.end <= b.start,
            "{below} {a:x?} overlaps {above} {b:x?}"
        );
    }
}

#[test]
fn ports_are_disjoint() {
    let mut ports = [
        (PORT_I8042, PORT_I8042_COUNT),
        (PORT_CMOS, PORT_CMOS_COUNT),
        (PORT_DEBUG, 1),
        (PORT_DEBUG_CONSOLE, 1),
        (PORT_COM1, PORT_COM1_COUNT),
        (PORT_FIRMWARE_DEBUG, 1),
        (PORT_FW_CFG, PORT_FW_CFG_COUNT),
        (PORT_ACPI_SLEEP, 1),
        (PORT_PM_TIMER, PORT_PM_TIMER_COUNT),
        (PORT_PM1A_EVENT, 4),
        (PORT_PM1A_CONTROL, 2),
        (PORT_PCI_CONFIG, PORT_PCI_CONFIG_COUNT),
    ];
    ports.sort_unstable();
    for pair in ports.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
    }
}

#[test]
fn lapic_is_the_first_page_of_the_msi_window_and_tpm_control_area_in_its_page() {
    assert_eq!(LAPIC_START, MSI_WINDOW.start);
    assert!((TPM_START..TPM_START + TPM_SIZE).contains(&TPM_CONTROL_AREA));
}

#[test]
fn ram_splits_at_three_gib() {
    assert_eq!(ram_regions(0), []);
    assert_eq!(ram_regions(128 * MIB), [(0, 128 * MIB)]);
    assert_eq!(ram_regions(LOW_RAM_MAX - 1), [(0, LOW_RAM_MAX - 1)]);
    assert_eq!(ram_regions(LOW_RAM_MAX), [(0, LOW_RAM_MAX)]);
    assert_eq!(
        ram_regions(LOW_RAM_MAX + 4096),
        [(0, LOW_RAM_MAX), (HIGH_RAM_START, 4096)]
    );
    assert_eq!(
        ram_regions(5 * GIB),
        [(0, LOW_RAM_MAX), (HIGH_RAM_START, 2 * GIB)]
    );
}

#[test]
fn ram_regions_never_overflow() {
    let total: u64 = ram_regions(u64::MAX).iter().map(|region| region.1).sum();
    assert_eq!(total, u64::MAX);
    assert_eq!(ram_end(u64::MAX), u64::MAX);
    assert_eq!(device_area(u64::MAX, 46), None);
}

fn entry(start: u64, end: u64, kind: E820Kind) -> E820Entry {
    E820Entry::new(start..end, kind)
}

#[test]
fn e820_of_a_small_guest() {
    assert_eq!(
        e820(128 * MIB, &[]),
        [
            entry(0, 0xa_0000, E820Kind::Ram),
            entry(MIB, 128 * MIB, E820Kind::Ram),
            entry(0xe800_0000, 0xf800_0000, E820Kind::Reserved),
        ]
    );
}

#[test]
fn e820_around_the_hole() {
    let ecam = entry(0xe800_0000, 0xf800_0000, E820Kind::Reserved);
    let at_limit = e820(LOW_RAM_MAX, &[]);
    assert_eq!(
        at_limit[1..],
        [entry(MIB, LOW_RAM_MAX, E820Kind::Ram), ecam]
    );
    let above = e820(LOW_RAM_MAX + 2 * MIB, &[]);
    let high = entry(4 * GIB, 4 * GIB + 2 * MIB, E820Kind::Ram);
    assert_eq!(
        above[1..],
        [entry(MIB, LOW_RAM_MAX, E820Kind::Ram), ecam, high]
    );
}

#[test]
fn e820_of_less_than_one_mib_does_not_invent_ram() {
    assert_eq!(e820(64 * KIB, &[])[0], entry(0, 64 * KIB, E820Kind::Ram));
    assert_eq!(e820(64 * KIB, &[]).len(), 2);
    assert_eq!(e820(0, &[]).len(), 1);
}

#[test]
fn e820_cuts_taken_ranges_out_of_ram() {
    let acpi = entry(126 * MIB, 128 * MIB, E820Kind::Acpi);
    let nvs = entry(64 * MIB, 65 * MIB, E820Kind::Nvs);
    let empty = entry(32 * MIB, 32 * MIB, E820Kind::Acpi);
    assert_eq!(
        e820(128 * MIB, &[acpi, nvs, empty]),
        [
            entry(0, 0xa_0000, E820Kind::Ram),
            entry(MIB, 64 * MIB, E820Kind::Ram),
            nvs,
            entry(65 * MIB, 126 * MIB, E820Kind::Ram),
            acpi,
            entry(0xe800_0000, 0xf800_0000, E820Kind::Reserved),
        ]
    );
}

#[test]
fn top_of_the_address_space() {
    assert_eq!(platform_area(46), 0x3fff_ffef_0000..0x3fff_ffff_0000);
    assert_eq!(
        device_area(ram_end(GIB), 46),
        Some(0x1_0000_0000..0x3fff_ffef_0000)
    );
    assert_eq!(device_area(ram_end(4 * GIB), 46).unwrap().start, 8 * GIB);
    assert_eq!(device_area(ram_end(61 * GIB), 36), None);
    assert_eq!(
        device_area(ram_end(59 * GIB), 36),
        Some(60 * GIB..platform_area(36).start)
    );
}
