//! The way through ACPI's tables to PCI's configuration space (ACPI 6.5, 5.2; PCI Firmware Specification 3.2, 4.1.2).

use crate::memory::{map, read32, read64};

/// ECAM of segment 0: what the table MCFG says. `None` without ACPI or without the table.
pub(crate) fn ecam(rsdp: u64) -> Option<u64> {
    let mcfg = table(rsdp, b"MCFG")?;
    map(mcfg, 60);
    Some(read64(mcfg + 44))
}

/// The first table with this signature.
pub(crate) fn table(rsdp: u64, signature: &[u8; 4]) -> Option<u64> {
    if rsdp == 0 {
        return None;
    }
    map(rsdp, 36);
    let xsdt = read64(rsdp + 24);
    map(xsdt, 0x1000);
    let end = u64::from(read32(xsdt + 4)).min(0x1000);
    (36..end)
        .step_by(8)
        .map(|offset| read64(xsdt + offset))
        .find(|table| {
            map(*table, 36);
            read32(*table) == u32::from_le_bytes(*signature)
        })
}
