//! The boot state, looked at as a processor would: tables are read back from memory.

use super::*;

const PVH: Entry = Entry::Pvh {
    entry: 0x100_0000,
    start_info: layout::PVH_START_INFO,
};
const LINUX: Entry = Entry::Linux64 {
    entry: 0x10_0200,
    zero_page: layout::ZERO_PAGE,
};

/// Eight bytes of what the boot state writes to guest memory; zero elsewhere.
fn read(state: &BootState, address: u64) -> u64 {
    for (start, data) in &state.memory {
        if (*start..*start + data.len() as u64).contains(&address) {
            let at = usize::try_from(address - start).unwrap();
            return u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
        }
    }
    0
}

/// The physical address that `address` maps to, by the walk of Intel SDM volume 3A, 5.5.4.
fn translate(state: &BootState, address: u64) -> Option<u64> {
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    let mut table = state.sregs.cr3 & FRAME;
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let entry = read(state, table + (address >> shift & 0x1ff) * 8);
        if entry & 1 == 0 {
            return None;
        }
        if level == 0 || entry & PAGE_LARGE != 0 {
            let offset = (1 << shift) - 1;
            return Some(entry & FRAME & !offset | address & offset);
        }
        table = entry & FRAME;
    }
    unreachable!("level 0 returns")
}

/// Decodes a descriptor back into the hidden part of a segment register.
fn load(state: &BootState, selector: u16) -> Segment {
    assert!(
        u64::from(selector) + 7 <= u64::from(state.sregs.gdt.limit),
        "selector beyond the GDT"
    );
    let raw = read(state, state.sregs.gdt.base + u64::from(selector));
    let granular = raw >> 55 & 1 == 1;
    let limit = u32::try_from(raw & 0xffff | raw >> 32 & 0xf_0000).unwrap();
    Segment {
        base: raw >> 16 & 0xff_ffff | raw >> 32 & 0xff00_0000,
        limit: if granular { limit << 12 | 0xfff } else { limit },
        selector,
        kind: (raw >> 40 & 0xf) as u8,
        present: raw >> 47 & 1 == 1,
        privilege: (raw >> 45 & 3) as u8,
        default_big: raw >> 54 & 1 == 1,
        code_or_data: raw >> 44 & 1 == 1,
        long: raw >> 53 & 1 == 1,
        granular,
        available: raw >> 52 & 1 == 1,
        unusable: false,
    }
}

#[test]
fn segment_registers_equal_the_descriptors_they_name() {
    for protocol in [PVH, LINUX] {
        let state = boot_state(protocol);
        let sregs = &state.sregs;
        for segment in [
            sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss, sregs.tr,
        ] {
            assert_eq!(load(&state, segment.selector), segment, "{protocol:?}");
        }
        assert_eq!(
            read(&state, sregs.gdt.base),
            0,
            "the first descriptor is the null one"
        );
    }
}

#[test]
fn descriptor_carries_every_bit_of_the_base_and_limit() {
    let segment = Segment {
        base: 0x1234_5678,
        limit: 0x000a_bcde,
        kind: 0x2,
        privilege: 3,
        present: true,
        available: true,
        code_or_data: true,
        ..Segment::default()
    };
    assert_eq!(descriptor(&segment), 0x121a_f234_5678_bcde);
}

#[test]
fn pvh_enters_flat_protected_mode() {
    let state = boot_state(PVH);
    let BootState { regs, sregs, .. } = &state;
    assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x100_0000, 0x6000, 2));
    assert_eq!(sregs.cr0 & !CR0_EXTENSION_TYPE, CR0_PROTECTED_MODE);
    assert_eq!((sregs.cr3, sregs.cr4, sregs.efer), (0, 0, 0));
    for segment in [sregs.cs, sregs.ds, sregs.es, sregs.ss] {
        assert_eq!((segment.base, segment.limit), (0, u32::MAX));
        assert!(segment.default_big && !segment.long && segment.present);
    }
    assert_eq!(
        (sregs.tr.base, sregs.tr.limit, sregs.tr.kind),
        (0, 0x67, 0xb)
    );
    assert!(
        state
            .memory
            .iter()
            .all(|(start, _)| *start < layout::PML4_START),
        "no page tables"
    );
}

#[test]
fn linux_enters_long_mode_with_its_own_selectors() {
    let state = boot_state(LINUX);
    let BootState { regs, sregs, .. } = &state;
    assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x10_0200, 0x7000, 2));
    assert_eq!(
        sregs.cr0 & (CR0_PAGING | CR0_PROTECTED_MODE),
        CR0_PAGING | CR0_PROTECTED_MODE
    );
    assert_eq!(sregs.efer, 0x500);
    assert_eq!(sregs.cs.selector, 0x10);
    // A code segment that is both long and 32-bit is a reserved combination: entry fails.
    assert!(sregs.cs.long && !sregs.cs.default_big);
    for segment in [sregs.ds, sregs.es, sregs.ss] {
        assert_eq!(segment.selector, 0x18);
    }
}

#[test]
fn linux_needs_are_mapped_to_themselves() {
    let state = boot_state(LINUX);
    let needed = [
        layout::GDT_START,
        layout::IDT_START,
        layout::ZERO_PAGE,
        layout::ZERO_PAGE + 0xfff,
        layout::BOOT_STACK_START,
        layout::BOOT_STACK_POINTER - 8,
        layout::PML4_START,
        layout::PD_START + 0xff8,
        layout::CMDLINE_START,
        layout::CMDLINE_START + layout::CMDLINE_MAX_SIZE - 1,
        layout::RSDP_START,
        layout::KERNEL_START + 0x200,
        0x100_0000,
        layout::IDENTITY_MAPPED_SIZE - 1,
    ];
    for address in needed {
        assert_eq!(translate(&state, address), Some(address), "{address:#x}");
    }
    for page in 0..512 {
        let address = (page << LARGE_PAGE_SHIFT) + 0x1234;
        assert_eq!(translate(&state, address), Some(address));
    }
    assert_eq!(translate(&state, layout::IDENTITY_MAPPED_SIZE), None);
    assert_eq!(translate(&state, 1 << 39), None);
}

#[test]
fn boot_memory_is_disjoint_and_clear_of_what_others_put_there() {
    let taken = [
        (layout::PVH_START_INFO, 0x1000),
        (layout::ZERO_PAGE, 0x1000),
        (layout::CMDLINE_START, layout::CMDLINE_MAX_SIZE),
        (layout::KERNEL_START, 0x1000),
    ];
    let state = boot_state(LINUX);
    let own = state
        .memory
        .iter()
        .map(|(start, data)| (*start, data.len() as u64));
    let mut ranges: Vec<_> = own.chain(taken).collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
    }
}

#[test]
fn the_boot_processor_says_so_in_its_apic_base() {
    assert_eq!(boot_state(PVH).sregs.apic_base, 0xfee0_0900);
}

#[test]
fn every_processor_gets_write_back_memory_and_fast_strings() {
    let msrs = boot_msrs();
    assert_eq!(boot_state(LINUX).msrs, msrs);
    let value = |index| {
        msrs.iter()
            .find(|msr| msr.index == index)
            .map(|msr| msr.value)
    };
    assert_eq!(value(0x2ff), Some(0x806));
    assert_eq!(value(0x1a0), Some(0x1801));
}

#[test]
fn lapic_pins() {
    let mut page = [0xaa; 1024];
    lapic_boot(&mut page, true);
    assert_eq!(page[0x350..0x354], [0, 7, 0, 0]);
    assert_eq!(page[0x360..0x364], [0, 4, 0, 0]);
    lapic_boot(&mut page, false);
    assert_eq!(page[0x350..0x354], [0, 0, 1, 0]);
    assert_eq!(page[0x360..0x364], [0, 4, 0, 0]);
    let untouched = page.iter().filter(|byte| **byte == 0xaa).count();
    assert_eq!(untouched, 1024 - 8, "only the two registers change");
}
