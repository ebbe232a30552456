//! The structure by which a payload finds everything else.

use arch::layout::{self, E820Entry};
use memory::GuestRam;

use super::bzimage::HEADER_AT;
use super::{Entry, Loaded};
use crate::Error;

/// Writes what the payload is started with: `start_info`, module list and memory map for PVH, the zero page
/// for Linux. `rsdp` is the guest physical address of the RSDP, or 0 without ACPI.
///
/// # Errors
/// A memory map with more entries than fit (170 for PVH, 128 for Linux), or RAM that is too small.
pub fn finish(
    loaded: &Loaded,
    e820: &[E820Entry],
    rsdp: u64,
    ram: &GuestRam,
) -> Result<arch::Entry, Error> {
    for (address, bytes) in writes(loaded, e820, rsdp)? {
        ram.write(address, &bytes)
            .map_err(|source| Error::Handoff {
                what: "boot information",
                source,
            })?;
    }
    Ok(match loaded.entry {
        Entry::Pvh { entry } => arch::Entry::Pvh {
            entry,
            start_info: layout::PVH_START_INFO,
        },
        Entry::Linux64 { entry } => arch::Entry::Linux64 {
            entry,
            zero_page: layout::ZERO_PAGE,
        },
    })
}

/// Guest physical addresses, and what to write there.
pub(super) fn writes(
    loaded: &Loaded,
    e820: &[E820Entry],
    rsdp: u64,
) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    match loaded.entry {
        Entry::Pvh { .. } => pvh(loaded, e820, rsdp),
        Entry::Linux64 { .. } => Ok(vec![(layout::ZERO_PAGE, zero_page(loaded, e820, rsdp)?)]),
    }
}

/// Entries of 24 bytes that the memory map of PVH has room for.
const PVH_MEMMAP_MAX: usize = 170;
const _: () = assert!(layout::PVH_MEMMAP + PVH_MEMMAP_MAX as u64 * 24 <= layout::BOOT_STACK_START);

/// `hvm_start_info` version 1 and what it points to (Xen `xen/include/public/arch-x86/hvm/start_info.h`).
fn pvh(loaded: &Loaded, e820: &[E820Entry], rsdp: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    const MAGIC: u32 = 0x336e_c578;
    const VERSION: u32 = 1;
    let entries = e820_count(e820, PVH_MEMMAP_MAX)?;
    let cmdline = loaded.cmdline_len.map_or(0, |_| layout::CMDLINE_START);
    let (modules, modlist) = match loaded.initramfs {
        Some(_) => (1u32, layout::PVH_MODLIST),
        None => (0, 0),
    };

    let mut info = Vec::with_capacity(56);
    for field in [MAGIC, VERSION, 0, modules] {
        info.extend(field.to_le_bytes());
    }
    for field in [modlist, cmdline, rsdp, layout::PVH_MEMMAP] {
        info.extend(field.to_le_bytes());
    }
    info.extend(entries.to_le_bytes());
    info.extend([0; 4]);

    let mut writes = vec![(layout::PVH_START_INFO, info)];
    if let Some(range) = &loaded.initramfs {
        // Address, size, address of a command line of its own, reserved.
        let module = [range.start, range.end - range.start, 0, 0];
        writes.push((
            layout::PVH_MODLIST,
            module.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ));
    }
    let mut map = Vec::with_capacity(e820.len() * 24);
    for entry in e820 {
        map.extend(e820_bytes(entry));
        map.extend([0; 4]);
    }
    writes.push((layout::PVH_MEMMAP, map));
    Ok(writes)
}

/// `boot_params` (Linux `Documentation/arch/x86/zero-page.rst`, and `boot.rst` for the setup header in it).
fn zero_page(loaded: &Loaded, e820: &[E820Entry], rsdp: u64) -> Result<Vec<u8>, Error> {
    const SIZE: usize = 4096;
    const ACPI_RSDP_ADDR: usize = 0x70;
    const E820_ENTRIES: usize = 0x1e8;
    const TYPE_OF_LOADER: usize = 0x210;
    const CODE32_START: usize = 0x214;
    const RAMDISK_IMAGE: usize = 0x218;
    const RAMDISK_SIZE: usize = 0x21c;
    const CMD_LINE_PTR: usize = 0x228;
    const SETUP_DATA: usize = 0x250;
    const E820_TABLE: usize = 0x2d0;
    const E820_MAX: usize = 128;
    /// A loader without an assigned id.
    const UNDEFINED_LOADER: u8 = 0xff;

    let entries = e820_count(e820, E820_MAX)?;
    let mut page = vec![0; SIZE];
    let mut put = |offset: usize, bytes: &[u8]| {
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(HEADER_AT, &loaded.setup_header);
    put(ACPI_RSDP_ADDR, &rsdp.to_le_bytes());
    put(TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    put(CODE32_START, &low32(loaded.load_address));
    // Whatever the file has there is not in guest memory.
    put(SETUP_DATA, &[0; 8]);
    let initramfs = loaded.initramfs.clone().unwrap_or(0..0);
    put(RAMDISK_IMAGE, &low32(initramfs.start));
    put(RAMDISK_SIZE, &low32(initramfs.end - initramfs.start));
    put(
        CMD_LINE_PTR,
        &low32(loaded.cmdline_len.map_or(0, |_| layout::CMDLINE_START)),
    );
    put(E820_ENTRIES, &[entries.to_le_bytes()[0]]);
    for (index, entry) in e820.iter().enumerate() {
        put(E820_TABLE + index * 20, &e820_bytes(entry));
    }
    Ok(page)
}

/// Checks that the memory map fits.
fn e820_count(e820: &[E820Entry], max: usize) -> Result<u32, Error> {
    u32::try_from(e820.len())
        .ok()
        .filter(|_| e820.len() <= max)
        .ok_or(Error::MemoryMapTooLong {
            count: e820.len(),
            max,
        })
}

/// Address, size and kind; PVH and Linux agree on these.
fn e820_bytes(entry: &E820Entry) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[0..8].copy_from_slice(&entry.start.to_le_bytes());
    bytes[8..16].copy_from_slice(&entry.size.to_le_bytes());
    bytes[16..20].copy_from_slice(&(entry.kind as u32).to_le_bytes());
    bytes
}

/// Low half of an address below 4 GiB; everything is placed there.
fn low32(value: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = value.to_le_bytes();
    [a, b, c, d]
}
