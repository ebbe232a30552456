//! Describes and starts a monitor.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Vm;
use crate::error::Context as _;
use crate::output::Capture;
use crate::terminal::Terminal;
use crate::{Error, Result, env, guest};

/// How long a monitor takes at most until its serial socket is there.
const SOCKET_SECONDS: u64 = 20;

/// How the test is connected to the guest's serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SerialLink {
    /// `--serial tty` on pipes, or on the terminal given to [`Builder::terminal`].
    #[default]
    Stdio,
    /// `--serial socket=PATH`, connected as soon as it is there.
    Socket,
    /// No option is added: the test says `--serial` itself, the monitor's standard output is what
    /// [`Vm::console`] shows.
    Unset,
}

/// A monitor to start. Options appear on its command line in the order of the calls.
#[derive(Default)]
pub struct Builder {
    binary: Option<PathBuf>,
    kernel: Option<PathBuf>,
    initramfs: Option<PathBuf>,
    stock: bool,
    cmdline: Option<String>,
    cpus: Option<String>,
    memory: Option<String>,
    console: Option<OsString>,
    serial: SerialLink,
    terminal: Option<Terminal>,
    rest: Vec<OsString>,
    variables: Vec<(String, OsString)>,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            serial: SerialLink::Unset,
            console: Some("off".into()),
            ..Self::default()
        }
    }

    pub(super) fn linux() -> Self {
        let cmdline = format!("console=ttyS0 quiet panic=-1 {}", guest::OPTION);
        Self {
            stock: true,
            console: Some("off".into()),
            ..Self::default()
        }
        .cmdline(&cmdline)
        .cpus("boot=1")
        .memory("size=256M")
    }

    pub(super) fn debian(disk: &str) -> Result<Self> {
        let path = env::debian_disk()?;
        let cmdline = format!(
            "root=LABEL=debian rw console=ttyS0 quiet panic=-1 {}",
            guest::OPTION
        );
        let builder = Self {
            console: Some("off".into()),
            ..Self::default()
        };
        let comma = if disk.is_empty() { "" } else { "," };
        Ok(builder
            .kernel(env::debian_kernel()?)
            .initramfs(env::debian_initramfs()?)
            .cmdline(&cmdline)
            .cpus("boot=2")
            .memory("size=1G")
            .arg(
                "--disk",
                format!("path={},image_type=raw{comma}{disk}", path.display()),
            ))
    }

    /// Starts this program instead of the one that `CH_BINARY` names.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// `--kernel`.
    #[must_use]
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.kernel = Some(path.into());
        self
    }

    /// `--initramfs`.
    #[must_use]
    pub fn initramfs(mut self, path: impl Into<PathBuf>) -> Self {
        self.initramfs = Some(path.into());
        self
    }

    /// `--cmdline`. For [`Vm::run`] the guest needs `console=ttyS0` and [`guest::OPTION`].
    #[must_use]
    pub fn cmdline(mut self, options: &str) -> Self {
        self.cmdline = Some(options.to_owned());
        self
    }

    /// Adds to what is on the kernel's command line already.
    #[must_use]
    pub fn extend_cmdline(mut self, options: &str) -> Self {
        let before = self
            .cmdline
            .take()
            .map(|before| before + " ")
            .unwrap_or_default();
        self.cmdline(&(before + options))
    }

    /// `--cpus`.
    #[must_use]
    pub fn cpus(mut self, value: &str) -> Self {
        self.cpus = Some(value.to_owned());
        self
    }

    /// `--memory`.
    #[must_use]
    pub fn memory(mut self, value: &str) -> Self {
        self.memory = Some(value.to_owned());
        self
    }

    /// `--console`; off unless said otherwise, because its default takes the terminal.
    #[must_use]
    pub fn console(mut self, value: impl Into<OsString>) -> Self {
        self.console = Some(value.into());
        self
    }

    /// How the test is connected to the serial port.
    #[must_use]
    pub fn serial(mut self, link: SerialLink) -> Self {
        self.serial = link;
        self
    }

    /// Starts the monitor on this terminal; its standard error stays separate.
    #[must_use]
    pub fn terminal(mut self, terminal: Terminal) -> Self {
        self.terminal = Some(terminal);
        self
    }

    /// Any option with its value.
    #[must_use]
    pub fn arg(mut self, option: &str, value: impl Into<OsString>) -> Self {
        self.rest.extend([option.into(), value.into()]);
        self
    }

    /// Any option without a value.
    #[must_use]
    pub fn flag(mut self, option: &str) -> Self {
        self.rest.push(option.into());
        self
    }

    /// Sets an environment variable for the monitor.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When a variable of [`env`](mod@crate::env) is missing, the program cannot be started, or its serial socket
    /// does not appear.
    pub fn spawn(mut self) -> Result<Vm> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let socket = folder.path().join("serial");
        let command = self.command(&socket)?;
        let (mut child, terminal) = start(command, self.terminal.take())?;
        let log = child
            .stderr
            .take()
            .map(OwnedFd::from)
            .map(Capture::start)
            .unwrap_or_default();
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(OwnedFd::from).map(Capture::start);
        let console = match &terminal {
            Some(terminal) => terminal.capture().clone(),
            None => stdout.unwrap_or_default(),
        };
        let input = stdin.map(|stdin| Box::new(stdin) as Box<dyn Write + Send>);
        let mut vm = Vm {
            child,
            status: None,
            console,
            input,
            log,
            terminal,
            cursor: 0,
            ready: false,
            requests: 0,
            folder,
        };
        if self.serial == SerialLink::Socket {
            connect(&mut vm, &socket)?;
        }
        Ok(vm)
    }

    fn command(&mut self, socket: &Path) -> Result<Command> {
        let binary = self.binary.take().map_or_else(env::binary, Ok)?;
        if self.stock {
            self.kernel = Some(self.kernel.take().map_or_else(env::kernel, Ok)?);
            self.initramfs = Some(self.initramfs.take().map_or_else(env::initramfs, Ok)?);
        }
        let mut command = Command::new(binary);
        let mut add = |option: &str, value: Option<OsString>| {
            if let Some(value) = value {
                command.arg(option).arg(value);
            }
        };
        add("--kernel", self.kernel.take().map(Into::into));
        add("--initramfs", self.initramfs.take().map(Into::into));
        add("--cmdline", self.cmdline.take().map(Into::into));
        add("--cpus", self.cpus.take().map(Into::into));
        add("--memory", self.memory.take().map(Into::into));
        match self.serial {
            SerialLink::Stdio => add("--serial", Some("tty".into())),
            SerialLink::Socket => {
                add(
                    "--serial",
                    Some(format!("socket={}", socket.display()).into()),
                );
            }
            SerialLink::Unset => {}
        }
        if let Some(console) = &self.console {
            command.arg("--console").arg(console);
        }
        command.args(&self.rest).envs(self.variables.drain(..));
        Ok(command)
    }
}

/// Starts the monitor on pipes or on the terminal.
fn start(mut command: Command, terminal: Option<Terminal>) -> Result<(Child, Option<Terminal>)> {
    let Some(terminal) = terminal else {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let what = format!("cannot start {}", command.get_program().display());
        return Ok((command.spawn().context(what)?, None));
    };
    let child = terminal.spawn(&command, Stdio::piped())?;
    Ok((child, Some(terminal)))
}

/// Replaces console and input by a connection to the serial socket.
fn connect(vm: &mut Vm, socket: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(SOCKET_SECONDS);
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < deadline && vm.is_running()? => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(_) => {
                return Err(Error::Timeout {
                    what: "serial socket".to_owned(),
                    seconds: SOCKET_SECONDS,
                    context: vm.context(),
                });
            }
        }
    };
    let reader = stream.try_clone().context("cannot copy a descriptor")?;
    vm.console = Capture::start(reader.into());
    vm.input = Some(Box::new(stream));
    Ok(())
}
