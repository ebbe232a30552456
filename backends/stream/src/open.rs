//! What a user can ask for, and opening it.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reactor::Kick;

use crate::kept::Kept;
use crate::output::Direct;
use crate::pty::Pty;
use crate::socket::Listener;
use crate::terminal::{Keyboard, RawMode, duplicate, terminal};
use crate::{Discard, Error, InputWorker, Output, Screen};

/// Where a console is connected to on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// There is no console: the caller creates no device, and opens no stream.
    Off,
    /// Output is thrown away, and nothing is ever typed.
    Null,
    /// Standard input and output of the VMM.
    Tty,
    /// A new pseudo terminal; [`Stream::path`] says which.
    Pty,
    /// A file, which is emptied first. Created for the user alone (mode 0600); one that exists
    /// keeps its mode. A FIFO waits for its reader when it is opened.
    File(PathBuf),
    /// A Unix stream socket at this path, for the user alone, that takes one client at a time.
    Socket(PathBuf),
}

/// The open host side of a console.
#[derive(Debug)]
pub struct Stream {
    path: Option<PathBuf>,
    output: Output,
    input: Option<Input>,
    screen: Option<Screen>,
}

/// Where bytes come from that a user types. Serve it with an [`InputWorker`].
#[derive(Debug)]
pub struct Input(pub(crate) Source);

#[derive(Debug)]
pub(crate) enum Source {
    Terminal(TerminalSource),
    Pty {
        pty: Pty,
        kept: Arc<Kept>,
        lagging: Kick,
    },
    Socket {
        listener: Listener,
        kept: Arc<Kept>,
        lagging: Kick,
    },
}

#[derive(Debug)]
pub(crate) struct TerminalSource {
    pub(crate) stdin: Arc<OwnedFd>,
    pub(crate) again: Kick,
    _keyboard: Keyboard,
    /// Held for as long as somebody reads the keyboard.
    _raw: Option<RawMode>,
}

impl Stream {
    /// Opens the host side of a console.
    ///
    /// # Errors
    /// The [`Error`] names the option that asked for it and says what the system refused.
    pub fn open(endpoint: &Endpoint) -> Result<Self, Error> {
        match endpoint {
            Endpoint::Off => Err(Error::Off),
            Endpoint::Null => Ok(Self {
                path: None,
                output: Output::null(),
                input: None,
                screen: None,
            }),
            Endpoint::Tty => Self::terminal(),
            Endpoint::Pty => Self::pty(),
            Endpoint::File(path) => Self::file(path),
            Endpoint::Socket(path) => Self::socket(path),
        }
    }

    /// The file for users to open, such as `/dev/pts/3`: of a pseudo terminal only.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What has a size: a terminal or a pseudo terminal.
    pub fn screen(&self) -> Option<Screen> {
        self.screen.clone()
    }

    /// Takes the stream apart, for a device that reads and prints. There is no input from a file
    /// or `null`, nor from a terminal that another stream reads.
    pub fn split(self) -> (Output, Option<Input>) {
        (self.output, self.input)
    }

    /// The output alone, for a device that only prints. It leaves the keyboard of a terminal to
    /// others. For a pseudo terminal or a socket there is a worker to run, which takes readers in
    /// and throws away what they type.
    ///
    /// # Errors
    /// No descriptor is left for the worker.
    pub fn output_only(self) -> Result<(Output, Option<InputWorker<Discard>>), Error> {
        let worker = match self.input {
            None | Some(Input(Source::Terminal(_))) => None,
            Some(input) => Some(InputWorker::new(input, Discard, bell()?)),
        };
        Ok((self.output, worker))
    }

    fn terminal() -> Result<Self, Error> {
        let raw_for_output = RawMode::enter()?;
        let stdout = duplicate(rustix::stdio::stdout())?;
        let direct =
            Direct::stdout(stdout, raw_for_output).map_err(terminal("examine standard output"))?;
        let input = match Keyboard::take() {
            None => None,
            Some(keyboard) => Some(Input(Source::Terminal(TerminalSource {
                stdin: Arc::new(duplicate(rustix::stdio::stdin())?),
                again: bell()?,
                _keyboard: keyboard,
                _raw: RawMode::enter()?,
            }))),
        };
        Ok(Self {
            path: None,
            output: Output::direct(direct),
            input,
            screen: Some(Screen::Terminal),
        })
    }

    fn pty() -> Result<Self, Error> {
        let pty = Pty::open()?;
        let (kept, lagging) = keep()?;
        Ok(Self {
            path: Some(pty.path.clone()),
            screen: Some(Screen::Pty(Arc::clone(&pty.master))),
            output: Output::kept(Arc::clone(&kept)),
            input: Some(Input(Source::Pty { pty, kept, lagging })),
        })
    }

    fn file(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let direct = Direct::file(file).map_err(|errno| failed(errno.into()))?;
        Ok(Self {
            path: None,
            output: Output::direct(direct),
            input: None,
            screen: None,
        })
    }

    fn socket(path: &Path) -> Result<Self, Error> {
        let listener = Listener::open(path)?;
        let (kept, lagging) = keep()?;
        Ok(Self {
            path: None,
            output: Output::kept(Arc::clone(&kept)),
            input: Some(Input(Source::Socket {
                listener,
                kept,
                lagging,
            })),
            screen: None,
        })
    }
}

fn keep() -> Result<(Arc<Kept>, Kick), Error> {
    let lagging = bell()?;
    Ok((Arc::new(Kept::new(lagging.clone())), lagging))
}

fn bell() -> Result<Kick, Error> {
    Kick::new().map_err(Error::Bell)
}
