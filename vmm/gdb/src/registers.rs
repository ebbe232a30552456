//! A processor's registers as gdb wants them, and their description for gdb.

use std::fmt::Write as _;
use std::sync::LazyLock;

use arch::{Regs, SpecialRegs};
use gdbstub::arch::{Arch, Registers};
use hypervisor::VcpuState;

/// Name, bits and type.
type Register = (&'static str, u32, &'static str);

/// Processors of 64 bits with the registers of a system. gdb has names for features that it knows
/// (gdb manual, "i386 Features"); the last one is ours.
const FEATURES: &[(&str, &[Register])] = &[
    (
        "org.gnu.gdb.i386.core",
        &[
            ("rax", 64, "int64"),
            ("rbx", 64, "int64"),
            ("rcx", 64, "int64"),
            ("rdx", 64, "int64"),
            ("rsi", 64, "int64"),
            ("rdi", 64, "int64"),
            ("rbp", 64, "data_ptr"),
            ("rsp", 64, "data_ptr"),
            ("r8", 64, "int64"),
            ("r9", 64, "int64"),
            ("r10", 64, "int64"),
            ("r11", 64, "int64"),
            ("r12", 64, "int64"),
            ("r13", 64, "int64"),
            ("r14", 64, "int64"),
            ("r15", 64, "int64"),
            ("rip", 64, "code_ptr"),
            ("eflags", 32, "int32"),
            ("cs", 32, "int32"),
            ("ss", 32, "int32"),
            ("ds", 32, "int32"),
            ("es", 32, "int32"),
            ("fs", 32, "int32"),
            ("gs", 32, "int32"),
            ("st0", 80, "i387_ext"),
            ("st1", 80, "i387_ext"),
            ("st2", 80, "i387_ext"),
            ("st3", 80, "i387_ext"),
            ("st4", 80, "i387_ext"),
            ("st5", 80, "i387_ext"),
            ("st6", 80, "i387_ext"),
            ("st7", 80, "i387_ext"),
            ("fctrl", 32, "int"),
            ("fstat", 32, "int"),
            ("ftag", 32, "int"),
            ("fiseg", 32, "int"),
            ("fioff", 32, "int"),
            ("foseg", 32, "int"),
            ("fooff", 32, "int"),
            ("fop", 32, "int"),
        ],
    ),
    (
        "org.gnu.gdb.i386.sse",
        &[
            ("xmm0", 128, "uint128"),
            ("xmm1", 128, "uint128"),
            ("xmm2", 128, "uint128"),
            ("xmm3", 128, "uint128"),
            ("xmm4", 128, "uint128"),
            ("xmm5", 128, "uint128"),
            ("xmm6", 128, "uint128"),
            ("xmm7", 128, "uint128"),
            ("xmm8", 128, "uint128"),
            ("xmm9", 128, "uint128"),
            ("xmm10", 128, "uint128"),
            ("xmm11", 128, "uint128"),
            ("xmm12", 128, "uint128"),
            ("xmm13", 128, "uint128"),
            ("xmm14", 128, "uint128"),
            ("xmm15", 128, "uint128"),
            ("mxcsr", 32, "int"),
        ],
    ),
    (
        "org.gnu.gdb.i386.segments",
        &[("fs_base", 64, "int64"), ("gs_base", 64, "int64")],
    ),
    (
        "vmm.system",
        &[
            ("cr0", 64, "int64"),
            ("cr2", 64, "int64"),
            ("cr3", 64, "int64"),
            ("cr4", 64, "int64"),
            ("cr8", 64, "int64"),
            ("efer", 64, "int64"),
        ],
    ),
];

/// Bytes of the general-purpose registers, RIP, EFLAGS and the selectors.
const FLOATING: usize = 16 * 8 + 8 + 4 + 6 * 4;
/// Where the bases of FS and GS are: after 8 registers of 80 bits, 8 of 32, 16 of 128 and MXCSR.
const BASES: usize = FLOATING + 80 + 32 + 256 + 4;
const SIZE: usize = BASES + 8 * 8;
const RIP: usize = 16 * 8;

/// Places in an `FXSAVE` area (Intel SDM volume 1, table 10-2).
const FX_MXCSR: usize = 24;
const FX_ST: usize = 32;
const FX_XMM: usize = 160;

/// What gdb is told of the processors.
pub(crate) enum Processor {}

impl Arch for Processor {
    type Usize = u64;
    type Registers = Values;
    type RegId = ();
    type BreakpointKind = usize;

    fn target_description_xml() -> Option<&'static str> {
        static TEXT: LazyLock<String> = LazyLock::new(|| {
            let mut text =
                String::from("<target version=\"1.0\"><architecture>i386:x86-64</architecture>");
            for (name, registers) in FEATURES {
                let _ = write!(text, "<feature name=\"{name}\">");
                for (name, bits, kind) in *registers {
                    let _ = write!(
                        text,
                        "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>"
                    );
                }
                text.push_str("</feature>");
            }
            text.push_str("</target>");
            text
        });
        Some(&TEXT)
    }
}

/// All of them, in the order of the description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Values(Vec<u8>);

impl Default for Values {
    fn default() -> Self {
        Self(vec![0; SIZE])
    }
}

impl Registers for Values {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.word(RIP)
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for byte in &self.0 {
            write_byte(Some(*byte));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        if bytes.len() != SIZE {
            return Err(());
        }
        self.0.copy_from_slice(bytes);
        Ok(())
    }
}

impl Values {
    /// Those of a processor.
    pub(crate) fn of(state: &VcpuState) -> Self {
        let (r, s) = (&state.regs, &state.special_regs);
        let mut bytes = Vec::with_capacity(SIZE);
        bytes.extend(general(r).iter().flat_map(|value| value.to_le_bytes()));
        // The upper half of RFLAGS is reserved.
        bytes.extend(&r.rflags.to_le_bytes()[..4]);
        for segment in [s.cs, s.ss, s.ds, s.es, s.fs, s.gs] {
            bytes.extend(u32::from(segment.selector).to_le_bytes());
        }
        push_floating(&mut bytes, &state.xsave);
        let system = [
            s.fs.base, s.gs.base, s.cr0, s.cr2, s.cr3, s.cr4, s.cr8, s.efer,
        ];
        bytes.extend(system.iter().flat_map(|value| value.to_le_bytes()));
        Self(bytes)
    }

    /// Changes what can be changed to these values. `false`: something else differs, too.
    pub(crate) fn apply(
        &self,
        state: &VcpuState,
        regs: &mut Regs,
        special: &mut SpecialRegs,
    ) -> bool {
        let slots = [
            &mut regs.rax,
            &mut regs.rbx,
            &mut regs.rcx,
            &mut regs.rdx,
            &mut regs.rsi,
            &mut regs.rdi,
            &mut regs.rbp,
            &mut regs.rsp,
            &mut regs.r8,
            &mut regs.r9,
            &mut regs.r10,
            &mut regs.r11,
            &mut regs.r12,
            &mut regs.r13,
            &mut regs.r14,
            &mut regs.r15,
            &mut regs.rip,
        ];
        for (index, slot) in slots.into_iter().enumerate() {
            *slot = self.word(8 * index);
        }
        regs.rflags = self.word(RIP + 8) & u64::from(u32::MAX);
        special.fs.base = self.word(BASES);
        special.gs.base = self.word(BASES + 8);
        let system = [
            &mut special.cr0,
            &mut special.cr2,
            &mut special.cr3,
            &mut special.cr4,
            &mut special.cr8,
            &mut special.efer,
        ];
        for (index, slot) in system.into_iter().enumerate() {
            *slot = self.word(BASES + 16 + 8 * index);
        }
        let before = Self::of(state);
        let rest = RIP + 8 + 4..BASES;
        self.0[rest.clone()] == before.0[rest]
    }

    fn word(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(word)
    }
}

fn general(r: &Regs) -> [u64; 17] {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15, r.rip,
    ]
}

/// x87, SSE and MXCSR, of an `FXSAVE` area in its form for 64 bits.
fn push_floating(bytes: &mut Vec<u8>, area: &[u8]) {
    let mut fx = [0; arch::FXSAVE_SIZE];
    let size = fx.len().min(area.len());
    fx[..size].copy_from_slice(&area[..size]);
    for index in 0..8 {
        let at = FX_ST + 16 * index;
        bytes.extend(&fx[at..at + 10]);
    }
    let half = |at: usize| u32::from(u16::from_le_bytes([fx[at], fx[at + 1]]));
    let word = |at: usize| u32::from_le_bytes([fx[at], fx[at + 1], fx[at + 2], fx[at + 3]]);
    // In the area a tag is one bit, set for a register that is in use; gdb wants two, all set for an empty one.
    let tags = (0..8).fold(0, |tags, index| {
        tags | (u32::from(fx[4] >> index & 1 == 0) * 3) << (2 * index)
    });
    for value in [
        half(0),
        half(2),
        tags,
        half(12),
        word(8),
        half(20),
        word(16),
        half(6),
    ] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(&fx[FX_XMM..FX_XMM + 256]);
    bytes.extend(&fx[FX_MXCSR..FX_MXCSR + 4]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_as_many_bytes_as_the_values() {
        let registers = FEATURES.iter().flat_map(|(_, registers)| *registers);
        let bits: u32 = registers.map(|(_, bits, _)| bits).sum();
        assert_eq!(bits as usize / 8, SIZE);
        let text = Processor::target_description_xml().unwrap();
        assert!(
            text.contains("<reg name=\"gs_base\" bitsize=\"64\" type=\"int64\"/>"),
            "{text}"
        );
    }

    #[test]
    fn tags_and_vectors_come_from_the_area() {
        let mut area = [0; 512];
        area[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        area[4] = 0b1000_0001;
        area[FX_ST] = 0x11;
        area[FX_XMM + 16] = 0x22;
        area[FX_MXCSR] = 0x80;
        let mut bytes = Vec::new();
        push_floating(&mut bytes, &area);
        assert_eq!(bytes.len(), BASES - FLOATING);
        assert_eq!(
            (bytes[0], bytes[80..84].to_vec()),
            (0x11, vec![0x7f, 3, 0, 0])
        );
        assert_eq!(bytes[88..92], 0x3ffc_u32.to_le_bytes());
        assert_eq!((bytes[80 + 32 + 16], bytes[80 + 32 + 256]), (0x22, 0x80));
    }
}
