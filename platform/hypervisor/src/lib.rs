//! The only crate that speaks to a hypervisor.
//!
//! A monitor needs four things from the host's kernel: virtual machines ([`Vm`]), processors to run in them
//! ([`Vcpu`]), a way to map its own memory into the guest ([`MemorySlot`]) and event descriptors that carry
//! interrupts in ([`IrqLine`], [`Msi`]) and notifications out ([`Doorbell`]) without a detour through the
//! monitor. [`open`] finds the hypervisor of this host; everything after that is the traits here, so that no
//! other crate knows whether it is KVM.
//!
//! Every grant is a guard: dropping a [`MemorySlot`], [`IrqLine`], [`Msi`] or [`Doorbell`] takes it back from
//! the kernel. What the host's kernel can do is probed once ([`Capabilities`]); what is absent is refused by
//! name when it is asked for.

mod debug;
mod error;
mod grant;
mod kvm;
mod state;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arch::{CpuidEntry, MpState, Msr as MsrValue, Regs, SpecialRegs};

pub use debug::{Access, GuestDebug, HARDWARE_BREAKPOINTS, HardwareBreakpoint, Trap};
pub use error::{Error, Result};
pub use grant::{
    Doorbell, DoorbellValue, HostMemory, IrqLine, MemoryRegion, MemorySlot, Msi, MsiMessage,
};
pub use kvm::{VCPU_IOCTLS, VM_IOCTLS, request_amx};
pub use state::{
    ClockState, DebugRegs, ExceptionEvent, InterruptEvent, NmiEvent, SmiEvent, VcpuEvents,
    VcpuState, Xcr,
};

/// Number of interrupt pins of the I/O APIC: global system interrupts 0 to 23 are its pins, in order. Message
/// signalled interrupts get numbers above these.
pub const IOAPIC_PINS: u32 = 24;

/// Finds and opens the hypervisor that this host offers.
///
/// # Errors
/// [`Error::Open`] if `/dev/kvm` is missing or not accessible, with a hint at the cause;
/// [`Error::ApiVersion`] if it is not the stable API.
pub fn open() -> Result<Arc<dyn Hypervisor>> {
    kvm::open()
}

/// What the host's hypervisor can do. Probed once by [`open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Most processors one machine can have.
    pub max_vcpus: u32,
    /// Largest APIC id, plus one.
    pub max_apic_ids: u32,
    /// Most memory regions one machine can have at the same time.
    pub max_memory_slots: u32,
    /// Memory can be mapped so that the guest cannot write it.
    pub read_only_memory: bool,
    /// Nested virtualisation state can be saved and restored.
    pub nested_state: bool,
    /// The hypervisor implements the Microsoft Hyper-V interface for guests.
    pub hyperv: bool,
    /// The guest's time stamp counter can run at a frequency of our choice.
    pub tsc_scaling: bool,
    /// Size in bytes of the extended processor state (`XSAVE` area), at least 4096.
    pub xsave_size: usize,
    /// A failed instruction emulation reports the instruction's bytes.
    pub emulation_failure_details: bool,
}

/// Choices at the creation of a virtual machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmOptions {
    /// Offer x2APIC ids above 255 to the guest.
    pub x2apic: bool,
}

/// A hypervisor of the host.
pub trait Hypervisor: Send + Sync {
    /// Its name in `vm.info` and messages: `kvm`.
    fn name(&self) -> &'static str;
    /// What it can do.
    fn capabilities(&self) -> &Capabilities;
    /// Processor features that it can give to guests, as `CPUID` answers.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>>;
    /// Model-specific registers that make up a processor's state.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn state_msrs(&self) -> Result<Vec<u32>>;
    /// Makes an empty machine with local APICs in the kernel and the I/O APIC left to us (split irqchip).
    ///
    /// # Errors
    /// [`Error::Ioctl`] or [`Error::Missing`] if the kernel cannot do what `options` asks.
    fn create_vm(&self, options: &VmOptions) -> Result<Arc<dyn Vm>>;
}

/// Where a guest's access goes: its two address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Guest physical memory.
    Mmio(u64),
    /// I/O ports.
    Port(u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmio(address) => write!(f, "memory address {address:#x}"),
            Self::Port(port) => write!(f, "I/O port {port:#x}"),
        }
    }
}

/// A virtual machine. All methods may be called from any thread.
pub trait Vm: Send + Sync {
    /// Makes a processor. It does not run until [`Vcpu::run`].
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses, as it does for an id that was used before, even if that
    /// processor was dropped; [`Error::TooManyVcpus`] above its limits; [`Error::NeedsX2apic`] for ids above 254
    /// without [`VmOptions::x2apic`].
    fn create_vcpu(&self, apic_id: u32) -> Result<Box<dyn Vcpu>>;

    /// Maps host memory into the guest's physical address space.
    ///
    /// # Errors
    /// [`Error::MapMemory`] if it overlaps another slot or is not page aligned; [`Error::NoMemorySlot`];
    /// [`Error::Missing`] if read-only memory is asked for and the kernel does not have it.
    fn map_memory(&self, region: MemoryRegion) -> Result<MemorySlot>;

    /// Pages written by the guest since the last call: one bit each, lowest address first. Only for a slot
    /// that was mapped with `log_dirty`.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the slot does not log.
    fn take_dirty_pages(&self, slot: &MemorySlot) -> Result<Vec<u64>>;

    /// Starts or stops logging of written pages for a slot.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn log_dirty(&self, slot: &MemorySlot, on: bool) -> Result<()>;

    /// An interrupt line into a pin of the I/O APIC (`gsi` below [`IOAPIC_PINS`]). What it delivers is set by
    /// the I/O APIC with [`Vm::route_pin`].
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses, [`Error::NotAPin`] for a larger number.
    fn irq_line(&self, gsi: u32) -> Result<IrqLine>;

    /// Sets what a signal on a pin of the I/O APIC delivers; `None` masks it. Only the I/O APIC calls this.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses, [`Error::NotAPin`] for a larger number.
    fn route_pin(&self, gsi: u32, message: Option<MsiMessage>) -> Result<()>;

    /// Delivers one message signalled interrupt now, without a route. A message to a processor that does not
    /// exist is dropped, as by hardware.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn signal_msi(&self, message: MsiMessage) -> Result<()>;

    /// A message signalled interrupt with a route of its own. Delivers nothing until [`Msi::set`].
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses, [`Error::NoMsiRoute`] if all are taken.
    fn msi(&self) -> Result<Msi>;

    /// Signals a descriptor when the guest writes to `address`, without leaving the kernel.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn doorbell(&self, address: Address, value: DoorbellValue) -> Result<Doorbell>;

    /// As [`Vm::doorbell`], with a descriptor of the caller's (an `eventfd`).
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses, for example because it is no `eventfd`.
    fn doorbell_to(
        &self,
        address: Address,
        value: DoorbellValue,
        event: OwnedFd,
    ) -> Result<Doorbell>;

    /// The paravirtual clock of the machine (kvmclock).
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn clock(&self) -> Result<ClockState>;

    /// Sets the paravirtual clock.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn set_clock(&self, clock: &ClockState) -> Result<()>;
}

/// One processor of a virtual machine. It belongs to the thread that runs it.
pub trait Vcpu: Send {
    /// Sets the answers of the `CPUID` instruction. Before the first run.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<()>;

    /// Runs the guest until it needs the monitor.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel cannot run it.
    fn run(&mut self) -> Result<Exit<'_>>;

    /// A handle with which another thread can make [`Vcpu::run`] return [`Exit::Interrupted`]. Call it on the
    /// thread that will run this processor.
    fn kicker(&mut self) -> Kicker;

    /// General-purpose registers.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn regs(&self) -> Result<Regs>;
    /// Sets the general-purpose registers.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn set_regs(&mut self, regs: &Regs) -> Result<()>;
    /// Segment and control registers.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn special_regs(&self) -> Result<SpecialRegs>;
    /// Sets the segment and control registers.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn set_special_regs(&mut self, regs: &SpecialRegs) -> Result<()>;
    /// Reads model-specific registers; those that the kernel does not know are left out.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses the call as a whole.
    fn msrs(&self, indices: &[u32]) -> Result<Vec<MsrValue>>;
    /// Writes model-specific registers, in order.
    ///
    /// # Errors
    /// [`Error::MsrRefused`] names the first one that the kernel does not take.
    fn set_msrs(&mut self, values: &[MsrValue]) -> Result<()>;
    /// The local APIC's register page.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn lapic(&self) -> Result<[u8; 1024]>;
    /// Sets the local APIC's register page.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn set_lapic(&mut self, page: &[u8; 1024]) -> Result<()>;
    /// Whether it runs, halts or waits to be started.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn mp_state(&self) -> Result<MpState>;
    /// Sets whether it runs, halts or waits to be started.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn set_mp_state(&mut self, state: MpState) -> Result<()>;
    /// Frequency of the guest's time stamp counter in kHz.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel does not know it.
    fn tsc_khz(&self) -> Result<u32>;
    /// Sets the frequency of the guest's time stamp counter.
    ///
    /// # Errors
    /// [`Error::Missing`] if the host's processor cannot scale it and the frequency differs.
    fn set_tsc_khz(&mut self, khz: u32) -> Result<()>;
    /// Injects a non-maskable interrupt.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn inject_nmi(&mut self) -> Result<()>;
    /// Gives the guest Hyper-V's synthetic interrupt controller. Before the first run; the guest learns of the
    /// rest of the interface from its `CPUID`.
    ///
    /// # Errors
    /// [`Error::Missing`] if the kernel does not have it.
    fn enable_hyperv(&mut self) -> Result<()>;
    /// Tells the guest that it was paused, so that its watchdogs do not take the pause for a hang. After the
    /// pause, before the next run. Does nothing if the guest does not use the paravirtual clock.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn notify_paused(&mut self) -> Result<()>;
    /// Sets at what it stops for a debugger. With nothing in it the guest has its debug registers for itself.
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn set_debug(&mut self, debug: &GuestDebug) -> Result<()>;
    /// Lets the guest have a trap that was none of the debugger's: the last [`Exit::Debug`].
    ///
    /// # Errors
    /// [`Error::Ioctl`] if the kernel refuses.
    fn pass_trap(&mut self, trap: Trap) -> Result<()>;
    /// Everything that makes up this processor, except its `CPUID`. The processor must not be running.
    ///
    /// # Errors
    /// [`Error::Unfinished`] if the last [`Vcpu::run`] returned an access of the guest, which only the next run
    /// completes: kick it and run it until [`Exit::Interrupted`]. [`Error::Ioctl`] if the kernel refuses.
    fn save(&self) -> Result<VcpuState>;
    /// Puts a saved state back, in the order the kernel needs. After [`Vcpu::set_cpuid`].
    ///
    /// # Errors
    /// [`Error::BadState`], [`Error::MsrRefused`], [`Error::Missing`] or [`Error::Ioctl`] if this host cannot
    /// take it, [`Error::Unfinished`] as for [`Vcpu::save`]. What was restored until then stays: the processor must not be run.
    fn restore(&mut self, state: &VcpuState) -> Result<()>;
}

/// Why a processor came back from the guest.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<'a> {
    /// The guest reads a port. `data` is one or more values of `width` bytes, all from the same port.
    PortRead {
        /// The I/O port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        width: usize,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// The guest writes a port. `data` is one or more values of `width` bytes, all to the same port.
    PortWrite {
        /// The I/O port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        width: usize,
        /// What is written.
        data: &'a [u8],
    },
    /// The guest reads memory that is not mapped.
    MmioRead {
        /// Guest physical address.
        address: u64,
        /// To be filled: 1 to 8 bytes.
        data: &'a mut [u8],
    },
    /// The guest writes memory that is not mapped.
    MmioWrite {
        /// Guest physical address.
        address: u64,
        /// What is written: 1 to 8 bytes.
        data: &'a [u8],
    },
    /// The guest ended a level-triggered interrupt that came through the I/O APIC.
    IoapicEoi(u8),
    /// `HLT`, where the kernel does not handle it.
    Halted,
    /// Triple fault: the processor shut itself down.
    Shutdown,
    /// [`Kicker::kick`], or a signal.
    Interrupted,
    /// A breakpoint or single step of a debugger.
    Debug {
        /// Linear address of the instruction.
        address: u64,
        /// What it was.
        trap: Trap,
    },
    /// The hypervisor cannot go on with this guest; the text says why, with the instruction if it is known.
    Failed(Box<str>),
}

/// Makes a running processor return to the monitor. Cheap to clone, callable from any thread.
#[derive(Clone)]
pub struct Kicker(pub(crate) kvm::KvmKicker);

impl Kicker {
    /// Makes the current or the next [`Vcpu::run`] return [`Exit::Interrupted`]. A kick is never lost. Does
    /// nothing if the processor's thread has ended.
    pub fn kick(&self) {
        self.0.kick();
    }
}

impl fmt::Debug for Kicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kicker").finish_non_exhaustive()
    }
}
