//! Segments and their slots, and the whole of PCI in one machine.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arch::layout;
use device::{Bus, Region, Shared};

use crate::config_access::{ConfigPorts, Ecam};
use crate::endpoint::{EndpointBuilder, Identification};
use crate::window::Window;
use crate::{BarKind, Error, HotPlug, PciAddress, Result, SharedFunction, share};

#[cfg(test)]
mod tests;

/// Slots of a segment.
pub const SLOTS: u8 = 32;
/// The most segments a machine can have.
const MAX_SEGMENTS: u16 = 96;
/// The host bridge's slot, in every segment.
const BRIDGE_SLOT: u8 = 0;
const BRIDGE: Identification = Identification {
    vendor: 0x8086,
    device: 0x0d57,
    revision: 0,
    class: 0x06,
    subclass: 0,
    interface: 0,
    subsystem_vendor: 0,
    subsystem: 0,
};
/// I/O ports for BARs. Those below belong to the devices of the platform.
const IO_WINDOW: Range<u64> = 0x1000..0x1_0000;
/// What the shares of segments in the 32-bit device memory are multiples of.
const SHARE_ALIGN_32: u64 = 1 << 20;

/// Where PCI is in a machine's address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of segments, 1 to 96.
    pub segments: u16,
    /// Memory for 32-bit BARs, for all segments together.
    pub memory32: Range<u64>,
    /// Memory for 64-bit BARs, for all segments together.
    pub memory64: Range<u64>,
}

/// All of PCI in one machine. Dropping it takes its windows to configuration space off the buses.
pub struct Pci {
    segments: Vec<Arc<Segment>>,
    hot_plug: Shared<HotPlug>,
    _windows: Vec<Region>,
}

/// One segment: a bus of 32 slots, and the addresses that BARs on it get.
pub struct Segment {
    number: u16,
    slots: Mutex<Slots>,
    memory32: Window,
    memory64: Window,
    io: Option<Window>,
    memory_bus: Arc<Bus>,
    port_bus: Arc<Bus>,
}

#[derive(Default)]
struct Slots {
    /// One bit per slot that belongs to somebody.
    taken: u32,
    /// One bit per slot that is only for those who ask for it by number.
    kept: u32,
    functions: [Option<SharedFunction>; SLOTS as usize],
}

impl Pci {
    /// PCI with a host bridge in each segment and nothing else.
    ///
    /// # Errors
    /// [`Error::SegmentCount`], [`Error::NoWindow`] if the memory is too small to be shared among the segments,
    /// [`Error::Bus`] if the windows to configuration space are taken.
    pub fn new(ports: &Arc<Bus>, memory: &Arc<Bus>, plan: &Layout) -> Result<Self> {
        if !(1..=MAX_SEGMENTS).contains(&plan.segments) {
            return Err(Error::SegmentCount(plan.segments));
        }
        let mut segments = Vec::with_capacity(plan.segments.into());
        let mut windows = Vec::with_capacity(usize::from(plan.segments) + 1);
        for number in 0..plan.segments {
            let segment = Arc::new(Segment::new(number, ports, memory, plan)?);
            segment.add_bridge()?;
            let ecam = Shared::new(Ecam(Arc::clone(&segment)));
            let region = memory
                .insert(segment.ecam(), layout::ECAM_SEGMENT_SIZE, &ecam)
                .map_err(|error| Error::Bus(Box::new(error)))?;
            windows.push(region);
            segments.push(segment);
        }
        let ports_target = Shared::new(ConfigPorts::new(Arc::clone(&segments[0])));
        let region = ports
            .insert(
                layout::PORT_PCI_CONFIG.into(),
                layout::PORT_PCI_CONFIG_COUNT.into(),
                &ports_target,
            )
            .map_err(|error| Error::Bus(Box::new(error)))?;
        windows.push(region);
        Ok(Self {
            segments,
            hot_plug: Shared::new(HotPlug::new(plan.segments)),
            _windows: windows,
        })
    }

    /// A segment by number.
    ///
    /// # Errors
    /// [`Error::NoSegment`] if there are fewer.
    pub fn segment(&self, number: u16) -> Result<&Arc<Segment>> {
        let count = self.segments.len();
        self.segments
            .get(usize::from(number))
            .ok_or(Error::NoSegment {
                segment: number,
                count,
            })
    }

    /// The controller of what comes and goes while the guest runs. Whoever puts its registers on a bus describes
    /// them with [`Pci::hot_plug_node`].
    #[must_use]
    pub fn hot_plug(&self) -> &Shared<HotPlug> {
        &self.hot_plug
    }

    /// All segments, by number.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter()
    }
}

impl fmt::Debug for Pci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pci")
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

/// The share of segment `number` in `range`: one of `count` equal ones, a multiple of `align`.
fn share_of(range: &Range<u64>, number: u16, count: u16, align: u64) -> Result<Range<u64>> {
    let size = range.end.saturating_sub(range.start);
    let each = (size / u64::from(count)) & !(align - 1);
    if each == 0 {
        return Err(Error::NoWindow {
            segments: count,
            size,
        });
    }
    let start = range.start + u64::from(number) * each;
    // What cannot be shared equally is the last one's.
    let end = if number + 1 == count {
        range.end
    } else {
        start + each
    };
    Ok(start..end)
}

impl Segment {
    fn new(number: u16, ports: &Arc<Bus>, memory: &Arc<Bus>, plan: &Layout) -> Result<Self> {
        let memory32 = share_of(&plan.memory32, number, plan.segments, SHARE_ALIGN_32)?;
        let memory64 = share_of(
            &plan.memory64,
            number,
            plan.segments,
            layout::DEVICE_AREA_ALIGN,
        )?;
        Ok(Self {
            number,
            slots: Mutex::default(),
            memory32: Window::new("32-bit memory", number, memory32),
            memory64: Window::new("64-bit memory", number, memory64),
            io: (number == 0).then(|| Window::new("I/O port", number, IO_WINDOW)),
            memory_bus: Arc::clone(memory),
            port_bus: Arc::clone(ports),
        })
    }

    fn add_bridge(&self) -> Result<()> {
        let bridge = EndpointBuilder::new(self, &BRIDGE).build();
        let mut slots = self.lock();
        slots.taken |= 1 << BRIDGE_SLOT;
        slots.functions[usize::from(BRIDGE_SLOT)] = Some(share(bridge));
        Ok(())
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Guest physical address of its configuration space, 1 MiB.
    #[must_use]
    pub fn ecam(&self) -> u64 {
        layout::ECAM_START + u64::from(self.number) * layout::ECAM_SEGMENT_SIZE
    }

    /// Memory for its 32-bit BARs.
    #[must_use]
    pub fn memory32(&self) -> &Window {
        &self.memory32
    }

    /// Memory for its 64-bit BARs.
    #[must_use]
    pub fn memory64(&self) -> &Window {
        &self.memory64
    }

    /// Ports for its I/O BARs; segment 0 only.
    #[must_use]
    pub fn io(&self) -> Option<&Window> {
        self.io.as_ref()
    }

    /// Keeps a slot for a device that will ask for it by number, so that no other is put there before. Slots
    /// that do not exist are nobody's.
    pub fn keep(&self, device: u8) {
        self.lock().kept |= 1u32.checked_shl(device.into()).unwrap_or(0);
    }

    /// Takes a slot: this one, or else the lowest that is free.
    ///
    /// # Errors
    /// [`Error::Slot`] if it does not exist or is taken, [`Error::NoFreeSlot`] if all are.
    pub fn take(self: &Arc<Self>, device: Option<u8>) -> Result<Slot> {
        let mut slots = self.lock();
        let device = match device {
            Some(device) => self.check_free(&slots, device)?,
            None => {
                let free = !(slots.taken | slots.kept);
                let lowest = (0..SLOTS).find(|device| free & 1 << device != 0);
                lowest.ok_or(Error::NoFreeSlot(self.number))?
            }
        };
        slots.taken |= 1 << device;
        Ok(Slot {
            segment: Arc::clone(self),
            device,
        })
    }

    fn check_free(&self, slots: &Slots, device: u8) -> Result<u8> {
        let why = match device {
            SLOTS.. => "slots are 0 to 31",
            BRIDGE_SLOT => "it is the host bridge's",
            _ if slots.taken & 1 << device != 0 => "another device is there",
            _ => return Ok(device),
        };
        Err(Error::Slot {
            address: PciAddress {
                segment: self.number,
                device,
            },
            why,
        })
    }

    /// The function in a slot.
    pub(crate) fn function(&self, device: u8) -> Option<SharedFunction> {
        self.lock().functions.get(usize::from(device))?.clone()
    }

    pub(crate) fn window(&self, kind: BarKind) -> Result<&Window> {
        match kind {
            BarKind::Memory32 => Ok(&self.memory32),
            BarKind::Memory64 => Ok(&self.memory64),
            BarKind::Io => self
                .io
                .as_ref()
                .ok_or(Error::Design("only segment 0 has I/O ports")),
        }
    }

    pub(crate) fn bus(&self, kind: BarKind) -> Arc<Bus> {
        Arc::clone(if kind == BarKind::Io {
            &self.port_bus
        } else {
            &self.memory_bus
        })
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("number", &self.number)
            .field("taken", &format_args!("{:#034b}", self.lock().taken))
            .finish_non_exhaustive()
    }
}

/// A slot that belongs to one device until this is dropped. Empty at first.
#[derive(Debug)]
pub struct Slot {
    segment: Arc<Segment>,
    device: u8,
}

impl Slot {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        PciAddress {
            segment: self.segment.number,
            device: self.device,
        }
    }

    /// The segment it is in.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Fills it: from now on the guest finds `function`.
    pub fn fill(&self, function: SharedFunction) {
        self.segment.lock().functions[usize::from(self.device)] = Some(function);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut slots = self.segment.lock();
        slots.taken &= !(1 << self.device);
        // Whoever it was kept for has had it.
        slots.kept &= !(1 << self.device);
        let function = slots.functions[usize::from(self.device)].take();
        drop(slots);
        // Its BARs come off the bus without the slots being locked.
        drop(function);
    }
}
