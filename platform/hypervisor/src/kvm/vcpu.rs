//! A processor: `KVM_CREATE_VCPU` and its registers.

use std::sync::Arc;

use arch::{CpuidEntry, MpState, Msr, Regs, SpecialRegs};
use kvm_bindings::{self as kvm, CpuId, KVM_CAP_HYPERV_SYNIC, kvm_enable_cap};
use kvm_ioctls::{Cap, VcpuFd};

use super::capabilities;
use super::exit::{Entry, RunPage};
use super::kick::KvmKicker;
use super::vm::Machine;
use super::{convert, failure, msrs, save};
use crate::{Error, Exit, GuestDebug, Kicker, Result, Trap, Vcpu, VcpuState};

/// A frequency that differs by less than this part of it is the same to the kernel without scaling (its module
/// parameter `tsc_tolerance_ppm`).
const TSC_TOLERANCE_PPM: u64 = 250;

pub(super) struct KvmVcpu {
    page: RunPage,
    kicker: KvmKicker,
    fd: VcpuFd,
    machine: Arc<Machine>,
    /// Bytes of extended state.
    xsave_size: usize,
    /// The last exit's access is completed by the next entry.
    unfinished: bool,
    /// What a debugger wants.
    debug: GuestDebug,
}

impl KvmVcpu {
    pub(super) fn new(machine: &Arc<Machine>, apic_id: u32) -> Result<Self> {
        let mut fd = machine
            .fd
            .create_vcpu(apic_id.into())
            .map_err(Error::ioctl("KVM_CREATE_VCPU"))?;
        let page = RunPage::new(&mut fd);
        Ok(Self {
            kicker: KvmKicker::new(page.immediate_exit()),
            page,
            fd,
            machine: Arc::clone(machine),
            // Asked now, not at `open`: AMX may have been requested since, and with a processor the size is final.
            xsave_size: capabilities::xsave_size(machine.fd.check_extension_int(Cap::Xsave2)),
            unfinished: false,
            debug: GuestDebug::default(),
        })
    }

    pub(super) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(super) fn xsave_size(&self) -> usize {
        self.xsave_size
    }

    /// Tells the kernel what the debugger wants, and what else is to happen now.
    fn apply_debug(&self, also: u32) -> Result<()> {
        let mut request = kvm::kvm_guest_debug {
            control: also,
            ..Default::default()
        };
        if !self.debug.is_off() {
            request.control |= kvm::KVM_GUESTDBG_ENABLE;
        }
        if self.debug.software {
            request.control |= kvm::KVM_GUESTDBG_USE_SW_BP;
        }
        if self.debug.step {
            // Or the next instruction would often be that of an interrupt's handler.
            let block = self.machine.host.guest_debug & kvm::KVM_GUESTDBG_BLOCKIRQ;
            request.control |= kvm::KVM_GUESTDBG_SINGLESTEP | block;
        }
        if let Some((addresses, control)) = self.debug.registers() {
            request.control |= kvm::KVM_GUESTDBG_USE_HW_BP;
            request.arch.debugreg[..addresses.len()].copy_from_slice(&addresses);
            request.arch.debugreg[7] = control;
        }
        self.fd
            .set_guest_debug(&request)
            .map_err(Error::ioctl("KVM_SET_GUEST_DEBUG"))
    }

    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.kicker.processor_gone();
    }
}

impl Vcpu for KvmVcpu {
    fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<()> {
        let entries: Vec<_> = entries.iter().map(convert::to_cpuid).collect();
        let cpuid =
            CpuId::from_entries(&entries).map_err(|_| Error::TooManyCpuidEntries(entries.len()))?;
        self.fd
            .set_cpuid2(&cpuid)
            .map_err(Error::ioctl("KVM_SET_CPUID2"))
    }

    fn run(&mut self) -> Result<Exit<'_>> {
        self.unfinished = false;
        loop {
            match self.page.enter()? {
                Entry::Interrupted => return Ok(Exit::Interrupted),
                Entry::MemoryFault => {
                    let rip = instruction_pointer(&self.fd);
                    return Ok(Exit::Failed(failure::describe(&self.page, rip)));
                }
                Entry::Exited if self.page.answered() => {}
                Entry::Exited => break,
            }
        }
        self.unfinished = self.page.is_access();
        Ok(self.page.exit(|| instruction_pointer(&self.fd)))
    }

    fn kicker(&mut self) -> Kicker {
        self.kicker.attach();
        Kicker(self.kicker.clone())
    }

    fn regs(&self) -> Result<Regs> {
        self.fd
            .get_regs()
            .map(|regs| convert::from_regs(&regs))
            .map_err(Error::ioctl("KVM_GET_REGS"))
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<()> {
        self.fd
            .set_regs(&convert::to_regs(regs))
            .map_err(Error::ioctl("KVM_SET_REGS"))
    }

    fn special_regs(&self) -> Result<SpecialRegs> {
        let regs = self.fd.get_sregs().map_err(Error::ioctl("KVM_GET_SREGS"))?;
        Ok(convert::from_special_regs(&regs))
    }

    fn set_special_regs(&mut self, regs: &SpecialRegs) -> Result<()> {
        self.fd
            .set_sregs(&convert::to_special_regs(regs))
            .map_err(Error::ioctl("KVM_SET_SREGS"))
    }

    fn msrs(&self, indices: &[u32]) -> Result<Vec<Msr>> {
        msrs::read(&self.fd, indices)
    }

    fn set_msrs(&mut self, values: &[Msr]) -> Result<()> {
        msrs::write(&self.fd, values)
    }

    fn lapic(&self) -> Result<[u8; 1024]> {
        self.fd
            .get_lapic()
            .map(|lapic| convert::from_lapic(&lapic))
            .map_err(Error::ioctl("KVM_GET_LAPIC"))
    }

    fn set_lapic(&mut self, page: &[u8; 1024]) -> Result<()> {
        self.fd
            .set_lapic(&convert::to_lapic(page))
            .map_err(Error::ioctl("KVM_SET_LAPIC"))
    }

    fn mp_state(&self) -> Result<MpState> {
        convert::from_mp_state(
            self.fd
                .get_mp_state()
                .map_err(Error::ioctl("KVM_GET_MP_STATE"))?,
        )
    }

    fn set_mp_state(&mut self, state: MpState) -> Result<()> {
        self.fd
            .set_mp_state(convert::to_mp_state(state))
            .map_err(Error::ioctl("KVM_SET_MP_STATE"))
    }

    fn tsc_khz(&self) -> Result<u32> {
        // The crate takes the answer -1 for an error number; the real one is still in `errno`.
        self.fd
            .get_tsc_khz()
            .map_err(|_| Error::last("KVM_GET_TSC_KHZ"))
    }

    fn set_tsc_khz(&mut self, khz: u32) -> Result<()> {
        if !self.machine.host.capabilities.tsc_scaling && !same_frequency(self.tsc_khz()?, khz) {
            return Err(Error::Missing {
                what: "scaling of the time stamp counter",
                hint: "its processors cannot run the guest's counter at another frequency than their own; \
                       use a host of the same frequency",
            });
        }
        self.fd
            .set_tsc_khz(khz)
            .map_err(|_| Error::last("KVM_SET_TSC_KHZ"))
    }

    fn inject_nmi(&mut self) -> Result<()> {
        self.fd.nmi().map_err(Error::ioctl("KVM_NMI"))
    }

    fn enable_hyperv(&mut self) -> Result<()> {
        if !self.machine.host.capabilities.hyperv {
            return Err(Error::Missing {
                what: "Hyper-V interface for guests",
                hint: "the kernel's KVM was built without CONFIG_KVM_HYPERV; leave out kvm_hyperv=on",
            });
        }
        let request = kvm_enable_cap {
            cap: KVM_CAP_HYPERV_SYNIC,
            ..Default::default()
        };
        self.fd
            .enable_cap(&request)
            .map_err(Error::ioctl("KVM_CAP_HYPERV_SYNIC"))
    }

    fn notify_paused(&mut self) -> Result<()> {
        match self.fd.kvmclock_ctrl() {
            Ok(()) => Ok(()),
            // The guest does not use the clock.
            Err(error) if error.errno() == libc::EINVAL => Ok(()),
            Err(error) => Err(Error::ioctl("KVM_KVMCLOCK_CTRL")(error)),
        }
    }

    fn set_debug(&mut self, debug: &GuestDebug) -> Result<()> {
        self.debug = debug.clone();
        self.apply_debug(0)
    }

    fn pass_trap(&mut self, trap: Trap) -> Result<()> {
        self.apply_debug(match trap {
            Trap::Software => kvm::KVM_GUESTDBG_INJECT_BP,
            Trap::Hardware { .. } => kvm::KVM_GUESTDBG_INJECT_DB,
        })
    }

    fn save(&self) -> Result<VcpuState> {
        save::save(self)
    }

    fn restore(&mut self, state: &VcpuState) -> Result<()> {
        save::restore(self, state)
    }
}

fn same_frequency(ours: u32, wanted: u32) -> bool {
    u64::from(ours.abs_diff(wanted)) * 1_000_000 <= u64::from(ours) * TSC_TOLERANCE_PPM
}

/// For the text of a failure, so an error here is not worth another.
#[cold]
fn instruction_pointer(fd: &VcpuFd) -> Option<u64> {
    fd.get_regs().ok().map(|regs| regs.rip)
}
