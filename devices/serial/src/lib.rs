//! 16550A UART, the first serial port of a PC.
//!
//! The registers are `vm-superio`'s; here they get their ports, their interrupt line and the host's end: what
//! the guest sends goes to an [`stream::Output`] on the processor's own thread, what a user types comes
//! through a worker that reads only while the receive FIFO has room.
#![forbid(unsafe_code)]

mod uart;

use std::any::Any;
use std::path::PathBuf;

use arch::layout;
use device::{
    Device, Error, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Region, Result,
    Runner, Saved, Shared, Syscalls,
};
use firmware::{AcpiId, Node, Resource};
use reactor::Kick;
use sandbox::landlock::Access;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stream::{ConsoleMode, Endpoint, Input, InputWorker, Output, Stream};
use uart::{Feed, State, Uart};

/// Name of the thread that carries what is typed.
const INPUT_THREAD: &str = "serial-manager";

/// The serial port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SerialConfig {
    /// File that gets the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub file: Option<PathBuf>,
    /// Where the port is connected to.
    #[schemars(extend("x-flag-syntax" = "modes"))]
    pub mode: ConsoleMode,
    /// Unix socket for one client at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub socket: Option<PathBuf>,
}

impl SerialConfig {
    fn endpoint(&self) -> std::result::Result<Endpoint, Problem> {
        self.mode
            .endpoint(self.file.as_deref(), self.socket.as_deref())
            .map_err(|text| Problem::new("--serial", text))
    }
}

/// The kind.
#[derive(Debug)]
pub struct Serial;

impl Kind for Serial {
    const NAMES: Names = Names {
        kind: "serial",
        option: Some(OptionNames {
            flag: "serial",
            field: "serial",
            form: Form::One,
        }),
        id: "__serial",
    };
    const PRESENCE: Presence = Presence::ByDefault;
    const EXAMPLES: &'static [&'static str] = &[
        "tty",
        "null",
        "pty",
        "file=/vm/serial.log",
        "socket=/vm/serial.sock",
    ];
    const SYSCALLS: Syscalls = Syscalls {
        owner: stream::OPEN_SYSCALLS,
        vcpu: stream::OUTPUT_SYSCALLS,
        worker: stream::SYSCALLS,
    };
    type Config = SerialConfig;
    type Device = Port;

    fn by_default() -> Option<SerialConfig> {
        Some(SerialConfig {
            file: None,
            mode: ConsoleMode::Null,
            socket: None,
        })
    }

    fn is_off(config: &SerialConfig) -> bool {
        config.mode == ConsoleMode::Off
    }

    fn check(config: &SerialConfig, _facts: &Facts) -> std::result::Result<(), Problem> {
        config.endpoint().map(drop)
    }

    fn paths(config: &SerialConfig) -> Vec<(PathBuf, Access)> {
        config
            .endpoint()
            .map_or_else(|_| Vec::new(), |endpoint| endpoint.paths())
    }

    fn build(config: SerialConfig, host: &mut Host<'_>) -> Result<Port> {
        let end = match host.inherit() {
            Some(end) => end,
            None => HostEnd::open(&config)?,
        };
        let line = host.legacy_irq(layout::GSI_COM1)?;
        let uart = Shared::new(Uart::new(line, end.output.clone(), end.resume.clone()));
        let reader = end.typed.map(|typed| {
            let worker = typed.into_worker(Feed(Some(uart.clone())), &end.resume);
            host.runner(INPUT_THREAD, worker)
        });
        Ok(Port {
            _ports: host.ports(layout::PORT_COM1, layout::PORT_COM1_COUNT, &uart)?,
            uart,
            output: end.output,
            resume: end.resume,
            pty: end.pty,
            reader: reader.transpose()?,
        })
    }
}

/// What the port is connected to: a reset of the guest leaves it as it is.
struct HostEnd {
    output: Output,
    resume: Kick,
    typed: Option<Typed>,
    pty: Option<PathBuf>,
}

/// Where what is typed comes from.
enum Typed {
    /// Nobody read it yet.
    New(Input),
    /// The worker that read it for the port before.
    Known(InputWorker<Feed>),
}

impl HostEnd {
    fn open(config: &SerialConfig) -> Result<Self> {
        let stream = Stream::open(&config.endpoint()?).map_err(|source| Error::Backend {
            what: "--serial".into(),
            source: source.into(),
        })?;
        let pty = stream.path().map(ToOwned::to_owned);
        if let Some(path) = &pty {
            telemetry::info!("the serial port is at {}", path.display());
        }
        let (output, input) = stream.split();
        let resume = Kick::new().map_err(|source| Error::Worker {
            name: INPUT_THREAD.into(),
            source,
        })?;
        let typed = input.map(Typed::New);
        Ok(Self {
            output,
            resume,
            typed,
            pty,
        })
    }
}

impl Typed {
    fn into_worker(self, feed: Feed, resume: &Kick) -> InputWorker<Feed> {
        match self {
            Self::New(input) => InputWorker::new(input, feed, resume.clone()),
            Self::Known(mut worker) => {
                *worker.receiver() = feed;
                worker
            }
        }
    }
}

/// The port of one machine.
#[derive(Debug)]
pub struct Port {
    _ports: Region,
    uart: Shared<Uart>,
    output: Output,
    resume: Kick,
    pty: Option<PathBuf>,
    reader: Option<Runner<InputWorker<Feed>>>,
}

impl Device for Port {
    fn start(&mut self) -> Result<()> {
        self.reader.as_mut().map_or(Ok(()), Runner::start)
    }

    fn stop(&mut self) -> Result<()> {
        self.reader.as_mut().map_or(Ok(()), Runner::stop)
    }

    fn leave(self: Box<Self>) -> Option<Box<dyn Any + Send>> {
        let worker = self.reader.and_then(Runner::into_worker);
        let typed = worker.map(|mut worker| {
            // Lets go of the old machine.
            *worker.receiver() = Feed(None);
            Typed::Known(worker)
        });
        // The new port has an empty FIFO: whoever waited for room in the old one looks again.
        self.resume.signal();
        Some(Box::new(HostEnd {
            output: self.output,
            resume: self.resume,
            typed,
            pty: self.pty,
        }))
    }

    fn save(&self) -> Result<Saved> {
        Saved::new(Serial::NAMES.kind, 1, &State::of(&self.uart.lock()))
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let state: State = saved.read(Serial::NAMES.kind, 1)?;
        self.uart.lock().put(state).map_err(|why| Error::BadState {
            kind: Serial::NAMES.kind,
            why,
        })
    }

    fn nodes(&self) -> Vec<Node> {
        let mut node = Node::new("COM1", AcpiId::Eisa("PNP0501"));
        node.fdt_compatible = Some("ns16550a");
        node.uid = Some(0);
        node.description = Some("COM1");
        node.resources = vec![
            Resource::Ports {
                base: layout::PORT_COM1,
                len: layout::PORT_COM1_COUNT,
            },
            Resource::edge(layout::GSI_COM1),
        ];
        vec![node]
    }

    fn decided(&self) -> Option<Value> {
        let path = self.pty.as_ref()?;
        Some(serde_json::json!({ "file": path }))
    }
}

#[cfg(test)]
mod tests;
