//! What is left of the keyboard controller: the reset line.
//!
//! A PC's processor is reset through the keyboard controller (Intel 8042, command 0xfe to port 0x64), and
//! kernels still do it (`reboot=k`). There is no keyboard; reading the status port says that its buffers are
//! empty, so that nobody waits for one. Port 0x61, next to it, belongs to the old timer chip: bit 5 reads as
//! one, because code that calibrates against that timer waits for it.
#![forbid(unsafe_code)]

use arch::layout;
use device::{
    Device, Error, Host, Kind, Names, NoConfig, Power, PowerEvent, Presence, Region, Result, Saved,
    Shared, Target,
};

/// Offset of port 0x61, the timer's control port.
const TIMER_CONTROL: u64 = 0;
/// Output of timer channel 2.
const TIMER_2_OUTPUT: u8 = 1 << 5;
/// Offset of port 0x64: status when read, command when written.
const COMMAND: u64 = 3;
/// Pulse the processor's reset line.
const COMMAND_RESET: u8 = 0xfe;

/// The kind.
#[derive(Debug)]
pub struct I8042;

impl Kind for I8042 {
    const NAMES: Names = Names {
        kind: "i8042",
        option: None,
        id: "__i8042",
    };
    const PRESENCE: Presence = Presence::Always;
    type Config = NoConfig;
    type Device = Controller;

    fn build(_config: NoConfig, host: &mut Host<'_>) -> Result<Controller> {
        let registers = Shared::new(Registers {
            power: host.power(),
        });
        Ok(Controller {
            _ports: host.ports(layout::PORT_I8042, layout::PORT_I8042_COUNT, &registers)?,
        })
    }
}

/// The controller of one machine. It has no state.
#[derive(Debug)]
pub struct Controller {
    _ports: Region,
}

impl Device for Controller {
    fn save(&self) -> Result<Saved> {
        Saved::new(I8042::NAMES.kind, 1, &())
    }

    fn restore(&mut self, saved: Saved) -> std::result::Result<(), Error> {
        saved.read(I8042::NAMES.kind, 1)
    }
}

#[derive(Debug)]
struct Registers {
    power: Power,
}

impl Target for Registers {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (TIMER_CONTROL, [value]) = (offset, data) {
            *value = TIMER_2_OUTPUT;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if (offset, data) == (COMMAND, &[COMMAND_RESET]) {
            self.power.request(PowerEvent::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn registers() -> (Registers, Arc<Mutex<Vec<PowerEvent>>>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&events);
        (
            Registers {
                power: Power::new(move |event| log.lock().unwrap().push(event)),
            },
            events,
        )
    }

    #[test]
    fn only_the_reset_command_resets() {
        let (mut registers, events) = registers();
        registers.write(3, &[0xff]);
        registers.write(2, &[0xfe]);
        registers.write(3, &[0xfe, 0xfe]);
        assert!(events.lock().unwrap().is_empty());
        registers.write(3, &[0xfe]);
        assert_eq!(*events.lock().unwrap(), [PowerEvent::Reset]);
    }

    #[test]
    fn says_that_its_buffers_are_empty() {
        let (mut registers, _) = registers();
        let mut read = |offset| {
            let mut data = [0xff];
            registers.read(offset, &mut data);
            data[0]
        };
        assert_eq!([read(0), read(1), read(2), read(3)], [0x20, 0, 0, 0]);
    }
}
