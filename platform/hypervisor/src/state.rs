//! Saved state as plain data.
//!
//! A snapshot or a migration stream holds these types in JSON. They are not the kernel's structures: fields
//! have names a person can read, blocks of bytes are hexadecimal strings, and what later versions add gets a
//! default, so that older state can still be read. A state may come from a file or a peer: it is checked when
//! it is restored, not when it is read.

use arch::{MpState, Msr, Regs, SpecialRegs};
use serde::{Deserialize, Serialize};

mod hex;

/// Everything that makes up a processor, except its `CPUID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// Runs, halts or waits to be started.
    pub mp_state: MpState,
    /// General-purpose registers.
    pub regs: Regs,
    /// Segment and control registers.
    pub special_regs: SpecialRegs,
    /// Model-specific registers.
    pub msrs: Vec<Msr>,
    /// Register page of the local APIC: 1024 bytes.
    #[serde(with = "hex")]
    pub lapic: Vec<u8>,
    /// `XSAVE` area in its standard format (Intel SDM volume 1, 13.4): at least 4096 bytes.
    #[serde(with = "hex")]
    pub xsave: Vec<u8>,
    /// Extended control registers; empty if the processor has none.
    #[serde(default)]
    pub xcrs: Vec<Xcr>,
    /// Debug registers.
    pub debug_regs: DebugRegs,
    /// Exceptions and interrupts under way.
    pub events: VcpuEvents,
    /// Frequency of the time stamp counter in kHz, if the kernel knows it.
    #[serde(default)]
    pub tsc_khz: Option<u32>,
    /// State of nested virtualisation, as in the kernel's `struct kvm_nested_state`. Absent if the guest does
    /// not use it.
    #[serde(
        default,
        with = "hex::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub nested: Option<Vec<u8>>,
}

/// An extended control register (`XSETBV`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xcr {
    /// Its number; 0 says which parts of the processor's state are enabled.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// Debug registers (Intel SDM volume 3B, 18.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugRegs {
    /// DR0 to DR3: addresses of breakpoints.
    pub breakpoints: [u64; 4],
    /// DR6: status.
    pub dr6: u64,
    /// DR7: control.
    pub dr7: u64,
}

/// Exceptions and interrupts that a processor is about to take, and what holds them back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VcpuEvents {
    /// An exception under way.
    pub exception: ExceptionEvent,
    /// A maskable interrupt under way.
    pub interrupt: InterruptEvent,
    /// A non-maskable interrupt under way.
    pub nmi: NmiEvent,
    /// System management mode.
    pub smi: SmiEvent,
    /// Vector of the start-up IPI that an application processor got.
    pub sipi_vector: u32,
    /// A triple fault is to be reported. `None`: the source's kernel did not say.
    pub triple_fault: Option<bool>,
}

/// See [`VcpuEvents::exception`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExceptionEvent {
    /// It was handed to the guest but not yet taken.
    pub injected: bool,
    /// It has arisen and can still be changed by another one.
    pub pending: bool,
    /// Its vector.
    pub vector: u8,
    /// It pushes an error code.
    pub has_error_code: bool,
    /// The error code.
    pub error_code: u32,
    /// What it will leave in CR2 or DR6 when it is taken.
    pub payload: Option<u64>,
}

/// See [`VcpuEvents::interrupt`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterruptEvent {
    /// It was handed to the guest but not yet taken.
    pub injected: bool,
    /// Its vector.
    pub vector: u8,
    /// From an `INT` instruction.
    pub software: bool,
    /// Interrupts are held back for one instruction: 1 by `MOV SS`, 2 by `STI`, 3 both.
    pub shadow: u8,
}

/// See [`VcpuEvents::nmi`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NmiEvent {
    /// It was handed to the guest but not yet taken.
    pub injected: bool,
    /// It waits.
    pub pending: bool,
    /// Held back until `IRET`.
    pub masked: bool,
}

/// See [`VcpuEvents::smi`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SmiEvent {
    /// The processor is in system management mode.
    pub in_smm: bool,
    /// A system management interrupt waits.
    pub pending: bool,
    /// It interrupted the handler of a non-maskable interrupt.
    pub inside_nmi: bool,
    /// An INIT waits for the end of system management mode.
    pub latched_init: bool,
}

/// The machine's paravirtual clock (kvmclock) at one moment.
///
/// If `realtime` is kept, [`crate::Vm::set_clock`] moves the clock on by the time that has passed since, as a
/// live migration wants; if it is cleared, the clock continues from `nanoseconds`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// The guest's clock: nanoseconds since the machine started.
    pub nanoseconds: u64,
    /// The host's wall clock at that moment: nanoseconds since 1970.
    #[serde(default)]
    pub realtime: Option<u64>,
    /// The host's time stamp counter at that moment.
    #[serde(default)]
    pub host_tsc: Option<u64>,
}

#[cfg(test)]
mod tests;
