//! CMOS RAM with the real-time clock of the PC (Motorola MC146818A).
//!
//! Two ports: an index and the byte at that index. The clock tells the host's time in UTC, in BCD and 24-hour
//! form; firmware finds the sizes of memory here; and writing zero to the shutdown status with interrupts off
//! (index 0x8f) asks for a reset.
#![forbid(unsafe_code)]

mod clock;

use std::time::SystemTime;

use arch::layout;
use device::{
    Device, Facts, Host, Kind, Names, NoConfig, Power, PowerEvent, Presence, Region, Result, Saved,
    Shared, Target,
};
use firmware::{AcpiId, Node, Resource};
use serde::{Deserialize, Serialize};

const INDEX: u64 = 0;
const DATA: u64 = 1;

/// The index keeps seven bits; the eighth disables the processor's NMI on real boards.
const INDEX_MASK: u8 = 0x7f;
/// Shutdown status, with NMI disabled.
const SHUTDOWN_STATUS: u8 = 0x8f;

/// The kind.
#[derive(Debug)]
pub struct Cmos;

impl Kind for Cmos {
    const NAMES: Names = Names {
        kind: "cmos",
        option: None,
        id: "__cmos",
    };
    const PRESENCE: Presence = Presence::Always;
    type Config = NoConfig;
    type Device = Chip;

    fn build(_config: NoConfig, host: &mut Host<'_>) -> Result<Chip> {
        let registers = Shared::new(Registers::new(host.facts(), host.power()));
        Ok(Chip {
            _ports: host.ports(layout::PORT_CMOS, layout::PORT_CMOS_COUNT, &registers)?,
            registers,
        })
    }
}

/// The chip of one machine.
#[derive(Debug)]
pub struct Chip {
    _ports: Region,
    registers: Shared<Registers>,
}

/// State at rest, version 1.
#[derive(Serialize, Deserialize)]
struct State {
    index: u8,
    ram: Vec<u8>,
}

impl Device for Chip {
    fn save(&self) -> Result<Saved> {
        let registers = self.registers.lock();
        let state = State {
            index: registers.index,
            ram: registers.ram.to_vec(),
        };
        Saved::new(Cmos::NAMES.kind, 1, &state)
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let state: State = saved.read(Cmos::NAMES.kind, 1)?;
        let ram = state
            .ram
            .try_into()
            .map_err(|ram: Vec<u8>| device::Error::BadState {
                kind: Cmos::NAMES.kind,
                why: format!("{} bytes of RAM instead of 128", ram.len()),
            })?;
        let mut registers = self.registers.lock();
        registers.index = state.index;
        registers.ram = ram;
        Ok(())
    }

    fn nodes(&self) -> Vec<Node> {
        vec![node()]
    }
}

/// The clock without an interrupt line: it has no alarm. A guest that were not told so would assume line 8,
/// as on boards with 8259 controllers, and not use the clock at all when it cannot have that.
fn node() -> Node {
    let mut node = Node::new("RTC", AcpiId::Eisa("PNP0B00"));
    node.resources = vec![Resource::Ports {
        base: layout::PORT_CMOS,
        len: layout::PORT_CMOS_COUNT,
    }];
    node
}

#[derive(Debug)]
struct Registers {
    index: u8,
    ram: [u8; 128],
    power: Power,
}

impl Registers {
    fn new(facts: &Facts, power: Power) -> Self {
        let mut ram = [0; 128];
        // Memory from 16 MiB to 4 GiB, and from 4 GiB on, in units of 64 KiB, low byte first.
        let units = |bytes: u64| bytes.div_ceil(64 << 10).to_le_bytes();
        let low = units(facts.ram_below_4g.saturating_sub(16 << 20));
        let high = units(facts.ram_above_4g);
        ram[0x34..0x36].copy_from_slice(&low[..2]);
        ram[0x5b..0x5e].copy_from_slice(&high[..3]);
        Self {
            index: 0,
            ram,
            power,
        }
    }

    fn value(&self, now: SystemTime) -> u8 {
        let index = self.index & INDEX_MASK;
        clock::register(index, now).unwrap_or(self.ram[usize::from(index)])
    }
}

impl Target for Registers {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (DATA, [value]) = (offset, data) {
            *value = self.value(SystemTime::now());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (INDEX, [index]) => self.index = *index,
            (DATA, [0]) if self.index == SHUTDOWN_STATUS => {
                self.power.request(PowerEvent::Reset);
            }
            (DATA, [value]) => self.ram[usize::from(self.index & INDEX_MASK)] = *value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
