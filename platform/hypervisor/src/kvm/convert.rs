//! Between the kernel's structures and our plain data.

use std::ffi::c_char;

use arch::{CpuidEntry, DescriptorTable, MpState, Regs, Segment, SpecialRegs};
use kvm_bindings as kvm;

use crate::state::{
    DebugRegs, ExceptionEvent, InterruptEvent, NmiEvent, SmiEvent, VcpuEvents, Xcr,
};
use crate::{ClockState, Error, MsiMessage, Result};

pub(super) fn from_cpuid(entry: &kvm::kvm_cpuid_entry2) -> CpuidEntry {
    CpuidEntry {
        leaf: entry.function,
        subleaf: entry.index,
        indexed: entry.flags & kvm::KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    }
}

pub(super) fn to_cpuid(entry: &CpuidEntry) -> kvm::kvm_cpuid_entry2 {
    kvm::kvm_cpuid_entry2 {
        function: entry.leaf,
        index: entry.subleaf,
        flags: if entry.indexed {
            kvm::KVM_CPUID_FLAG_SIGNIFCANT_INDEX
        } else {
            0
        },
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
        ..Default::default()
    }
}

/// Copies the fields of the same name.
macro_rules! same_fields {
    ($from:expr, $to:ident { $($field:ident),* $(,)? }) => { $to { $($field: $from.$field),* } };
}

pub(super) fn from_regs(regs: &kvm::kvm_regs) -> Regs {
    same_fields!(
        regs,
        Regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags
        }
    )
}

pub(super) fn to_regs(regs: &Regs) -> kvm::kvm_regs {
    use kvm::kvm_regs;
    same_fields!(
        regs,
        kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags
        }
    )
}

fn from_segment(segment: &kvm::kvm_segment) -> Segment {
    Segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        kind: segment.type_,
        present: segment.present != 0,
        privilege: segment.dpl,
        default_big: segment.db != 0,
        code_or_data: segment.s != 0,
        long: segment.l != 0,
        granular: segment.g != 0,
        available: segment.avl != 0,
        unusable: segment.unusable != 0,
    }
}

fn to_segment(segment: &Segment) -> kvm::kvm_segment {
    kvm::kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: segment.present.into(),
        dpl: segment.privilege,
        db: segment.default_big.into(),
        s: segment.code_or_data.into(),
        l: segment.long.into(),
        g: segment.granular.into(),
        avl: segment.available.into(),
        unusable: segment.unusable.into(),
        padding: 0,
    }
}

fn from_table(table: kvm::kvm_dtable) -> DescriptorTable {
    DescriptorTable {
        base: table.base,
        limit: table.limit,
    }
}

fn to_table(table: DescriptorTable) -> kvm::kvm_dtable {
    kvm::kvm_dtable {
        base: table.base,
        limit: table.limit,
        padding: [0; 3],
    }
}

pub(super) fn from_special_regs(regs: &kvm::kvm_sregs) -> SpecialRegs {
    SpecialRegs {
        cs: from_segment(&regs.cs),
        ds: from_segment(&regs.ds),
        es: from_segment(&regs.es),
        fs: from_segment(&regs.fs),
        gs: from_segment(&regs.gs),
        ss: from_segment(&regs.ss),
        tr: from_segment(&regs.tr),
        ldt: from_segment(&regs.ldt),
        gdt: from_table(regs.gdt),
        idt: from_table(regs.idt),
        cr0: regs.cr0,
        cr2: regs.cr2,
        cr3: regs.cr3,
        cr4: regs.cr4,
        cr8: regs.cr8,
        efer: regs.efer,
        apic_base: regs.apic_base,
        interrupt_bitmap: regs.interrupt_bitmap,
    }
}

pub(super) fn to_special_regs(regs: &SpecialRegs) -> kvm::kvm_sregs {
    kvm::kvm_sregs {
        cs: to_segment(&regs.cs),
        ds: to_segment(&regs.ds),
        es: to_segment(&regs.es),
        fs: to_segment(&regs.fs),
        gs: to_segment(&regs.gs),
        ss: to_segment(&regs.ss),
        tr: to_segment(&regs.tr),
        ldt: to_segment(&regs.ldt),
        gdt: to_table(regs.gdt),
        idt: to_table(regs.idt),
        cr0: regs.cr0,
        cr2: regs.cr2,
        cr3: regs.cr3,
        cr4: regs.cr4,
        cr8: regs.cr8,
        efer: regs.efer,
        apic_base: regs.apic_base,
        interrupt_bitmap: regs.interrupt_bitmap,
    }
}

pub(super) fn from_lapic(lapic: &kvm::kvm_lapic_state) -> [u8; 1024] {
    lapic.regs.map(c_char::cast_unsigned)
}

pub(super) fn to_lapic(page: &[u8; 1024]) -> kvm::kvm_lapic_state {
    kvm::kvm_lapic_state {
        regs: page.map(u8::cast_signed),
    }
}

pub(super) fn from_mp_state(state: kvm::kvm_mp_state) -> Result<MpState> {
    match state.mp_state {
        kvm::KVM_MP_STATE_RUNNABLE => Ok(MpState::Runnable),
        kvm::KVM_MP_STATE_UNINITIALIZED => Ok(MpState::Uninitialized),
        kvm::KVM_MP_STATE_INIT_RECEIVED => Ok(MpState::InitReceived),
        kvm::KVM_MP_STATE_HALTED => Ok(MpState::Halted),
        kvm::KVM_MP_STATE_SIPI_RECEIVED => Ok(MpState::SipiReceived),
        other => Err(Error::BadState(
            format!("the kernel reports multiprocessing state {other}").into(),
        )),
    }
}

pub(super) fn to_mp_state(state: MpState) -> kvm::kvm_mp_state {
    kvm::kvm_mp_state {
        mp_state: match state {
            MpState::Runnable => kvm::KVM_MP_STATE_RUNNABLE,
            MpState::Uninitialized => kvm::KVM_MP_STATE_UNINITIALIZED,
            MpState::InitReceived => kvm::KVM_MP_STATE_INIT_RECEIVED,
            MpState::Halted => kvm::KVM_MP_STATE_HALTED,
            MpState::SipiReceived => kvm::KVM_MP_STATE_SIPI_RECEIVED,
        },
    }
}

pub(super) fn from_xcrs(xcrs: &kvm::kvm_xcrs) -> Vec<Xcr> {
    let used = usize::try_from(xcrs.nr_xcrs).unwrap_or(usize::MAX);
    xcrs.xcrs
        .iter()
        .take(used)
        .map(|xcr| Xcr {
            index: xcr.xcr,
            value: xcr.value,
        })
        .collect()
}

pub(super) fn to_xcrs(from: &[Xcr]) -> Result<kvm::kvm_xcrs> {
    let mut xcrs = kvm::kvm_xcrs::default();
    if from.len() > xcrs.xcrs.len() {
        let text = format!(
            "it has {} extended control registers, at most 16 are possible",
            from.len()
        );
        return Err(Error::BadState(text.into()));
    }
    for (to, from) in xcrs.xcrs.iter_mut().zip(from) {
        to.xcr = from.index;
        to.value = from.value;
        xcrs.nr_xcrs += 1;
    }
    Ok(xcrs)
}

pub(super) fn from_debug_regs(regs: &kvm::kvm_debugregs) -> DebugRegs {
    DebugRegs {
        breakpoints: regs.db,
        dr6: regs.dr6,
        dr7: regs.dr7,
    }
}

pub(super) fn to_debug_regs(regs: &DebugRegs) -> kvm::kvm_debugregs {
    kvm::kvm_debugregs {
        db: regs.breakpoints,
        dr6: regs.dr6,
        dr7: regs.dr7,
        ..Default::default()
    }
}

pub(super) fn from_events(events: &kvm::kvm_vcpu_events) -> VcpuEvents {
    let valid = |flag| events.flags & flag != 0;
    VcpuEvents {
        exception: ExceptionEvent {
            injected: events.exception.injected != 0,
            pending: events.exception.pending != 0,
            vector: events.exception.nr,
            has_error_code: events.exception.has_error_code != 0,
            error_code: events.exception.error_code,
            payload: (events.exception_has_payload != 0).then_some(events.exception_payload),
        },
        interrupt: InterruptEvent {
            injected: events.interrupt.injected != 0,
            vector: events.interrupt.nr,
            software: events.interrupt.soft != 0,
            shadow: events.interrupt.shadow,
        },
        nmi: NmiEvent {
            injected: events.nmi.injected != 0,
            pending: events.nmi.pending != 0,
            masked: events.nmi.masked != 0,
        },
        smi: SmiEvent {
            in_smm: events.smi.smm != 0,
            pending: events.smi.pending != 0,
            inside_nmi: events.smi.smm_inside_nmi != 0,
            latched_init: events.smi.latched_init != 0,
        },
        sipi_vector: events.sipi_vector,
        triple_fault: valid(kvm::KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
            .then_some(events.triple_fault.pending != 0),
    }
}

/// `payload` and `triple_fault` say whether the machine has `KVM_CAP_EXCEPTION_PAYLOAD` and
/// `KVM_CAP_X86_TRIPLE_FAULT_EVENT`: without them the kernel refuses the flags. A triple fault that waits is sent
/// even then, to be refused and not lost.
pub(super) fn to_events(
    from: &VcpuEvents,
    payload: bool,
    triple_fault: bool,
) -> kvm::kvm_vcpu_events {
    let mut events = kvm::kvm_vcpu_events {
        flags: kvm::KVM_VCPUEVENT_VALID_NMI_PENDING
            | kvm::KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | kvm::KVM_VCPUEVENT_VALID_SHADOW
            | kvm::KVM_VCPUEVENT_VALID_SMM,
        ..Default::default()
    };
    events.exception.injected = from.exception.injected.into();
    events.exception.nr = from.exception.vector;
    events.exception.has_error_code = from.exception.has_error_code.into();
    events.exception.error_code = from.exception.error_code;
    if payload {
        events.flags |= kvm::KVM_VCPUEVENT_VALID_PAYLOAD;
        events.exception.pending = from.exception.pending.into();
        events.exception_has_payload = from.exception.payload.is_some().into();
        events.exception_payload = from.exception.payload.unwrap_or(0);
    } else {
        events.exception.injected |= u8::from(from.exception.pending);
    }
    events.interrupt.injected = from.interrupt.injected.into();
    events.interrupt.nr = from.interrupt.vector;
    events.interrupt.soft = from.interrupt.software.into();
    events.interrupt.shadow = from.interrupt.shadow;
    events.nmi.injected = from.nmi.injected.into();
    events.nmi.pending = from.nmi.pending.into();
    events.nmi.masked = from.nmi.masked.into();
    events.sipi_vector = from.sipi_vector;
    events.smi.smm = from.smi.in_smm.into();
    events.smi.pending = from.smi.pending.into();
    events.smi.smm_inside_nmi = from.smi.inside_nmi.into();
    events.smi.latched_init = from.smi.latched_init.into();
    if let Some(pending) = from.triple_fault.filter(|&pending| pending || triple_fault) {
        events.flags |= kvm::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        events.triple_fault.pending = pending.into();
    }
    events
}

pub(super) fn from_clock(clock: &kvm::kvm_clock_data) -> ClockState {
    let valid = |flag| clock.flags & flag != 0;
    ClockState {
        nanoseconds: clock.clock,
        realtime: valid(kvm::KVM_CLOCK_REALTIME).then_some(clock.realtime),
        host_tsc: valid(kvm::KVM_CLOCK_HOST_TSC).then_some(clock.host_tsc),
    }
}

/// The host's time stamp counter is for the reader of a state; the kernel has no use for it here.
pub(super) fn to_clock(clock: &ClockState) -> kvm::kvm_clock_data {
    kvm::kvm_clock_data {
        clock: clock.nanoseconds,
        flags: if clock.realtime.is_some() {
            kvm::KVM_CLOCK_REALTIME
        } else {
            0
        },
        realtime: clock.realtime.unwrap_or(0),
        ..Default::default()
    }
}

/// Lower and upper half of a message's address, as KVM wants them: with bits 8 to 14 of the destination in the
/// upper half, where guests that run on KVM put them into bits 5 to 11 of the lower one.
pub(super) fn halves(message: MsiMessage) -> (u32, u32) {
    const EXTENSION: u32 = 0xfe0;
    #[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
    let low = message.address as u32;
    let high = (message.address >> 32) as u32;
    (low & !EXTENSION, high | (low & EXTENSION) << 3)
}

#[cfg(test)]
mod tests;
