//! Takes down all of a machine that stands still.

use std::path::Path;

use arch::CpuidEntry;
use config::{Problem, VmConfig};
use hypervisor::ClockState;
use memory::RangeInFile;
use snapshot::{Destination, Increment, MOST_LAYERS, Source};

use crate::build::Machine;
use crate::inspect;
use crate::state::{DeviceState, MachineState, MemoryState};
use crate::{Error, Result};

impl Machine {
    /// Writes a snapshot to a folder.
    ///
    /// # Errors
    /// Whatever keeps it from being whole; nothing stays in the folder then, and the machine is as it was.
    pub(crate) fn save_to(
        &self,
        folder: &Path,
        base: Option<&Path>,
        config: &VmConfig,
        number: u64,
        features: &[CpuidEntry],
    ) -> Result<()> {
        let increment = base.map(|base| self.increment(base)).transpose()?;
        let destination = Destination::create(folder)?;
        self.wait_for_memory()?;
        let state = self.save(number, features)?;
        let written = match &increment {
            Some(increment) => {
                let changed = &increment.changed;
                self.ram.write_layer(destination.memory(), changed)?
            }
            None => self.ram.write_contents(destination.memory())?,
        };
        // As vm.info shows it: with the addresses and names that were decided.
        let config = inspect::info(config, Some(self), "Paused").config;
        destination.commit_above(&config, &state, &written.sums, increment.as_ref())?;
        let (data, size) = (written.data >> 10, written.size >> 10);
        telemetry::info!("{data} KiB of {size} KiB of memory were written to the snapshot");
        Ok(())
    }

    /// What was changed since the machine was restored from a snapshot.
    fn increment(&self, base: &Path) -> Result<Increment> {
        let problem = |text: String| Error::from(Problem::new("base_url", text));
        let Some(origin) = self.origin else {
            return Err(problem(
                "an increment has what was changed since a VM was restored, and the memory of this one lies over no \
                 snapshot: restore it with memory_restore_mode=mapped, or save it without base_url"
                    .into(),
            ));
        };
        let source = Source::open(base)?;
        if source.mark() != origin {
            return Err(problem(format!(
                "{} is not the snapshot that this VM was restored from: give that one, or save the VM without base_url",
                base.display()
            )));
        }
        if source.below().len() >= MOST_LAYERS {
            return Err(problem(format!(
                "{MOST_LAYERS} snapshots below it are the most: save the VM without base_url"
            )));
        }
        Ok(Increment {
            base: base.to_owned(),
            state: origin,
            changed: self.ram.changed()?,
        })
    }

    /// Its state. Only while it is paused.
    ///
    /// # Errors
    /// If a processor or a device cannot be saved.
    pub(crate) fn save(&self, number: u64, features: &[CpuidEntry]) -> Result<MachineState> {
        if self.power.was_requested() {
            return Err(Error::Postponed);
        }
        let vcpus = self.processors.save()?;
        let devices = self.devices.iter().map(|slot| {
            let saved = slot.device.save().map_err(|source| Error::DeviceState {
                act: "save",
                id: slot.id.clone(),
                source,
            })?;
            Ok(DeviceState {
                id: slot.id.clone(),
                pci: slot.device.on_pci().map(|place| place.address),
                saved,
            })
        });
        Ok(MachineState {
            number,
            clock: self.clock_now()?,
            features: features.to_vec(),
            vcpus,
            devices: devices.collect::<Result<_>>()?,
            memory: self.ram.ranges().into_iter().map(memory_state).collect(),
        })
    }

    /// The clock that goes with the time stamp counters, which run on during a pause.
    fn clock_now(&self) -> Result<ClockState> {
        let now = self.vm.clock()?;
        match (now.realtime, self.clock) {
            // This kernel cannot make up for the pause: the clock goes on from where it stopped.
            (None, Some(stopped)) => Ok(stopped),
            _ => Ok(now),
        }
    }
}

pub(crate) fn memory_state(range: RangeInFile) -> MemoryState {
    MemoryState {
        start: range.start,
        size: range.size,
        offset: range.offset,
    }
}
