//! Linux bzImage files (Linux `Documentation/arch/x86/boot.rst`).
//!
//! The file is a real-mode part, which only a BIOS needs, and the compressed kernel behind it. The setup
//! header in the real-mode part says how the kernel wants to be loaded; it is also handed back to the kernel
//! as part of the zero page.

use std::ops::Range;

use super::source::Source;
use crate::Error;
use crate::bytes::{array_at, u16_at, u32_at, u64_at};

/// Bytes from the start of the file that have the whole setup header.
pub(super) const HEAD: usize = HEADER_END_MAX;

/// Where the setup header starts, in the file and in the zero page.
pub(super) const HEADER_AT: usize = 0x1f1;
/// In the zero page something else follows here, so no setup header can be longer.
const HEADER_END_MAX: usize = 0x290;
/// End of a setup header of protocol 2.12, the first one that tells whether there is a 64-bit entry.
const HEADER_END_MIN: usize = 0x268;
const VERSION_MIN: u16 = 0x020c;
/// Size of the units in which the size of the real-mode part is given.
const SECTOR: u64 = 512;
/// Number of sectors that 0 stands for.
const SETUP_SECTORS_DEFAULT: u8 = 4;
/// `loadflags`: the compressed kernel goes to 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: the kernel has a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;
/// Offset of the 64-bit entry from where the compressed kernel is loaded.
const ENTRY_64: u64 = 0x200;

/// A bzImage with a 64-bit entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BzImage {
    /// The setup header as in the file: what belongs at offset 0x1f1 of the zero page.
    pub setup_header: Vec<u8>,
    /// Where the file has the compressed kernel.
    pub file_offset: u64,
    /// Size of the compressed kernel.
    pub file_size: u64,
    /// Guest physical address at which to load it.
    pub load_address: u64,
    /// Guest physical address to start at.
    pub entry: u64,
    /// All memory that the kernel uses before it knows the memory map.
    pub memory: Range<u64>,
    /// End of the memory in which it can find an initramfs.
    pub initramfs_end: u64,
    /// Longest command line it takes, without the NUL.
    pub cmdline_max: u64,
}

/// Whether a file that starts with `head` is a bzImage, or an older Linux image.
pub(super) fn recognise(head: &[u8]) -> bool {
    u16_at(head, 0x1fe) == Some(0xaa55) && array_at(head, 0x202) == Some(*b"HdrS")
}

/// Reads the setup header; `head` is the first [`HEAD`] bytes of the file.
pub(super) fn parse(source: &Source<'_>, head: &[u8]) -> Result<BzImage, Error> {
    let role = source.role;
    let bad = |what| Error::BadBzImage { role, what };
    let version = u16_at(head, 0x206).unwrap_or(0);
    if version < VERSION_MIN {
        return Err(Error::OldBzImage {
            role,
            major: version >> 8,
            minor: version & 0xff,
        });
    }
    // The jump over the header has the header's end as its distance.
    let end = 0x202 + head.get(0x201).copied().map_or(0, usize::from);
    if !(HEADER_END_MIN..=HEADER_END_MAX).contains(&end) {
        return Err(bad("a setup header of impossible size"));
    }
    let setup_header = head
        .get(HEADER_AT..end)
        .ok_or(Error::Truncated {
            role,
            offset: 0,
            len: end as u64,
            size: source.size,
        })?
        .to_vec();
    let header = Header(&setup_header);
    if header.u8(0x211) & LOADED_HIGH == 0 {
        return Err(bad("a kernel to be loaded below 1 MiB (zImage)"));
    }
    if header.u16(0x236) & XLF_KERNEL_64 == 0 {
        return Err(bad("a 32-bit kernel; a 64-bit one is needed"));
    }
    let (file_offset, file_size) = compressed_kernel(source, &header)?;
    let (load_address, start) = addresses(&header).ok_or(bad("an impossible load address"))?;
    let end = load_address
        .checked_add(file_size)
        .zip(start.checked_add(u64::from(header.u32(0x260))))
        .map(|(loaded, running)| loaded.max(running))
        .ok_or(bad("an impossible load address"))?;
    Ok(BzImage {
        file_offset,
        file_size,
        load_address,
        entry: load_address + ENTRY_64,
        memory: load_address.min(start)..end,
        initramfs_end: u64::from(header.u32(0x22c)) + 1,
        cmdline_max: u64::from(header.u32(0x238)),
        setup_header,
    })
}

/// Offset and size of what follows the real-mode part.
///
/// The header gives the size in units of 16 bytes, rounded one way or the other; a signature may follow. All
/// of that is loaded: the kernel knows its real end.
fn compressed_kernel(source: &Source<'_>, header: &Header<'_>) -> Result<(u64, u64), Error> {
    let sectors = match header.u8(0x1f1) {
        0 => SETUP_SECTORS_DEFAULT,
        sectors => sectors,
    };
    let offset = (u64::from(sectors) + 1) * SECTOR;
    let promised = u64::from(header.u32(0x1f4)) * 16;
    source.check_range(offset, promised.saturating_sub(15).max(ENTRY_64 + 1))?;
    Ok((offset, source.size - offset))
}

/// Where to load the kernel, and where it will run.
///
/// A relocatable kernel is loaded where it prefers to run, which saves it from moving. Any other moves itself
/// to that address from 1 MiB.
fn addresses(header: &Header<'_>) -> Option<(u64, u64)> {
    let lowest = arch::layout::KERNEL_START;
    let preferred = header.u64(0x258).max(lowest);
    if header.u8(0x234) == 0 {
        return Some((lowest, preferred));
    }
    let alignment = u64::from(header.u32(0x230)).max(1);
    if !alignment.is_power_of_two() {
        return None;
    }
    let address = preferred.checked_next_multiple_of(alignment)?;
    address.checked_add(ENTRY_64)?;
    Some((address, address))
}

/// The setup header, addressed by the offsets of the specification. Fields past its end read as zero; its
/// size was checked to include all fields that are used.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn u8(&self, offset: usize) -> u8 {
        self.0.get(offset - HEADER_AT).copied().unwrap_or(0)
    }
    fn u16(&self, offset: usize) -> u16 {
        u16_at(self.0, offset - HEADER_AT).unwrap_or(0)
    }
    fn u32(&self, offset: usize) -> u32 {
        u32_at(self.0, offset - HEADER_AT).unwrap_or(0)
    }
    fn u64(&self, offset: usize) -> u64 {
        u64_at(self.0, offset - HEADER_AT).unwrap_or(0)
    }
}
