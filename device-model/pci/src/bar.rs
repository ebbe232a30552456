//! Base address registers: where a function's registers are, and how the guest moves them.

use std::sync::Arc;

use device::{Bus, PciBar, Region, Shared, Target};
use serde::{Deserialize, Serialize};

use crate::window::{Refusal, Span};
use crate::{Error, Result};

#[cfg(test)]
mod tests;

/// Number of base address registers of a type 0 header.
pub(crate) const COUNT: usize = 6;

/// What lies behind a BAR.
pub trait Contents: Send {
    /// Puts the registers on the bus at `start`; dropping the answer takes them off.
    ///
    /// # Errors
    /// If one of the addresses is taken.
    fn insert(&self, bus: &Arc<Bus>, start: u64, len: u64) -> device::Result<Region>;

    /// The registers are at this address from now on; `None`: nowhere. For a device that tells others, such
    /// as the kernel, where they are.
    fn placed(&self, _at: Option<u64>) {}
}

impl<T: Target + 'static> Contents for Shared<T> {
    fn insert(&self, bus: &Arc<Bus>, start: u64, len: u64) -> device::Result<Region> {
        bus.insert(start, len, self)
    }
}

/// Address space and width of a BAR (PCI Local Bus specification 3.0, 6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere. Takes this register and the next one.
    Memory64,
}

impl BarKind {
    /// The read-only bits at the bottom of the register.
    fn type_bits(self) -> u32 {
        match self {
            Self::Io => 0b01,
            Self::Memory32 => 0b000,
            Self::Memory64 => 0b100,
        }
    }

    /// The smallest range that such a register can describe.
    pub(crate) fn smallest(self) -> u64 {
        match self {
            Self::Io => 4,
            Self::Memory32 | Self::Memory64 => 16,
        }
    }

    fn registers(self) -> usize {
        if self == Self::Memory64 { 2 } else { 1 }
    }
}

/// A BAR's state at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarState {
    /// First of its registers, 0 to 5.
    pub index: u8,
    /// What the guest wrote, address bits only.
    pub register: u64,
    /// Where it works, or worked last.
    pub address: u64,
}

/// One BAR of a function.
struct Bar {
    kind: BarKind,
    size: u64,
    bus: Arc<Bus>,
    contents: Box<dyn Contents>,
    span: Span,
    /// What the guest wrote, without the bits that are fixed.
    register: u64,
    /// The last address that worked.
    home: u64,
    /// The one that worked before the lower half was written last: a move by halves goes over an address that
    /// nobody wants, and back to here if it fails.
    origin: u64,
    /// While it is decoded: the guard of its range on the bus, at this address.
    mapped: Option<(u64, Region)>,
}

/// All BARs of a function.
#[derive(Default)]
pub(crate) struct Bars {
    /// By first register.
    bars: [Option<Bar>; COUNT],
}

/// Which half of a BAR a register is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Low,
    High,
}

impl Bars {
    /// Adds a BAR that is not decoded yet. `size` is a power of two.
    pub(crate) fn add(
        &mut self,
        index: usize,
        kind: BarKind,
        bus: Arc<Bus>,
        span: Span,
        contents: Box<dyn Contents>,
    ) -> Result<()> {
        let end = index + kind.registers();
        if end > COUNT || (index..end).any(|register| self.find(register).is_some()) {
            return Err(Error::Design(
                "a BAR register is used twice, or does not exist",
            ));
        }
        let (size, home) = (span.size(), span.start());
        if !size.is_power_of_two() || size < kind.smallest() {
            return Err(Error::Design(
                "the size of a BAR is a power of two, at least 16, for ports 4",
            ));
        }
        self.bars[index] = Some(Bar {
            kind,
            size,
            bus,
            contents,
            span,
            register: home,
            home,
            origin: home,
            mapped: None,
        });
        Ok(())
    }

    /// Whether there is one of I/O ports, or of memory.
    pub(crate) fn any(&self, io: bool) -> bool {
        self.bars.iter().flatten().any(|bar| bar.is_io() == io)
    }

    /// The address of a BAR, while it is decoded.
    #[cfg(test)]
    pub(crate) fn mapped_at(&self, index: usize) -> Option<u64> {
        self.bars
            .get(index)?
            .as_ref()?
            .mapped
            .as_ref()
            .map(|(address, _)| *address)
    }

    /// The guest reads a register. One without a BAR is 0.
    pub(crate) fn read(&self, register: usize) -> u32 {
        let Some((index, half)) = self.find(register) else {
            return 0;
        };
        self.bars[index].as_ref().map_or(0, |bar| bar.read(half))
    }

    /// The guest writes a register. `memory` and `io` say which address spaces are decoded.
    pub(crate) fn write(&mut self, register: usize, value: u32, memory: bool, io: bool) {
        let Some((index, half)) = self.find(register) else {
            return;
        };
        if let Some(bar) = &mut self.bars[index] {
            let decoded = if bar.is_io() { io } else { memory };
            bar.write(half, value, decoded);
        }
    }

    /// The guest turned decoding on or off.
    pub(crate) fn decode(&mut self, memory: bool, io: bool) {
        for bar in self.bars.iter_mut().flatten() {
            let on = if bar.is_io() { io } else { memory };
            match (on, bar.mapped.is_some()) {
                (true, false) => bar.appear(),
                (false, true) => bar.vanish(),
                _ => {}
            }
        }
    }

    /// Ranges of memory, whether they are decoded or not.
    pub(crate) fn memory(&self) -> Vec<PciBar> {
        (0u8..)
            .zip(&self.bars)
            .filter_map(|(index, bar)| {
                let bar = bar.as_ref().filter(|bar| !bar.is_io())?;
                Some(PciBar {
                    index,
                    base: bar.home,
                    size: bar.size,
                    wide: bar.kind == BarKind::Memory64,
                    prefetchable: false,
                })
            })
            .collect()
    }

    pub(crate) fn save(&self) -> Vec<BarState> {
        (0u8..)
            .zip(&self.bars)
            .filter_map(|(index, bar)| {
                let bar = bar.as_ref()?;
                Some(BarState {
                    index,
                    register: bar.register,
                    address: bar.home,
                })
            })
            .collect()
    }

    /// Whether these are states of these BARs.
    pub(crate) fn check(&self, states: &[BarState]) -> Result<()> {
        let here = self.bars.iter().flatten().count();
        let known = |state: &BarState| {
            self.bars
                .get(usize::from(state.index))
                .is_some_and(Option::is_some)
        };
        if states.len() == here && states.iter().all(known) {
            return Ok(());
        }
        Err(Error::State(format!(
            "it has {here} BARs, the state others"
        )))
    }

    /// Puts checked states back. Nothing is decoded before and after.
    pub(crate) fn restore(&mut self, states: &[BarState]) {
        for state in states {
            if let Some(Some(bar)) = self.bars.get_mut(usize::from(state.index)) {
                bar.register = state.register & bar.address_mask();
                bar.home = state.address & bar.address_mask();
                bar.origin = bar.home;
            }
        }
    }

    /// The BAR that a register belongs to.
    fn find(&self, register: usize) -> Option<(usize, Half)> {
        if self.bars.get(register)?.is_some() {
            return Some((register, Half::Low));
        }
        let below = register.checked_sub(1)?;
        let wide = self.bars[below].as_ref()?.kind == BarKind::Memory64;
        wide.then_some((below, Half::High))
    }
}

impl Bar {
    fn is_io(&self) -> bool {
        self.kind == BarKind::Io
    }

    /// The bits of the register that the guest can set: those of an address that is a multiple of the size.
    fn address_mask(&self) -> u64 {
        let width = if self.kind == BarKind::Memory64 {
            u64::MAX
        } else {
            u32::MAX.into()
        };
        width & !(self.size - 1)
    }

    fn read(&self, half: Half) -> u32 {
        let [low, high] = halves(self.register);
        match half {
            Half::Low => low | self.kind.type_bits(),
            Half::High => high,
        }
    }

    fn write(&mut self, half: Half, value: u32, decoded: bool) {
        let [low, high] = halves(self.register);
        let register = match half {
            Half::Low => join(value, high),
            Half::High => join(low, value),
        };
        self.register = register & self.address_mask();
        if half == Half::Low {
            self.origin = self.home;
        }
        if !decoded {
            return;
        }
        let Err(refusal) = self.place(self.register) else {
            return;
        };
        // The size is asked for with all ones. And the first half of a move may lead nowhere by itself.
        let asks_size = value | self.kind.type_bits() | 0xf == u32::MAX;
        let to_be_continued = self.kind == BarKind::Memory64 && half == Half::Low;
        if !asks_size && !to_be_continued {
            // If another one is there by now, it stays on half of the way.
            let _ = self.place(self.origin);
            self.roll_back(&refusal);
        }
    }

    /// Decoding was turned on.
    fn appear(&mut self) {
        let Err(refusal) = self.place(self.register) else {
            return;
        };
        self.roll_back(&refusal);
        if let Err(refusal) = self.place(self.home) {
            telemetry::warn!(
                "PCI: a device's registers at {:#x} cannot be reached: {refusal}",
                self.home
            );
        }
    }

    /// Decoding was turned off.
    fn vanish(&mut self) {
        self.mapped = None;
        self.span.stop_decoding();
        self.contents.placed(None);
    }

    /// Decodes it at `address`, or leaves it where it is.
    fn place(&mut self, address: u64) -> std::result::Result<(), Misplaced> {
        let before = self.mapped.as_ref().map(|(address, _)| *address);
        if before == Some(address) {
            return Ok(());
        }
        self.span.decode_at(address).map_err(Misplaced::Refused)?;
        match self.contents.insert(&self.bus, address, self.size) {
            Ok(region) => {
                self.mapped = Some((address, region));
                self.home = address;
                self.contents.placed(Some(address));
                Ok(())
            }
            Err(error) => {
                // Where it was it fits, because it still is there.
                let back = before.map(|before| self.span.decode_at(before));
                if back.is_none() {
                    self.span.stop_decoding();
                }
                Err(Misplaced::Bus(error))
            }
        }
    }

    fn roll_back(&mut self, why: &Misplaced) {
        telemetry::warn!(
            "PCI: the guest moved a device's registers to {:#x}, but {why}; they stay at {:#x}",
            self.register,
            self.home
        );
        self.register = self.home;
    }
}

/// Why a BAR cannot be where the guest wants it.
#[derive(Debug, thiserror::Error)]
enum Misplaced {
    #[error(transparent)]
    Refused(Refusal),
    #[error(transparent)]
    Bus(device::Error),
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
