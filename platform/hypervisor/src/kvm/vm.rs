//! A machine: `KVM_CREATE_VM` and what belongs to a machine as a whole.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arch::layout::{KVM_IDENTITY_MAP_START, KVM_TSS_START};
use kvm_bindings as kvm;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::kick;
use super::numbers::Numbers;
use super::routes::{self, Routes};
use super::vcpu::KvmVcpu;
use super::{Host, convert, doorbell, slots};
use crate::{
    Address, ClockState, Doorbell, DoorbellValue, Error, HostMemory, IOAPIC_PINS, IrqLine,
    MemoryRegion, MemorySlot, Msi, MsiMessage, Result, Vcpu, Vm, VmOptions,
};

/// Largest APIC id that the older APIC interface can express: 255 means "all".
const LAST_XAPIC_ID: u32 = 254;

/// What guards and processors share of a machine.
///
/// The order of the fields matters: the machine must be gone before memory that it may still use.
pub(super) struct Machine {
    pub(super) fd: VmFd,
    pub(super) host: Arc<Host>,
    pub(super) options: VmOptions,
    /// Exceptions say apart whether they are pending or injected (`KVM_CAP_EXCEPTION_PAYLOAD`).
    pub(super) exception_payload: bool,
    /// A pending triple fault is part of the state (`KVM_CAP_X86_TRIPLE_FAULT_EVENT`).
    pub(super) triple_fault_event: bool,
    pub(super) slots: Mutex<Numbers>,
    pub(super) routes: Mutex<Routes>,
    vcpus: AtomicU32,
    /// Memory that the kernel did not let go of. It is kept until the machine ends.
    pub(super) stuck: Mutex<Vec<Arc<dyn HostMemory>>>,
}

/// Locks. A thread that panicked with the lock held has left the table as it was or as it should be.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A descriptor whose reader and writer never block.
pub(super) fn event() -> Result<Arc<EventFd>> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
        .map(Arc::new)
        .map_err(Error::Event)
}

pub(super) struct KvmVm(Arc<Machine>);

impl KvmVm {
    pub(super) fn new(host: &Arc<Host>, options: &VmOptions) -> Result<Self> {
        let fd = create(host)?;
        help_real_mode(&fd)?;
        enable(
            &fd,
            kvm::KVM_CAP_SPLIT_IRQCHIP,
            IOAPIC_PINS.into(),
            "KVM_CAP_SPLIT_IRQCHIP",
        )?;
        if options.x2apic {
            enable_x2apic(&fd)?;
        }
        // With these two a saved state has all of an exception under way. Without: an older kernel, whose
        // states lack it.
        let exception_payload = offers(&fd, kvm::KVM_CAP_EXCEPTION_PAYLOAD);
        if exception_payload {
            enable(
                &fd,
                kvm::KVM_CAP_EXCEPTION_PAYLOAD,
                1,
                "KVM_CAP_EXCEPTION_PAYLOAD",
            )?;
        }
        let triple_fault_event = offers(&fd, kvm::KVM_CAP_X86_TRIPLE_FAULT_EVENT);
        if triple_fault_event {
            enable(
                &fd,
                kvm::KVM_CAP_X86_TRIPLE_FAULT_EVENT,
                1,
                "KVM_CAP_X86_TRIPLE_FAULT_EVENT",
            )?;
        }
        // KVM_CAP_EXIT_ON_EMULATION_FAILURE stays off on purpose: with it a process in the guest could end the
        // machine by an instruction that KVM cannot emulate. Without it that process gets an invalid opcode
        // exception, and a failure in the guest's kernel is still reported with its instruction.
        Ok(Self(Arc::new(Machine {
            slots: Mutex::new(Numbers::new(0, host.capabilities.max_memory_slots)),
            routes: Mutex::new(Routes::new()),
            vcpus: AtomicU32::new(0),
            stuck: Mutex::new(Vec::new()),
            host: Arc::clone(host),
            options: *options,
            exception_payload,
            triple_fault_event,
            fd,
        })))
    }
}

/// Creating a machine takes the kernel long enough that it gives up when a signal comes.
fn create(host: &Host) -> Result<VmFd> {
    loop {
        match host.kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result.map_err(Error::ioctl("KVM_CREATE_VM")),
        }
    }
}

/// Intel processors without "unrestricted guest" run real mode with the help of these pages; others ignore the
/// calls.
fn help_real_mode(fd: &VmFd) -> Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "an address below 4 GiB")]
    let tss = KVM_TSS_START as usize;
    fd.set_tss_address(tss)
        .map_err(Error::ioctl("KVM_SET_TSS_ADDR"))?;
    fd.set_identity_map_address(KVM_IDENTITY_MAP_START)
        .map_err(Error::ioctl("KVM_SET_IDENTITY_MAP_ADDR"))
}

fn enable_x2apic(fd: &VmFd) -> Result<()> {
    if !offers(fd, kvm::KVM_CAP_X2APIC_API) {
        let hint = "run a kernel of version 4.8 or later, or use at most 255 processors";
        return Err(Error::Missing {
            what: "KVM_CAP_X2APIC_API",
            hint,
        });
    }
    let how = kvm::KVM_X2APIC_API_USE_32BIT_IDS | kvm::KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
    enable(
        fd,
        kvm::KVM_CAP_X2APIC_API,
        how.into(),
        "KVM_CAP_X2APIC_API",
    )
}

fn offers(fd: &VmFd, capability: u32) -> bool {
    fd.check_extension_raw(capability.into()) > 0
}

fn enable(fd: &VmFd, capability: u32, argument: u64, call: &'static str) -> Result<()> {
    let mut request = kvm::kvm_enable_cap {
        cap: capability,
        ..Default::default()
    };
    request.args[0] = argument;
    fd.enable_cap(&request).map_err(Error::ioctl(call))
}

impl Machine {
    /// Sets what an interrupt number delivers, and tells the kernel if that changes anything.
    pub(super) fn set_route(&self, gsi: u32, message: Option<MsiMessage>) -> Result<()> {
        lock(&self.routes).set(gsi, message, |table| routes::apply(&self.fd, table))
    }

    /// Counts a new processor, or refuses it.
    fn admit(&self, apic_id: u32) -> Result<()> {
        let capabilities = &self.host.capabilities;
        if apic_id > LAST_XAPIC_ID && !self.options.x2apic {
            return Err(Error::NeedsX2apic(apic_id));
        }
        if apic_id >= capabilities.max_apic_ids {
            let limit = capabilities.max_apic_ids.saturating_sub(1);
            return Err(Error::TooManyVcpus {
                what: "APIC id",
                value: apic_id,
                limit,
            });
        }
        let limit = capabilities.max_vcpus;
        self.vcpus
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < limit).then_some(count + 1)
            })
            .map(drop)
            .map_err(|count| Error::TooManyVcpus {
                what: "processor",
                value: count.saturating_add(1),
                limit,
            })
    }
}

fn check_pin(gsi: u32) -> Result<()> {
    if gsi < IOAPIC_PINS {
        Ok(())
    } else {
        Err(Error::NotAPin(gsi))
    }
}

impl Vm for KvmVm {
    fn create_vcpu(&self, apic_id: u32) -> Result<Box<dyn Vcpu>> {
        self.0.admit(apic_id)?;
        let created = kick::install().and_then(|()| KvmVcpu::new(&self.0, apic_id));
        match created {
            Ok(vcpu) => Ok(Box::new(vcpu)),
            Err(error) => {
                self.0.vcpus.fetch_sub(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn map_memory(&self, region: MemoryRegion) -> Result<MemorySlot> {
        slots::map(&self.0, region)
    }

    fn take_dirty_pages(&self, slot: &MemorySlot) -> Result<Vec<u64>> {
        slot.owner.take_dirty_pages()
    }

    fn log_dirty(&self, slot: &MemorySlot, on: bool) -> Result<()> {
        slot.owner.log_dirty(on)
    }

    fn irq_line(&self, gsi: u32) -> Result<IrqLine> {
        check_pin(gsi)?;
        routes::irq_line(&self.0, gsi)
    }

    fn route_pin(&self, gsi: u32, message: Option<MsiMessage>) -> Result<()> {
        check_pin(gsi)?;
        self.0.set_route(gsi, message)
    }

    fn signal_msi(&self, message: MsiMessage) -> Result<()> {
        let (address_lo, address_hi) = convert::halves(message);
        let msi = kvm::kvm_msi {
            address_lo,
            address_hi,
            data: message.data,
            ..Default::default()
        };
        match self.0.fd.signal_msi(msi) {
            Ok(_) => Ok(()),
            // No processor has the destination's id. Hardware drops such a message as well, and the guest must
            // not be able to make an error of it.
            Err(error) if error.errno() == libc::EPERM => Ok(()),
            Err(error) => Err(Error::Ioctl {
                call: "KVM_SIGNAL_MSI",
                source: io::Error::from(error),
            }),
        }
    }

    fn msi(&self) -> Result<Msi> {
        routes::msi(&self.0)
    }

    fn doorbell(&self, address: Address, value: DoorbellValue) -> Result<Doorbell> {
        doorbell::listen(&self.0, address, value, event()?)
    }

    fn doorbell_to(
        &self,
        address: Address,
        value: DoorbellValue,
        event: OwnedFd,
    ) -> Result<Doorbell> {
        // SAFETY: the descriptor is owned here and given up. The kernel refuses what is no eventfd.
        let event = unsafe { EventFd::from_raw_fd(event.into_raw_fd()) };
        doorbell::listen(&self.0, address, value, Arc::new(event))
    }

    fn clock(&self) -> Result<ClockState> {
        self.0
            .fd
            .get_clock()
            .map(|clock| convert::from_clock(&clock))
            .map_err(Error::ioctl("KVM_GET_CLOCK"))
    }

    fn set_clock(&self, clock: &ClockState) -> Result<()> {
        self.0
            .fd
            .set_clock(&convert::to_clock(clock))
            .map_err(Error::ioctl("KVM_SET_CLOCK"))
    }
}
