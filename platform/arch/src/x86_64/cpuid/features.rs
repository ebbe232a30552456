//! Feature bits: what the hypervisor offers, what the user turned off, what the machine adds.

use super::{Draft, Error, Table};

/// Family, model and the first feature bits.
const FEATURES: u32 = 1;
/// More feature bits, in subleaves.
const MORE_FEATURES: u32 = 7;
/// Extended processor state (`XSAVE`) components.
const XSAVE: u32 = 0xd;
/// Software guard extensions.
const SGX: u32 = 0x12;
/// Advanced matrix extensions: palettes of tiles, and the multiply unit.
const AMX_LEAVES: [u32; 2] = [0x1d, 0x1e];
/// Feature bits that AMD introduced.
const AMD_FEATURES: u32 = 0x8000_0001;
/// Secure virtual machine: AMD's virtualisation.
const SVM: u32 = 0x8000_000a;

/// Bits of XCR0 that belong to advanced matrix extensions: tile configuration and data.
const XCR0_AMX: u64 = 0b11 << 17;
/// Size of the legacy area and the header of an `XSAVE` area (Intel SDM volume 1, 13.4).
const XSAVE_HEADER_END: u32 = 576;

pub(super) fn apply(draft: &mut Draft<'_>) -> Result<(), Error> {
    first_features(draft);
    // The machine has no enclave page cache, so a guest that saw the feature could only fail to use it.
    draft.table.change(MORE_FEATURES, 0, |e| {
        e.ebx &= !(1 << 2);
        e.ecx &= !(1 << 30);
    });
    draft.table.remove(SGX);
    protection_keys_runtime_bit(&mut draft.table);
    if !draft.options.nested {
        draft.table.change(FEATURES, 0, |e| e.ecx &= !(1 << 5));
        draft.table.change(AMD_FEATURES, 0, |e| e.ecx &= !(1 << 2));
        draft.table.remove(SVM);
    }
    if draft.options.amx {
        require_amx(&draft.table)?;
    } else {
        hide_amx(&mut draft.table);
    }
    xsave_sizes(&mut draft.table);
    Ok(())
}

/// Leaf 1. The local APIC is the hypervisor's, with all that it implies; OSXSAVE mirrors a control register that
/// is clear at reset.
fn first_features(draft: &mut Draft<'_>) {
    const X2APIC: u32 = 1 << 21;
    const TSC_DEADLINE: u32 = 1 << 24;
    const OSXSAVE: u32 = 1 << 27;
    const HYPERVISOR: u32 = 1 << 31;
    const CLFLUSH: u32 = 1 << 19;
    let deadline = draft.options.tsc_deadline_timer;
    draft.table.change(FEATURES, 0, |e| {
        e.ecx |= X2APIC | HYPERVISOR;
        e.ecx &= !(OSXSAVE | TSC_DEADLINE);
        if deadline {
            e.ecx |= TSC_DEADLINE;
        }
        // EBX bits 15:8 count eight bytes each.
        if e.edx & CLFLUSH != 0 && e.ebx & 0xff00 == 0 {
            e.ebx |= (64 / 8) << 8;
        }
    });
}

/// OSPKE mirrors a control register that is clear at reset.
fn protection_keys_runtime_bit(table: &mut Table) {
    table.change(MORE_FEATURES, 0, |e| e.ecx &= !(1 << 4));
}

/// Advanced matrix extensions need the feature and both state components: the hypervisor offers the components
/// only to a process that may use them.
fn require_amx(table: &Table) -> Result<(), Error> {
    const AMX_TILE: u32 = 1 << 24;
    let present = table.get(MORE_FEATURES, 0).edx & AMX_TILE != 0;
    if present && xcr0(table) & XCR0_AMX == XCR0_AMX {
        Ok(())
    } else {
        Err(Error::NoAmx)
    }
}

/// Removes all signs of advanced matrix extensions: features, state components, leaves of their own.
fn hide_amx(table: &mut Table) {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const AMX_FP16: u32 = 1 << 21;
    const AMX_COMPLEX: u32 = 1 << 8;
    table.change(MORE_FEATURES, 0, |e| {
        e.edx &= !(AMX_BF16 | AMX_TILE | AMX_INT8);
    });
    // EAX of subleaf 0 is the last subleaf; a list may not mark a leaf that has only one.
    if table.get(MORE_FEATURES, 0).eax >= 1 {
        table.change(MORE_FEATURES, 1, |e| {
            e.eax &= !AMX_FP16;
            e.edx &= !AMX_COMPLEX;
        });
    }
    for leaf in AMX_LEAVES {
        table.remove(leaf);
    }
    let remaining = xcr0(table) & !XCR0_AMX;
    set_xcr0(table, remaining);
    for component in [17, 18] {
        table.remove_subleaf(XSAVE, component);
    }
    // Extended feature disable (XFD) has only these components to act on.
    table.change(XSAVE, 1, |e| e.eax &= !(1 << 4));
}

/// State components that the guest may enable.
fn xcr0(table: &Table) -> u64 {
    let e = table.get(XSAVE, 0);
    u64::from(e.edx) << 32 | u64::from(e.eax)
}

fn set_xcr0(table: &mut Table, components: u64) {
    let bytes = components.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    table.change(XSAVE, 0, |entry| {
        entry.eax = u32::from_le_bytes([a, b, c, d]);
        entry.edx = u32::from_le_bytes([e, f, g, h]);
    });
}

/// Sizes of the `XSAVE` area. ECX of subleaf 0 holds all components that may be enabled; EBX of subleaves 0 and 1
/// those that are, which after reset is the legacy area with its header.
fn xsave_sizes(table: &mut Table) {
    let enabled = xcr0(table);
    let end = table
        .all(XSAVE)
        .filter(|e| (2..64).contains(&e.subleaf) && enabled >> e.subleaf & 1 == 1)
        .map(|e| e.ebx.saturating_add(e.eax))
        .fold(XSAVE_HEADER_END, u32::max);
    if enabled == 0 {
        return;
    }
    table.change(XSAVE, 0, |e| {
        e.ebx = XSAVE_HEADER_END;
        e.ecx = end;
    });
    table.change(XSAVE, 1, |e| {
        if e.ebx != 0 {
            e.ebx = XSAVE_HEADER_END;
        }
    });
}
