//! For tests of devices: a machine without processors, and a driver that does what Linux's does.
//!
//! [`Bench`] has RAM, buses and PCI; put a device on it with [`Bench::environment`]. [`Driver`] finds the device in
//! configuration space, negotiates, sets queues up and rings doorbells, all through the buses as a guest would,
//! and can be made to break any rule on the way.
#![expect(
    clippy::missing_panics_doc,
    reason = "a test that goes wrong is to panic"
)]

mod driver;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use device::{Bus, Device};
use hypervisor::{DoorbellValue, MsiMessage};
use memory::{GuestRam, RamOptions, RegionSpec};
use pci::{Interrupts, Layout, Pci, Vector};
use reactor::Kick;
use sandbox::Filter;

use crate::{Attention, Doorbells, Environment, OverPci, VirtioDevice};

pub use driver::{Driver, DriverQueue, Part};

/// Bytes of RAM, from address 0.
pub const RAM_SIZE: u64 = 16 << 20;

/// A machine without processors.
pub struct Bench {
    /// Memory of [`RAM_SIZE`].
    pub ram: GuestRam,
    /// I/O ports.
    pub ports: Arc<Bus>,
    /// Physical address space.
    pub memory: Arc<Bus>,
    /// One segment.
    pub pci: Pci,
    /// What arrived at the interrupt controller.
    pub sent: Sent,
    /// Doorbells that the "kernel" answers.
    pub bells: Bells,
    wanted: Arc<AtomicBool>,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    /// A machine with nothing on PCI but a host bridge.
    #[must_use]
    pub fn new() -> Self {
        let regions = [RegionSpec {
            start: 0,
            size: RAM_SIZE,
        }];
        let ram = GuestRam::new(&regions, &RamOptions::default()).expect("16 MiB");
        let (ports, memory) = (Bus::new("I/O ports"), Bus::new("memory"));
        let layout = Layout {
            segments: 1,
            memory32: 0xc000_0000..0xe800_0000,
            memory64: 0x10_0000_0000..0x20_0000_0000,
        };
        let pci = Pci::new(&ports, &memory, &layout).expect("empty buses");
        let (sent, bells) = (Sent::default(), Bells::default());
        Self {
            ram,
            ports,
            memory,
            pci,
            sent,
            bells,
            wanted: Arc::default(),
        }
    }

    /// For a device called `id`, in the lowest free slot.
    #[must_use]
    pub fn environment(&self, id: &str) -> Environment {
        let wanted = Arc::clone(&self.wanted);
        Environment {
            id: id.into(),
            segment: Arc::clone(self.pci.segment(0).expect("there is one")),
            slot: None,
            below_4g: false,
            iommu: false,
            ram: self.ram.clone(),
            interrupts: Box::new(self.sent.clone()),
            doorbells: Box::new(self.bells.clone()),
            attention: Attention::new(move || wanted.store(true, Ordering::Release)),
            rules: Filter::none(),
        }
    }

    /// Pays the attention that `device` asked for, if it did.
    pub fn attend<D: VirtioDevice>(&self, device: &mut OverPci<D>) {
        if self.wanted.swap(false, Ordering::AcqRel) {
            device.attend();
        }
    }

    /// A guest's write to memory: to a doorbell, or else to a device.
    pub fn write(&self, address: u64, data: &[u8]) {
        if !self.bells.ring(address) {
            self.memory.write(address, data);
        }
    }
}

/// Waits until `condition` holds, for two seconds.
pub fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Interrupts that were delivered.
#[derive(Clone, Debug, Default)]
pub struct Sent(Arc<Mutex<Vec<MsiMessage>>>);

impl Sent {
    /// Takes the messages that arrived since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a message with this data.
    pub fn wait(&self, data: u32) {
        eventually(|| self.take().iter().any(|message| message.data == data));
    }
}

impl Interrupts for Sent {
    fn vector(&self) -> hypervisor::Result<Box<dyn Vector>> {
        Ok(Box::new(Route {
            sent: self.clone(),
            message: Mutex::default(),
        }))
    }
}

struct Route {
    sent: Sent,
    message: Mutex<Option<MsiMessage>>,
}

impl Vector for Route {
    fn set(&self, message: Option<MsiMessage>) -> hypervisor::Result<()> {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
        Ok(())
    }

    fn trigger(&self) -> hypervisor::Result<()> {
        let message = *self.message.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent = self.sent.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.extend(message);
        Ok(())
    }
}

/// Doorbells by address.
#[derive(Clone, Debug, Default)]
pub struct Bells {
    list: Arc<Mutex<Vec<(u64, u64, Kick)>>>,
    next: Arc<AtomicU64>,
}

impl Bells {
    /// Where the doorbells are, in order of their creation.
    #[must_use]
    pub fn addresses(&self) -> Vec<u64> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().map(|(_, address, _)| *address).collect()
    }

    fn ring(&self, at: u64) -> bool {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let bell = list.iter().find(|(_, address, _)| *address == at);
        bell.inspect(|(.., kick)| kick.signal()).is_some()
    }
}

impl Doorbells for Bells {
    fn doorbell(
        &self,
        address: u64,
        _value: DoorbellValue,
        kick: &Kick,
    ) -> hypervisor::Result<Option<Box<dyn Send>>> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push((key, address, kick.clone()));
        Ok(Some(Box::new(Bell {
            bells: self.clone(),
            key,
        })))
    }
}

struct Bell {
    bells: Bells,
    key: u64,
}

impl Drop for Bell {
    fn drop(&mut self) {
        let mut list = self
            .bells
            .list
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        list.retain(|(key, ..)| *key != self.key);
    }
}
