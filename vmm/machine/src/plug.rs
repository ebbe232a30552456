//! Devices that come and go while the machine is there.
//!
//! A device that comes is built, started and in its slot before the guest is told. One that is to go stays until the
//! guest ejects it: until then it works. Guests that do not know of slots see neither, and what they do not eject stays.

use catalog::Planned;
use pci::PciAddress;
use serde_json::json;

use crate::build::{Machine, Slot};
use crate::operate::EVENTS;
use crate::{Error, PciDevice, Result};

impl Machine {
    /// Adds a device, and tells the guest.
    ///
    /// # Errors
    /// Whatever keeps it from working; nothing stays behind.
    pub(crate) fn plug(&mut self, planned: Planned<'_>) -> Result<PciDevice> {
        let kind = planned.kind;
        let fixed = |id: &str| Error::Fixed {
            id: id.to_owned(),
            kind: kind.names().kind,
        };
        if !kind.hot_plug() {
            return Err(fixed(&planned.id));
        }
        let mut slot = Slot::build(planned, &self.board, None)?;
        let address = slot.address().ok_or_else(|| fixed(&slot.id))?;
        // A machine that is paused starts it when it goes on.
        if !self.is_paused() {
            slot.start()?;
        }
        let id = slot.id.clone();
        self.devices.push(slot);
        self.pci.hot_plug().lock().insert(address);
        if let Err(error) = self.tell_of_slots() {
            self.devices.pop();
            return Err(error);
        }
        Ok(PciDevice {
            id,
            bdf: address.to_string(),
        })
    }

    /// Asks the guest to let go of a device.
    ///
    /// # Errors
    /// If there is no such device, or it cannot go.
    pub(crate) fn request_removal(&mut self, id: &str) -> Result<()> {
        let slot = self.slot(id);
        let slot = slot.ok_or_else(|| Error::NoDevice(id.to_owned()))?;
        let address = slot.address().filter(|_| slot.hot_plug);
        let address = address.ok_or_else(|| Error::Unremovable(id.to_owned()))?;
        self.pci.hot_plug().lock().request_removal(address);
        self.tell_of_slots()
    }

    /// Takes out what the guest is done with.
    pub(crate) fn eject(&mut self) -> Vec<PciDevice> {
        let ejected = self.pci.hot_plug().lock().take_ejected();
        let mut gone = Vec::new();
        for address in ejected {
            // The guest can name any slot.
            let mut slots = self.devices.iter();
            let Some(index) = slots.position(|slot| slot.address() == Some(address)) else {
                continue;
            };
            let id = self.devices[index].id.clone();
            if !self.devices[index].hot_plug {
                telemetry::warn!("{id}: the guest ejects it, but it cannot go");
                continue;
            }
            match self.unplug(index) {
                Ok(()) => gone.push(PciDevice {
                    id,
                    bdf: address.to_string(),
                }),
                Err(error) => telemetry::error!(
                    "{id}: the guest ejects it, but it stays: {}",
                    telemetry::chain(&error).join(": ")
                ),
            }
        }
        gone
    }

    /// Takes a device apart, on this thread: a processor in the middle of an access to it would hold a part of it and
    /// have to do what its own filter of system calls forbids.
    fn unplug(&mut self, index: usize) -> Result<()> {
        let running = !self.is_paused();
        if running {
            self.processors.pause()?;
        }
        let mut slot = self.devices.remove(index);
        slot.stop();
        drop(slot);
        if running {
            self.processors.resume();
        }
        Ok(())
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.clock.is_some()
    }

    fn tell_of_slots(&mut self) -> Result<()> {
        self.update(EVENTS, json!({"pci": true}))
    }
}

impl Slot {
    fn address(&self) -> Option<PciAddress> {
        self.device.on_pci()?.address.parse().ok()
    }
}
