//! Finds out which Debian packages are missing on this machine and installs them.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::run::{self, find_program};

/// A package and how one sees that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    /// The Debian and Ubuntu package.
    pub(crate) package: &'static str,
    /// What it brings.
    proof: Proof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Program(&'static str),
    /// A program that needs no shared library, because it goes into an initramfs.
    StaticProgram(&'static str),
    /// A static library of the C compiler.
    Library(&'static str),
    /// A module of Python.
    Module(&'static str),
}

const fn program(package: &'static str, name: &'static str) -> Need {
    Need {
        package,
        proof: Proof::Program(name),
    }
}

/// What building the monitor takes: the linker, and the C library to link statically.
pub(crate) const BUILD: &[Need] = &[
    program("gcc", "cc"),
    Need {
        package: "libc6-dev",
        proof: Proof::Library("libc.a"),
    },
];

/// What preparing a guest takes.
pub(crate) const GUEST: &[Need] = &[
    Need {
        package: "busybox-static",
        proof: Proof::StaticProgram("busybox"),
    },
    program("kmod", "depmod"),
    program("xz-utils", "xz"),
    program("zstd", "zstd"),
];

/// What the emulated host takes.
pub(crate) const NESTED: &[Need] = &[
    program("qemu-system-x86", "qemu-system-x86_64"),
    program("util-linux", "setpriv"),
];

/// What making a disk with Debian on it takes.
pub(crate) const DEBIAN: &[Need] = &[
    program("mmdebstrap", "mmdebstrap"),
    program("e2fsprogs", "mkfs.ext4"),
    program("fdisk", "sfdisk"),
    program("dosfstools", "mkfs.vfat"),
    program("mtools", "mcopy"),
];

/// What only the tests take: the tools that judge the guest's tables.
pub(crate) const TEST: &[Need] = &[
    program("acpica-tools", "iasl"),
    program("dbus-daemon", "dbus-run-session"),
    program("dmidecode", "dmidecode"),
    program("e2fsprogs", "mkfs.ext4"),
    program("gdb", "gdb"),
    program("iproute2", "ip"),
    program("iperf3", "iperf3"),
    program("iputils-ping", "ping"),
    program("qemu-utils", "qemu-img"),
    program("socat", "socat"),
    program("systemd", "busctl"),
];

/// What clients of the API take that come from PyPI.
pub(crate) const CLIENTS: &[Need] = &[
    program("python3", "python3"),
    Need {
        package: "python3-venv",
        proof: Proof::Module("ensurepip"),
    },
    program("iproute2", "ip"),
    program("util-linux", "unshare"),
];

/// What makes and checks disk images, beside our own.
pub(crate) const IMAGES: &[Need] = &[program("qemu-utils", "qemu-img")];

/// What only the benchmark takes.
pub(crate) const BENCH: &[Need] = &[program("qemu-system-x86", "qemu-system-x86_64")];

/// Installs what is missing of these lists and says what.
///
/// # Errors
/// When something is missing and we are neither root nor able to use `sudo`, or when apt fails.
pub(crate) fn ensure(lists: &[&[Need]]) -> Result<()> {
    let mut missing: Vec<&str> = lists
        .iter()
        .flat_map(|list| list.iter())
        .filter(|need| !is_there(need.proof))
        .map(|need| need.package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing: {}", missing.join(" "));
    let install = [
        &["install", "--yes", "--no-install-recommends"],
        &missing[..],
    ]
    .concat();
    if apt_get(&install, true).is_err() {
        // A fresh machine has no package lists, an old one has stale ones.
        apt_get(&["update"], true)?;
        apt_get(&install, true)?;
    }
    Ok(())
}

/// Runs `apt-get`, as root when asked to.
pub(crate) fn apt_get(arguments: &[&str], as_root: bool) -> Result<()> {
    let needs_sudo = as_root && !rustix::process::geteuid().is_root();
    if find_program("apt-get").is_none() || (needs_sudo && find_program("sudo").is_none()) {
        return Err(Error::Missing {
            what: "packages are missing and cannot be installed from here".to_owned(),
            remedy: format!("run this as root: apt-get {}", arguments.join(" ")),
        });
    }
    let mut command = if needs_sudo {
        let mut sudo = Command::new("sudo");
        sudo.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        Command::new("apt-get")
    };
    command
        .arg("-qq")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    // apt talks on standard output, which belongs to the guest's command.
    command.stdout(std::io::stderr());
    run::check(&mut command)
}

fn is_there(proof: Proof) -> bool {
    match proof {
        Proof::Program(name) => find_program(name).is_some(),
        Proof::StaticProgram(name) => find_program(name).is_some_and(|path| is_static(&path)),
        Proof::Library(name) => Command::new("cc")
            .arg(format!("-print-file-name={name}"))
            .output()
            // The compiler echoes the bare name when it does not find the file.
            .is_ok_and(|out| out.stdout.contains(&b'/')),
        Proof::Module(name) => Command::new("python3")
            .args(["-c", &format!("import {name}")])
            .output()
            .is_ok_and(|out| out.status.success()),
    }
}

/// Whether a program runs without a dynamic loader: no `PT_INTERP` in its ELF headers.
pub(crate) fn is_static(path: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    let Ok(elf) = std::fs::read(path) else {
        return false;
    };
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0u64, |number, byte| number << 8 | u64::from(*byte)),
        )
    };
    let headers = || {
        let start = usize::try_from(number(32, 8)?).ok()?;
        let size = usize::try_from(number(54, 2)?).ok()?;
        let count = usize::try_from(number(56, 2)?).ok()?;
        (0..count)
            .map(|index| number(start.checked_add(index * size)?, 4))
            .collect::<Option<Vec<_>>>()
    };
    elf.starts_with(b"\x7fELF\x02")
        && headers().is_some_and(|types| !types.contains(&u64::from(PT_INTERP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_needs_its_loader_and_a_payload_does_not() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let payload = dir.path().join("payload");
        testkit::payload::Payload::new()
            .elf()
            .write(&payload)
            .unwrap();
        assert!(is_static(&payload));
        std::fs::write(&payload, b"#!/bin/sh").unwrap();
        assert!(!is_static(&payload));
    }

    #[test]
    fn a_program_that_does_not_exist_is_missing() {
        assert!(!is_there(Proof::Program("no-such-program-anywhere")));
        assert!(is_there(Proof::Program("sh")));
        assert!(!is_there(Proof::Library("libdoes-not-exist.a")));
        assert!(!is_there(Proof::Module("no_such_module_anywhere")));
    }
}
