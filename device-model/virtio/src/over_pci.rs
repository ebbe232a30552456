//! A virtio device on PCI (VIRTIO 1.3, 4.1): what a machine owns.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::{Bus, Device, PciPlace, Region, Saved, Shared};
use pci::{
    BarKind, Contents, Endpoint, EndpointBuilder, Identification, Msix, PciAddress, Slot, share,
};
use reactor::Kick;
use serde_json::Value;

use crate::common::Common;
use crate::environment::Environment;
use crate::layout::{
    BAR_ALIGN, BAR_SIZE, DEVICE, MAX_QUEUES, MSIX_PENDING, MSIX_TABLE, add_capabilities,
};
use crate::line::PciLine;
use crate::registers::Registers;
use crate::state::{OverPciState, VERSION};
use crate::{ConfigChange, Error, Identity, Line, Result, VirtioDevice, feature};

#[cfg(test)]
mod tests;

/// The vendor of virtio devices, and the device id of type 0 (VIRTIO 1.3, 4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE_ID: u16 = 0x1040;
/// A device without a legacy interface (VIRTIO 1.3, 4.1.2.1).
const REVISION: u8 = 1;

/// A virtio device on PCI.
pub struct OverPci<D: VirtioDevice> {
    kind: &'static str,
    // The guest finds nothing any more before anything is taken apart.
    slot: Slot,
    endpoint: Arc<Mutex<Endpoint>>,
    registers: Shared<Registers<D>>,
}

impl<D: VirtioDevice> OverPci<D> {
    /// Puts `device` on PCI. `kind` is the name of its kind in saved state.
    ///
    /// # Errors
    /// [`Error::Pci`] if there is no slot, address or vector for it, [`Error::Kick`] if there is no descriptor,
    /// [`Error::Design`] if its identity is not possible.
    pub fn new(kind: &'static str, device: D, environment: Environment) -> Result<Self> {
        let identity = device.identity();
        check(&identity)?;
        let segment = Arc::clone(&environment.segment);
        let slot = segment.take(environment.slot)?;
        let (bar, align) = if environment.below_4g {
            (BarKind::Memory32, BAR_SIZE)
        } else {
            (BarKind::Memory64, BAR_ALIGN)
        };
        let registers = Shared::new(registers(device, &identity, environment)?);
        let msix = Arc::clone(&registers.lock().line.msix);
        let mut function = EndpointBuilder::new(&segment, &identification(&identity)).bar(
            0,
            bar,
            BAR_SIZE,
            align,
            Bar0(registers.clone()),
        )?;
        let long = identity.features & feature::RING_RESET != 0;
        add_capabilities(&mut function, long, registers.clone())?;
        let offset = |offset: u64| (0, u32::try_from(offset).unwrap_or(u32::MAX));
        function.msix(msix, offset(MSIX_TABLE.offset), offset(MSIX_PENDING.offset))?;
        let endpoint = share(function.build());
        slot.fill(endpoint.clone());
        Ok(Self {
            kind,
            slot,
            endpoint,
            registers,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.slot.address()
    }

    /// Looks at the device.
    pub fn with_device<R>(&self, look: impl FnOnce(&mut D) -> R) -> R {
        look(&mut self.registers.lock().device)
    }

    fn endpoint(&self) -> MutexGuard<'_, Endpoint> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bad_state(&self, error: &Error) -> device::Error {
        device::Error::BadState {
            kind: self.kind,
            why: telemetry::chain(error).join(": "),
        }
    }
}

/// The registers of a device that no driver has seen.
fn registers<D: VirtioDevice>(
    mut device: D,
    identity: &Identity,
    environment: Environment,
) -> Result<Registers<D>> {
    let sizes = &identity.queue_sizes;
    let vectors = u16::try_from(sizes.len() + 1).unwrap_or(u16::MAX);
    let msix = Arc::new(Msix::new(vectors, &*environment.interrupts)?);
    let line = Arc::new(PciLine::new(msix, sizes.len()));
    device.attach(ConfigChange::new(Arc::clone(&line) as Arc<dyn Line>));
    let mut offered = identity.features | feature::VERSION_1;
    if environment.iommu {
        offered |= feature::ACCESS_PLATFORM;
    }
    let kick = |_: &u16| Kick::new().map_err(Error::Kick);
    Ok(Registers {
        id: environment.id,
        device,
        config_len: identity.config_len,
        common: Common::new(offered, sizes.clone()),
        line,
        ram: environment.ram,
        kicks: sizes.iter().map(kick).collect::<Result<_>>()?,
        bells: sizes.iter().map(|_| None).collect(),
        doorbells: environment.doorbells,
        attention: environment.attention,
        base: None,
        started: false,
    })
}

/// Checks what a device says of itself.
fn check(identity: &Identity) -> Result<()> {
    let design = |text| Err(Error::Design(text));
    if identity.queue_sizes.len() > MAX_QUEUES {
        return design("it has more than 1024 queues");
    }
    if identity
        .queue_sizes
        .iter()
        .any(|size| !size.is_power_of_two() || *size > 32768)
    {
        return design("a queue's size is a power of two up to 32768");
    }
    if u64::from(identity.config_len) > DEVICE.len {
        return design("it has more than 4096 bytes of configuration fields");
    }
    Ok(())
}

fn identification(identity: &Identity) -> Identification {
    let device = FIRST_DEVICE_ID.wrapping_add(identity.device_type);
    Identification {
        vendor: VENDOR,
        device,
        revision: REVISION,
        class: identity.class.base,
        subclass: identity.class.sub,
        interface: 0,
        subsystem_vendor: VENDOR,
        subsystem: device,
    }
}

impl<D: VirtioDevice> Device for OverPci<D> {
    fn start(&mut self) -> device::Result<()> {
        // First where it is: doorbells depend on it.
        self.endpoint().appear();
        let mut registers = self.registers.lock();
        registers.started = true;
        registers.bring_up();
        Ok(())
    }

    fn stop(&mut self) -> device::Result<()> {
        let mut registers = self.registers.lock();
        registers.bring_down();
        registers.started = false;
        Ok(())
    }

    /// Starts queues that the driver has set up, and makes doorbells that are missing.
    fn attend(&mut self) {
        self.registers.lock().bring_up();
    }

    fn save(&self) -> device::Result<Saved> {
        let function = self.endpoint().save();
        let registers = self.registers.lock();
        let (transport, device) = (registers.save(), registers.device.save()?);
        Saved::new(
            self.kind,
            VERSION,
            &OverPciState {
                function,
                transport,
                device,
            },
        )
    }

    fn restore(&mut self, saved: Saved) -> device::Result<()> {
        let state: OverPciState = saved.read(self.kind, VERSION)?;
        let mut endpoint = self.endpoint();
        let before = endpoint.save();
        let common = self
            .registers
            .lock()
            .check(&state.transport)
            .map_err(|error| self.bad_state(&error))?;
        endpoint
            .restore(&state.function)
            .map_err(|error| self.bad_state(&error.into()))?;
        let mut registers = self.registers.lock();
        if let Err(error) = registers.device.restore(state.device) {
            drop(registers);
            // It is the function's own state: it fits.
            let _ = endpoint.restore(&before);
            return Err(error);
        }
        registers.put(common, &state.transport);
        Ok(())
    }

    fn update(&mut self, change: Value) -> device::Result<()> {
        self.registers.lock().device.update(change)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.registers.lock().device.counters()
    }

    fn histograms(&self) -> Vec<device::Histogram> {
        self.registers.lock().device.histograms()
    }

    fn withheld(&self) -> u64 {
        self.registers.lock().device.withheld()
    }

    fn on_pci(&self) -> Option<PciPlace> {
        Some(PciPlace {
            address: self.address().to_string(),
            bars: self.endpoint().memory(),
        })
    }

    fn leave(self: Box<Self>) -> Option<Box<dyn Any + Send>> {
        self.registers.lock().device.leave()
    }

    fn decided(&self) -> Option<Value> {
        self.registers.lock().device.decided()
    }
}

impl<D: VirtioDevice> fmt::Debug for OverPci<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverPci")
            .field("kind", &self.kind)
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// The registers, as what is behind BAR 0: they want to know where they are, for the doorbells.
struct Bar0<D>(Shared<Registers<D>>);

impl<D: VirtioDevice> Contents for Bar0<D> {
    fn insert(&self, bus: &Arc<Bus>, start: u64, len: u64) -> device::Result<Region> {
        bus.insert(start, len, &self.0)
    }

    fn placed(&self, at: Option<u64>) {
        self.0.lock().moved(at);
    }
}
