//! What the loader tells: PVH's `hvm_start_info` (Xen `docs/misc/pvh.pandoc`).

use crate::memory::{read8, read32, read64};

/// Offsets in `hvm_start_info`.
const CMDLINE: u64 = 24;
const RSDP: u64 = 32;
const MEMORY_MAP: u64 = 40;
const MEMORY_MAP_ENTRIES: u64 = 48;
/// Type of usable memory.
const RAM: u32 = 1;

/// What this guest needs of it.
pub(crate) struct Boot {
    /// End of the RAM that begins at 1 MiB.
    pub(crate) ram_end: u64,
    /// ACPI's root pointer, or 0.
    pub(crate) rsdp: u64,
    cmdline: &'static str,
}

impl Boot {
    /// Reads it.
    pub(crate) fn read(info: u64) -> Self {
        let map = read64(info + MEMORY_MAP);
        let entries = u64::from(read32(info + MEMORY_MAP_ENTRIES));
        let ram_end = (0..entries.min(128))
            .map(|index| map + 24 * index)
            .filter(|entry| read32(entry + 16) == RAM && read64(*entry) < 0x20_0000)
            .map(|entry| read64(entry) + read64(entry + 8))
            .max();
        Self {
            ram_end: ram_end.unwrap_or(0x200_0000),
            rsdp: read64(info + RSDP),
            cmdline: text(read64(info + CMDLINE)),
        }
    }

    /// The value of `name=value` on the command line.
    pub(crate) fn word(&self, name: &str) -> Option<&'static str> {
        self.cmdline
            .split_ascii_whitespace()
            .rev()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// A text that ends with a zero byte. Empty for no address or no UTF-8.
fn text(address: u64) -> &'static str {
    if address == 0 {
        return "";
    }
    let len = (0..0x1_0000)
        .find(|offset| read8(address + offset) == 0)
        .unwrap_or(0);
    let bytes = crate::memory::bytes(address, len);
    core::str::from_utf8(bytes).unwrap_or("")
}
