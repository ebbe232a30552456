//! Sleep, reset, power management timer, power button, PCI hot-plug and generation id of hardware-reduced ACPI.
//!
//! One register puts the machine to sleep or resets it, one counts time. Where they are, the guest reads in
//! the FADT; the places here and there are the same constants of `arch`. What comes from outside, such as a press
//! of the power button, the guest hears of through an event device, which is in the DSDT. So is the controller of
//! PCI's slots ([`pci::HotPlug`]), whose registers are here. A machine that is a copy of another one, restored or
//! forked, tells its guest so by a new id in memory.
#![forbid(unsafe_code)]

mod events;
mod generation;
mod slots;

use std::any::Any;
use std::time::{Duration, Instant};

use arch::layout;
use device::{
    Device, Error, Host, Kind, Names, NoConfig, Power, PowerEvent, Presence, Region, Result, Saved,
    Shared, Target,
};
use events::{Events, GENERATION, PCI, POWER_BUTTON};
use firmware::Node;
use generation::{Generation, Id};
use pci::HotPlugState;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use slots::Slots;

/// Sleep control (ACPI 6.5, 4.8.3.7) and, in the same byte, the reset register (4.8.3.6).
const SLEEP_PORT: u16 = layout::PORT_ACPI_SLEEP;

/// The kind.
#[derive(Debug)]
pub struct Acpi;

impl Kind for Acpi {
    const NAMES: Names = Names {
        kind: "acpi",
        option: None,
        id: "__acpi",
    };
    const PRESENCE: Presence = Presence::Always;
    type Config = NoConfig;
    type Device = Registers;

    fn build(_config: NoConfig, host: &mut Host<'_>) -> Result<Registers> {
        let sleep = Shared::new(Sleep {
            power: host.power(),
        });
        let timer = Shared::new(Timer::default());
        let pm1a = host.facts().nested_hyperv.then(|| {
            let first = layout::PORT_PM1A_EVENT;
            host.ports(
                first,
                layout::PORT_PM1A_CONTROL + 2 - first,
                &Shared::new(Pm1a),
            )
        });
        Ok(Registers {
            _pm1a: pm1a.transpose()?,
            _sleep: host.ports(SLEEP_PORT, 2, &sleep)?,
            _timer: host.ports(layout::PORT_PM_TIMER, layout::PORT_PM_TIMER_COUNT, &timer)?,
            timer,
            events: Events::new(host)?,
            slots: Slots::new(host)?,
            generation: Generation::new(host)?,
        })
    }
}

/// The registers of one machine.
#[derive(Debug)]
pub struct Registers {
    _pm1a: Option<Region>,
    _sleep: Region,
    _timer: Region,
    timer: Shared<Timer>,
    events: Events,
    /// Where there is PCI.
    slots: Option<Slots>,
    generation: Generation,
}

/// What can be done to it while it is there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    /// Press the power button.
    #[serde(default)]
    power_button: bool,
    /// Have the guest look at the controller of PCI's slots.
    #[serde(default)]
    pci: bool,
}

/// State at rest, version 1.
#[derive(Serialize, Deserialize)]
struct State {
    /// Nanoseconds that the timer has counted.
    timer_nanos: u64,
    /// Events that the guest has not taken note of.
    #[serde(default)]
    pending: u8,
    /// What is going on in PCI's slots.
    #[serde(default)]
    slots: Option<HotPlugState>,
}

impl Device for Registers {
    fn start(&mut self) -> Result<()> {
        if self.generation.tell()? {
            self.events.set_pending(self.events.pending() | GENERATION);
        }
        self.timer.lock().go();
        if let Some(slots) = &self.slots {
            slots.announce();
        }
        // In case the interrupt for it did not survive what was between; one too many does no harm.
        self.events.announce()
    }

    fn stop(&mut self) -> Result<()> {
        self.timer.lock().halt();
        Ok(())
    }

    fn save(&self) -> Result<Saved> {
        let nanos = self.timer.lock().elapsed().as_nanos();
        let state = State {
            timer_nanos: u64::try_from(nanos).unwrap_or(u64::MAX),
            pending: self.events.pending(),
            slots: self.slots.as_ref().map(Slots::save),
        };
        Saved::new(Acpi::NAMES.kind, 1, &state)
    }

    fn restore(&mut self, saved: Saved) -> std::result::Result<(), Error> {
        let state: State = saved.read(Acpi::NAMES.kind, 1)?;
        if let (Some(slots), Some(saved)) = (&self.slots, &state.slots) {
            slots.restore(saved)?;
        }
        let before = Duration::from_nanos(state.timer_nanos);
        *self.timer.lock() = Timer {
            since: None,
            before,
        };
        // The machine that was saved may go on as well, or again: this one is another.
        self.generation.renew()?;
        self.events
            .set_pending(state.pending & (POWER_BUTTON | PCI | GENERATION));
        Ok(())
    }

    fn update(&mut self, change: Value) -> Result<()> {
        let change: Change = serde_json::from_value(change).map_err(|source| Error::Backend {
            what: "the power button can be pressed, slots can be looked at, and nothing else"
                .into(),
            source: source.into(),
        })?;
        if change.power_button {
            self.events.raise(POWER_BUTTON)?;
        }
        if change.pci {
            self.events.raise(PCI)?;
        }
        Ok(())
    }

    fn nodes(&self) -> Vec<Node> {
        let mut nodes = self.events.nodes(self.slots.is_some());
        nodes.extend(self.slots.as_ref().map(Slots::node));
        nodes.push(Generation::node());
        nodes
    }

    /// A reset does not make another machine of it.
    fn leave(self: Box<Self>) -> Option<Box<dyn Any + Send>> {
        let id: Id = self.generation.leave();
        Some(Box::new(id))
    }
}

/// Sleep control at offset 0, sleep status at offset 1.
#[derive(Debug)]
struct Sleep {
    power: Power,
}

impl Target for Sleep {
    /// Never asleep, never woken.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (0, [value]) = (offset, data) else { return };
        match *value {
            layout::ACPI_RESET_VALUE => self.power.request(PowerEvent::Reset),
            layout::ACPI_POWER_OFF_VALUE => self.power.request(PowerEvent::Off),
            _ => {}
        }
    }
}

/// The PM1a event and control blocks (ACPI 6.5, 4.8.3.1 and 4.8.3.2), for a guest that insists on them: no event
/// is ever pending, and what is written has no effect.
#[derive(Debug)]
struct Pm1a;

impl Target for Pm1a {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

/// Counts up, 32 bits wide, while the machine runs.
#[derive(Debug, Default)]
struct Timer {
    /// Since when it counts; `None` while the machine stands still.
    since: Option<Instant>,
    /// What it had counted before.
    before: Duration,
}

impl Timer {
    fn elapsed(&self) -> Duration {
        let now = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.before.saturating_add(now)
    }

    fn go(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn halt(&mut self) {
        self.before = self.elapsed();
        self.since = None;
    }
}

/// The counter after this time; it wraps every 20 minutes.
fn count(elapsed: Duration) -> [u8; 4] {
    let ticks = elapsed.as_nanos() * u128::from(layout::PM_TIMER_HZ) / 1_000_000_000;
    let [low @ .., _, _, _, _, _, _, _, _, _, _, _, _] = ticks.to_le_bytes();
    low
}

impl Target for Timer {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let bytes = count(self.elapsed());
        for (offset, value) in (usize::try_from(offset).unwrap_or(usize::MAX)..).zip(data) {
            *value = bytes.get(offset).copied().unwrap_or(0xff);
        }
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn resets_and_powers_off_on_exactly_their_values() {
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&events);
        let mut sleep = Sleep {
            power: Power::new(move |event| log.lock().unwrap().push(event)),
        };
        for value in 0..=255 {
            sleep.write(0, &[value]);
            sleep.write(1, &[value]);
        }
        // 0x34: type 5 and the enable bit.
        assert_eq!(
            *events.lock().unwrap(),
            [PowerEvent::Reset, PowerEvent::Off]
        );
        events.lock().unwrap().clear();
        sleep.write(0, &[0x34, 0]);
        assert!(events.lock().unwrap().is_empty());
        sleep.write(0, &[0x34]);
        assert_eq!(*events.lock().unwrap(), [PowerEvent::Off]);
    }

    #[test]
    fn counts_at_the_frequency_of_the_specification_and_wraps() {
        let after = |elapsed| u32::from_le_bytes(count(elapsed));
        assert_eq!(after(Duration::ZERO), 0);
        assert_eq!(after(Duration::from_secs(1)), 3_579_545);
        assert_eq!(after(Duration::from_millis(500)), 1_789_772);
        assert_eq!(
            after(Duration::from_secs(1200)),
            u32::try_from(1200u64 * 3_579_545 % (1 << 32)).unwrap()
        );
    }

    #[test]
    fn it_stands_still_while_the_machine_does() {
        let mut timer = Timer::default();
        assert_eq!(timer.elapsed(), Duration::ZERO);
        timer.go();
        timer.go();
        while timer.elapsed() < Duration::from_micros(50) {}
        timer.halt();
        let seen = timer.elapsed();
        assert!(seen >= Duration::from_micros(50));
        assert_eq!(timer.elapsed(), seen);
        timer.go();
        while timer.elapsed() == seen {}
    }

    #[test]
    fn single_bytes_of_the_timer_are_its_bytes() {
        let mut timer = Timer {
            since: None,
            before: Duration::from_secs(1_000_000_000),
        };
        timer.go();
        let mut whole = [0; 4];
        timer.read(0, &mut whole);
        let mut top = [0];
        timer.read(3, &mut top);
        assert!(top[0].wrapping_sub(whole[3]) <= 1);
    }
}
