//! A processor's registers as core dumps have them.

use crate::{DescriptorTable, Regs, Segment, SpecialRegs};

/// `e_machine` of an ELF file (System V ABI, AMD64 supplement, 4.1): `EM_X86_64`.
pub const ELF_MACHINE: u16 = 62;

/// Bytes of the area that `FXSAVE` writes (Intel SDM volume 1, 10.5.1), with which an `XSAVE` area begins. In a core
/// dump it is the note `NT_FPREGSET`.
pub const FXSAVE_SIZE: usize = 512;

/// Bytes of Linux's `struct elf_prstatus`, and where in it the thread's number and the registers are.
const STATUS_SIZE: usize = 336;
const STATUS_THREAD: usize = 32;
const STATUS_REGISTERS: usize = 112;

/// Version of [`cpu_state`]'s form.
const CPU_STATE_VERSION: u32 = 1;
const CPU_STATE_SIZE: u32 = 440;

/// The note `NT_PRSTATUS` of the processor with this number: Linux's `struct elf_prstatus` (`linux/elfcore.h`), with
/// the registers as in `struct user_regs_struct`.
#[must_use]
pub fn core_status(thread: u32, regs: &Regs, special: &SpecialRegs) -> Vec<u8> {
    let selector = |segment: Segment| u64::from(segment.selector);
    let registers = [
        regs.r15,
        regs.r14,
        regs.r13,
        regs.r12,
        regs.rbp,
        regs.rbx,
        regs.r11,
        regs.r10,
        regs.r9,
        regs.r8,
        regs.rax,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        // Number of a system call that could be restarted: none.
        u64::MAX,
        regs.rip,
        selector(special.cs),
        regs.rflags,
        regs.rsp,
        selector(special.ss),
        special.fs.base,
        special.gs.base,
        selector(special.ds),
        selector(special.es),
        selector(special.fs),
        selector(special.gs),
    ];
    let mut status = Vec::with_capacity(STATUS_SIZE);
    status.resize(STATUS_THREAD, 0);
    status.extend(thread.to_le_bytes());
    status.resize(STATUS_REGISTERS, 0);
    status.extend(registers.iter().flat_map(|register| register.to_le_bytes()));
    status.resize(STATUS_SIZE, 0);
    status
}

/// The note named `QEMU`, from which `crash` learns what a process has not: segments, descriptor tables and control
/// registers. `kernel_gs_base` is the model-specific register of that name (Intel SDM volume 4, C0000102H).
#[must_use]
pub fn cpu_state(regs: &Regs, special: &SpecialRegs, kernel_gs_base: u64) -> Vec<u8> {
    let mut state = Vec::with_capacity(CPU_STATE_SIZE as usize);
    state.extend(CPU_STATE_VERSION.to_le_bytes());
    state.extend(CPU_STATE_SIZE.to_le_bytes());
    let general = [
        regs.rax,
        regs.rbx,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        regs.rsp,
        regs.rbp,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rip,
        regs.rflags,
    ];
    state.extend(general.iter().flat_map(|register| register.to_le_bytes()));
    let s = special;
    for segment in [s.cs, s.ds, s.es, s.fs, s.gs, s.ss, s.ldt, s.tr] {
        push_segment(&mut state, &segment);
    }
    for DescriptorTable { base, limit } in [s.gdt, s.idt] {
        push_segment(
            &mut state,
            &Segment {
                base,
                limit: limit.into(),
                ..Segment::default()
            },
        );
    }
    // There is no CR1.
    let last = [s.cr0, 0, s.cr2, s.cr3, s.cr4, kernel_gs_base];
    state.extend(last.iter().flat_map(|register| register.to_le_bytes()));
    state
}

/// Selector, limit, attributes where a descriptor's second word has them (Intel SDM volume 3A, figure 3-8), base.
fn push_segment(state: &mut Vec<u8>, segment: &Segment) {
    let flag = |set: bool, bit: u32| u32::from(set) << bit;
    let attributes = u32::from(segment.kind) << 8
        | flag(segment.code_or_data, 12)
        | u32::from(segment.privilege) << 13
        | flag(segment.present, 15)
        | flag(segment.available, 20)
        | flag(segment.long, 21)
        | flag(segment.default_big, 22)
        | flag(segment.granular, 23);
    for word in [segment.selector.into(), segment.limit, attributes, 0] {
        state.extend(word.to_le_bytes());
    }
    state.extend(segment.base.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn registers() -> (Regs, SpecialRegs) {
        let regs = Regs {
            rax: 0xa,
            rip: 0xffff_ffff_8100_0000,
            rsp: 0x1234,
            r15: 0xf,
            rflags: 2,
            ..Regs::default()
        };
        let special = SpecialRegs {
            cs: Segment {
                selector: 0x10,
                kind: 0xb,
                present: true,
                code_or_data: true,
                long: true,
                granular: true,
                limit: u32::MAX,
                ..Segment::default()
            },
            gs: Segment {
                base: 0xffff_8880_0000_0000,
                ..Segment::default()
            },
            idt: DescriptorTable {
                base: 0xffff_fe00_0000_0000,
                limit: 0xfff,
            },
            cr3: 0x1000,
            ..SpecialRegs::default()
        };
        (regs, special)
    }

    /// Offsets as `offsetof` tells them for the kernel's structure.
    #[test]
    fn a_status_has_the_registers_where_linux_has_them() {
        let (regs, special) = registers();
        let status = core_status(7, &regs, &special);
        assert_eq!(status.len(), 336);
        assert_eq!(status[32..36], 7u32.to_le_bytes());
        let at = |register: usize| word(&status, 112 + 8 * register);
        assert_eq!((at(0), at(10), at(15)), (0xf, 0xa, u64::MAX));
        assert_eq!((at(16), at(17), at(18)), (0xffff_ffff_8100_0000, 0x10, 2));
        assert_eq!((at(19), at(22)), (0x1234, 0xffff_8880_0000_0000));
    }

    #[test]
    fn the_state_of_a_processor_has_its_size_and_places() {
        let (regs, special) = registers();
        let state = cpu_state(&regs, &special, 0x6b);
        assert_eq!(state.len(), CPU_STATE_SIZE as usize);
        assert_eq!(word(&state, 0), 440 << 32 | 1);
        assert_eq!(word(&state, 8), 0xa);
        assert_eq!(word(&state, 8 + 16 * 8), 0xffff_ffff_8100_0000);
        // CS: selector and limit, then what `lgdt`'s table would have of it: 64-bit code, present, readable.
        assert_eq!(word(&state, 152), 0xffff_ffff << 32 | 0x10);
        assert_eq!(word(&state, 160), 0x00a0_9b00);
        // IDT, the last of ten.
        assert_eq!(word(&state, 152 + 9 * 24) >> 32, 0xfff);
        assert_eq!(word(&state, 152 + 9 * 24 + 16), 0xffff_fe00_0000_0000);
        assert_eq!(word(&state, 392 + 3 * 8), 0x1000);
        assert_eq!(word(&state, 432), 0x6b);
    }
}
