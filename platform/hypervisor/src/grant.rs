//! Guards for what the kernel grants a machine.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::{Address, Result};

/// Host memory that can be mapped into a guest.
///
/// # Safety
/// `address` and `size` describe one mapping of this process that stays valid, at the same place, for as long
/// as the value lives, and whose contents may be changed at any time by the guest.
pub unsafe trait HostMemory: Send + Sync {
    /// First byte of the mapping; page aligned.
    fn address(&self) -> *mut u8;
    /// Length in bytes; a multiple of the page size.
    fn size(&self) -> u64;
}

/// A request to map host memory into the guest. See [`crate::Vm::map_memory`].
#[derive(Clone)]
pub struct MemoryRegion {
    /// Guest physical address; page aligned.
    pub guest_address: u64,
    /// The memory, all of it.
    pub host: Arc<dyn HostMemory>,
    /// The guest cannot write it: its writes come as [`crate::Exit::MmioWrite`].
    pub read_only: bool,
    /// Log which pages the guest writes.
    pub log_dirty: bool,
}

impl fmt::Debug for MemoryRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegion")
            .field("guest_address", &format_args!("{:#x}", self.guest_address))
            .field("size", &format_args!("{:#x}", self.host.size()))
            .field("read_only", &self.read_only)
            .field("log_dirty", &self.log_dirty)
            .finish()
    }
}

/// What a guard gives back when it is dropped. Implemented per hypervisor.
pub(crate) trait Revoke: Send + Sync {
    fn revoke(&self);
}

/// A mapped slot, as its hypervisor sees it. What is asked of a slot goes to its own machine, so that a slot
/// cannot be confused with the same number in another one.
pub(crate) trait Slot: Revoke {
    fn log_dirty(&self, on: bool) -> Result<()>;
    fn take_dirty_pages(&self) -> Result<Vec<u64>>;
}

/// Memory of the guest that is mapped. Dropping it unmaps.
pub struct MemorySlot {
    pub(crate) number: u32,
    pub(crate) region: MemoryRegion,
    pub(crate) owner: Box<dyn Slot>,
}

impl MemorySlot {
    /// What is mapped.
    #[must_use]
    pub fn region(&self) -> &MemoryRegion {
        &self.region
    }
}

impl Drop for MemorySlot {
    fn drop(&mut self) {
        self.owner.revoke();
    }
}

impl fmt::Debug for MemorySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySlot")
            .field("number", &self.number)
            .field("region", &self.region)
            .finish()
    }
}

/// The message of a message signalled interrupt (Intel SDM volume 3A, "Message Signalled Interrupts").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address that the device writes to. Bits 8 to 14 of the destination are in bits 5 to 11 (Linux
    /// `Documentation/virt/kvm/x86/cpuid.rst`, `KVM_FEATURE_MSI_EXT_DEST_ID`), or bits 8 to 31 of it in bits 40 to
    /// 63 as interrupt remapping hardware has them.
    pub address: u64,
    /// The value it writes.
    pub data: u32,
}

/// An edge-triggered interrupt line into a pin of the I/O APIC. Dropping it takes it off the pin.
pub struct IrqLine {
    pub(crate) gsi: u32,
    pub(crate) event: Arc<EventFd>,
    pub(crate) owner: Box<dyn Revoke>,
}

impl IrqLine {
    /// Global system interrupt number: the pin.
    #[must_use]
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// Signals the line once.
    ///
    /// # Errors
    /// [`crate::Error::Signal`] if the descriptor cannot be written.
    pub fn trigger(&self) -> Result<()> {
        self.event.write(1).map_err(crate::Error::Signal)
    }
}

impl AsFd for IrqLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.event)
    }
}

impl Drop for IrqLine {
    fn drop(&mut self) {
        self.owner.revoke();
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IrqLine")
            .field("gsi", &self.gsi)
            .finish_non_exhaustive()
    }
}

/// `EventFd` lends its descriptor only as a number.
fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open, and stays so while `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// How a route of a message signalled interrupt is changed. Implemented per hypervisor.
pub(crate) trait Route: Revoke {
    fn set(&self, message: Option<MsiMessage>) -> Result<()>;
}

/// A message signalled interrupt. Dropping it frees its route.
pub struct Msi {
    pub(crate) event: Arc<EventFd>,
    pub(crate) owner: Box<dyn Route>,
}

impl Msi {
    /// Sets what it delivers. `None`: nothing; signals until then are lost (a masked vector's pending bit is
    /// kept by its owner, the MSI-X table).
    ///
    /// # Errors
    /// [`crate::Error::Ioctl`] if the kernel refuses.
    pub fn set(&self, message: Option<MsiMessage>) -> Result<()> {
        self.owner.set(message)
    }

    /// Signals it once.
    ///
    /// # Errors
    /// [`crate::Error::Signal`] if the descriptor cannot be written.
    pub fn trigger(&self) -> Result<()> {
        self.event.write(1).map_err(crate::Error::Signal)
    }
}

impl AsFd for Msi {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.event)
    }
}

impl Drop for Msi {
    fn drop(&mut self) {
        self.owner.revoke();
    }
}

impl fmt::Debug for Msi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msi").finish_non_exhaustive()
    }
}

/// Which writes ring a [`Doorbell`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorbellValue {
    /// Any value, any width.
    Any,
    /// A 16-bit write of this value.
    U16(u16),
    /// A 32-bit write of this value.
    U32(u32),
}

/// A descriptor that the kernel signals when the guest writes to an address. Dropping it ends that.
pub struct Doorbell {
    pub(crate) address: Address,
    pub(crate) event: Arc<EventFd>,
    pub(crate) owner: Box<dyn Revoke>,
}

impl Doorbell {
    /// Where the guest writes.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// The descriptor to wait on.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.owner.revoke();
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
