//! The guest's physical address space, I/O ports and interrupt lines.
//!
//! Everything at a fixed place has its constant here and nowhere else. All addresses are guest physical.
//!
//! ```text
//! 0                                RAM, up to 3 GiB. The first MiB holds what boot needs (below)
//! MMIO32_START    0xc000_0000      32-bit device memory, 640 MiB
//! ECAM_START      0xe800_0000      PCI configuration space, 1 MiB for each segment
//! KVM_TSS_START   0xf800_0000      pages that the hypervisor wants for itself
//! IOAPIC_START    0xfec0_0000      interrupt controllers and TPM
//! HIGH_RAM_START  0x1_0000_0000    RAM beyond 3 GiB, then hot-plugged RAM
//! device_area                      64-bit device memory
//! platform_area                    registers of hot-plug devices, just below the top
//! ```
//!
//! The first MiB, at boot of a kernel:
//!
//! ```text
//! 0x500 GDT   0x520 IDT   0x6000 PVH start info   0x7000 memory map (PVH) or zero page (Linux)
//! 0x8000 stack   0xa000 page tables   0x20000 command line   0xa0000 ACPI   0xef000 generation id
//! 0xf0000 SMBIOS, MP table
//! ```

use std::ops::Range;

#[cfg(test)]
mod tests;

/// A kibibyte.
const KIB: u64 = 1 << 10;
/// A mebibyte.
const MIB: u64 = 1 << 20;
/// A gibibyte.
const GIB: u64 = 1 << 30;

// RAM.

/// Most RAM that lies below 4 GiB; the rest of it starts at [`HIGH_RAM_START`].
pub const LOW_RAM_MAX: u64 = 3 * GIB;
/// Where RAM goes on above the 32-bit hole.
pub const HIGH_RAM_START: u64 = 4 * GIB;
/// End of the RAM that the memory map offers below 1 MiB; ACPI, ROM and SMBIOS areas follow.
pub const BASE_RAM_END: u64 = 0xa_0000;
/// Where usable RAM starts again above the legacy areas of the first MiB.
pub const EXTENDED_RAM_START: u64 = MIB;

// What boot code puts in low RAM.

/// 16-bit pointer (a real-mode segment) to the extended BIOS data area, where ACPI's RSDP may be looked for.
pub const EBDA_POINTER: u64 = 0x40e;
/// Global descriptor table of the boot processor: four entries.
pub const GDT_START: u64 = 0x500;
/// Interrupt descriptor table of the boot processor: one empty entry.
pub const IDT_START: u64 = 0x520;
/// `hvm_start_info` of the PVH boot protocol.
pub const PVH_START_INFO: u64 = 0x6000;
/// `hvm_modlist_entry` array of the PVH boot protocol: the initramfs.
pub const PVH_MODLIST: u64 = 0x6040;
/// `hvm_memmap_table_entry` array of the PVH boot protocol.
pub const PVH_MEMMAP: u64 = 0x7000;
/// `boot_params` ("zero page") of the Linux boot protocol, 4 KiB. Shares its place with [`PVH_MEMMAP`]: a boot
/// uses one of them.
pub const ZERO_PAGE: u64 = 0x7000;
/// Page that holds the boot processor's first stack.
pub const BOOT_STACK_START: u64 = 0x8000;
/// First stack pointer. Grows down to [`BOOT_STACK_START`].
pub const BOOT_STACK_POINTER: u64 = 0x8ff0;
/// Page map level 5, for guests that start with five-level paging. Unused by the boot protocols here.
pub const PML5_START: u64 = 0x9000;
/// Page map level 4 of the boot processor.
pub const PML4_START: u64 = 0xa000;
/// Page directory pointer table of the boot processor.
pub const PDPT_START: u64 = 0xb000;
/// Page directory of the boot processor: 512 pages of 2 MiB.
pub const PD_START: u64 = 0xc000;
/// Bytes from address 0 that the boot processor's page tables map to themselves. A 64-bit kernel, its zero page
/// and its command line must lie in them (Linux `Documentation/arch/x86/boot.rst`, "64-bit BOOT PROTOCOL").
pub const IDENTITY_MAPPED_SIZE: u64 = GIB;
/// Kernel command line, with its terminating zero byte.
pub const CMDLINE_START: u64 = 0x2_0000;
/// Bytes for the command line, terminating zero byte included.
pub const CMDLINE_MAX_SIZE: u64 = 0x1_0000;
/// ACPI's root pointer (RSDP). The tables follow in place if they end by [`ACPI_END`].
pub const RSDP_START: u64 = 0xa_0000;
/// End of the area for ACPI's tables; the page of the generation id follows.
pub const ACPI_END: u64 = GENERATION_ID_START;
/// Page with the 16 bytes that tell a machine from its copies, as ACPI's VM generation counter names it.
pub const GENERATION_ID_START: u64 = 0xe_f000;
/// SMBIOS entry point and structures; the MP table follows, 16-byte aligned.
pub const SMBIOS_START: u64 = 0xf_0000;
/// End of the area for SMBIOS and the MP table.
pub const SMBIOS_END: u64 = EXTENDED_RAM_START;
/// Where kernels are loaded.
pub const KERNEL_START: u64 = EXTENDED_RAM_START;

// The 32-bit hole.

/// Memory BARs of 32-bit PCI devices.
pub const MMIO32_START: u64 = LOW_RAM_MAX;
/// Size of the 32-bit device memory.
pub const MMIO32_SIZE: u64 = 640 * MIB;
/// Enhanced configuration access (PCI Express base specification, 7.2.2), first segment.
pub const ECAM_START: u64 = 0xe800_0000;
/// Size of the area for all segments.
pub const ECAM_SIZE: u64 = 256 * MIB;
/// Configuration space of one segment: one bus.
pub const ECAM_SEGMENT_SIZE: u64 = MIB;
/// Three pages for `KVM_SET_TSS_ADDR`, which Intel processors without "unrestricted guest" need.
pub const KVM_TSS_START: u64 = 0xf800_0000;
/// Size of the area at [`KVM_TSS_START`].
pub const KVM_TSS_SIZE: u64 = 0x3000;
/// One page for `KVM_SET_IDENTITY_MAP_ADDR`, needed by the same processors.
pub const KVM_IDENTITY_MAP_START: u64 = 0xf800_3000;
/// Size of the area at [`KVM_IDENTITY_MAP_START`].
pub const KVM_IDENTITY_MAP_SIZE: u64 = 0x1000;
/// I/O interrupt controller.
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// Bytes that the I/O interrupt controller answers to.
pub const IOAPIC_SIZE: u64 = 0x20;
/// TPM 2.0 command response buffer, first locality.
pub const TPM_START: u64 = 0xfed4_0000;
/// Size of the area at [`TPM_START`].
pub const TPM_SIZE: u64 = 0x1000;
/// TPM 2.0 control area, inside the TPM's page.
pub const TPM_CONTROL_AREA: u64 = 0xfed4_0040;
/// Local interrupt controllers; each processor sees its own.
pub const LAPIC_START: u64 = 0xfee0_0000;
/// Size of a local interrupt controller's page.
pub const LAPIC_SIZE: u64 = 0x1000;
/// Writes by devices to this window are message-signalled interrupts (Intel SDM volume 3A, 12.11).
pub const MSI_WINDOW: Range<u64> = 0xfee0_0000..0xfef0_0000;

// The top of the address space.

/// Bytes left free at the very top of the guest physical address space.
const TOP_GAP: u64 = 64 * KIB;
/// Size of [`platform_area`].
pub const PLATFORM_AREA_SIZE: u64 = MIB;
/// The 64-bit device memory starts on a multiple of this, and each PCI segment's share is a multiple of it.
pub const DEVICE_AREA_ALIGN: u64 = 4 * GIB;

// I/O ports.

/// Keyboard controller and system control port B: first port.
pub const PORT_I8042: u16 = 0x61;
/// Ports from [`PORT_I8042`].
pub const PORT_I8042_COUNT: u16 = 4;
/// Real-time clock and CMOS memory: index port; the data port follows.
pub const PORT_CMOS: u16 = 0x70;
/// Ports from [`PORT_CMOS`].
pub const PORT_CMOS_COUNT: u16 = 2;
/// Debug port: what is written becomes a log line with the time since start.
pub const PORT_DEBUG: u16 = 0x80;
/// Debug console, unless its `iobase` option moves it.
pub const PORT_DEBUG_CONSOLE: u16 = 0xe9;
/// First serial port (16550).
pub const PORT_COM1: u16 = 0x3f8;
/// Ports from [`PORT_COM1`].
pub const PORT_COM1_COUNT: u16 = 8;
/// Debug output of firmware.
pub const PORT_FIRMWARE_DEBUG: u16 = 0x402;
/// Firmware configuration device.
pub const PORT_FW_CFG: u16 = 0x510;
/// Ports from [`PORT_FW_CFG`].
pub const PORT_FW_CFG_COUNT: u16 = 12;
/// ACPI sleep control and status register, and reset register.
pub const PORT_ACPI_SLEEP: u16 = 0x600;
/// Value that resets the machine when written to [`PORT_ACPI_SLEEP`].
pub const ACPI_RESET_VALUE: u8 = 1;
/// Value that powers the machine off when written to [`PORT_ACPI_SLEEP`]: sleep type 5 and sleep enable
/// (ACPI 6.5, 4.8.3.7).
pub const ACPI_POWER_OFF_VALUE: u8 = 0x34;
/// ACPI power management timer: a 32-bit counter.
pub const PORT_PM_TIMER: u16 = 0x608;
/// Ports from [`PORT_PM_TIMER`].
pub const PORT_PM_TIMER_COUNT: u16 = 4;
/// Frequency of the power management timer in Hz (ACPI 6.5, 4.8.3.3).
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// ACPI PM1a event block, only for guests with Hyper-V enlightenments and nested virtualisation.
pub const PORT_PM1A_EVENT: u16 = 0x60c;
/// ACPI PM1a control block, for the same guests.
pub const PORT_PM1A_CONTROL: u16 = 0x610;
/// PCI configuration address and data ports.
pub const PORT_PCI_CONFIG: u16 = 0xcf8;
/// Ports from [`PORT_PCI_CONFIG`].
pub const PORT_PCI_CONFIG_COUNT: u16 = 8;

// Interrupt lines. GSI n is pin n of the I/O interrupt controller.

/// Pins of the I/O interrupt controller.
pub const IOAPIC_PINS: u32 = 24;
/// Its version register: version 0x11, last pin 23.
pub const IOAPIC_VERSION: u32 = 0x0017_0011;
/// The I/O interrupt controller's id in MADT and MP table.
pub const IOAPIC_ID: u8 = 0;
/// First serial port.
pub const GSI_COM1: u32 = 4;
/// First line that is handed out to devices that do not ask for a fixed one.
pub const GSI_FIRST_FREE: u32 = 5;
/// First line shared by PCI devices' INTx pins.
pub const GSI_PCI_INTX_FIRST: u32 = GSI_FIRST_FREE;
/// Lines shared by PCI devices' INTx pins.
pub const GSI_PCI_INTX_COUNT: u32 = 8;

/// What a range of the memory map is (ACPI 6.5, table 15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// RAM that the guest may use.
    Ram = 1,
    /// Must be left alone.
    Reserved = 2,
    /// ACPI tables; usable once they have been read.
    Acpi = 3,
    /// Must be kept when the machine sleeps.
    Nvs = 4,
}

/// A range of the memory map that a kernel is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// Guest physical address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What lies there.
    pub kind: E820Kind,
}

impl E820Entry {
    fn new(range: Range<u64>, kind: E820Kind) -> Self {
        Self {
            start: range.start,
            size: range.end.saturating_sub(range.start),
            kind,
        }
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

/// Splits `size` bytes of RAM into `(start, size)` around the 32-bit hole: at most [`LOW_RAM_MAX`] from 0, the
/// rest from [`HIGH_RAM_START`]. No region is empty.
pub fn ram_regions(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(LOW_RAM_MAX);
    [(0, low), (HIGH_RAM_START, size - low)]
        .into_iter()
        .filter(|region| region.1 > 0)
        .collect()
}

/// End of the RAM below 4 GiB: the initramfs ends here.
pub fn low_ram_end(size: u64) -> u64 {
    size.min(LOW_RAM_MAX)
}

/// First address above all of the boot-time RAM, and at least [`HIGH_RAM_START`].
pub fn ram_end(size: u64) -> u64 {
    HIGH_RAM_START.saturating_add(size.saturating_sub(LOW_RAM_MAX))
}

/// The memory map for `ram_size` bytes of RAM, sorted by address.
///
/// Each of `taken` is cut out of the RAM and listed with its own kind, for example ACPI tables at the top of
/// low RAM. The ranges of `taken` must not overlap each other.
pub fn e820(ram_size: u64, taken: &[E820Entry]) -> Vec<E820Entry> {
    let low_end = low_ram_end(ram_size);
    let mut ram = vec![
        0..low_end.min(BASE_RAM_END),
        EXTENDED_RAM_START..low_end.max(EXTENDED_RAM_START),
        HIGH_RAM_START..ram_end(ram_size),
    ];
    for hole in taken.iter().filter(|entry| entry.size > 0) {
        ram = ram
            .into_iter()
            .flat_map(|range| {
                let below = range.start..range.end.min(hole.start);
                let above = range.start.max(hole.end())..range.end;
                [below, above]
            })
            .collect();
    }
    let mut map: Vec<E820Entry> = ram
        .into_iter()
        .filter(|range| !range.is_empty())
        .map(|range| E820Entry::new(range, E820Kind::Ram))
        .collect();
    map.push(E820Entry::new(
        ECAM_START..ECAM_START + ECAM_SIZE,
        E820Kind::Reserved,
    ));
    map.extend(taken.iter().filter(|entry| entry.size > 0));
    map.sort_by_key(|entry| entry.start);
    map
}

/// Registers of the devices that are found only through ACPI (hot-plug, generic events).
///
/// `phys_bits` is the guest's physical address width, 33 to 52 ([`crate::CpuProfile::phys_bits`]).
pub fn platform_area(phys_bits: u8) -> Range<u64> {
    let end = (1 << phys_bits.clamp(33, 52)) - TOP_GAP;
    end - PLATFORM_AREA_SIZE..end
}

/// 64-bit device memory: from `ram_end` (hot-plug space included), rounded up to [`DEVICE_AREA_ALIGN`], to the
/// [`platform_area`]. `None` if the RAM leaves no room: fewer bytes of RAM or more physical address bits help.
pub fn device_area(ram_end: u64, phys_bits: u8) -> Option<Range<u64>> {
    let start = ram_end
        .max(HIGH_RAM_START)
        .checked_next_multiple_of(DEVICE_AREA_ALIGN)?;
    let end = platform_area(phys_bits).start;
    (start < end).then_some(start..end)
}
