//! Everything a device may ask of the machine.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use hypervisor::{IrqLine, Vm};
use memory::GuestRam;
use reactor::Worker;
use sandbox::{Allow, Filter};

use crate::{Bus, Error, Given, Power, Region, Result, Runner, Shared, Target};

/// Facts about the machine that a configuration may have to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Processors at boot.
    pub boot_vcpus: u32,
    /// Bytes of RAM below 4 GiB.
    pub ram_below_4g: u64,
    /// Bytes of RAM from 4 GiB on.
    pub ram_above_4g: u64,
    /// The guest may be Hyper-V: nested virtualisation with the Hyper-V interface.
    pub nested_hyperv: bool,
    /// Other processes can map the guest's memory (`shared=on`).
    pub shared_memory: bool,
}

/// Hears when the guest ends a level-triggered interrupt. The I/O APIC is one.
pub trait Eoi: Send {
    /// The guest wrote the end-of-interrupt register for this vector.
    fn end_of_interrupt(&mut self, vector: u8);
}

/// First interrupt line that [`Host::irq`] gives out: those below are for fixed legacy devices and for the
/// `INTx` lines of PCI.
const FIRST_FREE_LINE: u32 = arch::layout::GSI_PCI_INTX_FIRST + arch::layout::GSI_PCI_INTX_COUNT;

type EoiTarget = Arc<Mutex<dyn Eoi>>;

/// What the devices of one machine share: its address spaces, interrupt lines, memory and threads' rules. The
/// machine makes it and lends it to each device through a [`Host`].
pub struct Board {
    vm: Arc<dyn Vm>,
    ports: Arc<Bus>,
    mmio: Arc<Bus>,
    ram: GuestRam,
    power: Power,
    facts: Facts,
    seccomp: sandbox::Mode,
    lines: Mutex<u32>,
    platform_area: Mutex<std::ops::Range<u64>>,
    eoi: Mutex<Option<EoiTarget>>,
    services: Mutex<HashMap<TypeId, Service>>,
    attention: Box<dyn Fn(&str) + Send + Sync>,
}

type Service = Arc<dyn Any + Send + Sync>;

impl Board {
    /// A board without devices. `platform_area` is the guest physical range for registers of the platform
    /// itself, whose places only the firmware tables tell. `attention` is told the id of a device that wants
    /// [`crate::Device::attend`]; it is called on processors' threads and must not block.
    #[must_use]
    pub fn new(
        vm: Arc<dyn Vm>,
        ram: GuestRam,
        power: Power,
        facts: Facts,
        seccomp: sandbox::Mode,
        platform_area: std::ops::Range<u64>,
        attention: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            vm,
            ports: Bus::new("I/O ports"),
            mmio: Bus::new("memory"),
            ram,
            power,
            facts,
            seccomp,
            lines: Mutex::new(FIRST_FREE_LINE),
            platform_area: Mutex::new(platform_area),
            eoi: Mutex::new(None),
            services: Mutex::new(HashMap::new()),
            attention: Box::new(attention),
        }
    }

    /// The I/O ports.
    #[must_use]
    pub fn ports(&self) -> &Arc<Bus> {
        &self.ports
    }

    /// The physical address space.
    #[must_use]
    pub fn mmio(&self) -> &Arc<Bus> {
        &self.mmio
    }

    /// Offers something that only some devices know (PCI) to those that ask for it by its type.
    pub fn provide<T: Any + Send + Sync>(&self, service: Arc<T>) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.insert(TypeId::of::<T>(), service);
    }

    /// The guest ended a level-triggered interrupt.
    pub fn end_of_interrupt(&self, vector: u8) {
        let target = self
            .eoi
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(target) = target {
            target
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .end_of_interrupt(vector);
        }
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board")
            .field("ports", &self.ports)
            .field("mmio", &self.mmio)
            .finish_non_exhaustive()
    }
}

/// The machine, as one device sees it while it is built.
#[derive(Debug)]
pub struct Host<'a> {
    inheritance: Option<Box<dyn Any + Send>>,
    pci_slot: Option<u8>,
    board: &'a Arc<Board>,
    id: String,
    worker_syscalls: &'static [Allow],
}

impl<'a> Host<'a> {
    /// Lends the board to a device called `id`, whose workers make these system calls.
    #[must_use]
    pub fn new(board: &'a Arc<Board>, id: String, worker_syscalls: &'static [Allow]) -> Self {
        Self {
            inheritance: None,
            pci_slot: None,
            board,
            id,
            worker_syscalls,
        }
    }

    /// Adds what the device that had this place before the reset left behind ([`crate::Device::leave`]).
    #[must_use]
    pub fn with_inheritance(mut self, inheritance: Option<Box<dyn Any + Send>>) -> Self {
        self.inheritance = inheritance;
        self
    }

    /// Says in which slot of its PCI segment the device was in the machine whose state it is to have.
    #[must_use]
    pub fn with_pci_slot(mut self, slot: Option<u8>) -> Self {
        self.pci_slot = slot;
        self
    }

    /// The slot of its PCI segment that the machine wants the device in; `None` if it may be any.
    #[must_use]
    pub fn pci_slot(&self) -> Option<u8> {
        self.pci_slot
    }

    /// What the device that had this place before the reset left behind; `None` at the first start.
    pub fn inherit<T: Any>(&mut self) -> Option<T> {
        let inheritance = self.inheritance.take()?;
        inheritance.downcast().ok().map(|value| *value)
    }

    /// The device's id in this machine: `__serial`, `_disk0`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Facts about the machine.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.board.facts
    }

    /// The guest's memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.board.ram
    }

    /// Carries reset and power-off to the machine's owner.
    #[must_use]
    pub fn power(&self) -> Power {
        self.board.power.clone()
    }

    /// The virtual machine in the hypervisor. For devices that are part of the interrupt path.
    #[must_use]
    pub fn vm(&self) -> &Arc<dyn Vm> {
        &self.board.vm
    }

    /// What the machine offers under this type: see [`Board::provide`].
    #[must_use]
    pub fn service<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let services = &self.board.services;
        let services = services.lock().unwrap_or_else(PoisonError::into_inner);
        let service = services.get(&TypeId::of::<T>())?;
        Arc::clone(service).downcast().ok()
    }

    /// What devices of this machine share under this type: there from the first time on that one asks for it.
    #[must_use]
    pub fn shared<T: Any + Send + Sync + Default>(&self) -> Arc<T> {
        let services = &self.board.services;
        let mut services = services.lock().unwrap_or_else(PoisonError::into_inner);
        let service = services.entry(TypeId::of::<T>());
        let service = Arc::clone(service.or_insert_with(|| Arc::new(T::default())));
        service.downcast().unwrap_or_default()
    }

    /// Copies of the descriptors that the user gave the device ([`crate::Kind::DESCRIPTORS`]); `None` if there are none.
    ///
    /// # Errors
    /// [`Error::Backend`] if the process can have no more descriptors.
    pub fn descriptors(&self) -> Result<Option<Vec<OwnedFd>>> {
        let given = self.service::<Given>();
        let Some(descriptors) = given.and_then(|given| given.of(&self.id)) else {
            return Ok(None);
        };
        let copies = descriptors.duplicate().map_err(|source| Error::Backend {
            what: "cannot copy the descriptors that were given".into(),
            source: source.into(),
        })?;
        Ok(Some(copies))
    }

    /// A way to ask for [`crate::Device::attend`] from any thread, without waiting.
    pub fn attention(&self) -> impl Fn() + Send + Sync + 'static {
        let (board, id) = (Arc::downgrade(self.board), self.id.clone());
        move || {
            if let Some(board) = board.upgrade() {
                (board.attention)(&id);
            }
        }
    }

    /// Puts `target` behind I/O ports.
    ///
    /// # Errors
    /// [`Error::Overlap`] if one of them is taken.
    pub fn ports<T: Target + 'static>(
        &mut self,
        first: u16,
        count: u16,
        target: &Shared<T>,
    ) -> Result<Region> {
        self.board.ports.insert(first.into(), count.into(), target)
    }

    /// Puts `target` behind guest physical addresses.
    ///
    /// # Errors
    /// [`Error::Overlap`] if one of them is taken.
    pub fn mmio<T: Target + 'static>(
        &mut self,
        start: u64,
        len: u64,
        target: &Shared<T>,
    ) -> Result<Region> {
        self.board.mmio.insert(start, len, target)
    }

    /// Puts `target` behind `len` bytes of the platform area, wherever there is room.
    ///
    /// # Errors
    /// [`Error::NoPlatformSpace`] if it is full.
    pub fn platform_mmio<T: Target + 'static>(
        &mut self,
        len: u64,
        target: &Shared<T>,
    ) -> Result<Region> {
        let start = {
            let mut area = self
                .board
                .platform_area
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let start = area.start.next_multiple_of(0x10);
            let end = start.checked_add(len).filter(|end| *end <= area.end);
            area.start = end.ok_or(Error::NoPlatformSpace(len))?;
            start
        };
        self.board.mmio.insert(start, len, target)
    }

    /// The interrupt line of a legacy device, whose number is a convention.
    ///
    /// # Errors
    /// [`Error::Hypervisor`] if the hypervisor refuses.
    pub fn legacy_irq(&mut self, gsi: u32) -> Result<IrqLine> {
        Ok(self.board.vm.irq_line(gsi)?)
    }

    /// An interrupt line that nobody else has.
    ///
    /// # Errors
    /// [`Error::NoInterruptLine`] if all are taken.
    pub fn irq(&mut self) -> Result<IrqLine> {
        let gsi = {
            let mut next = self
                .board
                .lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if *next >= hypervisor::IOAPIC_PINS {
                return Err(Error::NoInterruptLine(hypervisor::IOAPIC_PINS));
            }
            *next += 1;
            *next - 1
        };
        self.legacy_irq(gsi)
    }

    /// Lets `target` hear ends of level-triggered interrupts until the guard is dropped. There is one such
    /// device: the I/O APIC.
    pub fn hear_eoi<T: Eoi + 'static>(&mut self, target: &Shared<T>) -> EoiGuard {
        *self
            .board
            .eoi
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(target.eoi());
        EoiGuard(Arc::clone(self.board))
    }

    /// What the device's threads may ask of the host's kernel.
    ///
    /// # Errors
    /// [`Error::Filter`] if the filter cannot be made.
    pub fn thread_rules(&self) -> Result<Filter> {
        let sets = [sandbox::COMMON, self.worker_syscalls];
        Ok(Filter::compile(self.board.seccomp, &sets)?)
    }

    /// Prepares a worker for a thread of its own, under the device's filter.
    ///
    /// # Errors
    /// [`Error::Filter`] if the filter cannot be made.
    pub fn runner<W: Worker>(&self, name: &str, worker: W) -> Result<Runner<W>> {
        Ok(Runner::new(name, self.thread_rules()?, worker))
    }
}

impl<T: Eoi + 'static> Shared<T> {
    fn eoi(&self) -> EoiTarget {
        self.arc() as EoiTarget
    }
}

/// While it lives, a device hears ends of interrupts. See [`Host::hear_eoi`].
#[derive(Debug)]
pub struct EoiGuard(Arc<Board>);

impl Drop for EoiGuard {
    fn drop(&mut self) {
        *self.0.eoi.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
