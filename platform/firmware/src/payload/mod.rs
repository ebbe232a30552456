//! Kernels and firmware: into guest memory, and then into the guest's hands.
//!
//! Loading takes the longest of all that happens before a guest runs, and it needs only RAM. So it is split:
//! [`load`] runs on a thread of its own ([`THREAD`]) while devices are built, and [`finish`] adds what is
//! known only when these are there: the memory map and the address of the ACPI tables.
//!
//! | File | Entered by | Finds the rest in |
//! |---|---|---|
//! | ELF with a PVH note (`vmlinux`, firmware) | PVH: 32-bit mode, no paging | `start_info` at 0x6000 |
//! | bzImage | Linux: 64-bit mode | zero page at 0x7000 |
//!
//! Files are recognised by content. They are not trusted: a damaged or made-up one gives an error, and makes
//! nothing allocate more than the file's own size.

mod bzimage;
mod elf;
mod handoff;
mod image;
mod plan;
mod source;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::Range;

use memory::GuestRam;

pub use bzimage::BzImage;
pub use elf::{Elf, Segment};
pub use handoff::finish;
pub use image::Image;
pub use source::Role;

use crate::Error;
use arch::layout;
use plan::{Plan, Room};

/// Name of the thread that calls [`load`].
pub const THREAD: &str = "payload_loader";

/// What the user wants to start. Exactly one of `kernel` and `firmware`.
#[derive(Debug, Default)]
pub struct Request {
    /// `--kernel`: ELF with a PVH note, or bzImage.
    pub kernel: Option<File>,
    /// `--firmware`: the same formats. It finds a kernel on its own, so initramfs and command line are unused.
    pub firmware: Option<File>,
    /// `--initramfs`.
    pub initramfs: Option<File>,
    /// `--cmdline`, at most 65535 bytes or what the kernel takes, if that is less.
    pub cmdline: Option<String>,
}

/// Where a payload is entered, and by which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// PVH.
    Pvh {
        /// Guest physical address.
        entry: u32,
    },
    /// Linux 64-bit.
    Linux64 {
        /// Guest physical address.
        entry: u64,
    },
}

/// A payload that is in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Where it is entered.
    pub entry: Entry,
    /// Where the initramfs is.
    pub initramfs: Option<Range<u64>>,
    /// Length of the command line without its NUL; it is at [`layout::CMDLINE_START`].
    pub cmdline_len: Option<u64>,
    /// Free RAM between the payload and the initramfs, for example for
    /// [large ACPI tables](crate::acpi::Platform::spare_ram).
    pub spare_ram: Range<u64>,
    /// Options that were given and have no effect, for a warning.
    pub ignored: Vec<&'static str>,

    /// Of a bzImage: the setup header for the zero page.
    setup_header: Vec<u8>,
    /// Of a bzImage: where the compressed kernel is.
    load_address: u64,
    /// The longest command line, without its NUL.
    cmdline_max: u64,
    /// End of the memory in which the kernel can find an initramfs.
    initramfs_end: u64,
}

/// Puts kernel or firmware, initramfs and command line into guest memory.
///
/// The initramfs goes to the top of the RAM below 4 GiB, or below the kernel's own limit, page aligned.
/// Nothing is put into `reserved_top`.
///
/// # Errors
/// Kernel and firmware together, or neither; a file that cannot be read, is not of a known format, or is
/// damaged; too little RAM; a command line that is too long.
pub fn load(
    request: &Request,
    ram: &GuestRam,
    reserved_top: &[Range<u64>],
) -> Result<Loaded, Error> {
    let room = Room {
        low_ram_end: low_ram_end(ram),
        reserved: reserved_top,
    };
    let plan = Plan::new(request, room)?;
    for copy in &plan.copies {
        let role = copy.source.role;
        ram.read_from_file(copy.source.file, copy.file_offset, copy.address, copy.size)
            .map_err(|source| Error::Load { role, source })?;
    }
    for range in &plan.zeros {
        ram.write_zeros(range.start, range.end - range.start)
            .map_err(|source| Error::Handoff {
                what: "zeros",
                source,
            })?;
    }
    if plan.loaded.cmdline_len.is_some() {
        let mut text = request.cmdline.clone().unwrap_or_default().into_bytes();
        text.push(0);
        ram.write(layout::CMDLINE_START, &text)
            .map_err(|source| Error::Handoff {
                what: "the command line",
                source,
            })?;
    }
    Ok(plan.loaded)
}

/// End of the RAM that starts at address 0, at most 4 GiB.
fn low_ram_end(ram: &GuestRam) -> u64 {
    let mut end = 0;
    let mut regions: Vec<(u64, u64)> = ram
        .regions()
        .map(|region| (region.start(), region.size()))
        .collect();
    regions.sort_unstable();
    for (start, size) in regions {
        if start == end {
            end += size;
        }
    }
    end.min(layout::HIGH_RAM_START)
}
