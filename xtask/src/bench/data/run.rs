//! Starts a monitor for a cell and measures between the guest's lines.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

use super::cell::{Block, Cell};
use super::host::{self, Host};
use super::monitor::{Files, Monitor};
use super::watch::Cpu;
use crate::error::{Context as _, Error, Result};
use crate::run;

/// A guest that says nothing for this long is stuck.
const LIMIT: Duration = Duration::from_secs(30);
/// Ticks of the time stamp counter that a guest is measured for: a second and a half or so; with `--quick` a third.
const TICKS: u64 = 3_000_000_000;
const QUICK_TICKS: u64 = 800_000_000;
/// Size of the disk: what fits the page cache of any host.
const DISK_MEBIBYTES: usize = 256;
/// Where files are in memory (shm_overview(7)).
const MEMORY_FOLDER: &str = "/dev/shm";

/// What one run shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Units of work in a second.
    pub(super) rate: f64,
    /// CPU seconds for a unit of work: all but the guest.
    pub(super) cpu: f64,
    /// The same of threads that are no vCPU's.
    pub(super) others: f64,
    /// System time of vCPUs for a unit of work, which the kernel samples: not part of `cpu`.
    pub(super) sampled: f64,
    /// Doorbells for a unit of work.
    pub(super) doorbells: f64,
}

/// Files and the network of all runs.
#[derive(Debug)]
pub(super) struct Bench {
    guest: PathBuf,
    /// On a disk of the host, for what goes around the page cache.
    disk: PathBuf,
    /// In memory (tmpfs): the page cache without a file system that writes to a disk at times of its own.
    cached: tempfile::TempPath,
    output: PathBuf,
    ticks: u64,
    /// Our end of the FIFO; open for writing too, so that it never ends.
    fifo: OwnedFd,
    folder: tempfile::TempDir,
}

impl Bench {
    /// Writes the disk into `folder` and makes the network.
    pub(super) fn prepare(guest: PathBuf, folder: &Path, quick: bool) -> Result<Self> {
        host::make_network()?;
        let disk = folder.join("disk.raw");
        let content = vec![0x5a; DISK_MEBIBYTES << 20];
        run::write(&disk, &content)?;
        let cached = tempfile::NamedTempFile::new_in(MEMORY_FOLDER)
            .context(|| format!("cannot create a file in {MEMORY_FOLDER}"))?
            .into_temp_path();
        run::write(&cached, &content)?;
        let folder = tempfile::tempdir().context(|| "no temporary folder".to_owned())?;
        let output = folder.path().join("output");
        mknodat(CWD, &output, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .context(|| "cannot create a FIFO".to_owned())?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo =
            open(&output, flags, Mode::empty()).context(|| "cannot open a FIFO".to_owned())?;
        Ok(Self {
            guest,
            disk,
            cached,
            output,
            ticks: if quick { QUICK_TICKS } else { TICKS },
            fifo,
            folder,
        })
    }

    /// One monitor, one cell.
    pub(super) fn run(&self, monitor: &Monitor, cell: Cell) -> Result<Sample> {
        let socket = self.folder.path().join("vsock");
        let _ = std::fs::remove_file(&socket);
        let words = format!("{} ticks={}", cell.words(), self.ticks);
        let files = Files {
            guest: &self.guest,
            output: &self.output,
            disk: match cell {
                Cell::Block(Block { direct: true, .. }) => &self.disk,
                _ => &self.cached,
            },
            socket: &socket,
        };
        let mut command = monitor.command(cell, &words, &files);
        let said = File::create(self.folder.path().join("said"))
            .context(|| "cannot create a file".to_owned())?;
        let streams = command.stdin(Stdio::null()).stdout(Stdio::null());
        streams.stderr(said);
        let mut lines = Lines::new(&self.fifo);
        let host = Host::start(cell, &socket)?;
        let text = run::text(&command);
        let mut child = command
            .spawn()
            .context(|| format!("cannot start `{text}`"))?;
        let sample = self.watch(&mut child, &mut lines);
        let _ = child.kill();
        let _ = child.wait();
        drop(host);
        sample.map_err(|error| self.failed(&command, &error))
    }

    fn watch(&self, child: &mut Child, lines: &mut Lines<'_>) -> Result<Sample> {
        lines.fact("begin", child)?;
        let (started, before) = (Instant::now(), Cpu::of(child.id())?);
        let end = lines.fact("end", child)?;
        let cpu = Cpu::of(child.id())?.since(before);
        let seconds = started.elapsed().as_secs_f64();
        let mut numbers = end.split(' ').map(|word| word.parse().unwrap_or(0.0));
        let done: f64 = numbers.next().unwrap_or(0.0);
        let doorbells: f64 = numbers.next().unwrap_or(0.0);
        // The guest has measured for so many ticks, and that took so long.
        let tick = seconds / self.ticks as f64;
        let exits = doorbells * numbers.next().unwrap_or(0.0) * tick;
        if done < 1.0 {
            return Err(problem(format!(
                "the guest got nothing done in {seconds:.1} s"
            )));
        }
        Ok(Sample {
            rate: done / seconds,
            cpu: (cpu.others() + exits) / done,
            others: cpu.others() / done,
            sampled: cpu.vcpus_system / done,
            doorbells: doorbells / done,
        })
    }

    fn failed(&self, command: &Command, error: &Error) -> Error {
        let said = run::read_text(&self.folder.path().join("said")).unwrap_or_default();
        Error::Command {
            command: run::text(command),
            status: format!("{error}\n{}", said.trim()),
        }
    }
}

/// The guest's lines.
struct Lines<'a> {
    fifo: &'a OwnedFd,
    text: String,
}

impl<'a> Lines<'a> {
    /// Throws away what an earlier run left.
    fn new(fifo: &'a OwnedFd) -> Self {
        let mut rest = [0; 4096];
        // An empty FIFO would block, which is an error here.
        while matches!(rustix::io::read(fifo, &mut rest), Ok(1..)) {}
        Self {
            fifo,
            text: String::new(),
        }
    }

    /// Waits for this fact and gives its value.
    fn fact(&mut self, name: &str, child: &mut Child) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            while let Some(line) = self.line() {
                if let Some(text) = line.strip_prefix("fail ") {
                    return Err(problem(format!("the guest: {text}")));
                }
                let value = line
                    .strip_prefix("fact ")
                    .and_then(|fact| fact.strip_prefix(name));
                if let Some(value) = value {
                    return Ok(value.trim().to_owned());
                }
            }
            if Instant::now() > deadline {
                return Err(problem(format!("the guest says no `{name}`")));
            }
            let ended = child.try_wait().context(|| "cannot wait".to_owned())?;
            if let Some(status) = ended {
                return Err(problem(format!("the monitor ended: {status}")));
            }
            self.read()?;
        }
    }

    fn line(&mut self) -> Option<String> {
        let end = self.text.find('\n')?;
        let rest = self.text.split_off(end + 1);
        let line = std::mem::replace(&mut self.text, rest);
        Some(line.trim_end().to_owned())
    }

    /// Waits for more, for a moment.
    fn read(&mut self) -> Result<()> {
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let mut wanted = [PollFd::new(self.fifo, PollFlags::IN)];
        poll(&mut wanted, Some(&moment)).context(|| "cannot wait for the guest".to_owned())?;
        let mut bytes = [0; 4096];
        if let Ok(len) = rustix::io::read(self.fifo, &mut bytes) {
            self.text.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
        Ok(())
    }
}

fn problem(text: String) -> Error {
    Error::Usage(text)
}
