//! PCI: configuration space by ECAM and by ports, capabilities, BARs, MSI-X.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::machine::{in8, in16, in32, out8, out16, out32};
use crate::memory::{self, map};

/// Ports of configuration mechanism #1.
const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

/// Offsets in configuration space.
pub(crate) const COMMAND: u64 = 4;
pub(crate) const BAR0: u64 = 0x10;
const CAPABILITIES: u64 = 0x34;
/// Bits of the command register: memory decoding, bus mastering.
pub(crate) const MEMORY: u64 = 2;
const MASTER: u64 = 4;

/// Capability ids.
pub(crate) const VENDOR: u64 = 9;
pub(crate) const MSIX: u64 = 0x11;

/// Where ECAM is, or 0: then ports are used.
static ECAM: AtomicU64 = AtomicU64::new(0);

/// Uses ECAM at this address from now on.
pub(crate) fn use_ecam(address: Option<u64>) {
    if let Some(address) = address {
        map(address, 1 << 20);
    }
    ECAM.store(address.unwrap_or(0), Ordering::Relaxed);
}

/// Where ECAM is.
pub(crate) fn ecam() -> Option<u64> {
    Some(ECAM.load(Ordering::Relaxed)).filter(|address| *address != 0)
}

/// A function of bus 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Function {
    /// Device number, 0 to 31. The function number is 0.
    pub(crate) slot: u64,
}

/// A base address register.
#[derive(Clone, Copy)]
pub(crate) struct Bar {
    /// Offset in configuration space.
    pub(crate) register: u64,
    /// Guest physical address.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// 64 bits wide.
    pub(crate) wide: bool,
}

/// Functions that are there.
pub(crate) fn functions() -> impl Iterator<Item = Function> {
    (0..32)
        .map(|slot| Function { slot })
        .filter(|function| function.read(0, 2) != 0xffff)
}

impl Function {
    /// Reads configuration space.
    pub(crate) fn read(self, offset: u64, width: u64) -> u64 {
        match ecam() {
            Some(ecam) => memory::read(ecam + (self.slot << 15) + offset, width),
            None => self.read_by_ports(offset, width),
        }
    }

    /// Writes configuration space.
    pub(crate) fn write(self, offset: u64, width: u64, value: u64) {
        match ecam() {
            Some(ecam) => memory::write(ecam + (self.slot << 15) + offset, width, value),
            None => self.write_by_ports(offset, width, value),
        }
    }

    fn select(self, offset: u64) -> u16 {
        out32(
            ADDRESS_PORT,
            0x8000_0000 | (self.slot << 11 | offset & 0xfc) as u32,
        );
        DATA_PORT + (offset & 3) as u16
    }

    /// Reads configuration space through ports; the first 256 bytes.
    pub(crate) fn read_by_ports(self, offset: u64, width: u64) -> u64 {
        let port = self.select(offset);
        match width {
            1 => in8(port).into(),
            2 => in16(port).into(),
            _ => in32(port).into(),
        }
    }

    /// Writes configuration space through ports; the first 256 bytes.
    pub(crate) fn write_by_ports(self, offset: u64, width: u64, value: u64) {
        let port = self.select(offset);
        match width {
            1 => out8(port, value as u8),
            2 => out16(port, value as u16),
            _ => out32(port, value as u32),
        }
    }

    /// Vendor and device id.
    pub(crate) fn ids(self) -> (u64, u64) {
        (self.read(0, 2), self.read(2, 2))
    }

    /// Lets it decode its memory and be a master.
    pub(crate) fn enable(self) {
        self.write(COMMAND, 2, self.read(COMMAND, 2) | MEMORY | MASTER);
    }

    /// Stops it from decoding its memory.
    pub(crate) fn disable(self) {
        self.write(COMMAND, 2, self.read(COMMAND, 2) & !MEMORY);
    }

    /// Offsets and ids of its capabilities. Ends after 48, more than fit.
    pub(crate) fn capabilities(self) -> impl Iterator<Item = (u64, u64)> {
        let mut at = self.read(CAPABILITIES, 1) & !3;
        core::iter::from_fn(move || {
            let here = at;
            (here != 0).then(|| {
                at = self.read(here + 1, 1) & !3;
                (here, self.read(here, 1))
            })
        })
        .take(48)
    }

    /// A memory BAR: its place, and its size as the function tells it. `None` if it is not implemented.
    pub(crate) fn bar(self, index: u64) -> Option<Bar> {
        let register = BAR0 + 4 * index;
        let low = self.read(register, 4);
        if low & 1 != 0 {
            return None;
        }
        let wide = low & 6 == 4;
        let high = if wide { self.read(register + 4, 4) } else { 0 };
        // While sizes are asked for, addresses are nonsense: nothing may be decoded (PCI 3.0, 6.2.5.1).
        let command = self.read(COMMAND, 2);
        self.write(COMMAND, 2, command & !MEMORY);
        self.write(register, 4, 0xffff_ffff);
        let mut mask = self.read(register, 4) & !0xf;
        self.write(register, 4, low);
        if wide {
            self.write(register + 4, 4, 0xffff_ffff);
            mask |= self.read(register + 4, 4) << 32;
            self.write(register + 4, 4, high);
        } else if mask != 0 {
            mask |= 0xffff_ffff << 32;
        }
        self.write(COMMAND, 2, command);
        (mask != 0).then(|| Bar {
            register,
            address: (low & !0xf) | high << 32,
            size: mask.wrapping_neg(),
            wide,
        })
    }

    /// Where a memory BAR is, without asking for its size.
    pub(crate) fn bar_address(self, index: u64) -> u64 {
        let register = BAR0 + 4 * index;
        let low = self.read(register, 4);
        let high = if low & 6 == 4 {
            self.read(register + 4, 4)
        } else {
            0
        };
        (low & !0xf) | high << 32
    }

    /// Moves a BAR, with memory decoding off meanwhile as a good driver does.
    pub(crate) fn move_bar(self, bar: &Bar, address: u64) {
        let command = self.read(COMMAND, 2);
        self.write(COMMAND, 2, command & !MEMORY);
        self.write(bar.register, 4, address & 0xffff_ffff);
        if bar.wide {
            self.write(bar.register + 4, 4, address >> 32);
        }
        self.write(COMMAND, 2, command);
        map(address, bar.size.min(1 << 30));
    }

    /// Its MSI-X capability: offset, number of vectors, address of the table, address of the pending bits.
    pub(crate) fn msix(self) -> Option<Msix> {
        let (at, _) = self.capabilities().find(|(_, id)| *id == MSIX)?;
        let place = |field: u64| {
            let value = self.read(at + field, 4);
            self.bar_address(value & 7) + (value & !7)
        };
        Some(Msix {
            function: self,
            at,
            vectors: (self.read(at + 2, 2) & 0x7ff) + 1,
            table: place(4),
            pending: place(8),
        })
    }
}

/// Message-signalled interrupts of a function (PCI 3.0, 6.8.2).
#[derive(Clone, Copy)]
pub(crate) struct Msix {
    function: Function,
    at: u64,
    /// Number of vectors.
    pub(crate) vectors: u64,
    /// Address of the table, 16 bytes for each vector.
    pub(crate) table: u64,
    /// Address of the pending bits.
    pub(crate) pending: u64,
}

impl Msix {
    /// Writes the upper bits of message control: 0x8000 enables, 0x4000 masks all.
    pub(crate) fn control(self, value: u64) {
        self.function.write(self.at + 2, 2, value);
    }

    /// Writes an entry of the table.
    pub(crate) fn entry(self, vector: u64, address: u64, data: u32, masked: bool) {
        let at = self.table + 16 * vector;
        memory::write32(at, address as u32);
        memory::write32(at + 4, (address >> 32) as u32);
        memory::write32(at + 8, data);
        memory::write32(at + 12, masked.into());
    }
}
