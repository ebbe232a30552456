//! What is done to a machine that is built.

use device::{Histogram, PciPlace};
use serde_json::{Value, json};

use crate::build::{Machine, Slot};
use crate::paging::Paging;
use crate::{Counters, Error, ResizeDisk, Result, inspect};

/// Id of the device that tells the guest of what happens outside of it, and has its power button.
pub(crate) const EVENTS: &str = "__acpi";

impl Machine {
    /// Lets a device do what it asked for: see [`device::Device::attend`].
    pub(crate) fn attend(&mut self, id: &str) {
        if let Some(slot) = self.slot(id) {
            slot.device.attend();
        }
    }

    /// Stops everything where it is: first the processors, so that nothing is asked of the devices any more, then
    /// these. The guest's clock stands still.
    ///
    /// # Errors
    /// If it cannot be; it goes on then.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.processors.pause()?;
        match self.vm.clock() {
            Ok(clock) => self.clock = Some(clock),
            Err(error) => {
                self.processors.resume();
                return Err(error.into());
            }
        }
        for slot in &mut self.devices {
            slot.stop();
        }
        Ok(())
    }

    /// Lets it go on: first the devices, then the processors.
    ///
    /// # Errors
    /// If a device cannot start; the machine stays paused.
    pub(crate) fn resume(&mut self) -> Result<()> {
        if let Some(paging) = &self.paging {
            paging.guest_runs()?;
        }
        if let Some(clock) = &self.clock {
            self.vm.set_clock(clock)?;
        }
        for index in 0..self.devices.len() {
            if let Err(error) = self.devices[index].start() {
                for slot in &mut self.devices[..index] {
                    slot.stop();
                }
                return Err(error);
            }
        }
        self.clock = None;
        self.memory_used = true;
        self.processors.resume();
        Ok(())
    }

    /// Returns when all memory is there that was to come from a snapshot.
    ///
    /// # Errors
    /// If it cannot be had.
    pub(crate) fn wait_for_memory(&self) -> Result<()> {
        self.paging.as_ref().map_or(Ok(()), Paging::wait)
    }

    /// Injects a non-maskable interrupt into each processor.
    pub(crate) fn nmi(&mut self) -> Result<()> {
        self.processors.nmi()
    }

    /// Presses the guest's power button.
    pub(crate) fn press_power_button(&mut self) -> Result<()> {
        self.update(EVENTS, json!({"power_button": true}))
    }

    /// Changes the size of a disk.
    pub(crate) fn resize_disk(&mut self, wish: &ResizeDisk) -> Result<()> {
        self.update(&wish.id, json!({"size": wish.desired_size}))
    }

    /// Changes a device while it is there: see [`device::Device::update`].
    pub(crate) fn update(&mut self, id: &str, change: Value) -> Result<()> {
        let slot = self
            .slot(id)
            .ok_or_else(|| Error::NoDevice(id.to_owned()))?;
        slot.device.update(change).map_err(|source| Error::Change {
            id: id.to_owned(),
            source,
        })
    }

    /// What its devices have counted.
    pub(crate) fn counters(&self) -> Counters {
        let devices = self.devices.iter();
        inspect::counters(devices.map(|slot| (slot.id.as_str(), slot.device.counters())))
    }

    /// How long requests of its devices took. Devices that do not say are not there.
    pub(crate) fn histograms(&self) -> Vec<(String, Vec<Histogram>)> {
        let devices = self.devices.iter();
        let all = devices.map(|slot| (slot.id.clone(), slot.device.histograms()));
        all.filter(|(_, histograms)| !histograms.is_empty())
            .collect()
    }

    /// Members of its devices' configurations that were decided when they were built, by the devices' ids.
    pub(crate) fn decided(&self) -> Vec<(String, Value)> {
        let devices = self.devices.iter();
        devices
            .filter_map(|slot| Some((slot.id.clone(), slot.device.decided()?)))
            .collect()
    }

    /// Its devices in the order of their creation, and where they are on PCI.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, Option<PciPlace>)> {
        let devices = self.devices.iter();
        devices.map(|slot| (slot.id.as_str(), slot.device.on_pci()))
    }

    /// Bytes of its memory that the guest does not use at the moment.
    pub(crate) fn withheld(&self) -> u64 {
        let devices = self.devices.iter();
        devices.fold(0u64, |sum, slot| sum.saturating_add(slot.device.withheld()))
    }

    pub(crate) fn slot(&mut self, id: &str) -> Option<&mut Slot> {
        self.devices.iter_mut().find(|slot| slot.id == id)
    }
}

impl Slot {
    /// Stops the device. One whose worker has failed is stopped as well; what is left is to say so.
    pub(crate) fn stop(&mut self) {
        if let Err(error) = self.device.stop() {
            telemetry::error!("{}: {}", self.id, telemetry::chain(&error).join(": "));
        }
    }
}
