//! `cargo xtask boot --debian`: Debian from a disk, with network.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::Vm;

use super::{CMDLINE, Debian};
use crate::args::Args;
use crate::error::{Context as _, Error, Result};
use crate::kvm::{self, Place};
use crate::nested::{self, Job};
use crate::project::Project;
use crate::terminal::SavedTerminal;
use crate::{release, run};

/// The host's end of the guest's network; the guest is 192.168.249.2.
const NET: &str = "tap=,ip=192.168.249.1,mask=255.255.255.0";
/// From the start until systemd has come up, on a slow machine.
const BOOT_SECONDS: u64 = 300;
/// How long a script may run.
const SCRIPT_SECONDS: u64 = 3600;

struct Wish {
    exec: Option<String>,
    binary: Option<PathBuf>,
    cpus: String,
    memory: String,
    firmware: Option<PathBuf>,
    uefi: bool,
    here: bool,
    nested: bool,
}

impl Wish {
    fn read(arguments: Vec<String>) -> Result<Self> {
        let mut args = Args::without_separator(arguments);
        args.flag("--debian");
        let wish = Self {
            exec: args.option("--exec")?,
            binary: args.option("--binary")?.map(PathBuf::from),
            cpus: args.option("--cpus")?.unwrap_or_else(|| "2".to_owned()),
            memory: args.option("--memory")?.unwrap_or_else(|| "1G".to_owned()),
            firmware: args.option("--firmware")?.map(PathBuf::from),
            uefi: args.flag("--uefi"),
            here: args.flag("--here"),
            nested: args.flag("--nested"),
        };
        args.done()?;
        Ok(wish)
    }

    /// The same wish for the xtask in the emulated host.
    fn arguments(&self, binary: &Path) -> Vec<String> {
        let mut words: Vec<String> = ["boot", "--debian", "--here"].map(str::to_owned).to_vec();
        let mut add = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
        add("--binary", &binary.display().to_string());
        add("--cpus", &self.cpus);
        add("--memory", &self.memory);
        if let Some(firmware) = &self.firmware {
            add("--firmware", &firmware.display().to_string());
        }
        if let Some(exec) = &self.exec {
            add("--exec", exec);
        }
        words
    }
}

/// Boots Debian: a login on this terminal, or one script whose exit status is returned.
pub(crate) fn command(project: &Project, arguments: Vec<String>) -> Result<u8> {
    let mut wish = Wish::read(arguments)?;
    if wish.uefi && wish.firmware.is_none() {
        wish.firmware = Some(super::firmware::prepare(project)?);
    }
    if wish.firmware.is_some() && wish.exec.is_some() {
        return Err(Error::Usage(
            "--exec needs a kernel command line of ours, which a disk's own GRUB does not take: leave out --uefi"
                .to_owned(),
        ));
    }
    let binary = match &wish.binary {
        Some(path) => path.clone(),
        None => release::build(project)?,
    };
    let binary = std::path::absolute(&binary).context(|| format!("bad path {binary:?}"))?;
    let debian = Debian::prepare(project)?;
    let disk = own_disk(project, &debian)?;
    if !wish.here {
        let place = if wish.nested {
            Place::Nested("asked to".to_owned())
        } else {
            kvm::place(&binary)?
        };
        if let Place::Nested(reason) = place {
            eprintln!("running inside an emulated host: {reason}");
            let this =
                std::env::current_exe().context(|| "xtask does not find itself".to_owned())?;
            let mut command = vec![this.display().to_string()];
            command.extend(wish.arguments(&binary));
            let job = Job {
                command,
                folder: project.root().to_owned(),
                interactive: wish.exec.is_none(),
                ..Job::default()
            };
            return nested::run_job(project, &job);
        }
        eprintln!("running on this machine's /dev/kvm");
    }
    match &wish.exec {
        Some(script) => execute(&wish, &binary, &debian, &disk, script),
        None => interact(&wish, &binary, &debian, &disk),
    }
}

/// A copy of the disk that keeps what the guest writes from one start to the next.
fn own_disk(project: &Project, debian: &Debian) -> Result<PathBuf> {
    let disk = project.cache().join("debian.raw");
    if !disk.exists() {
        let partial = disk.with_extension("partial");
        let mut copy = Command::new("cp");
        copy.args(["--sparse=always", "--reflink=auto"]);
        run::check(copy.arg(&debian.disk).arg(&partial))?;
        run::rename(&partial, &disk)?;
    }
    Ok(disk)
}

/// The options besides the payload.
fn machine(wish: &Wish, disk: &Path) -> Vec<(&'static str, String)> {
    let mut options = vec![
        ("--cpus", format!("boot={}", wish.cpus)),
        ("--memory", format!("size={}", wish.memory)),
        ("--disk", format!("path={},image_type=raw", disk.display())),
    ];
    if rustix::process::geteuid().is_root() {
        options.push(("--net", NET.to_owned()));
    } else {
        eprintln!("no network: making a TAP interface takes root");
    }
    options
}

fn interact(wish: &Wish, binary: &Path, debian: &Debian, disk: &Path) -> Result<u8> {
    let _terminal = SavedTerminal::save();
    let mut command = Command::new(binary);
    match &wish.firmware {
        Some(firmware) => command.arg("--firmware").arg(firmware),
        None => command
            .arg("--kernel")
            .arg(&debian.kernel)
            .arg("--initramfs")
            .arg(&debian.initramfs)
            .args(["--cmdline", CMDLINE]),
    };
    for (option, value) in machine(wish, disk) {
        command.args([option, &value]);
    }
    command.args(["--serial", "tty", "--console", "off"]);
    eprintln!("log in as root, without a password; `poweroff` ends it");
    let status = command
        .status()
        .context(|| format!("cannot start {}", run::text(&command)))?;
    if status.success() {
        return Ok(0);
    }
    Err(Error::Command {
        command: run::text(&command),
        status: status.to_string(),
    })
}

fn execute(wish: &Wish, binary: &Path, debian: &Debian, disk: &Path, script: &str) -> Result<u8> {
    let guest = |error: testkit::Error| Error::Guest(error.to_string());
    let mut builder = Vm::builder()
        .binary(binary)
        .serial(testkit::SerialLink::Stdio);
    builder = builder
        .kernel(&debian.kernel)
        .initramfs(&debian.initramfs)
        .cmdline(&format!("{CMDLINE} quiet {}", testkit::guest::OPTION));
    for (option, value) in machine(wish, disk) {
        builder = builder.arg(option, value);
    }
    let mut vm = builder.spawn().map_err(guest)?;
    vm.wait_ready(BOOT_SECONDS).map_err(guest)?;
    let output = vm.run_within(script, SCRIPT_SECONDS).map_err(guest)?;
    print(&output.stdout)?;
    vm.power_off().map_err(guest)?;
    Ok(u8::try_from(output.status).unwrap_or(1))
}

fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context(|| "cannot print".to_owned())
}
