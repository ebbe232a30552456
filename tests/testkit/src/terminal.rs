//! Plays the terminal that a user sits at: a pseudo-terminal of which the test holds the master.
//!
//! A program started with [`Terminal::spawn`] has it as its standard streams and as its controlling
//! terminal, exactly as from a shell. The test types with [`Terminal::send`], reads with
//! [`Terminal::wait_for`] and compares [`Terminal::attributes`] before and after: a monitor has to
//! give the terminal back as it found it.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{self, InputModes, LocalModes, OutputModes, Winsize};

use crate::error::Context as _;
use crate::output::{Capture, Found};
use crate::{Error, Result};

/// A pseudo-terminal: the test has the keyboard and the screen.
pub struct Terminal {
    master: OwnedFd,
    /// Kept open so that output and attributes outlive the program.
    slave: OwnedFd,
    screen: Capture,
    cursor: usize,
}

/// How a terminal treats what is typed and printed; two equal values mean "given back as it was".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
}

impl Attributes {
    /// Whether every key goes to the program as it is: no line editing, no echo, no signals, and
    /// no change to what is printed.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let local = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        self.local & local.bits() == 0
            && self.input & (InputModes::ICRNL | InputModes::IXON).bits() == 0
            && self.output & OutputModes::OPOST.bits() == 0
    }
}

impl Terminal {
    /// Opens a new one, 24 rows of 80 columns.
    ///
    /// # Errors
    /// When the system has no more pseudo-terminals.
    pub fn open() -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .context("no pseudo-terminal")?;
        grantpt(&master).context("cannot grant the pseudo-terminal")?;
        unlockpt(&master).context("cannot unlock the pseudo-terminal")?;
        let name = ptsname(&master, Vec::new()).context("the pseudo-terminal has no name")?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty())
            .context("cannot open the pseudo-terminal")?;
        let reader = master.try_clone().context("cannot copy a descriptor")?;
        let terminal = Self {
            master,
            slave,
            screen: Capture::start(reader),
            cursor: 0,
        };
        terminal.resize(24, 80)?;
        Ok(terminal)
    }

    /// Starts a program with this as its controlling terminal, its standard input and output;
    /// `stderr` may keep its log apart. Program, arguments, variables and folder of `command` count,
    /// its streams do not.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, command: &Command, stderr: Stdio) -> Result<Child> {
        // setsid makes the terminal the controlling one, then becomes the program: same pid.
        let mut whole = Command::new("setsid");
        whole
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => whole.env(name, value),
                None => whole.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            whole.current_dir(folder);
        }
        let stream = || self.slave.try_clone().context("cannot copy a descriptor");
        whole.stdin(Stdio::from(stream()?));
        whole.stdout(Stdio::from(stream()?));
        whole.stderr(stderr);
        whole
            .spawn()
            .context("cannot start a program on the terminal")
    }

    /// Types these characters; `"\x03"` is Ctrl-C.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn send(&self, text: &str) -> Result<()> {
        let mut file = std::fs::File::from(
            self.master
                .as_fd()
                .try_clone_to_owned()
                .context("cannot copy a descriptor")?,
        );
        file.write_all(text.as_bytes())
            .context("cannot type on the terminal")
    }

    /// Waits until `text` is printed, after what earlier calls found.
    ///
    /// # Errors
    /// When it is not printed in time.
    pub fn wait_for(&mut self, text: &str, seconds: u64) -> Result<()> {
        match self
            .screen
            .wait_for(text, self.cursor, Duration::from_secs(seconds))
        {
            Found::At(_, end) => {
                self.cursor = end;
                Ok(())
            }
            Found::Ended | Found::Timeout => Err(Error::Timeout {
                what: format!("{text:?} on the terminal"),
                seconds,
                context: self.screen.tail(60),
            }),
        }
    }

    /// Everything that was printed so far.
    #[must_use]
    pub fn screen(&self) -> String {
        self.screen.text()
    }

    pub(crate) fn capture(&self) -> &Capture {
        &self.screen
    }

    /// How the terminal is set now.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn attributes(&self) -> Result<Attributes> {
        let now = termios::tcgetattr(&self.slave).context("cannot read the terminal's mode")?;
        Ok(Attributes {
            input: now.input_modes.bits(),
            output: now.output_modes.bits(),
            control: now.control_modes.bits(),
            local: now.local_modes.bits(),
        })
    }

    /// Changes the size, which sends `SIGWINCH` to the program in the foreground.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        termios::tcsetwinsize(&self.master, size).context("cannot resize the terminal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_itself_on_a_terminal_it_controls() {
        let mut terminal = Terminal::open().unwrap();
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "tty; stty size; echo $0-$WORD >/dev/tty; read x; echo got $x",
            "name",
        ]);
        let mut child = terminal
            .spawn(shell.env("WORD", "word"), Stdio::null())
            .unwrap();
        terminal.wait_for("/dev/pts/", 20).unwrap();
        terminal.wait_for("24 80", 20).unwrap();
        terminal.wait_for("name-word", 20).unwrap();
        terminal.send("typed\n").unwrap();
        terminal.wait_for("got typed", 20).unwrap();
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_raw_terminal_is_seen_as_such_after_the_program_is_gone() {
        let terminal = Terminal::open().unwrap();
        let before = terminal.attributes().unwrap();
        assert!(!before.is_raw());
        let mut child = terminal
            .spawn(Command::new("stty").args(["raw", "-echo"]), Stdio::null())
            .unwrap();
        assert!(child.wait().unwrap().success());
        let after = terminal.attributes().unwrap();
        assert!(after.is_raw());
        assert_ne!(before, after);
    }
}
