//! I/O APIC in user space, in front of the hypervisor's local APICs (Intel 82093AA data sheet; Intel I/O
//! Controller Hub data sheets for the memory-mapped form).
//!
//! Each of the 24 pins has a redirection entry that says which message its interrupt becomes. The device
//! turns entries into routes of the hypervisor; after that an interrupt goes from a device's line to the
//! local APIC without passing here. What does pass here is the guest's end of a level-triggered interrupt.
#![forbid(unsafe_code)]

mod entry;

use std::sync::Arc;

use arch::layout;
use device::{
    Device, Eoi, EoiGuard, Error, Host, Kind, Names, NoConfig, Presence, Region, Result, Saved,
    Shared, Target,
};
use entry::Entry;
use hypervisor::{IOAPIC_PINS, MsiMessage, Vm};
use serde::{Deserialize, Serialize};

const ADDRESS: u64 = layout::IOAPIC_START;
const SIZE: u64 = layout::IOAPIC_SIZE;
const PINS: usize = IOAPIC_PINS as usize;

/// Register selector.
const SELECT: u64 = 0x00;
/// Window onto the selected register.
const WINDOW: u64 = 0x10;

/// Selector of the identification register.
const REG_ID: u8 = 0x00;
/// Selector of the version register.
const REG_VERSION: u8 = 0x01;
/// Selector of the arbitration register, which mirrors the identification.
const REG_ARBITRATION: u8 = 0x02;
/// Selector of the first half of the first redirection entry.
const REG_ENTRIES: u8 = 0x10;
/// Bits of the identification register that can be written.
const ID_MASK: u32 = 0x0f00_0000;

/// The kind.
#[derive(Debug)]
pub struct IoApic;

impl Kind for IoApic {
    const NAMES: Names = Names {
        kind: "ioapic",
        option: None,
        id: "__ioapic",
    };
    const PRESENCE: Presence = Presence::Always;
    type Config = NoConfig;
    type Device = Controller;

    fn build(_config: NoConfig, host: &mut Host<'_>) -> Result<Controller> {
        let registers = Shared::new(Registers::new(Routes::Vm(Arc::clone(host.vm()))));
        Ok(Controller {
            _region: host.mmio(ADDRESS, SIZE, &registers)?,
            _eoi: host.hear_eoi(&registers),
            registers,
        })
    }
}

/// The controller of one machine.
#[derive(Debug)]
pub struct Controller {
    _region: Region,
    _eoi: EoiGuard,
    registers: Shared<Registers>,
}

/// State at rest, version 1.
#[derive(Serialize, Deserialize)]
struct State {
    selected: u8,
    id: u32,
    entries: Vec<u64>,
}

impl Device for Controller {
    fn save(&self) -> Result<Saved> {
        let registers = self.registers.lock();
        let state = State {
            selected: registers.selected,
            id: registers.id,
            entries: registers.entries.iter().map(|entry| entry.bits()).collect(),
        };
        Saved::new(IoApic::NAMES.kind, 1, &state)
    }

    fn restore(&mut self, saved: Saved) -> std::result::Result<(), Error> {
        let state: State = saved.read(IoApic::NAMES.kind, 1)?;
        let entries: [u64; PINS] = state.entries.try_into().map_err(|entries: Vec<u64>| {
            let why = format!("{} redirection entries instead of {PINS}", entries.len());
            Error::BadState {
                kind: IoApic::NAMES.kind,
                why,
            }
        })?;
        let mut registers = self.registers.lock();
        registers.selected = state.selected;
        registers.id = state.id & ID_MASK;
        for (pin, bits) in entries.into_iter().enumerate() {
            registers.change(pin, Entry::from_bits(bits));
        }
        Ok(())
    }
}

/// Where routes are set.
enum Routes {
    Vm(Arc<dyn Vm>),
    #[cfg(test)]
    Log(Vec<(u32, Option<MsiMessage>)>),
}

impl Routes {
    fn set(&mut self, gsi: u32, message: Option<MsiMessage>) {
        let result = match self {
            Self::Vm(vm) => vm.route_pin(gsi, message),
            #[cfg(test)]
            Self::Log(log) => {
                log.push((gsi, message));
                Ok(())
            }
        };
        if let Err(error) = result {
            telemetry::error!(
                "interrupt line {gsi} cannot be routed: {}",
                telemetry::chain(&error).join(": ")
            );
        }
    }
}

struct Registers {
    selected: u8,
    id: u32,
    entries: [Entry; PINS],
    routes: Routes,
}

impl Registers {
    fn new(routes: Routes) -> Self {
        Self {
            selected: 0,
            id: 0,
            entries: [Entry::default(); PINS],
            routes,
        }
    }

    /// The pin that the selector names, and whether the upper half of its entry.
    fn selected_entry(&self) -> Option<(usize, bool)> {
        let half = usize::from(self.selected.checked_sub(REG_ENTRIES)?);
        (half / 2 < PINS).then_some((half / 2, half % 2 == 1))
    }

    fn value(&self) -> u32 {
        match (self.selected, self.selected_entry()) {
            (REG_ID | REG_ARBITRATION, _) => self.id,
            (REG_VERSION, _) => layout::IOAPIC_VERSION,
            (_, Some((pin, upper))) => self.entries[pin].half(upper),
            // Registers that do not exist read as ones.
            _ => u32::MAX,
        }
    }

    fn set(&mut self, value: u32) {
        match (self.selected, self.selected_entry()) {
            (REG_ID, _) => self.id = value & ID_MASK,
            (_, Some((pin, upper))) => self.change(pin, self.entries[pin].with_half(upper, value)),
            _ => {}
        }
    }

    /// Routes are changed only if the message changes: the kernel waits for all processors each time.
    fn change(&mut self, pin: usize, entry: Entry) {
        let before = self.entries[pin].message();
        self.entries[pin] = entry;
        let after = entry.message();
        if after != before {
            let gsi = u32::try_from(pin).unwrap_or(u32::MAX);
            self.routes.set(gsi, after);
        }
    }
}

impl Target for Registers {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            SELECT => u32::from(self.selected),
            WINDOW => self.value(),
            _ => return,
        };
        // Registers are 32 bits wide; narrower reads get the low bytes.
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECT, [selected, ..]) => self.selected = *selected,
            (WINDOW, &[a, b, c, d]) => self.set(u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
    }
}

impl Eoi for Registers {
    fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.entries {
            entry.end_of_interrupt(vector);
        }
    }
}

#[cfg(test)]
mod tests;
