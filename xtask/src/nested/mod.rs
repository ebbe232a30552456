//! A software-emulated machine in which `/dev/kvm` runs a stock kernel.
//!
//! Where this machine's own KVM is absent or cannot do that, QEMU emulates a processor with
//! nested virtualisation. The emulated host boots a stock distribution kernel in seconds and sees
//! this machine's files at the same paths, so a program runs there unchanged: same path, same
//! libraries, its output and its exit status come back here. Writing to the repository and to the
//! cache goes through; whatever else is written vanishes with the host.

pub(crate) mod frames;
mod image;

use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::args::Args;
use crate::error::{Context as _, Error, Result};
use crate::kernel::Kernel;
use crate::project::Project;
use crate::terminal::SavedTerminal;
use crate::{apt, run};

/// From the start of QEMU until the job starts; 3 s is usual, a busy machine takes longer.
const START_LIMIT: Duration = Duration::from_secs(90);

/// QEMU opens its channels before it does anything else.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// One processor. With two, QEMU runs them on threads of its own at the same time, and its emulation of nested
/// virtualisation is not up to that: guests ended by a triple fault of their second processor, or the host's own kernel
/// overflowed its stack, in about every second run (QEMU 7.2 and 10.0 alike).
const PROCESSORS: &str = "1";

/// Where the scratch file system is.
pub(crate) const SCRATCH: &str = "/scratch";

/// Its size: what is not written takes no space.
const SCRATCH_BYTES: u64 = 12 << 30;

/// Jobs of this process so far.
static JOBS: AtomicU32 = AtomicU32::new(0);

/// What to run, and where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Job {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Variables set for it.
    pub(crate) environment: Vec<(String, String)>,
    /// Its working folder.
    pub(crate) folder: PathBuf,
    /// Whether it gets the terminal that we were started from.
    pub(crate) interactive: bool,
    /// Raw images that it sees as `/dev/vda`, `/dev/vdb` and so on. What it writes to them vanishes with the host.
    pub(crate) drives: Vec<PathBuf>,
    /// Whether it gets an empty ext4 file system at [`SCRATCH`], for files that are to behave as on a disk. It is
    /// the drive before [`Job::drives`].
    pub(crate) scratch: bool,
    /// After this it is ended and the run counts as failed.
    pub(crate) limit: Option<Duration>,
    /// Where what it prints is appended; without, it goes where ours goes.
    pub(crate) output: Option<PathBuf>,
    /// How many such hosts run at the same time and share this machine's memory; 0 is as 1.
    pub(crate) hosts: u32,
}

/// `cargo xtask nested [--interactive] -- COMMAND…`
pub(crate) fn command(project: &Project, arguments: &[String]) -> Result<u8> {
    let end = arguments
        .iter()
        .position(|argument| !argument.starts_with('-') || argument == "--");
    let end = end.unwrap_or(arguments.len());
    let mut args = Args::new(arguments[..end].to_vec());
    let interactive = args.flag("--interactive");
    args.done()?;
    let mut command = arguments[end..].to_vec();
    if command.first().is_some_and(|word| word == "--") {
        command.remove(0);
    }
    if command.is_empty() {
        return Err(Error::Usage(
            "cargo xtask nested [--interactive] -- COMMAND…".to_owned(),
        ));
    }
    let folder = std::env::current_dir().context(|| "no working folder".to_owned())?;
    run_job(
        project,
        &Job {
            command,
            folder,
            interactive,
            ..Job::default()
        },
    )
}

/// Gets what an emulated host takes: packages and a kernel.
///
/// # Errors
/// When they cannot be had.
pub(crate) fn prepare(project: &Project) -> Result<Kernel> {
    apt::ensure(&[apt::GUEST, apt::NESTED])?;
    let kernel = Kernel::host(project)?;
    kernel.vmlinux()?;
    Ok(kernel)
}

/// Runs a job in a fresh emulated host and returns its exit status.
///
/// # Errors
/// When the host does not come up, dies, or the job exceeds its limit.
pub(crate) fn run_job(project: &Project, job: &Job) -> Result<u8> {
    let kernel = prepare(project)?;
    let logs = project.cache().join("nested");
    run::create_folder(&logs)?;
    let number = JOBS.fetch_add(1, Ordering::Relaxed);
    let log = logs.join(format!("console-{}-{number}.log", std::process::id()));
    let work = tempfile::tempdir().context(|| "cannot create a temporary folder".to_owned())?;
    let trailer = format!("\u{1}end-of-job-{:016x}\u{1}", random());
    let folders = [project.root(), project.cache(), project.target()];
    let present = folders
        .iter()
        .filter(|path| path.exists())
        .map(|path| path.to_path_buf());
    let writable = image::outermost(&present.collect::<Vec<_>>());
    let initramfs = work.path().join("initramfs");
    run::write(
        &initramfs,
        &image::build(&kernel, job, &writable, &trailer)?,
    )?;

    let channels = Channels::listen(work.path(), job.interactive)?;
    let mut qemu = machine(&kernel, &initramfs, &log, &writable, job.hosts)?;
    channels.add_to(&mut qemu);
    let scratch = job.scratch.then(|| scratch(work.path())).transpose()?;
    for (index, drive) in scratch.iter().chain(&job.drives).enumerate() {
        add_drive(&mut qemu, index, drive);
    }
    if !job.interactive {
        qemu.stdin(Stdio::null());
    }
    let terminal = job.interactive.then(SavedTerminal::save);
    let said = work.path().join("qemu.log");
    let file = std::fs::File::create(&said).context(|| "cannot create QEMU's log".to_owned())?;
    let child = qemu
        .stderr(file)
        .spawn()
        .context(|| "cannot start QEMU".to_owned())?;
    let mut host = Host { child, log, said };
    let result = host.serve(&channels, job, &trailer, terminal.as_ref());
    host.end();
    drop(terminal);
    if result.is_ok() {
        // Only a failed run's log is of interest; it is one file per process.
        let _ = std::fs::remove_file(&host.log);
    }
    result
}

/// QEMU's command line without the channels.
fn machine(
    kernel: &Kernel,
    initramfs: &Path,
    log: &Path,
    writable: &[PathBuf],
    hosts: u32,
) -> Result<Command> {
    // The kernel kills QEMU when we die, however we die.
    let mut qemu = run::program("setpriv");
    qemu.args(["--pdeathsig", "KILL", "--"]);
    qemu.arg(run::find_program("qemu-system-x86_64").unwrap_or_else(|| "qemu".into()));
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    qemu.args([
        "-machine",
        "q35",
        "-accel",
        "tcg,tb-size=1024",
        "-cpu",
        "max",
    ]);
    qemu.args(["-smp", PROCESSORS, "-m"]);
    qemu.arg(format!("{}M", memory_mib(hosts)?));
    qemu.arg("-kernel")
        .arg(kernel.vmlinux()?)
        .arg("-initrd")
        .arg(initramfs);
    let options = "console=ttyS0 panic=-1 mitigations=off nokaslr audit=0 apparmor=0 \
                   no_timer_check tsc=reliable random.trust_cpu=on";
    qemu.args(["-append", options]);
    qemu.arg("-serial").arg(format!("file:{}", escape(log)));
    let mut share = |path: &Path, tag: &str, mode: &str| {
        let path = escape(path);
        let fs = "local,security_model=none,multidevs=remap";
        qemu.arg("-virtfs")
            .arg(format!("{fs},path={path},mount_tag={tag}{mode}"));
    };
    share(Path::new("/"), "root", ",readonly=on");
    for (index, path) in writable.iter().enumerate() {
        share(path, &image::tag(index), "");
    }
    qemu.args([
        "-device",
        "virtio-serial-pci,max_ports=8",
        "-device",
        "virtio-rng-pci",
    ]);
    Ok(qemu)
}

/// An empty file system in a sparse file.
fn scratch(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("scratch");
    std::fs::File::create(&path)
        .and_then(|file| file.set_len(SCRATCH_BYTES))
        .context(|| format!("cannot create {}", path.display()))?;
    run::output(run::program("mkfs.ext4").args(["-q", "-F"]).arg(&path))?;
    Ok(path)
}

fn add_drive(qemu: &mut Command, index: usize, path: &Path) {
    let file = escape(path);
    qemu.arg("-drive").arg(format!(
        "file={file},if=none,id=drive{index},format=raw,snapshot=on,cache=unsafe,discard=unmap"
    ));
    qemu.arg("-device")
        .arg(format!("virtio-blk-pci,drive=drive{index}"));
}

/// QEMU's options double a comma inside of a value.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Two thirds of what is free by the number of hosts, because the guests' memory has to fit; it is used only when
/// touched.
fn memory_mib(hosts: u32) -> Result<u64> {
    const LEAST: u64 = 2048;
    const MOST: u64 = 16 * 1024;
    let text = run::read_text(Path::new("/proc/meminfo"))?;
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok())
        .unwrap_or(LEAST * 1024);
    Ok((available / 1024 * 2 / 3 / u64::from(hosts.max(1))).clamp(LEAST, MOST))
}

/// A number that no job prints by accident.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// The sockets on which QEMU gives us the host's ports.
struct Channels {
    control: (PathBuf, UnixListener),
    streams: Vec<(PathBuf, UnixListener)>,
}

impl Channels {
    fn listen(folder: &Path, interactive: bool) -> Result<Self> {
        let open = |name: &str| {
            let path = folder.join(name);
            let listener = UnixListener::bind(&path)
                .context(|| format!("cannot listen on {}", path.display()))?;
            listener
                .set_nonblocking(true)
                .context(|| "cannot set a socket's mode".to_owned())?;
            Ok((path, listener))
        };
        let streams: &[&str] = if interactive { &[] } else { &["out", "err"] };
        Ok(Self {
            control: open("control")?,
            streams: streams
                .iter()
                .map(|name| open(name))
                .collect::<Result<_>>()?,
        })
    }

    fn add_to(&self, qemu: &mut Command) {
        for (path, _) in std::iter::once(&self.control).chain(&self.streams) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            qemu.arg("-chardev")
                .arg(format!("socket,id={name},path={}", escape(path)));
            qemu.arg("-device")
                .arg(format!("virtserialport,name={name},chardev={name}"));
        }
        if self.streams.is_empty() {
            qemu.args(["-chardev", "stdio,id=tty,signal=off"]);
            qemu.args(["-device", "virtconsole,chardev=tty"]);
        }
    }
}

/// A running QEMU.
struct Host {
    child: Child,
    /// What the host's kernel printed.
    log: PathBuf,
    /// What QEMU itself printed.
    said: PathBuf,
}

impl Host {
    /// Copies the job's output and waits for its end.
    fn serve(
        &mut self,
        channels: &Channels,
        job: &Job,
        trailer: &str,
        terminal: Option<&SavedTerminal>,
    ) -> Result<u8> {
        let control = self.accept(&channels.control.1)?;
        let mut copies = Vec::new();
        for (index, (_, listener)) in channels.streams.iter().enumerate() {
            let stream = self.accept(listener)?;
            let to = sink(job.output.as_deref(), index == 1)?;
            copies.push(copy_in_background(stream, to, trailer.to_owned()));
        }
        let messages = lines_in_background(control);
        self.expect(&messages, Some(START_LIMIT), "did not come up")?;
        // QEMU has set the terminal, but would still change what is printed.
        if let Some(terminal) = terminal {
            terminal.make_raw();
        }
        let end = self.expect(&messages, job.limit, "ran the job too long")?;
        let status = end
            .strip_prefix("exit ")
            .and_then(|number| number.trim().parse().ok());
        let status = status.ok_or_else(|| self.failed(&format!("said {end:?}")))?;
        for copy in copies {
            match copy.join() {
                Ok(Ok(true)) => {}
                _ => return Err(self.failed("lost part of the job's output")),
            }
        }
        Ok(status)
    }

    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream> {
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream
                        .set_nonblocking(false)
                        .context(|| "cannot set a socket".to_owned())?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(source) => {
                    return Err(Error::Io {
                        what: "cannot accept from QEMU".to_owned(),
                        source,
                    });
                }
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&format!("did not start: QEMU ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed("did not start: QEMU does not connect"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next message of the host.
    fn expect(
        &mut self,
        messages: &Receiver<String>,
        limit: Option<Duration>,
        problem: &str,
    ) -> Result<String> {
        let forever = Duration::from_secs(u64::from(u32::MAX));
        let limit = limit.unwrap_or(forever);
        messages.recv_timeout(limit).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => {
                self.failed(&format!("{problem} ({} s)", limit.as_secs()))
            }
            mpsc::RecvTimeoutError::Disconnected => self.failed("died"),
        })
    }

    fn failed(&self, problem: &str) -> Error {
        let text = run::read_text(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let qemu = run::read_text(&self.said).unwrap_or_default();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n") + "\n" + &qemu;
        Error::Nested {
            problem: problem.to_owned(),
            log: self.log.clone(),
            tail,
        }
    }

    /// Ends QEMU; politely first, because it has to give the terminal back.
    fn end(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where one of a job's two streams goes.
fn sink(file: Option<&Path>, is_stderr: bool) -> Result<Box<dyn Write + Send>> {
    Ok(match file {
        Some(path) => {
            let file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(path);
            Box::new(file.context(|| format!("cannot write {}", path.display()))?)
        }
        None if is_stderr => Box::new(io::stderr()),
        None => Box::new(io::stdout()),
    })
}

fn copy_in_background(
    from: UnixStream,
    to: Box<dyn Write + Send>,
    trailer: String,
) -> JoinHandle<io::Result<bool>> {
    std::thread::spawn(move || Ok(frames::copy(from, to, trailer.as_bytes())?.is_some()))
}

fn lines_in_background(from: UnixStream) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
