//! Ranges of RAM that are looked at again and again, checked once.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::{Error, GuestRam, Mapping};

/// A range of RAM inside of one region, checked when it was made: for structures that guest and host look at all the
/// time, such as rings. It keeps the memory mapped. Offsets are in bytes from its start.
#[derive(Clone)]
pub struct Window {
    mapping: Arc<Mapping>,
    /// Bytes from the start of the mapping; with `length` inside of it.
    start: usize,
    length: usize,
}

/// What a [`Window`] is, borrowed: for what is looked at once.
#[derive(Clone, Copy)]
pub struct View<'a> {
    first: *mut u8,
    length: usize,
    mapping: PhantomData<&'a Mapping>,
}

impl Window {
    /// `None` if not all of it is in the mapping.
    pub(crate) fn new(mapping: &Arc<Mapping>, start: u64, length: u64) -> Option<Self> {
        let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
        let end = u64::try_from(start.checked_add(length)?).ok()?;
        (end <= mapping.size()).then(|| Self {
            mapping: Arc::clone(mapping),
            start,
            length,
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            // Inside of the mapping since `new`; nothing is dereferenced here.
            first: self.mapping.address().wrapping_add(self.start),
            length: self.length,
            mapping: PhantomData,
        }
    }
}

impl<'a> View<'a> {
    /// `None` if not all of it is in the mapping.
    pub(crate) fn new(mapping: &'a Mapping, start: u64, length: u64) -> Option<Self> {
        let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
        let end = u64::try_from(start.checked_add(length)?).ok()?;
        (end <= mapping.size()).then(|| Self {
            first: mapping.address().wrapping_add(start),
            length,
            mapping: PhantomData,
        })
    }

    /// Address of `count` bytes at `offset`, if they are inside.
    fn at(self, offset: u64, count: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let inside = offset.checked_add(count)? <= self.length;
        inside.then(|| self.first.wrapping_add(offset))
    }

    /// Copies `N` bytes out, once: what the guest writes meanwhile may be seen in part. `None` beyond the end.
    #[must_use]
    pub fn read<const N: usize>(self, offset: u64) -> Option<[u8; N]> {
        let at = self.at(offset, N)?.cast::<[u8; N]>();
        // SAFETY: the bytes are inside of a mapping that the view borrows, and arrays of bytes have no alignment;
        // volatile, because the guest writes at any time.
        Some(unsafe { at.read_volatile() })
    }

    /// Writes bytes. `None` beyond the end; nothing is written then.
    #[must_use]
    pub fn write<const N: usize>(self, offset: u64, bytes: [u8; N]) -> Option<()> {
        let at = self.at(offset, N)?.cast::<[u8; N]>();
        // SAFETY: as for `read`; nobody borrows guest memory.
        unsafe { at.write_volatile(bytes) };
        Some(())
    }

    /// Reads a little-endian number in one access. `None` beyond the end or at an odd address.
    #[must_use]
    pub fn load(self, offset: u64, order: Ordering) -> Option<u16> {
        Some(u16::from_le(self.atomic(offset)?.load(order)))
    }

    /// Writes a little-endian number in one access. `None` beyond the end or at an odd address.
    #[must_use]
    pub fn store(self, offset: u64, value: u16, order: Ordering) -> Option<()> {
        self.atomic(offset)?.store(value.to_le(), order);
        Some(())
    }

    fn atomic(self, offset: u64) -> Option<&'a AtomicU16> {
        let at = self.at(offset, 2)?.cast::<u16>();
        // SAFETY: it is aligned and inside of a mapping that lives as long as `'a`; the monitor makes no other
        // reference to it, and what the guest does is not of this program.
        at.is_aligned().then(|| unsafe { AtomicU16::from_ptr(at) })
    }
}

impl GuestRam {
    /// The `length` bytes at guest address `address`, to be looked at many times.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if they are not all inside of one region.
    pub fn window(&self, address: u64, length: u64) -> Result<Window, Error> {
        self.region_at(address)
            .and_then(|(mapping, start)| Window::new(mapping, start, length))
            .ok_or(Error::OutOfRange { address, length })
    }

    /// The `length` bytes at guest address `address`, to be looked at now; `None` if they are not all inside of one
    /// region.
    #[must_use]
    pub fn view(&self, address: u64, length: u64) -> Option<View<'_>> {
        let (mapping, start) = self.region_at(address)?;
        View::new(mapping, start, length)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

// SAFETY: a window is an address and a length inside of a mapping that it owns a share of.
unsafe impl Send for Window {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RamOptions, RegionSpec};

    fn ram() -> GuestRam {
        let region = |start| RegionSpec {
            start,
            size: 2 << 20,
        };
        let regions = [region(0), region(2 << 20), region(1 << 30)];
        GuestRam::new(&regions, &RamOptions::default()).unwrap()
    }

    #[test]
    fn a_window_sees_what_the_guest_writes_and_the_other_way_round() {
        let ram = ram();
        let window = ram.window(0x1002, 16).unwrap();
        ram.write(0x1002, b"abcdefghijklmnop").unwrap();
        assert_eq!(window.view().read::<4>(12), Some(*b"mnop"));
        assert_eq!(
            window.view().load(0, Ordering::Acquire),
            Some(u16::from_le_bytes(*b"ab"))
        );
        window.view().write(1, *b"XY").unwrap();
        window.view().store(4, 0x3130, Ordering::Release).unwrap();
        let mut seen = [0; 8];
        ram.read(0x1002, &mut seen).unwrap();
        assert_eq!(&seen, b"aXYd01gh");
        drop(ram);
        assert_eq!(
            window.view().read::<1>(3),
            Some(*b"d"),
            "it keeps the memory"
        );
    }

    #[test]
    fn nothing_beyond_its_end_is_touched() {
        let ram = ram();
        let window = ram.window(0x1000, 8).unwrap();
        let view = window.view();
        assert_eq!(view.read::<8>(1), None);
        assert_eq!(view.read::<1>(u64::MAX), None);
        assert_eq!(view.write(7, [1, 2]), None);
        assert_eq!(view.load(7, Ordering::Relaxed), None);
        assert_eq!(view.load(3, Ordering::Relaxed), None, "odd");
        assert_eq!(view.store(8, 1, Ordering::Relaxed), None);
        assert_eq!(ram.view(0x1000, 16).unwrap().read::<16>(0), Some([0; 16]));
    }

    #[test]
    fn it_is_inside_of_one_region() {
        let ram = ram();
        assert!(ram.window((2 << 20) - 8, 8).is_ok());
        assert!(ram.window((2 << 20) - 8, 9).is_err());
        assert!(ram.window(4 << 20, 1).is_err());
        assert!(ram.window((1 << 30) - 1, 1).is_err());
        assert!(ram.window((1 << 30) + (2 << 20), 1).is_err());
        assert!(ram.window(u64::MAX, 1).is_err());
        assert!(ram.view(1 << 30, u64::MAX).is_none());
        assert!(ram.view((1 << 30) + (2 << 20) - 1, 1).is_some());
    }
}
