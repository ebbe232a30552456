//! The MP table (Intel MultiProcessor Specification 1.4), for a guest that does not use ACPI.
//!
//! A guest searches the BIOS area for the floating pointer structure (4.1), which names the address of the
//! configuration table (4.2 and 4.3); here it follows directly.

#[cfg(test)]
mod tests;

use crate::IoApic;
use crate::bytes::checksum;

/// The most processors: their local APIC ids have 8 bits, and 255 means "all".
pub const MAX_PROCESSORS: usize = 254;

/// Alignment that the floating pointer structure must have.
const ALIGNMENT: u64 = 16;
/// Size of the floating pointer structure.
const POINTER: usize = 16;
/// Size of the configuration table's header.
const HEADER: usize = 44;
/// Guest physical address of each processor's own local APIC.
const LOCAL_APIC: u32 = 0xfee0_0000;
const _: () = assert!(LOCAL_APIC as u64 == arch::layout::LAPIC_START);
/// Version of the local APICs (integrated ones are 0x10 to 0x1f).
const LOCAL_APIC_VERSION: u8 = 0x14;
/// The only bus, with its id.
const ISA: u8 = 0;
/// Interrupt lines of the ISA bus, each wired to the I/O APIC's pin of the same number.
const ISA_INTERRUPTS: u8 = 16;

/// Interrupt types of 4.3.4.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
/// Table entry types of 4.3.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;
/// Destination "all local APICs".
const ALL: u8 = 0xff;

/// Where the table goes when it follows `smbios_size` bytes of SMBIOS.
pub fn address_after(smbios_size: usize) -> u64 {
    (arch::layout::SMBIOS_START + smbios_size as u64).next_multiple_of(ALIGNMENT)
}

/// Renders floating pointer and configuration table, to be written at `address`.
///
/// `apic_ids` are the processors that run from the start; the first one boots. `None` if the table cannot
/// describe the machine: no processor, more than [`MAX_PROCESSORS`] or an APIC id above 254, an address that is
/// not a multiple of 16 or leaves the BIOS area. Such a guest needs ACPI.
pub fn build(apic_ids: &[u32], ioapic: &IoApic, address: u64) -> Option<Vec<u8>> {
    let entries = entries(apic_ids, ioapic)?;
    let table_at = u32::try_from(address.checked_add(POINTER as u64)?).ok()?;
    let size = POINTER + HEADER + entries.bytes.len();
    let end = address.checked_add(size as u64)?;
    if !address.is_multiple_of(ALIGNMENT) || end > arch::layout::SMBIOS_END {
        return None;
    }

    let mut bytes = Vec::with_capacity(size);
    bytes.extend(b"_MP_");
    bytes.extend(table_at.to_le_bytes());
    // One paragraph, specification revision 4, checksum, no default configuration, no IMCR.
    bytes.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes);
    bytes.extend(table(&entries)?);
    Some(bytes)
}

/// Header and entries of the configuration table (4.2).
fn table(entries: &Entries) -> Option<Vec<u8>> {
    let mut table = Vec::with_capacity(HEADER + entries.bytes.len());
    table.extend(b"PCMP");
    table.extend(
        u16::try_from(HEADER + entries.bytes.len())
            .ok()?
            .to_le_bytes(),
    );
    table.extend([4, 0]);
    table.extend(b"CLOUDH  ");
    table.extend(b"cloud-hyperv");
    // No OEM table.
    table.extend([0; 6]);
    table.extend(entries.count.to_le_bytes());
    table.extend(LOCAL_APIC.to_le_bytes());
    // No extended entries.
    table.extend([0; 4]);
    table.extend(&entries.bytes);
    table[7] = checksum(&table);
    Some(table)
}

/// Entries of the configuration table, and how many there are.
#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    fn push(&mut self, kind: u8, fields: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend(fields);
        self.count += 1;
    }
}

/// All entries, in the order of their types, which the specification asks for.
fn entries(apic_ids: &[u32], ioapic: &IoApic) -> Option<Entries> {
    /// CPU flags of 4.3.1.
    const ENABLED: u8 = 1;
    const BOOT: u8 = 2;
    /// Family 6; a guest reads the real one by CPUID.
    const SIGNATURE: u32 = 0x600;
    /// Has an FPU and a local APIC.
    const FEATURES: u32 = 1 | 1 << 9;

    if apic_ids.is_empty() || apic_ids.len() > MAX_PROCESSORS {
        return None;
    }
    let mut entries = Entries::default();
    for (index, id) in apic_ids.iter().enumerate() {
        let id = u8::try_from(*id).ok().filter(|id| *id != ALL)?;
        let flags = if index == 0 { ENABLED | BOOT } else { ENABLED };
        let mut fields = vec![id, LOCAL_APIC_VERSION, flags];
        fields.extend(SIGNATURE.to_le_bytes());
        fields.extend(FEATURES.to_le_bytes());
        fields.extend([0; 8]);
        entries.push(PROCESSOR, &fields);
    }
    entries.push(BUS, &[&[ISA][..], b"ISA   "].concat());
    let mut fields = vec![ioapic.id, ioapic.version, ENABLED];
    fields.extend(ioapic.address.to_le_bytes());
    entries.push(IO_APIC, &fields);
    // Flags 0: polarity and trigger mode are the bus's.
    for line in 0..ISA_INTERRUPTS {
        entries.push(IO_INTERRUPT, &[INT, 0, 0, ISA, line, ioapic.id, line]);
    }
    // LINT0 of the boot processor, LINT1 of all.
    let boot = u8::try_from(apic_ids[0]).ok()?;
    entries.push(LOCAL_INTERRUPT, &[EXT_INT, 0, 0, ISA, 0, boot, 0]);
    entries.push(LOCAL_INTERRUPT, &[NMI, 0, 0, ISA, 0, ALL, 1]);
    Some(entries)
}
