//! The state in which the first processor enters a kernel.
//!
//! A boot protocol says what a loader must have set up: the processor's mode, a few registers, and tables in
//! memory that these point to. [`boot_state`] computes all of it as plain data for the two protocols that the
//! machine uses; nothing here touches a hypervisor or guest memory.
//!
//! Other processors need only [`boot_msrs`]: they wait for the first one to start them.

use super::layout;
use super::state::{DescriptorTable, Msr, Regs, Segment, SpecialRegs};

#[cfg(test)]
mod tests;

/// How the kernel wants to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode without paging (Xen `docs/misc/pvh.pandoc`, "x86/HVM direct boot ABI").
    Pvh {
        /// Physical address from the kernel's `XEN_ELFNOTE_PHYS32_ENTRY` note.
        entry: u32,
        /// Physical address of `hvm_start_info`, below 4 GiB. Usually [`layout::PVH_START_INFO`].
        start_info: u64,
    },
    /// 64-bit mode (Linux `Documentation/arch/x86/boot.rst`, "64-bit BOOT PROTOCOL").
    Linux64 {
        /// Physical address of the kernel's 64-bit entry: 0x200 past its load address. The kernel, up to its
        /// `init_size`, must lie below [`layout::IDENTITY_MAPPED_SIZE`].
        entry: u64,
        /// Physical address of `boot_params`. Usually [`layout::ZERO_PAGE`].
        zero_page: u64,
    },
}

/// Everything to set before the first processor runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootState {
    /// General-purpose registers.
    pub regs: Regs,
    /// Segments, tables and control registers.
    pub sregs: SpecialRegs,
    /// Model-specific registers: those of [`boot_msrs`].
    pub msrs: Vec<Msr>,
    /// Guest physical addresses, and what to write there.
    pub memory: Vec<(u64, Vec<u8>)>,
}

const CR0_PROTECTED_MODE: u64 = 1 << 0;
/// Always one on processors since the 486.
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
/// The one flag that always reads as one. Interrupts, single steps and virtual-8086 mode are off.
const RFLAGS_RESERVED: u64 = 1 << 1;
const APIC_BASE_BOOT_PROCESSOR: u64 = 1 << 8;
const APIC_BASE_ENABLE: u64 = 1 << 11;

/// Linux's `__BOOT_CS` and `__BOOT_DS`, which the 64-bit protocol fixes. PVH leaves the choice to the loader.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// The entry between the null descriptor and Linux's. In long mode a task state segment's descriptor would take
/// two entries; nothing loads this one again before the kernel has a table of its own.
const TASK_SELECTOR: u16 = 0x8;

const KIND_LDT: u8 = 0x2;
const KIND_DATA_READ_WRITE_ACCESSED: u8 = 0x3;
const KIND_CODE_EXECUTE_READ_ACCESSED: u8 = 0xb;
/// 32-bit TSS in protected mode, 64-bit TSS in long mode.
const KIND_TSS_BUSY: u8 = 0xb;
/// Smallest limit of a task state segment (Intel SDM volume 3A, 8.2.2).
const TSS_LIMIT: u32 = 0x67;

const PAGE_PRESENT_WRITABLE: u64 = 0x3;
const PAGE_LARGE: u64 = 1 << 7;
const LARGE_PAGE_SHIFT: u32 = 21;

/// The first processor's state for entering a kernel by `protocol`.
pub fn boot_state(protocol: Entry) -> BootState {
    let long = matches!(protocol, Entry::Linux64 { .. });
    let data = flat_data();
    let mut sregs = SpecialRegs {
        cs: flat_code(long),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task_state(),
        ldt: Segment {
            limit: 0xffff,
            kind: KIND_LDT,
            present: true,
            ..Segment::default()
        },
        cr0: CR0_PROTECTED_MODE | CR0_EXTENSION_TYPE,
        apic_base: layout::LAPIC_START | APIC_BASE_ENABLE | APIC_BASE_BOOT_PROCESSOR,
        ..SpecialRegs::default()
    };
    let mut regs = Regs {
        rflags: RFLAGS_RESERVED,
        ..Regs::default()
    };
    let mut memory = descriptor_tables(&mut sregs);
    match protocol {
        Entry::Pvh { entry, start_info } => {
            regs.rip = u64::from(entry);
            regs.rbx = start_info;
        }
        Entry::Linux64 { entry, zero_page } => {
            regs.rip = entry;
            regs.rsi = zero_page;
            regs.rsp = layout::BOOT_STACK_POINTER;
            regs.rbp = layout::BOOT_STACK_POINTER;
            sregs.cr0 |= CR0_PAGING;
            sregs.cr3 = layout::PML4_START;
            sregs.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
            sregs.efer = EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE;
            memory.extend(identity_map());
        }
    }
    BootState {
        regs,
        sregs,
        msrs: boot_msrs(),
        memory,
    }
}

/// Model-specific registers that firmware would have set on *every* processor before it starts a kernel.
///
/// - `IA32_MISC_ENABLE` (Intel SDM volume 4, table 2-2): fast string operations on, without which Linux gives up
///   its fast copy routines. Branch trace store and precise event sampling are marked unavailable, as they are
///   after reset.
/// - `IA32_MTRR_DEF_TYPE` (volume 3A, 13.11.2.1): memory type registers enabled, write-back by default. All
///   processors must agree on it, and Linux warns of firmware that leaves it off.
pub fn boot_msrs() -> Vec<Msr> {
    const MISC_ENABLE: u32 = 0x1a0;
    const FAST_STRINGS: u64 = 1 << 0;
    const BRANCH_TRACE_STORE_UNAVAILABLE: u64 = 1 << 11;
    const PRECISE_SAMPLING_UNAVAILABLE: u64 = 1 << 12;
    const MTRR_DEF_TYPE: u32 = 0x2ff;
    const MTRR_ENABLE: u64 = 1 << 11;
    const WRITE_BACK: u64 = 6;
    vec![
        Msr {
            index: MISC_ENABLE,
            value: FAST_STRINGS | BRANCH_TRACE_STORE_UNAVAILABLE | PRECISE_SAMPLING_UNAVAILABLE,
        },
        Msr {
            index: MTRR_DEF_TYPE,
            value: MTRR_ENABLE | WRITE_BACK,
        },
    ]
}

/// Wires a local interrupt controller's two pins as firmware leaves them (Intel MP specification 1.4, 3.6.2.2):
/// LINT0 takes the legacy interrupt controller's interrupts on the boot processor (`bsp`) and is masked on the
/// others; LINT1 takes NMIs on all.
///
/// `page` is the register page as the hypervisor hands it out; registers not named here keep their value.
pub fn lapic_boot(page: &mut [u8; 1024], bsp: bool) {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const DELIVERY_NMI: u32 = 0b100 << 8;
    const DELIVERY_EXTINT: u32 = 0b111 << 8;
    const MASKED: u32 = 1 << 16;
    let lint0 = if bsp { DELIVERY_EXTINT } else { MASKED };
    page[LVT_LINT0..][..4].copy_from_slice(&lint0.to_le_bytes());
    page[LVT_LINT1..][..4].copy_from_slice(&DELIVERY_NMI.to_le_bytes());
}

fn flat_code(long: bool) -> Segment {
    Segment {
        limit: u32::MAX,
        selector: CODE_SELECTOR,
        kind: KIND_CODE_EXECUTE_READ_ACCESSED,
        present: true,
        default_big: !long,
        code_or_data: true,
        long,
        granular: true,
        ..Segment::default()
    }
}

fn flat_data() -> Segment {
    Segment {
        limit: u32::MAX,
        selector: DATA_SELECTOR,
        kind: KIND_DATA_READ_WRITE_ACCESSED,
        present: true,
        default_big: true,
        code_or_data: true,
        granular: true,
        ..Segment::default()
    }
}

/// Base 0 and limit 0x67, as PVH asks for; VM entry on Intel processors needs a busy one in any mode (Intel SDM
/// volume 3C, 27.3.1.2).
fn task_state() -> Segment {
    Segment {
        limit: TSS_LIMIT,
        selector: TASK_SELECTOR,
        kind: KIND_TSS_BUSY,
        present: true,
        ..Segment::default()
    }
}

/// Puts the GDT and an empty IDT in place and points the processor at them.
///
/// An interrupt through the empty IDT would shut the processor down; interrupts are off until the kernel has an
/// IDT of its own.
fn descriptor_tables(sregs: &mut SpecialRegs) -> Vec<(u64, Vec<u8>)> {
    let gdt = [
        0,
        descriptor(&sregs.tr),
        descriptor(&sregs.cs),
        descriptor(&sregs.ds),
    ];
    let idt = [0u64];
    sregs.gdt = table(layout::GDT_START, &gdt);
    sregs.idt = table(layout::IDT_START, &idt);
    vec![
        (layout::GDT_START, bytes(&gdt)),
        (layout::IDT_START, bytes(&idt)),
    ]
}

/// A table of `N` eight-byte entries. Its limit is the offset of its last byte.
fn table<const N: usize>(base: u64, _entries: &[u64; N]) -> DescriptorTable {
    const { assert!(N > 0 && N <= 8192, "a descriptor table has 64 KiB at most") };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most 65535, asserted above"
    )]
    let limit = (N * 8 - 1) as u16;
    DescriptorTable { base, limit }
}

/// A segment as it is stored in a descriptor table (Intel SDM volume 3A, 3.4.5).
fn descriptor(segment: &Segment) -> u64 {
    let limit = u64::from(if segment.granular {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let base = segment.base;
    let bit = |flag: bool, position: u32| u64::from(flag) << position;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | u64::from(segment.kind & 0xf) << 40
        | bit(segment.code_or_data, 44)
        | u64::from(segment.privilege & 3) << 45
        | bit(segment.present, 47)
        | (limit >> 16 & 0xf) << 48
        | bit(segment.available, 52)
        | bit(segment.long, 53)
        | bit(segment.default_big, 54)
        | bit(segment.granular, 55)
        | (base >> 24 & 0xff) << 56
}

/// Page tables that map the first [`layout::IDENTITY_MAPPED_SIZE`] bytes to themselves with 2 MiB pages. Whole
/// pages are written, so that what a guest left there before a reset is gone.
fn identity_map() -> [(u64, Vec<u8>); 3] {
    let mut pml4 = [0u64; 512];
    pml4[0] = layout::PDPT_START | PAGE_PRESENT_WRITABLE;
    let mut pdpt = [0u64; 512];
    pdpt[0] = layout::PD_START | PAGE_PRESENT_WRITABLE;
    let mut pd = [0u64; 512];
    for (address, entry) in (0..layout::IDENTITY_MAPPED_SIZE)
        .step_by(1 << LARGE_PAGE_SHIFT)
        .zip(&mut pd)
    {
        *entry = address | PAGE_PRESENT_WRITABLE | PAGE_LARGE;
    }
    [
        (layout::PML4_START, bytes(&pml4)),
        (layout::PDPT_START, bytes(&pdpt)),
        (layout::PD_START, bytes(&pd)),
    ]
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
