//! Console over virtio (VIRTIO 1.3, 5.3), `hvc0` in Linux.
//!
//! Two queues: in one the guest puts what it prints, in the other empty buffers for what is typed. The host's end is
//! [`stream`]'s, as for the serial port. The terminal's size is in two configuration fields, and changes of it are
//! announced to the guest: of the terminal that the monitor was started on when `SIGWINCH` arrives, of a pseudo
//! terminal within a second, while somebody has it open.
#![forbid(unsafe_code)]

mod input;
mod size;

use std::any::Any;
use std::io::{Read, Write};
use std::path::PathBuf;

use device::{
    Error, Facts, Form, Host, Kind, Names, OptionNames, Presence, Problem, Result, Saved, Syscalls,
};
use sandbox::Filter;
use sandbox::landlock::Access;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stream::{ConsoleMode, Endpoint, Output, Stream};
use virtio::{
    Chain, Class, ConfigChange, Environment, Identity, OverPci, PciOptions, QueueTask, Ring,
    Service, VirtioDevice,
};

use input::{InputQueue, Typing};
use size::{Size, Watch};

#[cfg(test)]
mod tests;

/// Device type (VIRTIO 1.3, chapter 5).
const CONSOLE: u16 = 3;
/// Feature: the fields with the terminal's size are valid (VIRTIO 1.3, 5.3.3).
const SIZE: u64 = 1 << 0;
/// Queues: what is typed, what is printed (VIRTIO 1.3, 5.3.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const QUEUE_SIZE: u16 = 256;
/// Configuration fields: columns and rows, then two that belong to features not offered (VIRTIO 1.3, 5.3.4).
const CONFIG_LEN: u32 = 12;
/// Communication controller of another kind.
const CLASS: Class = Class {
    base: 0x07,
    sub: 0x80,
};
/// The most bytes printed per chain. Drivers send a page or two; what a chain has beyond is lost, so that it
/// does not keep the machine from being paused.
const MOST: u64 = 1 << 20;

/// The console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleConfig {
    /// File that gets the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub file: Option<PathBuf>,
    /// Where the console is connected to.
    #[schemars(extend("x-flag-syntax" = "modes"))]
    pub mode: ConsoleMode,
    /// Unix socket for one client at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub socket: Option<PathBuf>,
    /// Place and name of the device.
    #[serde(flatten)]
    pub pci: PciOptions,
}

impl ConsoleConfig {
    fn endpoint(&self) -> std::result::Result<Endpoint, Problem> {
        self.mode
            .endpoint(self.file.as_deref(), self.socket.as_deref())
            .map_err(|text| Problem::new("--console", text))
    }
}

/// The kind.
#[derive(Debug)]
pub struct Console;

impl Kind for Console {
    const NAMES: Names = Names {
        kind: "console",
        option: Some(OptionNames {
            flag: "console",
            field: "console",
            form: Form::One,
        }),
        id: "__console",
    };
    const PRESENCE: Presence = Presence::ByDefault;
    const EXAMPLES: &'static [&'static str] = &[
        "tty",
        "pty",
        "file=/vm/console.log",
        "socket=/vm/console.sock,pci_device_id=3",
    ];
    const SYSCALLS: Syscalls = Syscalls {
        owner: stream::OPEN_SYSCALLS,
        vcpu: &[],
        // One set for both threads. What printing takes is part of what reading takes.
        worker: stream::SYSCALLS,
    };
    type Config = ConsoleConfig;
    type Device = OverPci<Terminal>;

    fn by_default() -> Option<ConsoleConfig> {
        let pci = PciOptions::default();
        Some(ConsoleConfig {
            file: None,
            mode: ConsoleMode::Tty,
            socket: None,
            pci,
        })
    }

    fn is_off(config: &ConsoleConfig) -> bool {
        config.mode == ConsoleMode::Off
    }

    fn check(config: &ConsoleConfig, _facts: &Facts) -> std::result::Result<(), Problem> {
        config.endpoint()?;
        config.pci.check("--console")
    }

    fn paths(config: &ConsoleConfig) -> Vec<(PathBuf, Access)> {
        config
            .endpoint()
            .map_or_else(|_| Vec::new(), |endpoint| endpoint.paths())
    }

    fn build(config: ConsoleConfig, host: &mut Host<'_>) -> Result<OverPci<Terminal>> {
        let environment = Environment::of(host, &config.pci)?;
        let endpoint = config.endpoint()?;
        let end = match host.inherit() {
            Some(end) => end,
            None => HostEnd::open(&endpoint)?,
        };
        let device = Terminal::new(end, host.id(), &environment.rules);
        Ok(OverPci::new(Self::NAMES.kind, device, environment)?)
    }
}

/// What the console is connected to: a reset of the guest leaves it as it is.
#[derive(Debug)]
pub struct HostEnd {
    output: Output,
    typed: Option<Typing>,
    size: Size,
    pty: Option<PathBuf>,
}

impl HostEnd {
    /// Opens the host's end.
    ///
    /// # Errors
    /// [`Error::Backend`] if the file, terminal or socket cannot be had.
    pub fn open(endpoint: &Endpoint) -> Result<Self> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Backend {
            what: "--console".into(),
            source,
        };
        let stream = Stream::open(endpoint).map_err(|source| failed(source.into()))?;
        let pty = stream.path().map(ToOwned::to_owned);
        if let Some(path) = &pty {
            telemetry::info!("the console is at {}", path.display());
        }
        let size = Size::default();
        let watch = match stream.screen() {
            Some(screen) => {
                let watch = Watch::of(screen, size.clone());
                Some(watch.map_err(|source| failed(source.into()))?)
            }
            None => None,
        };
        let (output, input) = stream.split();
        let typed = Typing::new(input, watch).map_err(|source| failed(source.into()))?;
        Ok(Self {
            output,
            typed,
            size,
            pty,
        })
    }
}

/// The device.
#[derive(Debug)]
pub struct Terminal {
    receive: InputQueue,
    transmit: QueueTask<Printer>,
    output: Output,
    size: Size,
    change: Option<ConfigChange>,
    pty: Option<PathBuf>,
}

impl Terminal {
    /// A device with this host's end. Its threads have names that begin with `thread`, and these rules.
    #[must_use]
    pub fn new(end: HostEnd, thread: &str, rules: &Filter) -> Self {
        let HostEnd {
            output,
            typed,
            size,
            pty,
        } = end;
        let printer = Printer(output.clone());
        Self {
            receive: InputQueue::new(format!("{thread}_in"), rules.clone(), typed),
            transmit: QueueTask::new(thread.to_owned(), rules.clone(), printer),
            output,
            size,
            change: None,
            pty,
        }
    }
}

impl VirtioDevice for Terminal {
    fn identity(&self) -> Identity {
        Identity {
            device_type: CONSOLE,
            class: CLASS,
            features: SIZE,
            queue_sizes: vec![QUEUE_SIZE; 2],
            config_len: CONFIG_LEN,
        }
    }

    fn attach(&mut self, change: ConfigChange) {
        self.change = Some(change);
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let fields = self.size.fields();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (value, field) in out.iter_mut().zip(fields.iter().skip(offset)) {
            *value = *field;
        }
    }

    fn start(&mut self, index: u16, ring: Ring) -> Result<()> {
        match index {
            RECEIVE => self.receive.start(ring, self.change.clone()),
            _ => self.transmit.start(ring),
        }
    }

    fn stop(&mut self, index: u16) -> Option<Ring> {
        match index {
            RECEIVE => self.receive.stop(),
            TRANSMIT => self.transmit.stop(),
            _ => None,
        }
    }

    fn save(&self) -> Result<Saved> {
        Saved::new(Console::NAMES.kind, 1, &())
    }

    /// The size is that of the terminal that is here now.
    fn restore(&mut self, saved: Saved) -> Result<()> {
        saved.read(Console::NAMES.kind, 1)
    }

    fn leave(&mut self) -> Option<Box<dyn Any + Send>> {
        let (output, pty) = (self.output.clone(), self.pty.take());
        Some(Box::new(HostEnd {
            output,
            typed: self.receive.leave(),
            size: self.size.clone(),
            pty,
        }))
    }

    fn decided(&self) -> Option<Value> {
        let path = self.pty.as_ref()?;
        Some(serde_json::json!({ "file": path }))
    }
}

/// Prints chains.
#[derive(Debug)]
struct Printer(Output);

impl Service for Printer {
    fn serve(&mut self, chain: &mut Chain) -> u32 {
        let mut reader = chain.reader().take(MOST);
        let mut buffer = [0; 4096];
        let mut print = || -> std::io::Result<()> {
            loop {
                let count = reader.read(&mut buffer)?;
                if count == 0 {
                    return Ok(());
                }
                self.0.write_all(&buffer[..count])?;
            }
        };
        if let Err(error) = print() {
            telemetry::warn!("console: output is lost: {error}");
        }
        0
    }
}
