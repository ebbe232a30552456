//! Saving and restoring all of a processor.
//!
//! The order matters in both directions, because some requests of the kernel change what others see:
//!
//! - The run state is read first: reading it makes the kernel act on a waiting INIT or start-up IPI, which
//!   changes registers.
//! - The counter's frequency is set before the counter itself, the APIC's mode (in the special registers)
//!   before its register page, that page before the TSC deadline register, which the timer's mode decides about.
//! - Nested state needs the special registers (`EFER.SVME`, `CR4.VMXE`) and the registers that declare what the
//!   nested hypervisor may use.
//! - Events come after everything that can raise or drop one; the run state and the debug registers last.

use std::cmp::Reverse;

use arch::Msr;
use kvm_ioctls::VcpuFd;

use super::vcpu::KvmVcpu;
use super::{convert, msrs, nested, xsave};
use crate::{Error, Result, Vcpu, VcpuState};

/// `IA32_TSC_DEADLINE` (Intel SDM volume 4): relative to the counter, so set after it.
const TSC_DEADLINE: u32 = 0x6e0;

pub(super) fn save(vcpu: &KvmVcpu) -> Result<VcpuState> {
    if vcpu.is_unfinished() {
        return Err(Error::Unfinished);
    }
    let fd = vcpu.fd();
    let host = &vcpu.machine().host;
    let mp_state = vcpu.mp_state()?;
    Ok(VcpuState {
        mp_state,
        regs: vcpu.regs()?,
        special_regs: vcpu.special_regs()?,
        msrs: vcpu.msrs(host.state_msrs()?)?,
        lapic: vcpu.lapic()?.to_vec(),
        xsave: xsave::read(fd, vcpu.xsave_size())?,
        xcrs: convert::from_xcrs(&fd.get_xcrs().map_err(Error::ioctl("KVM_GET_XCRS"))?),
        debug_regs: convert::from_debug_regs(
            &fd.get_debug_regs()
                .map_err(Error::ioctl("KVM_GET_DEBUGREGS"))?,
        ),
        events: convert::from_events(
            &fd.get_vcpu_events()
                .map_err(Error::ioctl("KVM_GET_VCPU_EVENTS"))?,
        ),
        // Without a constant counter the kernel does not know its frequency.
        tsc_khz: vcpu.tsc_khz().ok(),
        nested: if host.capabilities.nested_state {
            nested::read(fd)?
        } else {
            None
        },
    })
}

pub(super) fn restore(vcpu: &mut KvmVcpu, state: &VcpuState) -> Result<()> {
    if vcpu.is_unfinished() {
        // The next entry would complete the old access in the new state.
        return Err(Error::Unfinished);
    }
    let lapic = state.lapic.as_slice().try_into().map_err(|_| {
        let text = format!(
            "its local APIC has {} bytes, 1024 are needed",
            state.lapic.len()
        );
        Error::BadState(text.into())
    })?;
    if let Some(khz) = state.tsc_khz {
        vcpu.set_tsc_khz(khz)?;
    }
    vcpu.set_regs(&state.regs)?;
    vcpu.set_special_regs(&state.special_regs)?;
    if !state.xcrs.is_empty() {
        let xcrs = convert::to_xcrs(&state.xcrs)?;
        vcpu.fd()
            .set_xcrs(&xcrs)
            .map_err(Error::ioctl("KVM_SET_XCRS"))?;
    }
    xsave::write(vcpu.fd(), &state.xsave, vcpu.xsave_size())?;
    vcpu.set_lapic(lapic)?;
    msrs::write(vcpu.fd(), &in_order(&state.msrs))?;
    restore_nested(vcpu, state.nested.as_deref())?;
    restore_events(vcpu, state)?;
    vcpu.set_mp_state(state.mp_state)?;
    let debug_regs = convert::to_debug_regs(&state.debug_regs);
    vcpu.fd()
        .set_debug_regs(&debug_regs)
        .map_err(Error::ioctl("KVM_SET_DEBUGREGS"))
}

fn in_order(msrs: &[Msr]) -> Vec<Msr> {
    let mut msrs = msrs.to_vec();
    msrs.sort_by_key(|msr| Reverse(msr.index != TSC_DEADLINE));
    msrs
}

fn restore_nested(vcpu: &KvmVcpu, state: Option<&[u8]>) -> Result<()> {
    let Some(state) = state else { return Ok(()) };
    if !vcpu.machine().host.capabilities.nested_state {
        return Err(Error::Missing {
            what: "nested virtualisation state",
            hint: "the saved guest uses nested virtualisation; load kvm_intel or kvm_amd with nested=1",
        });
    }
    nested::write(vcpu.fd(), state)
}

fn restore_events(vcpu: &KvmVcpu, state: &VcpuState) -> Result<()> {
    let fd: &VcpuFd = vcpu.fd();
    let machine = vcpu.machine();
    let events = convert::to_events(
        &state.events,
        machine.exception_payload,
        machine.triple_fault_event,
    );
    fd.set_vcpu_events(&events)
        .map_err(Error::ioctl("KVM_SET_VCPU_EVENTS"))
}
