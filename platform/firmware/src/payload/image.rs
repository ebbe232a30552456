//! What kind of file a payload is, by its content.

use std::fs::File;

use super::bzimage::{self, BzImage};
use super::elf::{self, Elf};
use super::source::{Role, Source};
use crate::Error;

/// A file that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// ELF with a PVH entry point: a `vmlinux`, or firmware.
    Elf(Elf),
    /// A compressed Linux kernel.
    BzImage(BzImage),
}

impl Image {
    /// Recognises a file by its content and reads its headers. Its name does not matter.
    ///
    /// # Errors
    /// A file that cannot be read, is of neither kind, or is of one and damaged.
    pub fn read(file: &File, role: Role) -> Result<Self, Error> {
        Self::from_source(&Source::new(file, role)?)
    }

    pub(super) fn from_source(source: &Source<'_>) -> Result<Self, Error> {
        let head = source.head(bzimage::HEAD)?;
        if head.starts_with(&elf::MAGIC) {
            elf::parse(source).map(Self::Elf)
        } else if bzimage::recognise(&head) {
            bzimage::parse(source, &head).map(Self::BzImage)
        } else {
            Err(Error::NotAnImage {
                role: source.role,
                found: describe(&head),
            })
        }
    }
}

/// The first bytes, and what kind of file has these.
fn describe(head: &[u8]) -> String {
    const KNOWN: [(usize, &[u8], &str); 12] = [
        (0, b"\x1f\x8b", "gzip"),
        (0, b"\xfd7zXZ", "xz"),
        (0, b"\x28\xb5\x2f\xfd", "zstd"),
        (0, b"BZh", "bzip2"),
        (0, b"\x02\x21\x4c\x18", "lz4"),
        (0, b"\x04\x22\x4d\x18", "lz4"),
        (0, b"070701", "cpio, as an initramfs is"),
        (0, b"QFI\xfb", "qcow2 disk image"),
        (0, b"#!", "script"),
        (0, b"IGVM", "IGVM"),
        (0x38, b"ARM\x64", "Linux kernel for arm64"),
        (0, b"MZ", "EFI program"),
    ];
    let bytes: Vec<String> = head
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let name = KNOWN
        .iter()
        .find(|(offset, magic, _)| head.get(*offset..).is_some_and(|at| at.starts_with(magic)))
        .map_or(String::new(), |(_, _, name)| format!(" ({name})"));
    format!("{}{name}", bytes.join(" "))
}
