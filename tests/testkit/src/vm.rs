//! One running monitor under test.

mod builder;

use std::io::Write;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use self::builder::{Builder, SerialLink};
use crate::error::Context as _;
use crate::output::{Capture, Found};
use crate::terminal::Terminal;
use crate::{Error, Output, Result, guest};

/// How many lines of console and log an error shows.
const SHOWN_LINES: usize = 60;

/// How often a wait looks at other things.
const LOOK: Duration = Duration::from_millis(200);

/// Longest boot of a stock guest; inside an emulated host it takes about 5 s.
const BOOT_SECONDS: u64 = 120;

/// Longest that a command in the guest takes unless the test says otherwise.
const RUN_SECONDS: u64 = 60;

/// What the monitor's log says when a processor of the guest could not even deliver an exception.
const TRIPLE_FAULT: &str = "triple fault";

/// A started monitor and its guest's serial console.
///
/// Dropped while it runs, the monitor is killed; dropped by a panic, console and log are printed.
pub struct Vm {
    child: Child,
    status: Option<ExitStatus>,
    console: Capture,
    input: Option<Box<dyn Write + Send>>,
    log: Capture,
    terminal: Option<Terminal>,
    cursor: usize,
    ready: bool,
    requests: u32,
    /// Sockets and files of this run, removed with it.
    folder: tempfile::TempDir,
}

/// How the monitor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By a signal with this number.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.signal().unwrap_or_default()),
        }
    }
}

impl Vm {
    /// A monitor with no options at all.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A stock Linux guest that [`Vm::run`] can talk to: kernel and initramfs of
    /// [`env`](mod@crate::env), serial console, one vCPU, 256 MiB; each can be changed.
    #[must_use]
    pub fn linux() -> Builder {
        Builder::linux()
    }

    /// A guest that runs Debian with systemd from the disk of [`env::debian_disk`](crate::env::debian_disk), and that
    /// [`Vm::run`] can talk to: two vCPUs, 1 GiB; each can be changed. `disk` has further keys of its `--disk` option.
    ///
    /// # Errors
    /// When a variable of [`env`](mod@crate::env) is missing.
    pub fn debian(disk: &str) -> Result<Builder> {
        Builder::debian(disk)
    }

    /// Waits until `text` appears on the serial console, after what earlier calls found.
    ///
    /// # Errors
    /// When it does not appear in time or the monitor ends first.
    pub fn wait_for(&mut self, text: &str, seconds: u64) -> Result<()> {
        let what = format!("{text:?} on the console");
        self.cursor = self.find(text, self.cursor, seconds, &what)?.1;
        Ok(())
    }

    /// Waits until `text` appears in what the monitor writes to standard error.
    ///
    /// # Errors
    /// When it does not appear in time or the monitor ends first.
    pub fn wait_for_log(&mut self, text: &str, seconds: u64) -> Result<()> {
        let what = format!("{text:?} in the monitor's log");
        let found = self.log.wait_for(text, 0, Duration::from_secs(seconds));
        self.located(found, seconds, &what).map(drop)
    }

    /// Waits until the guest of [`Vm::linux`] has started and takes requests. After a reboot of
    /// the guest, it waits for that boot.
    ///
    /// # Errors
    /// When the guest does not come up in time or the monitor ends first.
    pub fn wait_ready(&mut self, seconds: u64) -> Result<()> {
        self.cursor = self
            .find(guest::READY, self.cursor, seconds, "guest ready")?
            .1;
        self.ready = true;
        Ok(())
    }

    /// Runs a shell script in the guest of [`Vm::linux`] and waits for its end.
    ///
    /// # Errors
    /// When there is no answer within a minute or the monitor ends first. A status other than 0 is
    /// not an error.
    pub fn run(&mut self, script: &str) -> Result<Output> {
        self.run_within(script, RUN_SECONDS)
    }

    /// [`Vm::run`] with another limit.
    ///
    /// # Errors
    /// As [`Vm::run`].
    pub fn run_within(&mut self, script: &str, seconds: u64) -> Result<Output> {
        if !self.ready {
            self.wait_ready(BOOT_SECONDS)?;
        }
        // What was before, such as a reset that was asked for, is no trouble.
        let logged = self.log.len();
        let number = self.request(script)?;
        let what = format!("answer to `{script}`");
        self.answered(number, logged, seconds, &what)?;
        let begin = format!("@begin {number} ");
        let end = format!("@end {number} ");
        let (_, word) = self.find(&begin, self.cursor, seconds, &what)?;
        let (word_end, start) = self.find("\n", word, seconds, &what)?;
        let (stop, after) = self.find(&end, start, seconds, &what)?;
        let (newline, _) = self.find("\n", after, seconds, &what)?;
        self.cursor = newline;
        let packing = self.console.text_between(word, word_end);
        let body = self.console.text_between(start, stop);
        let status = self.console.text_between(after, newline);
        let unpacked = guest::unpack(&body, packing.trim(), self.folder.path());
        let unpacked = unpacked.context("cannot unpack the guest's answer")?;
        let answer = |text: &str| Error::Answer {
            answer: text.to_owned(),
            context: self.context(),
        };
        let body = unpacked.ok_or_else(|| answer(&body))?;
        let status = status.trim().parse().map_err(|_| answer(&status))?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&body).into_owned(),
            status,
        })
    }

    /// Waits until the answer begins. A guest that starts again meanwhile has lost the request, so nothing is gained by
    /// waiting for it until the time is over.
    fn answered(&mut self, number: u32, logged: usize, seconds: u64, what: &str) -> Result<()> {
        let begin = format!("@begin {number} ");
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < deadline && self.poll_exit()?.is_none() {
            match self.console.wait_for(&begin, self.cursor, LOOK) {
                Found::Timeout => {}
                Found::At(..) | Found::Ended => break,
            }
            if let Found::At(..) = self.log.wait_for(TRIPLE_FAULT, logged, Duration::ZERO) {
                return Err(Error::Restarted {
                    what: what.to_owned(),
                    context: self.context(),
                });
            }
        }
        Ok(())
    }

    /// Starts a script in the guest and does not wait: for those that end the guest, such as
    /// `reboot -f`. The next [`Vm::run`] waits until the guest is up again.
    ///
    /// # Errors
    /// When the guest does not come up or the monitor is gone.
    pub fn run_last(&mut self, script: &str) -> Result<()> {
        self.request(script)?;
        self.ready = false;
        Ok(())
    }

    /// Powers the guest off and waits for the monitor, which has to end with 0.
    ///
    /// # Errors
    /// When the monitor does not end in time or ends badly.
    pub fn power_off(&mut self) -> Result<()> {
        self.run_last("poweroff -f")?;
        match self.wait_exit(30)? {
            Exit::Code(0) => Ok(()),
            exit => Err(Error::Ended {
                what: "a clean end".to_owned(),
                status: format!("{exit:?}"),
                context: self.context(),
            }),
        }
    }

    /// Types on the serial console.
    ///
    /// # Errors
    /// When the console takes no input or is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        if let Some(terminal) = &self.terminal {
            return terminal.send(text);
        }
        let input = self.input.as_mut().ok_or_else(|| Error::Io {
            what: "this serial console takes no input".to_owned(),
            source: std::io::ErrorKind::Unsupported.into(),
        })?;
        input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush())
            .context("cannot type")
    }

    /// Ends the input of the serial console, as Ctrl-D or a closed pipe does.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Everything that came from the serial console so far; with [`SerialLink::Stdio`] that is
    /// the monitor's standard output.
    #[must_use]
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// Everything that the monitor wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.log.text()
    }

    /// The terminal given to [`Builder::terminal`].
    pub fn terminal(&mut self) -> Option<&mut Terminal> {
        self.terminal.as_mut()
    }

    /// A folder for files of this run, removed with it.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The monitor's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the monitor.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(std::io::Error::from(std::io::ErrorKind::NotFound));
        let sent = pid.and_then(|pid| Ok(kill_process(pid, signal)?));
        sent.context("cannot send a signal to the monitor")
    }

    /// Waits for the monitor's end.
    ///
    /// # Errors
    /// When it still runs after this time.
    pub fn wait_exit(&mut self, seconds: u64) -> Result<Exit> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.poll_exit()? {
                // What it printed last may still be on its way here.
                self.log.wait_end(Duration::from_secs(1));
                return Ok(status.into());
            }
            if Instant::now() >= deadline {
                let what = "end of the monitor".to_owned();
                return Err(Error::Timeout {
                    what,
                    seconds,
                    context: self.context(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the monitor still runs.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.poll_exit()?.is_none())
    }

    fn poll_exit(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .context("cannot wait for the monitor")?;
        }
        Ok(self.status)
    }

    fn request(&mut self, script: &str) -> Result<u32> {
        if !self.ready {
            self.wait_ready(BOOT_SECONDS)?;
        }
        self.requests += 1;
        let number = self.requests;
        // Later answers are searched from here on, so an old one cannot be mistaken for it.
        self.cursor = self.console.len();
        self.send(&guest::request(script, number))?;
        Ok(number)
    }

    fn find(
        &mut self,
        text: &str,
        from: usize,
        seconds: u64,
        what: &str,
    ) -> Result<(usize, usize)> {
        // A monitor can end while its console stays open (a socket, a terminal), so look at both.
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let step = left.min(LOOK);
            let found = self.console.wait_for(text, from, step);
            let over = left <= step || found != Found::Timeout;
            if !over && self.poll_exit()?.is_none() {
                continue;
            }
            if found == Found::Timeout && !over {
                let last = self
                    .console
                    .wait_for(text, from, Duration::from_millis(200));
                let last = if last == Found::Timeout {
                    Found::Ended
                } else {
                    last
                };
                return self.located(last, seconds, what);
            }
            return self.located(found, seconds, what);
        }
    }

    fn located(&mut self, found: Found, seconds: u64, what: &str) -> Result<(usize, usize)> {
        let what = what.to_owned();
        match found {
            Found::At(start, end) => Ok((start, end)),
            Found::Timeout => Err(Error::Timeout {
                what,
                seconds,
                context: self.context(),
            }),
            Found::Ended => {
                let status = match self.wait_exit(2) {
                    Ok(exit) => format!("{exit:?}"),
                    Err(_) => "it closed its output but still runs".to_owned(),
                };
                Err(Error::Ended {
                    what,
                    status,
                    context: self.context(),
                })
            }
        }
    }

    /// Last lines of the console and of the log.
    fn context(&self) -> String {
        let (console, log) = (self.console.tail(SHOWN_LINES), self.log.tail(SHOWN_LINES));
        format!("--- console ---\n{console}\n--- monitor ---\n{log}\n---")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.context());
        }
        if matches!(self.poll_exit(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests;
