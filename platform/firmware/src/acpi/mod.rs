//! Hardware-reduced ACPI tables (ACPI 6.5) from the machine's description.
//!
//! A guest finds the RSDP, which points to the XSDT, which points to every other table:
//!
//! ```text
//! RSDP ── XSDT ─┬─ FACP ── DSDT      fixed hardware; devices and processors as AML
//!               ├─ APIC              interrupt controllers, one per processor and the I/O APIC
//!               └─ MCFG              where PCI's configuration space is
//! ```
//!
//! "Hardware-reduced" (ACPI 6.5, 3.11.1) means that there is no legacy ACPI hardware: no SCI, no event and
//! control blocks, no FACS. Power-off goes through the sleep control register, events through a device of
//! the DSDT.
//!
//! The RSDP is at [`RSDP`], and the tables follow it in place. Thousands of processors
//! need more room than there is below [`IN_PLACE_END`]: then all tables but the RSDP go to RAM that the
//! caller names as spare, and the caller reports that range as ACPI memory.

mod aml;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;

use crate::bytes::align_up;
use crate::{AcpiId, Error, IoApic, Node, Resource};

/// Guest physical address of the RSDP; also what the EBDA pointer names.
pub const RSDP: u64 = arch::layout::RSDP_START;
/// First address after the room for tables behind the RSDP.
pub const IN_PLACE_END: u64 = arch::layout::ACPI_END;

/// OEM id of every table.
const OEM_ID: [u8; 6] = *b"CLOUDH";
/// Alignment of tables. ACPI asks for none; this keeps their fields aligned.
const TABLE_ALIGNMENT: u64 = 16;
/// Size and alignment of what an e820 entry can describe usefully.
const PAGE: u64 = 4096;
/// Where a BIOS leaves the segment of its extended data area, which a guest searches for the RSDP.
const EBDA_POINTER: u64 = arch::layout::EBDA_POINTER;
/// That segment: the address of the RSDP in units of 16 bytes.
const EBDA_SEGMENT: u16 = 0xa000;
const _: () = assert!((EBDA_SEGMENT as u64) << 4 == RSDP);

/// All that the tables say about a machine.
#[derive(Clone, Debug)]
pub struct Platform<'a> {
    /// Processors; the position is the processor's UID. At most [`MAX_PROCESSORS`].
    pub vcpus: &'a [Processor],
    /// Platform devices, in the order in which the DSDT has them.
    pub nodes: &'a [Node],
    /// Registers that the FADT names.
    pub fixed: FixedHardware,
    /// The I/O APIC, for GSIs from 0.
    pub ioapic: IoApic,
    /// The MCFG table without its header (PCI Firmware specification 3.2, 4.1.2); none without PCI.
    pub mcfg: Option<&'a [u8]>,
    /// RAM that the tables may take if they do not fit in place: from the end of the payload to the start of
    /// the initramfs ([`Loaded::spare_ram`](crate::payload::Loaded::spare_ram)). They go to its top.
    pub spare_ram: Range<u64>,
}

/// The most processors that the names in the DSDT are enough for.
pub const MAX_PROCESSORS: usize = aml::MAX_PROCESSORS;

/// One processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Local APIC id; needs x2APIC from 255 on.
    pub apic_id: u32,
    /// Runs from the start. One that is not enabled can be brought online later.
    pub enabled: bool,
}

/// Registers of the fixed hardware, all of them I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHardware {
    /// Sleep control register, 8 bits (ACPI 6.5, 4.8.3.7).
    pub sleep_control: u16,
    /// Sleep status register, 8 bits.
    pub sleep_status: u16,
    /// Reset register, 8 bits.
    pub reset: u16,
    /// What is written to the reset register.
    pub reset_value: u8,
    /// Power management timer, 32 bits wide.
    pub pm_timer: u16,
    /// The PM1a blocks, which only a nested Hyper-V looks for.
    pub pm1a: Option<Pm1a>,
}

/// Ports of the PM1a register blocks (ACPI 6.5, 4.8.3.1 and 4.8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pm1a {
    /// Status and enable registers, 4 bytes.
    pub event: u16,
    /// Control register, 2 bytes.
    pub control: u16,
}

/// The finished tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Guest physical address of the RSDP.
    pub rsdp: u64,
    /// Guest physical addresses and what to write there.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// RAM that the tables took, page aligned: not usable by the guest, and ACPI memory in its memory map.
    /// `None` if everything fits in place.
    pub reserved: Option<Range<u64>>,
}

/// Renders the tables.
///
/// # Errors
/// A node with a malformed or repeated name, id or resource; no or too many processors; tables that fit
/// neither in place nor in the spare RAM.
pub fn build(platform: &Platform<'_>) -> Result<Tables, Error> {
    check(platform)?;
    let dsdt = tables::table(b"DSDT", 6, &aml::dsdt_body(platform));
    let madt = tables::table(b"APIC", 5, &tables::madt_body(platform));
    let mcfg = platform.mcfg.map(|body| tables::table(b"MCFG", 1, body));
    let sizes = [
        dsdt.len(),
        tables::fadt_len(),
        madt.len(),
        mcfg.as_ref().map_or(0, Vec::len),
        tables::xsdt_len(2 + usize::from(mcfg.is_some())),
    ];

    let (mut next, reserved) = place(&sizes, &platform.spare_ram)?;
    let mut address_of = |size: usize| {
        let address = next;
        next += aligned(size);
        address
    };
    let [dsdt_at, fadt_at, madt_at, mcfg_at, xsdt_at] = sizes.map(&mut address_of);
    let fadt = tables::fadt(&platform.fixed, dsdt_at);
    let mut listed = vec![fadt_at, madt_at];
    listed.extend(mcfg.as_ref().map(|_| mcfg_at));
    let xsdt = tables::xsdt(&listed);

    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt_at).to_aml_bytes(&mut rsdp);
    let mut writes = vec![
        (EBDA_POINTER, EBDA_SEGMENT.to_le_bytes().to_vec()),
        (RSDP, rsdp),
        (dsdt_at, dsdt),
        (fadt_at, fadt),
        (madt_at, madt),
        (xsdt_at, xsdt),
    ];
    writes.extend(mcfg.map(|table| (mcfg_at, table)));
    Ok(Tables {
        rsdp: RSDP,
        writes,
        reserved,
    })
}

/// Room that a table takes, so that the next one is aligned.
fn aligned(size: usize) -> u64 {
    (size as u64).next_multiple_of(TABLE_ALIGNMENT)
}

/// Chooses where the tables start, and what that reserves.
fn place(sizes: &[usize], spare: &Range<u64>) -> Result<(u64, Option<Range<u64>>), Error> {
    let need: u64 = sizes.iter().map(|size| aligned(*size)).sum();
    let in_place = RSDP + aligned(Rsdp::len());
    if in_place + need <= IN_PLACE_END {
        return Ok((in_place, None));
    }
    let need = need.next_multiple_of(PAGE);
    let end = spare.end & !(PAGE - 1);
    let start = align_up(spare.start, PAGE).unwrap_or(u64::MAX);
    match end.checked_sub(need) {
        Some(at) if at >= start => Ok((at, Some(at..end))),
        _ => Err(Error::AcpiTooLarge {
            need,
            have: end.saturating_sub(start),
        }),
    }
}

/// Checks what AML can not express, before it is rendered.
fn check(platform: &Platform<'_>) -> Result<(), Error> {
    let count = platform.vcpus.len();
    if count == 0 || count > MAX_PROCESSORS {
        return Err(Error::ProcessorCount {
            count,
            max: MAX_PROCESSORS,
        });
    }
    let mut names = HashSet::from([aml::PROCESSORS.to_owned()]);
    for node in platform.nodes {
        let valid = |byte: u8| byte.is_ascii_uppercase() || byte == b'_' || byte.is_ascii_digit();
        if !(1..=4).contains(&node.name.len())
            || !node.name.bytes().all(valid)
            || node.name.as_bytes()[0].is_ascii_digit()
        {
            return Err(Error::NodeName { name: node.name });
        }
        if !names.insert(aml::padded(node.name)) {
            return Err(Error::NodeTwice { name: node.name });
        }
        check_id(node)?;
        for resource in &node.resources {
            check_resource(node.name, resource)?;
        }
    }
    Ok(())
}

/// Checks the form of a hardware id (ACPI 6.5, 6.1.5).
fn check_id(node: &Node) -> Result<(), Error> {
    let (id, valid) = match node.acpi_id {
        AcpiId::Eisa(id) => (
            id,
            id.len() == 7
                && id.bytes().take(3).all(|byte| byte.is_ascii_uppercase())
                && id
                    .bytes()
                    .skip(3)
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F')),
        ),
        AcpiId::Text(id) => (
            id,
            (7..=8).contains(&id.len())
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()),
        ),
    };
    if valid {
        Ok(())
    } else {
        Err(Error::NodeId {
            name: node.name,
            id,
        })
    }
}

/// Checks that a range is not empty and ends inside its address space.
fn check_resource(name: &'static str, resource: &Resource) -> Result<(), Error> {
    let valid = match *resource {
        Resource::Ports { base, len } => len != 0 && base.checked_add(len - 1).is_some(),
        Resource::Mmio { base, len } => len != 0 && base.checked_add(len - 1).is_some(),
        Resource::Interrupt { .. } => true,
    };
    if valid {
        Ok(())
    } else {
        Err(Error::NodeResource {
            name,
            resource: *resource,
        })
    }
}
