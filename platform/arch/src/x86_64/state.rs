//! Processor state as plain data.
//!
//! Hypervisors have types of their own for these; the `hypervisor` crate translates. Plain data is what boot
//! code computes, what tests compare and what a snapshot stores.

use serde::{Deserialize, Serialize};

/// One answer of the `CPUID` instruction (Intel SDM volume 2A, "CPUID"; AMD APM volume 3, appendix E).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidEntry {
    /// Leaf: the value of EAX on input.
    pub leaf: u32,
    /// Subleaf: the value of ECX on input. Meaningful only if `indexed`.
    pub subleaf: u32,
    /// Whether the leaf's answer depends on the subleaf.
    pub indexed: bool,
    /// EAX on output.
    pub eax: u32,
    /// EBX on output.
    pub ebx: u32,
    /// ECX on output.
    pub ecx: u32,
    /// EDX on output.
    pub edx: u32,
}

/// General-purpose registers, instruction pointer and flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field is the register of that name")]
pub struct Regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// A segment register with its hidden part (Intel SDM volume 3A, 3.4.3 and 3.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, after scaling by the granularity.
    pub limit: u32,
    /// The visible selector.
    pub selector: u16,
    /// Type field of the descriptor, 4 bits.
    pub kind: u8,
    /// Present.
    pub present: bool,
    /// Privilege level, 0 to 3.
    pub privilege: u8,
    /// Default operation size: 32 bits.
    pub default_big: bool,
    /// Code or data segment, not a system one.
    pub code_or_data: bool,
    /// 64-bit code segment.
    pub long: bool,
    /// The limit counts 4 KiB units.
    pub granular: bool,
    /// Available to software.
    pub available: bool,
    /// Must not be used.
    pub unusable: bool,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Linear address of the table.
    pub base: u64,
    /// Size of the table in bytes, less one.
    pub limit: u16,
}

/// Segment, descriptor table and control registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field is the register of that name")]
pub struct SpecialRegs {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
    /// Interrupt vectors that are queued for injection, one bit each.
    pub interrupt_bitmap: [u64; 4],
}

/// One model-specific register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msr {
    /// Register number (ECX of `RDMSR`).
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// Whether a processor runs or what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MpState {
    /// Executes instructions.
    Runnable,
    /// Waits for INIT.
    Uninitialized,
    /// Got INIT, waits for a start-up IPI.
    InitReceived,
    /// Executed `HLT`, waits for an interrupt.
    Halted,
    /// Got a start-up IPI that is not yet acted on.
    SipiReceived,
}
