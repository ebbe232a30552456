//! What a virtio device on PCI needs from its machine.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

use hypervisor::{Address, DoorbellValue, Vm};
use memory::GuestRam;
use pci::{Interrupts, Pci, Segment};
use reactor::Kick;
use sandbox::Filter;

use crate::PciOptions;

/// Lets the kernel ring a bell when the guest writes to an address, without the monitor taking part.
pub trait Doorbells: Send + Sync {
    /// Rings `kick` on writes of `value` to guest physical `address`, until the answer is dropped. `None` if this
    /// machine has no such means: then the guest's writes come to the monitor, which rings itself.
    ///
    /// # Errors
    /// If the hypervisor refuses.
    fn doorbell(
        &self,
        address: u64,
        value: DoorbellValue,
        kick: &Kick,
    ) -> hypervisor::Result<Option<Box<dyn Send>>>;
}

/// Doorbells of the hypervisor.
struct KernelDoorbells(Arc<dyn Vm>);

impl Doorbells for KernelDoorbells {
    fn doorbell(
        &self,
        address: u64,
        value: DoorbellValue,
        kick: &Kick,
    ) -> hypervisor::Result<Option<Box<dyn Send>>> {
        let event = kick
            .as_fd()
            .try_clone_to_owned()
            .map_err(hypervisor::Error::Event)?;
        let bell = self.0.doorbell_to(Address::Mmio(address), value, event)?;
        Ok(Some(Box::new(bell)))
    }
}

/// All doorbells go through the monitor.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDoorbells;

impl Doorbells for NoDoorbells {
    fn doorbell(
        &self,
        _: u64,
        _: DoorbellValue,
        _: &Kick,
    ) -> hypervisor::Result<Option<Box<dyn Send>>> {
        Ok(None)
    }
}

/// Tells the owner of a machine that a device has work for it. Queues start on the owner's thread because theirs
/// inherit its rules; the guest asks for it on a processor's thread, whose rules are too narrow to start any.
///
/// The owner answers with [`Device::attend`](device::Device::attend). Cheap to clone.
#[derive(Clone)]
pub struct Attention(Arc<dyn Fn() + Send + Sync>);

impl Attention {
    /// `deliver` is called on processors' threads, with the device locked: it must neither block nor call the device.
    pub fn new(deliver: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(deliver))
    }

    /// Asks for attention. Once is enough until it was paid.
    pub fn request(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attention").finish_non_exhaustive()
    }
}

/// What a virtio device on PCI needs from its machine.
pub struct Environment {
    /// The device's id, for events and messages.
    pub id: String,
    /// The segment it goes to.
    pub segment: Arc<Segment>,
    /// The slot it goes to; the lowest free one if `None`.
    pub slot: Option<u8>,
    /// Its registers must be below 4 GiB: for a device that firmware boots from.
    pub below_4g: bool,
    /// The device is behind the IOMMU, and offers `ACCESS_PLATFORM`.
    pub iommu: bool,
    /// The guest's memory.
    pub ram: GuestRam,
    /// Makes its MSI-X vectors.
    pub interrupts: Box<dyn Interrupts>,
    /// Makes its doorbells.
    pub doorbells: Box<dyn Doorbells>,
    /// Reaches the owner of the machine.
    pub attention: Attention,
    /// What the device's threads may ask of the host's kernel.
    pub rules: Filter,
}

impl Environment {
    /// The environment of a device that is being built, as its options place it.
    ///
    /// # Errors
    /// [`device::Error::Backend`] if the machine has no PCI, or not this segment.
    pub fn of(host: &device::Host<'_>, options: &PciOptions) -> device::Result<Self> {
        let pci: Arc<Pci> = host.service().ok_or(crate::Error::NoPci)?;
        let segment = pci
            .segment(options.pci_segment)
            .map_err(crate::Error::Pci)?;
        Ok(Self {
            id: host.id().to_owned(),
            segment: Arc::clone(segment),
            slot: options.pci_device_id.or(host.pci_slot()),
            below_4g: false,
            iommu: options.iommu,
            ram: host.ram().clone(),
            interrupts: Box::new(Arc::clone(host.vm())),
            doorbells: Box::new(KernelDoorbells(Arc::clone(host.vm()))),
            attention: Attention::new(host.attention()),
            rules: host.thread_rules()?,
        })
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("id", &self.id)
            .field("segment", &self.segment)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
