//! Where `cargo xtask test` put things: environment variables that it sets.

use std::path::PathBuf;

use crate::{Error, Result};

/// The monitor under test: `CH_BINARY`.
///
/// # Errors
/// When the variable is not set.
pub fn binary() -> Result<PathBuf> {
    path("CH_BINARY")
}

/// The distribution's kernel as it ships it, a bzImage: `CH_KERNEL`.
///
/// # Errors
/// When the variable is not set.
pub fn kernel() -> Result<PathBuf> {
    path("CH_KERNEL")
}

/// The same kernel uncompressed, an ELF file with a PVH note: `CH_VMLINUX`.
///
/// # Errors
/// When the variable is not set.
pub fn vmlinux() -> Result<PathBuf> {
    path("CH_VMLINUX")
}

/// The initramfs whose first program [`Vm::run`](crate::Vm::run) talks to: `CH_INITRAMFS`.
///
/// # Errors
/// When the variable is not set.
pub fn initramfs() -> Result<PathBuf> {
    path("CH_INITRAMFS")
}

/// The kernel of the Debian disk: `CH_DEBIAN_KERNEL`.
///
/// # Errors
/// When the variable is not set.
pub fn debian_kernel() -> Result<PathBuf> {
    path("CH_DEBIAN_KERNEL")
}

/// Its initramfs: `CH_DEBIAN_INITRAMFS`.
///
/// # Errors
/// When the variable is not set.
pub fn debian_initramfs() -> Result<PathBuf> {
    path("CH_DEBIAN_INITRAMFS")
}

/// A disk with Debian on it, a raw file or a block device, that may be written to and is the same for all tests of
/// a run: `CH_DEBIAN_DISK`. One guest at a time can have it.
///
/// # Errors
/// When the variable is not set.
pub fn debian_disk() -> Result<PathBuf> {
    path("CH_DEBIAN_DISK")
}

/// UEFI firmware for machines of this monitor: `CH_FIRMWARE`.
///
/// # Errors
/// When the variable is not set.
pub fn firmware() -> Result<PathBuf> {
    path("CH_FIRMWARE")
}

/// A folder on a disk file system, for files that are opened with `O_DIRECT` or that holes are punched into:
/// `CH_SCRATCH`.
///
/// # Errors
/// When the variable is not set.
pub fn scratch() -> Result<PathBuf> {
    path("CH_SCRATCH")
}

/// Our own guest without an operating system, an ELF file with a PVH note: `CH_GUEST`.
///
/// # Errors
/// When the variable is not set.
pub fn guest() -> Result<PathBuf> {
    path("CH_GUEST")
}

/// Folder for downloads and for what is worth keeping: `CH_CACHE`.
///
/// # Errors
/// When the variable is not set.
pub fn cache() -> Result<PathBuf> {
    path("CH_CACHE")
}

/// The client of the monitor under test: the program `ch-remote` beside it.
///
/// # Errors
/// When the monitor is not known.
pub fn remote() -> Result<PathBuf> {
    Ok(binary()?.with_file_name("ch-remote"))
}

fn path(name: &'static str) -> Result<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from).ok_or(Error::NotSet { name })
}
