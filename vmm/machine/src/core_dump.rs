//! The guest as a core dump: its memory, its processors' registers and what its kernel says of itself, in one file that
//! `gdb` and `crash` read.
//!
//! Addresses in the file are those of the guest's physical memory. `crash` follows the guest's page tables by itself;
//! with `gdb` it is what `x` shows.

mod elf;
mod vmcoreinfo;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use config::Problem;
use hypervisor::VcpuState;

use crate::build::Machine;
use crate::{Error, Result};
use elf::{Head, Note};

/// `IA32_KERNEL_GS_BASE` (Intel SDM volume 4).
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Notes of which Linux and `gdb` know the form (`linux/elf.h`).
const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
/// What the dump's name ends with while it is written.
const PARTIAL: &str = ".partial";

/// The file that a URL `file:///<file>` names.
///
/// # Errors
/// A [`Problem`] if it is another URL.
pub(crate) fn file(url: &str) -> Result<PathBuf> {
    match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => {
            Ok(path.into())
        }
        _ => {
            let text =
                format!("{url:?}: a core dump is a file of this host, given as file:///<file>");
            Err(Problem::new("destination_url", text).into())
        }
    }
}

impl Machine {
    /// Writes a core dump. Only while the machine is paused.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is something at `path`; whatever keeps the dump from being whole. Nothing stays
    /// behind then.
    pub(crate) fn dump_to(&self, path: &Path) -> Result<()> {
        let destination = Destination::create(path)?;
        self.wait_for_memory()?;
        let vcpus = self.processors.save()?;
        let mut notes: Vec<Note> = (1..).zip(&vcpus).flat_map(notes).collect();
        notes.extend(vmcoreinfo::find(&self.ram)?);
        let head = Head::new(&notes, &self.ram.ranges());
        let failed = |source| Error::CoreDump {
            act: "write",
            path: path.to_owned(),
            source,
        };
        (&destination.file).write_all(&head.bytes).map_err(failed)?;
        let written = self.ram.write_contents_at(&destination.file, head.memory)?;
        destination.commit()?;
        let (data, size) = (written.data >> 10, written.size >> 10);
        telemetry::info!("{data} KiB of {size} KiB of memory were written to the core dump");
        Ok(())
    }
}

/// What is told of a processor. Debuggers count from 1: thread 0 would be none.
fn notes((thread, vcpu): (u32, &VcpuState)) -> [Note; 3] {
    let (regs, special) = (&vcpu.regs, &vcpu.special_regs);
    let mut msrs = vcpu.msrs.iter();
    let kernel_gs_base = msrs.find(|msr| msr.index == KERNEL_GS_BASE);
    let mut fpu = vcpu.xsave.clone();
    fpu.resize(arch::FXSAVE_SIZE, 0);
    [
        Note {
            name: "CORE",
            kind: NT_PRSTATUS,
            content: arch::core_status(thread, regs, special),
        },
        Note {
            name: "CORE",
            kind: NT_FPREGSET,
            content: fpu,
        },
        Note {
            name: "QEMU",
            kind: 0,
            content: arch::cpu_state(regs, special, kernel_gs_base.map_or(0, |msr| msr.value)),
        },
    ]
}

/// A file that gets its name when it is whole. Dropping it before removes it.
struct Destination {
    file: File,
    path: PathBuf,
    partial: PathBuf,
    /// It has its name.
    done: bool,
}

impl Destination {
    fn create(path: &Path) -> Result<Self> {
        // A name that leads nowhere is taken, too.
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists(path.to_owned()));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(PARTIAL);
        let partial = PathBuf::from(partial);
        let failed = |source| Error::CoreDump {
            act: "create",
            path: partial.clone(),
            source,
        };
        // It may be what a dump that was interrupted left.
        match std::fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        // All that the guest knows is in it.
        let file = options.write(true).create_new(true).mode(0o600);
        let file = file.open(&partial).map_err(failed)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            partial,
            done: false,
        })
    }

    fn commit(mut self) -> Result<()> {
        let failed = |act, source| Error::CoreDump {
            act,
            path: self.path.clone(),
            source,
        };
        let synced = self.file.sync_all();
        synced.map_err(|source| failed("write", source))?;
        match snapshot::give_name(&self.partial, &self.path) {
            Ok(()) => {
                self.done = true;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Exists(self.path.clone()))
            }
            Err(source) => Err(failed("create", source)),
        }
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if !self.done {
            // If that fails, too, the name says what it is.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_this_host_are_written() {
        assert_eq!(file("file:///tmp/core").unwrap(), Path::new("/tmp/core"));
        for url in [
            "/tmp/core",
            "file://core",
            "file:///tmp/",
            "http://host/core",
            "file:///a\0b",
        ] {
            let error = file(url).unwrap_err().to_string();
            assert!(error.contains("file:///<file>"), "{error}");
        }
    }

    #[test]
    fn a_dump_is_there_whole_or_not_at_all_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("core");
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        drop(Destination::create(&path).unwrap());
        assert_eq!(names(), 0);
        std::fs::write(folder.path().join("core.partial"), "old").unwrap();
        let destination = Destination::create(&path).unwrap();
        assert!(!path.exists());
        destination.commit().unwrap();
        assert_eq!((names(), std::fs::read(&path).unwrap()), (1, vec![]));
        assert!(matches!(Destination::create(&path), Err(Error::Exists(_))));
        // Somebody was faster.
        std::fs::remove_file(&path).unwrap();
        let destination = Destination::create(&path).unwrap();
        std::fs::write(&path, "theirs").unwrap();
        assert!(matches!(destination.commit(), Err(Error::Exists(_))));
        assert_eq!(
            (names(), std::fs::read(&path).unwrap()),
            (1, b"theirs".to_vec())
        );
    }
}
