//! A function with a type 0 header: every device that is not a bridge.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bar::{self, Bars};
use crate::msix::MsixCapability;
use crate::window::Window;
use crate::{
    BarKind, BarState, Capability, CapabilityId, Contents, Error, Function, Msix, MsixState,
    Result, Segment,
};

#[cfg(test)]
mod tests;

/// Configuration space without the extended part, which no function here has.
const SPACE: usize = 256;

/// Places in the header (PCI Local Bus specification 3.0, 6.1).
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CACHE_LINE_SIZE: usize = 0x0c;
const BARS: Range<usize> = 0x10..0x28;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

/// Command register bits (6.2.2).
const DECODE_IO: u8 = 1 << 0;
const DECODE_MEMORY: u8 = 1 << 1;
/// Bits that a guest can change: decoding, bus mastering, parity, SERR# and the INTx disable.
const COMMAND_WRITABLE: [u8; 2] = [0x47, 0x05];
/// Status register: there is a list of capabilities.
const HAS_CAPABILITIES: u8 = 1 << 4;

/// Who made a function and what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identification {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class (PCI Code and ID Assignment specification, chapter 1).
    pub class: u8,
    /// Subclass.
    pub subclass: u8,
    /// Programming interface.
    pub interface: u8,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// Describes an endpoint: identification first, then BARs and capabilities.
pub struct EndpointBuilder<'a> {
    segment: &'a Segment,
    endpoint: Endpoint,
    /// Where the next capability goes, and the byte that will point to it.
    next: usize,
    pointer: usize,
}

/// A function with a type 0 header.
pub struct Endpoint {
    bytes: [u8; SPACE],
    /// Bits that the guest can change.
    writable: [u8; SPACE],
    bars: Bars,
    capabilities: Vec<(Range<usize>, Box<dyn Capability>)>,
    msix: Option<Arc<Msix>>,
    /// BARs are on the bus if the guest has them decoded.
    present: bool,
}

/// An endpoint's state at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointState {
    /// The 256 bytes of configuration space; BARs as 0.
    pub config: Vec<u8>,
    /// Base address registers.
    pub bars: Vec<BarState>,
    /// Message signalled interrupts, if it has them.
    pub msix: Option<MsixState>,
}

impl<'a> EndpointBuilder<'a> {
    /// Begins with a function that has nothing but its name. BARs will get addresses of `segment`.
    #[must_use]
    pub fn new(segment: &'a Segment, id: &Identification) -> Self {
        let mut endpoint = Endpoint {
            bytes: [0; SPACE],
            writable: [0; SPACE],
            bars: Bars::default(),
            capabilities: Vec::new(),
            msix: None,
            present: false,
        };
        endpoint.set(0, &id.vendor.to_le_bytes());
        endpoint.set(2, &id.device.to_le_bytes());
        endpoint.set(8, &[id.revision, id.interface, id.subclass, id.class]);
        endpoint.set(SUBSYSTEM, &id.subsystem_vendor.to_le_bytes());
        endpoint.set(SUBSYSTEM + 2, &id.subsystem.to_le_bytes());
        endpoint.let_write(COMMAND, &COMMAND_WRITABLE);
        endpoint.let_write(CACHE_LINE_SIZE, &[0xff]);
        endpoint.let_write(INTERRUPT_LINE, &[0xff]);
        Self {
            segment,
            endpoint,
            next: FIRST_CAPABILITY,
            pointer: CAPABILITIES,
        }
    }

    /// Adds a BAR with `size` bytes of registers. Its first address is a multiple of `size`, and of `align` if
    /// that is larger.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if the segment has no addresses left, [`Error::Design`] if the register is taken or
    /// the size is not a power of two.
    pub fn bar(
        mut self,
        index: usize,
        kind: BarKind,
        size: u64,
        align: u64,
        contents: impl Contents + 'static,
    ) -> Result<Self> {
        let window: &Window = self.segment.window(kind)?;
        let span = window.allocate(size, align.max(size))?;
        let bus = self.segment.bus(kind);
        self.endpoint
            .bars
            .add(index, kind, bus, span, Box::new(contents))?;
        Ok(self)
    }

    /// Adds a capability with `body` after its two header bytes. `writable` has a one for each bit of the body
    /// that the guest can change; what it lacks at the end is read-only. Gives its offset.
    ///
    /// # Errors
    /// [`Error::Design`] if there is no room for it.
    pub fn capability(&mut self, id: CapabilityId, body: &[u8], writable: &[u8]) -> Result<u8> {
        let start = self.next;
        let end = start + 2 + body.len();
        let (Ok(offset), true) = (u8::try_from(start), end <= SPACE) else {
            return Err(Error::Design("the capabilities do not fit into 256 bytes"));
        };
        self.endpoint.set(start, &[id as u8, 0]);
        self.endpoint.set(start + 2, body);
        self.endpoint
            .let_write(start + 2, &writable[..writable.len().min(body.len())]);
        self.endpoint.set(self.pointer, &[offset]);
        self.endpoint.bytes[STATUS] |= HAS_CAPABILITIES;
        self.pointer = start + 1;
        self.next = end.next_multiple_of(4);
        Ok(offset)
    }

    /// Adds a capability that does something. See [`EndpointBuilder::capability`].
    ///
    /// # Errors
    /// [`Error::Design`] if there is no room for it.
    pub fn active_capability(
        &mut self,
        id: CapabilityId,
        body: &[u8],
        writable: &[u8],
        handler: impl Capability + 'static,
    ) -> Result<u8> {
        let offset = self.capability(id, body, writable)?;
        let start = usize::from(offset);
        self.endpoint
            .capabilities
            .push((start..start + 2 + body.len(), Box::new(handler)));
        Ok(offset)
    }

    /// Adds message signalled interrupts. The device puts the table and the pending bits behind its BARs, at
    /// the places given here as `(BAR, offset)`; offsets are multiples of 8.
    ///
    /// # Errors
    /// [`Error::Design`] if there is no room for it, or a place is not possible.
    pub fn msix(&mut self, msix: Arc<Msix>, table: (u8, u32), pending: (u8, u32)) -> Result<()> {
        let place = |(bar, offset): (u8, u32)| {
            if usize::from(bar) < bar::COUNT && offset % 8 == 0 {
                Ok((offset | u32::from(bar)).to_le_bytes())
            } else {
                Err(Error::Design(
                    "MSI-X structures are in one of six BARs, at multiples of 8",
                ))
            }
        };
        let mut body = msix.control().to_vec();
        body.extend(place(table)?);
        body.extend(place(pending)?);
        let handler = MsixCapability(Arc::clone(&msix));
        self.active_capability(CapabilityId::MsiX, &body, &Msix::CONTROL_WRITABLE, handler)?;
        self.endpoint.msix = Some(msix);
        Ok(())
    }

    /// The finished function. Its command register has decoding turned on, because this monitor is the firmware
    /// that assigned the BARs; they appear with [`Endpoint::appear`].
    #[must_use]
    pub fn build(self) -> Endpoint {
        let mut endpoint = self.endpoint;
        let mut command = 0;
        if endpoint.bars.any(true) {
            command |= DECODE_IO;
        }
        if endpoint.bars.any(false) {
            command |= DECODE_MEMORY;
        }
        endpoint.bytes[COMMAND] = command;
        endpoint
    }
}

impl Endpoint {
    /// Puts its BARs on the bus, as far as the guest has decoding turned on. Not before all functions have their
    /// state back: until then, another one may be where this one is going to be. Does nothing the second time.
    pub fn appear(&mut self) {
        self.present = true;
        self.apply_command();
    }

    /// Ranges of memory behind its BARs, where the guest has put them.
    #[must_use]
    pub fn memory(&self) -> Vec<device::PciBar> {
        self.bars.memory()
    }

    /// Its state, for [`Endpoint::restore`].
    #[must_use]
    pub fn save(&self) -> EndpointState {
        EndpointState {
            config: self.bytes.to_vec(),
            bars: self.bars.save(),
            msix: self.msix.as_ref().map(|msix| msix.save()),
        }
    }

    /// Puts a state back. What the guest cannot write is not looked at: it belongs to this build. Its BARs are
    /// off the bus until [`Endpoint::appear`].
    ///
    /// # Errors
    /// [`Error::State`] if it is of a function with other BARs or vectors; nothing has changed then.
    pub fn restore(&mut self, state: &EndpointState) -> Result<()> {
        let config: &[u8; SPACE] = state.config.as_slice().try_into().map_err(|_| {
            Error::State(format!(
                "it has {} bytes of configuration space",
                state.config.len()
            ))
        })?;
        self.bars.check(&state.bars)?;
        match (&self.msix, &state.msix) {
            (Some(msix), Some(state)) => msix.restore(state)?,
            (None, None) => {}
            _ => {
                return Err(Error::State(
                    "one of them has MSI-X and the other has not".into(),
                ));
            }
        }
        for ((byte, saved), writable) in self.bytes.iter_mut().zip(config).zip(&self.writable) {
            *byte = (*byte & !writable) | (saved & writable);
        }
        self.present = false;
        self.apply_command();
        self.bars.restore(&state.bars);
        Ok(())
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn let_write(&mut self, offset: usize, bits: &[u8]) {
        self.writable[offset..offset + bits.len()].copy_from_slice(bits);
    }

    /// Which address spaces are decoded: memory, I/O ports.
    fn decoded(&self) -> (bool, bool) {
        let command = if self.present { self.bytes[COMMAND] } else { 0 };
        (command & DECODE_MEMORY != 0, command & DECODE_IO != 0)
    }

    fn apply_command(&mut self) {
        let (memory, io) = self.decoded();
        self.bars.decode(memory, io);
    }

    /// Calls the handler of the capability that has some of `range`, if there is one, with the bytes of the
    /// capability, and the offset in it and the number of those that are accessed.
    fn handle(
        &mut self,
        range: &Range<usize>,
        act: impl FnOnce(&mut dyn Capability, &mut [u8], usize, usize),
    ) {
        let mut capabilities = self.capabilities.iter_mut();
        let found =
            capabilities.find(|(place, _)| place.start < range.end && range.start < place.end);
        if let Some((place, handler)) = found {
            let start = range.start.max(place.start) - place.start;
            let end = range.end.min(place.end) - place.start;
            act(
                &mut **handler,
                &mut self.bytes[place.clone()],
                start,
                end - start,
            );
        }
    }

    fn write_bar(&mut self, offset: usize, data: &[u8]) {
        let register = (offset - BARS.start) / 4;
        let mut bytes = self.bars.read(register).to_le_bytes();
        for (byte, value) in bytes.iter_mut().skip(offset % 4).zip(data) {
            *byte = *value;
        }
        let (memory, io) = self.decoded();
        self.bars
            .write(register, u32::from_le_bytes(bytes), memory, io);
    }
}

/// The bytes of an access, if it is one that [`Function`] allows and inside the space.
fn accessed(offset: u16, len: usize) -> Option<Range<usize>> {
    let start = usize::from(offset);
    let whole = matches!(len, 1 | 2 | 4) && start % 4 + len <= 4;
    (whole && start + len <= SPACE).then_some(start..start + len)
}

impl Function for Endpoint {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        let Some(range) = accessed(offset, data.len()) else {
            return;
        };
        if BARS.contains(&range.start) {
            let bytes = self.bars.read((range.start - BARS.start) / 4).to_le_bytes();
            data.copy_from_slice(&bytes[range.start % 4..][..range.len()]);
            return;
        }
        self.handle(&range, |handler, bytes, start, len| {
            handler.reading(bytes, start, len);
        });
        data.copy_from_slice(&self.bytes[range]);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        let Some(range) = accessed(offset, data.len()) else {
            return;
        };
        if BARS.contains(&range.start) {
            return self.write_bar(range.start, data);
        }
        for (at, value) in range.clone().zip(data) {
            let writable = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !writable) | (value & writable);
        }
        if range.contains(&COMMAND) {
            self.apply_command();
        }
        self.handle(&range, |handler, bytes, start, len| {
            handler.written(bytes, start, len);
        });
    }
}
