//! Monitors that take part, and how each is told the same thing.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::GUEST_MEBIBYTES;
use crate::run;

/// One monitor.
#[derive(Debug, Clone)]
pub(super) struct Contender {
    /// Its name in the report.
    pub(super) name: String,
    /// Its program.
    pub(super) program: PathBuf,
    options: Options,
}

#[derive(Debug, Clone, Copy)]
enum Options {
    /// Ours, and whoever takes them too.
    Compatible,
    /// QEMU with its smallest machine.
    Qemu,
}

impl Contender {
    /// A monitor with our options.
    pub(super) fn compatible(name: &str, program: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            program,
            options: Options::Compatible,
        }
    }

    /// QEMU as the distribution ships it, where it is installed.
    pub(super) fn qemu() -> Option<Self> {
        let program = run::find_program("qemu-system-x86_64")?;
        Some(Self {
            name: "qemu microvm".to_owned(),
            program,
            options: Options::Qemu,
        })
    }

    /// One vCPU, 128 MiB, nothing but a debug console that writes to this file.
    pub(super) fn command(&self, payload: &Path, output: &Path) -> Command {
        let mut command = Command::new(&self.program);
        match self.options {
            Options::Compatible => {
                command.arg("--kernel").arg(payload);
                command.args([
                    "--cpus",
                    "boot=1",
                    "--memory",
                    &format!("size={GUEST_MEBIBYTES}M"),
                ]);
                command.args(["--serial", "off", "--console", "off", "--debug-console"]);
                command.arg(format!("file={}", output.display()));
            }
            Options::Qemu => {
                command.arg("-kernel").arg(payload);
                command.args([
                    "-M",
                    "microvm",
                    "-accel",
                    "kvm",
                    "-cpu",
                    "host,-arch-capabilities",
                ]);
                command.args([
                    "-m",
                    &GUEST_MEBIBYTES.to_string(),
                    "-nodefaults",
                    "-no-user-config",
                    "-no-reboot",
                ]);
                command.args(["-display", "none", "-chardev"]);
                command.arg(format!("file,id=out,path={}", output.display()));
                command.args(["-device", "isa-debugcon,iobase=0xe9,chardev=out"]);
                // The payload's last write ends QEMU, which has no ACPI register at 0x600.
                command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
            }
        }
        command
    }

    /// Whether an exit code is the one of a clean power-off.
    pub(super) fn is_clean(&self, code: Option<i32>) -> bool {
        match self.options {
            Options::Compatible => code == Some(0),
            // isa-debug-exit: twice the value written, plus one.
            Options::Qemu => code == Some(1),
        }
    }
}
