//! Port 0x80: the guest's progress codes, in the log with the time.
//!
//! Firmware has always written its progress here for a card with two digits. A guest that writes codes at the
//! steps of its own start tells how long each took. Ranges of codes are by convention.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use arch::layout;
use device::{
    Device, Host, Kind, Names, NoConfig, Presence, Region, Result, Saved, Shared, Target,
};

/// The kind.
#[derive(Debug)]
pub struct DebugPort;

impl Kind for DebugPort {
    const NAMES: Names = Names {
        kind: "debug-port",
        option: None,
        id: "__debug_port",
    };
    const PRESENCE: Presence = Presence::Always;
    type Config = NoConfig;
    type Device = Port;

    fn build(_config: NoConfig, host: &mut Host<'_>) -> Result<Port> {
        let registers = Shared::new(Registers {
            since: Instant::now(),
        });
        Ok(Port {
            _port: host.ports(layout::PORT_DEBUG, 1, &registers)?,
        })
    }
}

/// The port of one machine. It has no state.
#[derive(Debug)]
pub struct Port {
    _port: Region,
}

impl Device for Port {
    fn save(&self) -> Result<Saved> {
        Saved::new(DebugPort::NAMES.kind, 1, &())
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        saved.read(DebugPort::NAMES.kind, 1)
    }
}

#[derive(Debug)]
struct Registers {
    since: Instant,
}

impl Target for Registers {
    /// Nothing to read: ones, as from an empty bus.
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let [code] = data {
            telemetry::warn!("{}", line(*code, self.since.elapsed()));
        }
    }
}

fn line(code: u8, since: Duration) -> String {
    format!(
        "[Debug I/O port: {} code 0x{code:x}] {}.{:06} seconds",
        range(code),
        since.as_secs(),
        since.subsec_micros()
    )
}

fn range(code: u8) -> &'static str {
    match code {
        0x00..=0x1f => "Firmware",
        0x20..=0x3f => "Bootloader",
        0x40..=0x5f => "Kernel",
        0x60..=0x7f => "Userspace",
        0x80..=0xff => "Custom",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_range_the_code_and_the_time() {
        let time = Duration::from_micros(3_000_042);
        assert_eq!(
            line(0x41, time),
            "[Debug I/O port: Kernel code 0x41] 3.000042 seconds"
        );
        for (code, text) in [
            (0x00, "Firmware"),
            (0x1f, "Firmware"),
            (0x20, "Bootloader"),
            (0x40, "Kernel"),
            (0x60, "Userspace"),
            (0x7f, "Userspace"),
            (0x80, "Custom"),
            (0xff, "Custom"),
        ] {
            assert_eq!(range(code), text, "{code:#x}");
        }
    }
}
