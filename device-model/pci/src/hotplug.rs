//! The controller through which slots are filled and emptied while the guest runs.
//!
//! ACPI leaves it to the board how its firmware learns of a device that comes or goes, and how it hears that the
//! guest has let go of one (ACPI 6.5, 6.3). This board has 16 bytes of registers, each of 4 bytes:
//!
//! | Offset | Read | Write |
//! |---|---|---|
//! | 0 | one bit per slot of the selected segment that was filled since the last read | nothing |
//! | 4 | one bit per slot that is to be emptied, since the last read | nothing |
//! | 8 | 0 | one bit per slot that the guest is done with |
//! | 12 | the selected segment | selects a segment |
//!
//! The guest's interpreter is told by an event that it is to look; the methods that do so are in
//! [`crate::Pci::nodes`] and [`crate::Pci::hot_plug_node`].

use std::fmt;

use device::Target;
use serde::{Deserialize, Serialize};

use crate::{Error, PciAddress, Result, SLOTS};

/// Bytes of registers.
pub const HOT_PLUG_LEN: u64 = 16;
pub(crate) const INSERTED: u64 = 0;
pub(crate) const LEAVING: u64 = 4;
pub(crate) const EJECT: u64 = 8;
pub(crate) const SELECT: u64 = 12;

/// The registers and what is behind them.
pub struct HotPlug {
    segments: Vec<Pending>,
    selected: u32,
    /// Called when the guest is done with a device.
    attention: Option<Box<dyn Fn() + Send + Sync>>,
}

/// What is going on in the slots of one segment, one bit per slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    /// Filled, and the guest has not heard of it.
    inserted: u32,
    /// To be emptied, and the guest has not heard of it.
    leaving: u32,
    /// The guest is done with it, and the machine has not heard of it.
    ejected: u32,
}

/// The controller's state at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotPlugState {
    segments: Vec<Pending>,
    selected: u32,
}

impl HotPlug {
    /// A controller for this many segments. Nothing is going on.
    pub(crate) fn new(segments: u16) -> Self {
        Self {
            segments: vec![Pending::default(); segments.into()],
            selected: 0,
            attention: None,
        }
    }

    /// Has `attention` called, on a processor's thread, when the guest is done with a device: then
    /// [`HotPlug::take_ejected`] has something. It must not block.
    pub fn on_eject(&mut self, attention: impl Fn() + Send + Sync + 'static) {
        self.attention = Some(Box::new(attention));
    }

    /// A slot was filled. The guest finds out when it looks.
    pub fn insert(&mut self, address: PciAddress) {
        self.change(address, |slots, bit| {
            slots.inserted |= bit;
            // Whatever was wanted of the device that was there before.
            slots.leaving &= !bit;
            slots.ejected &= !bit;
        });
    }

    /// A slot is to be emptied. The guest finds out when it looks, and may ignore it.
    pub fn request_removal(&mut self, address: PciAddress) {
        self.change(address, |slots, bit| slots.leaving |= bit);
    }

    /// Slots that the guest is done with, since this was asked last. The guest can name any slot.
    pub fn take_ejected(&mut self) -> Vec<PciAddress> {
        let mut ejected = Vec::new();
        for (segment, slots) in (0u16..).zip(&mut self.segments) {
            let bits = std::mem::take(&mut slots.ejected);
            let found = (0..SLOTS).filter(|device| bits & 1 << device != 0);
            ejected.extend(found.map(|device| PciAddress { segment, device }));
        }
        ejected
    }

    /// Has the machine told again of what it has not taken, if there is any.
    pub fn announce(&self) {
        if self.has_ejected()
            && let Some(attention) = &self.attention
        {
            attention();
        }
    }

    fn has_ejected(&self) -> bool {
        self.segments.iter().any(|slots| slots.ejected != 0)
    }

    /// Whether the guest has not heard of everything.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.any(|slots| slots.inserted | slots.leaving != 0)
    }

    /// Its state, for [`HotPlug::restore`].
    #[must_use]
    pub fn save(&self) -> HotPlugState {
        HotPlugState {
            segments: self.segments.clone(),
            selected: self.selected,
        }
    }

    /// Puts a state back.
    ///
    /// # Errors
    /// [`Error::State`] if it is of a machine with another number of segments; nothing has changed then.
    pub fn restore(&mut self, state: &HotPlugState) -> Result<()> {
        let (there, here) = (state.segments.len(), self.segments.len());
        if there != here {
            return Err(Error::State(format!(
                "it has {there} segments, and the machine {here}"
            )));
        }
        self.segments.clone_from(&state.segments);
        self.selected = state.selected;
        Ok(())
    }

    fn change(&mut self, address: PciAddress, change: impl FnOnce(&mut Pending, u32)) {
        let slots = self.segments.get_mut(usize::from(address.segment));
        if let (Some(slots), Some(bit)) = (slots, 1u32.checked_shl(address.device.into())) {
            change(slots, bit);
        }
    }

    fn selected(&mut self) -> Option<&mut Pending> {
        self.segments.get_mut(usize::try_from(self.selected).ok()?)
    }

    fn eject(&mut self, bits: u32) {
        let told = self.has_ejected();
        let Some(slots) = self.selected() else { return };
        slots.ejected |= bits;
        slots.leaving &= !bits;
        // Once is enough until the machine comes: the guest may write as often as it likes.
        if !told {
            self.announce();
        }
    }
}

impl Target for HotPlug {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let Ok(data) = <&mut [u8; 4]>::try_from(data) else {
            return;
        };
        let take = std::mem::take::<u32>;
        let value = match offset {
            INSERTED => self.selected().map(|slots| take(&mut slots.inserted)),
            LEAVING => self.selected().map(|slots| take(&mut slots.leaving)),
            SELECT => Some(self.selected),
            _ => None,
        };
        *data = value.unwrap_or(0).to_le_bytes();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(value) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else {
            return;
        };
        match offset {
            EJECT => self.eject(value),
            SELECT => self.selected = value,
            _ => {}
        }
    }
}

impl fmt::Debug for HotPlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotPlug")
            .field("segments", &self.segments)
            .field("selected", &self.selected)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn at(segment: u16, device: u8) -> PciAddress {
        PciAddress { segment, device }
    }

    fn read(target: &mut HotPlug, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        target.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(target: &mut HotPlug, offset: u64, value: u32) {
        target.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn the_guest_hears_of_each_slot_once_and_by_its_segment() {
        let mut plug = HotPlug::new(2);
        assert!(!plug.is_pending());
        plug.insert(at(0, 4));
        plug.insert(at(1, 31));
        plug.request_removal(at(1, 3));
        assert!(plug.is_pending());
        assert_eq!(
            (read(&mut plug, INSERTED), read(&mut plug, LEAVING)),
            (16, 0)
        );
        assert_eq!(read(&mut plug, INSERTED), 0, "it was told");
        write(&mut plug, SELECT, 1);
        assert_eq!(read(&mut plug, SELECT), 1);
        assert_eq!(read(&mut plug, INSERTED), 1 << 31);
        assert_eq!(read(&mut plug, LEAVING), 8);
        assert!(!plug.is_pending());
    }

    #[test]
    fn the_machine_hears_of_what_the_guest_is_done_with() {
        let calls = Arc::new(AtomicU32::new(0));
        let mut plug = HotPlug::new(2);
        let count = Arc::clone(&calls);
        plug.on_eject(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        plug.request_removal(at(1, 5));
        write(&mut plug, SELECT, 1);
        write(&mut plug, EJECT, 0);
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        write(&mut plug, EJECT, 1 << 5 | 1 << 9);
        write(&mut plug, EJECT, 1 << 9);
        assert_eq!(calls.load(Ordering::Relaxed), 1, "the machine knows");
        assert!(!plug.is_pending(), "there is nothing to ask for any more");
        assert_eq!(plug.take_ejected(), [at(1, 5), at(1, 9)]);
        assert!(plug.take_ejected().is_empty());
        plug.announce();
        assert_eq!(calls.load(Ordering::Relaxed), 1, "there is nothing to tell");
        write(&mut plug, EJECT, 4);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        plug.announce();
        assert_eq!(calls.load(Ordering::Relaxed), 3);
        assert_eq!(read(&mut plug, EJECT), 0);
    }

    #[test]
    fn what_was_wanted_of_a_device_does_not_concern_the_next_one() {
        let mut plug = HotPlug::new(1);
        plug.request_removal(at(0, 5));
        plug.insert(at(0, 5));
        assert_eq!(read(&mut plug, LEAVING), 0);
        assert_eq!(read(&mut plug, INSERTED), 1 << 5);
    }

    #[test]
    fn nonsense_has_no_effect() {
        let mut plug = HotPlug::new(1);
        plug.insert(at(1, 3));
        plug.insert(at(0, 32));
        plug.request_removal(at(9, 1));
        let before = plug.save();
        write(&mut plug, SELECT, u32::MAX);
        write(&mut plug, EJECT, u32::MAX);
        assert_eq!(
            (read(&mut plug, INSERTED), read(&mut plug, LEAVING)),
            (0, 0)
        );
        write(&mut plug, SELECT, 0);
        plug.write(EJECT, &[1]);
        plug.write(EJECT + 2, &[1; 4]);
        plug.write(EJECT, &[1; 8]);
        plug.write(INSERTED, &[1; 4]);
        plug.write(LEAVING, &[1; 4]);
        let mut byte = [0xff];
        plug.read(INSERTED, &mut byte);
        assert_eq!(byte, [0xff]);
        assert_eq!(plug.save(), before);
    }

    #[test]
    fn its_state_is_put_back() {
        let mut plug = HotPlug::new(2);
        plug.insert(at(0, 4));
        plug.request_removal(at(1, 3));
        write(&mut plug, SELECT, 1);
        write(&mut plug, EJECT, 2);
        let state = plug.save();
        let text = serde_json::to_string(&state).unwrap();
        let mut other = HotPlug::new(2);
        other
            .restore(&serde_json::from_str(&text).unwrap())
            .unwrap();
        assert_eq!(other.save(), state);
        assert_eq!(other.take_ejected(), [at(1, 1)]);
        let mut small = HotPlug::new(1);
        let before = small.save();
        assert!(matches!(small.restore(&state), Err(Error::State(_))));
        assert_eq!(small.save(), before);
    }
}
