//! Monitors that take part, and how each is told the same thing.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cell::{Block, Cell};
use super::host::TAP;
use crate::run;

/// Memory of the guest in MiB.
const MEMORY: u32 = 128;
/// QEMU's `microvm` places no BARs and has no table for this loader that says where ECAM is (`info mtree`).
const MICROVM_WORDS: &str = "ecam=0xe0000000 window=0xc0000000";

/// One monitor with its settings.
#[derive(Debug, Clone)]
pub(super) struct Monitor {
    /// Its name in the report.
    pub(super) name: String,
    program: PathBuf,
    options: Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Options {
    /// Ours, and whoever takes them too.
    Compatible,
    /// QEMU with an I/O thread and io_uring.
    QemuUring,
    /// QEMU with an I/O thread and its other engine: Linux AIO around the page cache, threads through it.
    QemuOther,
}

/// Files of a run.
#[derive(Debug)]
pub(super) struct Files<'a> {
    /// The guest.
    pub(super) guest: &'a Path,
    /// Where the debug console goes.
    pub(super) output: &'a Path,
    /// The disk.
    pub(super) disk: &'a Path,
    /// The socket device's socket.
    pub(super) socket: &'a Path,
}

impl Monitor {
    /// A monitor with our options.
    pub(super) fn compatible(name: &str, program: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            program,
            options: Options::Compatible,
        }
    }

    /// QEMU as the distribution ships it, where it is installed: with each of its engines.
    pub(super) fn qemu() -> Vec<Self> {
        let program = run::find_program("qemu-system-x86_64");
        let pair = program.as_deref().map(Self::pair);
        pair.into_iter().flatten().collect()
    }

    /// This QEMU, with each of its engines.
    pub(super) fn pair(program: &Path) -> [Self; 2] {
        [
            ("qemu io_uring", Options::QemuUring),
            ("qemu aio/threads", Options::QemuOther),
        ]
        .map(|(name, options)| Self {
            name: name.to_owned(),
            program: program.to_owned(),
            options,
        })
    }

    /// Counts as QEMU in the verdicts.
    pub(super) fn is_qemu(&self) -> bool {
        self.options != Options::Compatible
    }

    /// Whether it has what the cell measures. QEMU's only socket device is in the host's kernel
    /// (`/dev/vhost-vsock`); engines make no difference to its network device.
    pub(super) fn can(&self, cell: Cell) -> bool {
        match cell {
            Cell::Block(_) => true,
            Cell::Net { .. } => self.options != Options::QemuOther,
            Cell::Vsock(_) => self.options == Options::Compatible,
        }
    }

    /// The command of a run. `words` is for the guest.
    pub(super) fn command(&self, cell: Cell, words: &str, files: &Files<'_>) -> Command {
        let mut command = Command::new(&self.program);
        if self.is_qemu() {
            self.qemu_options(&mut command, cell, words, files);
        } else {
            compatible_options(&mut command, cell, words, files);
        }
        command
    }

    fn qemu_options(&self, command: &mut Command, cell: Cell, words: &str, files: &Files<'_>) {
        command.args(["-M", "microvm,pcie=on", "-accel", "kvm"]);
        command.args(["-cpu", "host,-arch-capabilities", "-smp", "2"]);
        command.args(["-m", &MEMORY.to_string(), "-nodefaults", "-no-user-config"]);
        command.args([
            "-no-reboot",
            "-display",
            "none",
            "-name",
            "bench,debug-threads=on",
        ]);
        command.arg("-kernel").arg(files.guest);
        command.args(["-append", &format!("{words} {MICROVM_WORDS}")]);
        let console = format!("file,id=out,path={}", files.output.display());
        command.args(["-chardev", &console]);
        command.args(["-device", "isa-debugcon,iobase=0xe9,chardev=out"]);
        match cell {
            Cell::Block(block) => {
                let Block { queues, direct, .. } = block;
                let (cache, other) = if direct {
                    ("none", "native")
                } else {
                    ("writeback", "threads")
                };
                let engine = if self.options == Options::QemuUring {
                    "io_uring"
                } else {
                    other
                };
                let disk = files.disk.display();
                command.args(["-object", "iothread,id=io", "-drive"]);
                command.arg(format!(
                    "file={disk},if=none,id=disk,format=raw,cache={cache},aio={engine},file.locking=off"
                ));
                command.arg("-device").arg(format!(
                    "virtio-blk-pci,drive=disk,iothread=io,disable-legacy=on,num-queues={queues},queue-size=128"
                ));
            }
            Cell::Net { .. } => {
                let tap = format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off");
                command.args(["-netdev", &tap, "-device"]);
                command.arg("virtio-net-pci,netdev=net,disable-legacy=on,romfile=");
            }
            Cell::Vsock(_) => {}
        }
    }
}

fn compatible_options(command: &mut Command, cell: Cell, words: &str, files: &Files<'_>) {
    command.arg("--kernel").arg(files.guest);
    command.args(["--cmdline", words, "--cpus", "boot=2"]);
    command.args(["--memory", &format!("size={MEMORY}M")]);
    command.args(["--serial", "off", "--console", "off", "--debug-console"]);
    command.arg(format!("file={}", files.output.display()));
    match cell {
        Cell::Block(Block { queues, direct, .. }) => {
            let direct = if direct { "on" } else { "off" };
            command.arg("--disk").arg(format!(
                "path={},image_type=raw,direct={direct},num_queues={queues},queue_size=128",
                files.disk.display()
            ));
        }
        Cell::Net { .. } => {
            command.arg("--net").arg(format!("tap={TAP}"));
        }
        Cell::Vsock(_) => {
            let socket = files.socket.display();
            command.arg("--vsock").arg(format!("cid=3,socket={socket}"));
        }
    }
}
