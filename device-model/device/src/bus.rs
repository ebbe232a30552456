//! From a guest's address to the device behind it.
//!
//! The table of ranges is sorted and replaced as a whole when a device comes or goes, so that a lookup on a
//! vCPU's exit path takes no lock and allocates nothing. The only lock taken is the target's own.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::{Error, Result};

/// The guest-facing side of a device: registers behind an address range.
///
/// `offset` counts from the start of the range; an access never leaves it. `data` holds 1 to 8 bytes in the
/// guest's (little-endian) order. What the guest does is never an error: a device ignores what it does not
/// understand, as hardware does.
pub trait Target: Send {
    /// The guest reads. `data` is filled with ones before; leave it where nothing is.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A value behind a lock that several owners share: a device, the bus and a worker.
pub struct Shared<T: ?Sized>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    /// Shares a value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }
}

impl<T: ?Sized> Shared<T> {
    /// Exclusive access. A panic of another holder does not make it inaccessible: the monitor aborts on panics.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<T> Shared<T> {
    pub(crate) fn arc(&self) -> Arc<Mutex<T>> {
        Arc::clone(&self.0)
    }
}

#[derive(Clone)]
struct Entry {
    start: u64,
    /// Last address: a range may end at the very top of the address space.
    last: u64,
    target: Arc<Mutex<dyn Target>>,
}

/// One address space of the guest: I/O ports or memory.
pub struct Bus {
    name: &'static str,
    table: ArcSwap<Vec<Entry>>,
    /// Held while the table is replaced, never on an access.
    change: Mutex<()>,
}

impl Bus {
    /// An empty address space. `name` is for messages: `I/O ports` or `memory`.
    #[must_use]
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            table: ArcSwap::from_pointee(Vec::new()),
            change: Mutex::new(()),
        })
    }

    /// Puts `target` behind the addresses from `start`. They are taken until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::Overlap`] if another device is there, [`Error::BadRange`] if the range is empty or wraps.
    pub fn insert<T: Target + 'static>(
        self: &Arc<Self>,
        start: u64,
        len: u64,
        target: &Shared<T>,
    ) -> Result<Region> {
        let last = len
            .checked_sub(1)
            .and_then(|more| start.checked_add(more))
            .ok_or(Error::BadRange { start, len })?;
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Vec::clone(&self.table.load());
        let index = table.partition_point(|entry| entry.last < start);
        if let Some(other) = table.get(index)
            && other.start <= last
        {
            return Err(Error::Overlap {
                kind: self.name,
                start,
                end: last,
                other_start: other.start,
                other_end: other.last,
            });
        }
        table.insert(
            index,
            Entry {
                start,
                last,
                target: target.arc(),
            },
        );
        self.table.store(Arc::new(table));
        Ok(Region {
            bus: Arc::clone(self),
            start,
            len,
        })
    }

    /// A guest's read. Addresses without a device read as ones. `false` if nothing is there.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        self.access(address, data.len(), |target, offset| {
            target.read(offset, data);
        })
    }

    /// A guest's write. Lost where no device is. `false` if nothing is there.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        self.access(address, data.len(), |target, offset| {
            target.write(offset, data);
        })
    }

    fn access(&self, address: u64, len: usize, act: impl FnOnce(&mut dyn Target, u64)) -> bool {
        let table = self.table.load();
        let index = table.partition_point(|entry| entry.last < address);
        let Some(entry) = table.get(index).filter(|entry| entry.start <= address) else {
            return false;
        };
        // An access that sticks out over the end of a range belongs to no device.
        let more = u64::try_from(len).unwrap_or(u64::MAX).saturating_sub(1);
        if entry.last - address < more {
            return false;
        }
        let mut target = entry.target.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut *target, address - entry.start);
        true
    }

    fn remove(&self, start: u64) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Vec::clone(&self.table.load());
        table.retain(|entry| entry.start != start);
        self.table.store(Arc::new(table));
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for entry in self.table.load().deref().iter() {
            list.entry(&format_args!("{:#x}-{:#x}", entry.start, entry.last));
        }
        list.finish()
    }
}

/// A range of addresses that belongs to a device until this is dropped.
#[derive(Debug)]
pub struct Region {
    bus: Arc<Bus>,
    start: u64,
    len: u64,
}

impl Region {
    /// First address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.bus.remove(self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Cell(u8);

    impl Target for Cell {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.0 + u8::try_from(offset).unwrap());
        }
        fn write(&mut self, _offset: u64, data: &[u8]) {
            self.0 = data[0];
        }
    }

    fn read(bus: &Bus, address: u64) -> (bool, u8) {
        let mut data = [0];
        (bus.read(address, &mut data), data[0])
    }

    #[test]
    fn finds_the_device_by_address() {
        let bus = Bus::new("memory");
        let high = Shared::new(Cell(40));
        let _high = bus.insert(0x200, 8, &high).unwrap();
        let _low = bus.insert(0x100, 8, &Shared::new(Cell(10))).unwrap();
        assert_eq!(read(&bus, 0x100), (true, 10));
        assert_eq!(read(&bus, 0x107), (true, 17));
        assert_eq!(read(&bus, 0x203), (true, 43));
        for nothing in [0, 0xff, 0x108, 0x1ff, 0x208, u64::MAX] {
            assert_eq!(read(&bus, nothing), (false, 0xff), "{nothing:#x}");
        }
        assert!(bus.write(0x201, &[7]));
        assert_eq!(high.lock().0, 7);
        assert!(!bus.write(0x300, &[7]));
    }

    #[test]
    fn an_access_over_the_end_reaches_nobody() {
        let bus = Bus::new("memory");
        let _guard = bus.insert(0x100, 4, &Shared::new(Cell(1))).unwrap();
        let mut data = [0; 4];
        assert!(bus.read(0x100, &mut data));
        assert!(!bus.read(0x101, &mut data));
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn ranges_do_not_overlap_and_come_back_when_dropped() {
        let bus = Bus::new("I/O ports");
        let cell = Shared::new(Cell(0));
        let first = bus.insert(0x10, 0x10, &cell).unwrap();
        for (start, len) in [(0x10, 1), (0x1f, 1), (0x0, 0x11), (0x0, 0x100), (0x18, 2)] {
            let error = bus.insert(start, len, &cell).unwrap_err();
            assert!(error.to_string().contains("overlaps 0x10-0x1f"), "{error}");
        }
        let _below = bus.insert(0xf, 1, &cell).unwrap();
        let _above = bus.insert(0x20, 1, &cell).unwrap();
        drop(first);
        assert_eq!(read(&bus, 0x10), (false, 0xff));
        bus.insert(0x10, 0x10, &cell).unwrap();
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let bus = Bus::new("memory");
        let cell = Shared::new(Cell(0));
        assert!(matches!(
            bus.insert(5, 0, &cell),
            Err(Error::BadRange { .. })
        ));
        assert!(matches!(
            bus.insert(u64::MAX, 2, &cell),
            Err(Error::BadRange { .. })
        ));
        let _top = bus.insert(u64::MAX, 1, &cell).unwrap();
        assert_eq!(read(&bus, u64::MAX), (true, 0));
    }

    #[test]
    fn readers_see_a_device_or_nothing_while_others_come_and_go() {
        let bus = Bus::new("memory");
        let _stable = bus.insert(0x1000, 0x10, &Shared::new(Cell(3))).unwrap();
        std::thread::scope(|scope| {
            let changer = scope.spawn(|| {
                for _ in 0..2000 {
                    drop(bus.insert(0x0, 0x10, &Shared::new(Cell(9))).unwrap());
                }
            });
            while !changer.is_finished() {
                assert_eq!(read(&bus, 0x1000), (true, 3));
                assert!(matches!(read(&bus, 0x0), (true, 9) | (false, 0xff)));
            }
        });
    }
}
