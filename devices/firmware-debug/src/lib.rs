//! Port 0x402: what firmware prints goes to standard output.
//!
//! Builds of EDK2 with debug output look for the port first: a read answers 0xe9, the signature of the Bochs
//! debug port, if it is there.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use arch::layout;
use device::{
    Device, Host, Kind, Names, NoConfig, Presence, Region, Result, Saved, Shared, Target,
};

const SIGNATURE: u8 = 0xe9;

/// The kind.
#[derive(Debug)]
pub struct FirmwareDebug;

impl Kind for FirmwareDebug {
    const NAMES: Names = Names {
        kind: "firmware-debug",
        option: None,
        id: "__firmware_debug",
    };
    const PRESENCE: Presence = Presence::Always;
    type Config = NoConfig;
    type Device = Port;

    fn build(_config: NoConfig, host: &mut Host<'_>) -> Result<Port> {
        let registers = Shared::new(Registers {
            output: io::stdout(),
        });
        Ok(Port {
            _port: host.ports(layout::PORT_FIRMWARE_DEBUG, 1, &registers)?,
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
        Saved::new(FirmwareDebug::NAMES.kind, 1, &())
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        saved.read(FirmwareDebug::NAMES.kind, 1)
    }
}

struct Registers<W> {
    output: W,
}

impl<W: Write + Send> Target for Registers<W> {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        if let [value] = data {
            *value = SIGNATURE;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        // Debug output that nobody takes is no reason to disturb the guest.
        let _ = self
            .output
            .write_all(data)
            .and_then(|()| self.output.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_is_written_and_answers_with_the_signature() {
        let mut registers = Registers { output: Vec::new() };
        for byte in b"PEI" {
            registers.write(0, &[*byte]);
        }
        assert_eq!(registers.output, b"PEI");
        let mut data = [0];
        registers.read(0, &mut data);
        assert_eq!(data, [0xe9]);
    }
}
