//! A port whose bytes go to a console of the host (the Bochs debug port).
//!
//! The simplest way for a guest to say something: write a byte to the port. Reading it gives 0xe9, by which a
//! guest finds out that it is there.
#![forbid(unsafe_code)]

use std::any::Any;
use std::io::Write;
use std::path::PathBuf;

use arch::layout;
use device::{
    Device, Error, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Region, Result,
    Runner, Saved, Shared, Syscalls, Target,
};
use sandbox::landlock::Access;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stream::{ConsoleMode, Discard, Endpoint, InputWorker, Output, Stream};

/// Name of the thread that takes readers of a pseudo terminal in and out.
const READERS_THREAD: &str = "__debug_console";
const SIGNATURE: u8 = 0xe9;

/// The debug console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DebugConsoleConfig {
    /// File that gets the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub file: Option<PathBuf>,
    /// Where the port is connected to.
    #[schemars(extend("x-flag-syntax" = "modes"))]
    pub mode: ConsoleMode,
    /// The I/O port.
    #[serde(default = "default_port")]
    #[schemars(extend("x-flag-syntax" = "hex"))]
    pub iobase: Option<u16>,
    /// Unix socket for one client at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub socket: Option<PathBuf>,
}

#[expect(clippy::unnecessary_wraps, reason = "the field is optional in the API")]
fn default_port() -> Option<u16> {
    Some(layout::PORT_DEBUG_CONSOLE)
}

impl DebugConsoleConfig {
    fn endpoint(&self) -> std::result::Result<Endpoint, Problem> {
        self.mode
            .endpoint(self.file.as_deref(), self.socket.as_deref())
            .map_err(|text| Problem::new("--debug-console", text))
    }
}

/// The kind.
#[derive(Debug)]
pub struct DebugConsole;

impl Kind for DebugConsole {
    const NAMES: Names = Names {
        kind: "debug-console",
        option: Some(OptionNames {
            flag: "debug-console",
            field: "debug_console",
            form: Form::One,
        }),
        id: "__debug_console",
    };
    const PRESENCE: Presence = Presence::ByDefault;
    const EXAMPLES: &'static [&'static str] = &["tty", "pty", "file=/vm/debug.log,iobase=0x402"];
    const SYSCALLS: Syscalls = Syscalls {
        owner: stream::OPEN_SYSCALLS,
        vcpu: stream::OUTPUT_SYSCALLS,
        worker: stream::SYSCALLS,
    };
    type Config = DebugConsoleConfig;
    type Device = Port;

    fn by_default() -> Option<DebugConsoleConfig> {
        Some(DebugConsoleConfig {
            file: None,
            mode: ConsoleMode::Off,
            iobase: default_port(),
            socket: None,
        })
    }

    fn is_off(config: &DebugConsoleConfig) -> bool {
        config.mode == ConsoleMode::Off
    }

    fn check(config: &DebugConsoleConfig, _facts: &Facts) -> std::result::Result<(), Problem> {
        config.endpoint().map(drop)
    }

    fn paths(config: &DebugConsoleConfig) -> Vec<(PathBuf, Access)> {
        config
            .endpoint()
            .map_or_else(|_| Vec::new(), |endpoint| endpoint.paths())
    }

    fn build(config: DebugConsoleConfig, host: &mut Host<'_>) -> Result<Port> {
        let end = match host.inherit() {
            Some(end) => end,
            None => HostEnd::open(&config)?,
        };
        let registers = Shared::new(Registers {
            output: end.output.clone(),
        });
        let port = config.iobase.unwrap_or(layout::PORT_DEBUG_CONSOLE);
        let taken = |source: Error| Error::Backend {
            what: format!("--debug-console iobase={port:#x}"),
            source: source.into(),
        };
        let readers = end
            .readers
            .map(|worker| host.runner(READERS_THREAD, worker));
        Ok(Port {
            _port: host.ports(port, 1, &registers).map_err(taken)?,
            output: end.output,
            pty: end.pty,
            readers: readers.transpose()?,
        })
    }
}

/// What the port is connected to: a reset of the guest leaves it as it is.
struct HostEnd {
    output: Output,
    readers: Option<InputWorker<Discard>>,
    pty: Option<PathBuf>,
}

impl HostEnd {
    fn open(config: &DebugConsoleConfig) -> Result<Self> {
        let failed = |source: stream::Error| Error::Backend {
            what: "--debug-console".into(),
            source: source.into(),
        };
        let stream = Stream::open(&config.endpoint()?).map_err(failed)?;
        let pty = stream.path().map(ToOwned::to_owned);
        if let Some(path) = &pty {
            telemetry::info!("the debug console is at {}", path.display());
        }
        let (output, readers) = stream.output_only().map_err(failed)?;
        Ok(Self {
            output,
            readers,
            pty,
        })
    }
}

/// The port of one machine. It has no state.
#[derive(Debug)]
pub struct Port {
    _port: Region,
    output: Output,
    pty: Option<PathBuf>,
    readers: Option<Runner<InputWorker<Discard>>>,
}

impl Device for Port {
    fn start(&mut self) -> Result<()> {
        self.readers.as_mut().map_or(Ok(()), Runner::start)
    }

    fn stop(&mut self) -> Result<()> {
        self.readers.as_mut().map_or(Ok(()), Runner::stop)
    }

    fn leave(self: Box<Self>) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(HostEnd {
            output: self.output,
            readers: self.readers.and_then(Runner::into_worker),
            pty: self.pty,
        }))
    }

    fn save(&self) -> Result<Saved> {
        Saved::new(DebugConsole::NAMES.kind, 1, &())
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        saved.read(DebugConsole::NAMES.kind, 1)
    }

    fn decided(&self) -> Option<Value> {
        let path = self.pty.as_ref()?;
        Some(serde_json::json!({ "file": path }))
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

    fn read(text: &str) -> DebugConsoleConfig {
        keyvalue::from_str(text).unwrap()
    }

    #[test]
    fn port_and_mode() {
        let config = read("file=/tmp/x,iobase=0x402");
        assert_eq!(config.iobase, Some(0x402));
        assert_eq!(config.endpoint(), Ok(Endpoint::File("/tmp/x".into())));
        assert_eq!(read("tty").iobase, Some(0xe9));
        for text in ["iobase=0xe9", "tty,iobase=233", "tty,iobase=0x10000", ""] {
            assert!(
                keyvalue::from_str::<DebugConsoleConfig>(text).is_err(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn off_by_default() {
        let config = DebugConsole::by_default().unwrap();
        assert!(DebugConsole::is_off(&config));
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(json, r#"{"mode":"Off","iobase":233}"#);
        let json: DebugConsoleConfig = serde_json::from_str(r#"{"mode":"Tty"}"#).unwrap();
        assert_eq!(json.iobase, Some(233));
    }

    #[test]
    fn every_byte_goes_out_and_the_signature_comes_back() {
        let mut registers = Registers { output: Vec::new() };
        for byte in b"hello" {
            registers.write(0, &[*byte]);
        }
        assert_eq!(registers.output, b"hello");
        let mut data = [0];
        registers.read(0, &mut data);
        assert_eq!(data, [0xe9]);
    }
}
