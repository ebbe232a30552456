//! A disk with Debian on it, made of the distribution's packages: what users boot, and what tests look inside of.
//!
//! It has a GPT with an EFI system partition, where GRUB is found by any firmware, and an ext4 root file system with
//! systemd. Kernel and initramfs are beside it, for starting it without firmware.

pub(crate) mod boot;
pub(crate) mod firmware;

use std::hash::{DefaultHasher, Hasher as _};
use std::path::PathBuf;
use std::process::Command;

use crate::apt;
use crate::error::Result;
use crate::project::Project;
use crate::run;

const BUILD: &str = include_str!("build.sh");

/// Kernel options that start it from the first disk.
pub(crate) const CMDLINE: &str = "root=LABEL=debian rw console=ttyS0";

/// The files of one Debian system, all in the cache. They are never written to: copy the disk, or use it read-only.
#[derive(Clone, Debug)]
pub(crate) struct Debian {
    /// The raw disk image, sparse, 1.5 GiB.
    pub(crate) disk: PathBuf,
    /// The kernel that is on the disk.
    pub(crate) kernel: PathBuf,
    /// Its initramfs.
    pub(crate) initramfs: PathBuf,
}

impl Debian {
    /// Makes it if the cache does not have it: takes about a minute, and root.
    ///
    /// # Errors
    /// When a tool is missing and cannot be installed, or the archive cannot be reached.
    pub(crate) fn prepare(project: &Project) -> Result<Self> {
        let folder = project.cache().join(format!("debian-{:016x}", recipe()));
        let debian = Self {
            disk: folder.join("disk.raw"),
            kernel: folder.join("vmlinuz"),
            initramfs: folder.join("initrd.img"),
        };
        // The disk comes last.
        if debian.disk.exists() {
            return Ok(debian);
        }
        apt::ensure(&[apt::DEBIAN])?;
        eprintln!("making a Debian disk, which takes about a minute");
        run::create_folder(&folder)?;
        let (script, serve) = (folder.join("build.sh"), folder.join("serve.sh"));
        run::write(&script, BUILD.as_bytes())?;
        run::write(&serve, testkit::guest::SERVE.as_bytes())?;
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new("sh")
        } else {
            let mut sudo = Command::new("sudo");
            sudo.arg("sh");
            sudo
        };
        command.arg(script).arg(&folder).arg(serve);
        run::output(&mut command)?;
        Ok(debian)
    }
}

/// Changes when a disk made today would differ by our doing.
fn recipe() -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(BUILD.as_bytes());
    hasher.write(testkit::guest::SERVE.as_bytes());
    hasher.finish()
}
