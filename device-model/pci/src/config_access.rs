//! The guest's two ways to configuration space: ports and memory.

use std::sync::{Arc, PoisonError};

use device::Target;

use crate::Segment;

/// Enhanced configuration access (PCI Express base specification 6.0, 7.2.2): bus, device, function and
/// register are bits of the address.
pub(crate) struct Ecam(pub(crate) Arc<Segment>);

/// The older way (PCI Local Bus specification 3.0, 3.2.2.3.2): the address goes into one register, the data
/// through another.
pub(crate) struct ConfigPorts {
    segment: Arc<Segment>,
    address: u32,
}

/// Offset of the data register's four bytes in the ports.
const DATA: u64 = 4;
/// Address register: accesses to the data register go to configuration space.
const ENABLE: u32 = 1 << 31;
/// Bits of the address register that keep what is written.
const ADDRESS_BITS: u32 = 0x80ff_fffc;

/// Bus, slot, function and register, as both ways spell it.
#[derive(Clone, Copy)]
struct Place {
    bus: u8,
    device: u8,
    function: u8,
    register: u16,
}

/// Finds the function at a place. There is one bus, with one function per slot.
fn with_function(segment: &Segment, place: Place, act: impl FnOnce(&mut dyn crate::Function)) {
    if place.bus != 0 || place.function != 0 {
        return;
    }
    if let Some(function) = segment.function(place.device) {
        act(&mut *function.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Splits an access at multiples of four bytes. Functions see nothing wider.
fn in_groups(start: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = start + u64::try_from(done).ok()?;
        let room = usize::try_from(4 - at % 4).ok()?;
        let count = room.min(len - done);
        let range = done..done + count;
        done += count;
        (count > 0).then_some((at, range))
    })
}

impl Ecam {
    fn place(offset: u64) -> Place {
        let [low, middle, high, ..] = offset.to_le_bytes();
        Place {
            bus: high >> 4,
            device: (high & 0xf) << 1 | middle >> 7,
            function: middle >> 4 & 7,
            register: u16::from_le_bytes([low, middle & 0xf]),
        }
    }
}

impl Target for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (at, range) in in_groups(offset, data.len()) {
            let place = Self::place(at);
            with_function(&self.0, place, |function| {
                function.read(place.register, &mut data[range]);
            });
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, range) in in_groups(offset, data.len()) {
            let place = Self::place(at);
            with_function(&self.0, place, |function| {
                function.write(place.register, &data[range]);
            });
        }
    }
}

impl ConfigPorts {
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            address: 0,
        }
    }

    /// What an access of `len` bytes at port `offset` goes to, if that is configuration space.
    fn place(&self, offset: u64, len: usize) -> Option<Place> {
        let byte = u8::try_from(offset.checked_sub(DATA)?).ok()?;
        if self.address & ENABLE == 0 || usize::from(byte) + len > 4 {
            return None;
        }
        let [register, device, bus, _] = self.address.to_le_bytes();
        Some(Place {
            bus,
            device: device >> 3,
            function: device & 7,
            register: u16::from(register) + u16::from(byte),
        })
    }
}

impl Target for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else if let Some(place) = self.place(offset, data.len()) {
            with_function(&self.segment, place, |function| {
                function.read(place.register, data);
            });
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, &[a, b, c, d]) = (offset, data) {
            // The address register takes whole writes only; 0xcf9 inside of it is no reset register here.
            self.address = u32::from_le_bytes([a, b, c, d]) & ADDRESS_BITS;
        } else if let Some(place) = self.place(offset, data.len()) {
            with_function(&self.segment, place, |function| {
                function.write(place.register, data);
            });
        }
    }
}

#[cfg(test)]
mod tests;
