//! The tables of fixed form: FADT, MADT and XSDT.

use std::collections::BTreeMap;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{FixedHardware, OEM_ID, Platform, Processor};
use crate::Resource;
use crate::bytes::checksum;

/// Size of the header of every table (ACPI 6.5, 5.2.6).
const HEADER: usize = 36;
/// Where the header has its checksum.
const CHECKSUM_AT: usize = 9;
/// What is read as the vendor of the hypervisor in the FADT.
const HYPERVISOR_VENDOR: [u8; 8] = *b"CLOUDHYP";
/// IAPC_BOOT_ARCH flag "VGA Not Present" (ACPI 6.5, 5.2.9.3). The 8042 flag stays clear: there is no
/// keyboard controller that could be probed, only its reset command.
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// Minor version of the FADT. Tables of revision 6 without later fields are ACPI 6.3's and earlier.
const FADT_MINOR: u8 = 3;
/// Guest physical address of each processor's own local APIC.
const LOCAL_APIC: u32 = 0xfee0_0000;
const _: () = assert!(LOCAL_APIC as u64 == arch::layout::LAPIC_START);
/// The last APIC id, and the last UID, that the 8-bit structures of the MADT can hold: 255 means "all".
const LAST_XAPIC: u32 = 254;
/// ISA interrupts: edge-triggered and active-high unless an override says otherwise.
const ISA_INTERRUPTS: u32 = 16;

/// A table: its header, with length and checksum, and `body`.
pub(super) fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(signature);
    bytes.extend(length.to_le_bytes());
    bytes.extend([revision, 0]);
    bytes.extend(OEM_ID);
    bytes.extend(table_id(signature));
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(acpi_tables::CREATOR_ID);
    bytes.extend(acpi_tables::CREATOR_REVISION);
    bytes.extend(body);
    bytes[CHECKSUM_AT] = checksum(&bytes);
    bytes
}

/// OEM table id: `CH`, then what the table is known as, padded with spaces.
fn table_id(signature: &[u8; 4]) -> [u8; 8] {
    let name = if signature == b"APIC" {
        b"MADT"
    } else {
        signature
    };
    let mut id = *b"CH      ";
    id[2..6].copy_from_slice(name);
    id
}

/// Size of the FADT.
pub(super) fn fadt_len() -> usize {
    FADT::len()
}

/// The fixed ACPI description table (ACPI 6.5, 5.2.9), hardware-reduced.
pub(super) fn fadt(fixed: &FixedHardware, dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, table_id(b"FACP"), 1)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        // The power and the sleep button, if any, are devices and not fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi);
    fadt.fadt_minor_version = FADT_MINOR;
    fadt.iapc_boot_arch = VGA_NOT_PRESENT.into();
    fadt.reset_reg = port(fixed.reset, AccessSize::ByteAccess);
    fadt.reset_value = fixed.reset_value;
    fadt.sleep_control_reg = port(fixed.sleep_control, AccessSize::ByteAccess);
    fadt.sleep_status_reg = port(fixed.sleep_status, AccessSize::ByteAccess);
    fadt.pm_tmr_blk = u32::from(fixed.pm_timer).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = port(fixed.pm_timer, AccessSize::DwordAccess);
    if let Some(pm1a) = fixed.pm1a {
        fadt.pm1a_evt_blk = u32::from(pm1a.event).into();
        fadt.pm1_evt_len = 4;
        fadt.x_pm1a_evt_blk = port(pm1a.event, AccessSize::DwordAccess);
        fadt.pm1a_cnt_blk = u32::from(pm1a.control).into();
        fadt.pm1_cnt_len = 2;
        fadt.x_pm1a_cnt_blk = port(pm1a.control, AccessSize::WordAccess);
    }
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(HYPERVISOR_VENDOR).into();
    let mut bytes = Vec::with_capacity(FADT::len());
    fadt.finalize().to_aml_bytes(&mut bytes);
    bytes
}

/// Address structure (ACPI 6.5, 5.2.3.2) of a register that is one I/O port access wide.
fn port(port: u16, access: AccessSize) -> GAS {
    let bits = 4 << (access as u8);
    GAS::new(AddressSpace::SystemIo, bits, 0, access, port.into())
}

/// Multiple APIC description table without its header (ACPI 6.5, 5.2.12).
pub(super) fn madt_body(platform: &Platform<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + platform.vcpus.len() * 16);
    body.extend(LOCAL_APIC.to_le_bytes());
    // No flags: there are no 8259 interrupt controllers to disable.
    body.extend(0u32.to_le_bytes());
    for (uid, processor) in (0u32..).zip(platform.vcpus) {
        local_apic(&mut body, uid, *processor);
    }
    // I/O APIC, 5.2.12.3.
    body.extend([1, 12, platform.ioapic.id, 0]);
    body.extend(platform.ioapic.address.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    for (gsi, flags) in overrides(platform) {
        // Interrupt source override, 5.2.12.5: bus 0 is ISA, and the interrupt keeps its number.
        body.extend([2, 10, 0, gsi]);
        body.extend(u32::from(gsi).to_le_bytes());
        body.extend(flags.to_le_bytes());
    }
    body
}

/// Processor local APIC (5.2.12.2), or processor local x2APIC (5.2.12.12) where 8 bits are too few.
fn local_apic(body: &mut Vec<u8>, uid: u32, processor: Processor) {
    // Bit 0: enabled. Bit 1: not enabled, but can be brought online.
    let flags: u32 = if processor.enabled { 1 } else { 2 };
    match (u8::try_from(uid), u8::try_from(processor.apic_id)) {
        (Ok(uid8), Ok(id)) if u32::from(uid8.max(id)) <= LAST_XAPIC => {
            body.extend([0, 8, uid8, id]);
            body.extend(flags.to_le_bytes());
        }
        _ => {
            body.extend([9, 16, 0, 0]);
            body.extend(processor.apic_id.to_le_bytes());
            body.extend(flags.to_le_bytes());
            body.extend(uid.to_le_bytes());
        }
    }
}

/// ISA interrupts that a device drives in another way than ISA does, with their MPS INTI flags.
fn overrides(platform: &Platform<'_>) -> BTreeMap<u8, u16> {
    let resources = platform.nodes.iter().flat_map(|node| &node.resources);
    let mut overrides = BTreeMap::new();
    for resource in resources {
        if let Resource::Interrupt {
            gsi,
            level,
            active_low,
            ..
        } = *resource
            && gsi < ISA_INTERRUPTS
            && (level || active_low)
        {
            let polarity: u16 = if active_low { 3 } else { 1 };
            let trigger: u16 = if level { 3 } else { 1 };
            overrides.insert(gsi.to_le_bytes()[0], polarity | trigger << 2);
        }
    }
    overrides
}

/// Size of an XSDT with this many entries.
pub(super) fn xsdt_len(entries: usize) -> usize {
    HEADER + entries * 8
}

/// The table of all tables (ACPI 6.5, 5.2.8).
pub(super) fn xsdt(tables: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = tables
        .iter()
        .flat_map(|address| address.to_le_bytes())
        .collect();
    table(b"XSDT", 1, &body)
}
