//! Which addresses BARs have, and which are free.
//!
//! The monitor gives each BAR a place when its device is made; the guest may choose another one later. Both
//! happen in a [`Window`]: a range of addresses that the segment's host bridge passes on to its bus.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// Addresses for the BARs of one segment, in one address space. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Window(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: &'static str,
    segment: u16,
    range: Range<u64>,
    spans: Mutex<Spans>,
}

#[derive(Debug, Default)]
struct Spans {
    next: u64,
    taken: BTreeMap<u64, Taken>,
}

/// What a [`Span`] stands for.
#[derive(Clone, Copy, Debug)]
struct Taken {
    start: u64,
    size: u64,
    /// Accesses reach it. Two spans may have the same addresses as long as at most one is decoded: a guest
    /// that moves devices around has them overlap for a moment, with decoding turned off.
    decoded: bool,
}

impl Taken {
    fn overlaps(&self, start: u64, size: u64) -> bool {
        // Spans are inside the window, so that their ends do not overflow.
        start < self.start + self.size && self.start < start + size
    }
}

impl Window {
    /// The addresses `range` of segment number `segment`, called `name` in messages.
    #[must_use]
    pub fn new(name: &'static str, segment: u16, range: Range<u64>) -> Self {
        Self(Arc::new(Shared {
            name,
            segment,
            range,
            spans: Mutex::default(),
        }))
    }

    /// All addresses, used or not.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.0.range.clone()
    }

    /// Takes the highest free place for `size` bytes at a multiple of `align`. It is not decoded yet.
    ///
    /// # Errors
    /// [`Error::NoSpace`], and [`Error::Design`] if `align` is not a power of two or `size` is 0.
    pub fn allocate(&self, size: u64, align: u64) -> Result<Span> {
        if size == 0 || !align.is_power_of_two() {
            return Err(Error::Design(
                "a range of addresses needs a size, and a power of two to align to",
            ));
        }
        let mut spans = self.0.lock();
        let start = self
            .0
            .highest_free(&spans, size, align)
            .ok_or(Error::NoSpace {
                window: self.0.name,
                segment: self.0.segment,
                size,
            })?;
        let key = spans.next;
        spans.next += 1;
        spans.taken.insert(
            key,
            Taken {
                start,
                size,
                decoded: false,
            },
        );
        Ok(Span {
            window: Arc::clone(&self.0),
            key,
        })
    }

    /// Takes the highest free place for `size` bytes at a multiple of `align`, for something that is no BAR: the
    /// guest cannot move it, and no BAR is decoded there as long as it lives.
    ///
    /// # Errors
    /// As [`Window::allocate`].
    pub fn reserve(&self, size: u64, align: u64) -> Result<Span> {
        let span = self.allocate(size, align)?;
        if let Some(taken) = self.0.lock().taken.get_mut(&span.key) {
            taken.decoded = true;
        }
        Ok(span)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn highest_free(&self, spans: &Spans, size: u64, align: u64) -> Option<u64> {
        let mut end = self.range.end;
        loop {
            let start = end.checked_sub(size)? & !(align - 1);
            if start < self.range.start {
                return None;
            }
            let Some(other) = spans
                .taken
                .values()
                .find(|taken| taken.overlaps(start, size))
            else {
                return Some(start);
            };
            // Strictly below what was tried, because it overlaps that: the loop ends.
            end = other.start;
        }
    }

    fn contains(&self, start: u64, size: u64) -> bool {
        start >= self.range.start
            && start
                .checked_add(size)
                .is_some_and(|end| end <= self.range.end)
    }
}

/// Why a place cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it is outside of the {0} window")]
    Outside(&'static str),
    #[error("another device is at {0:#x}")]
    Taken(u64),
}

/// Addresses that belong to one BAR or other thing, until this is dropped.
#[derive(Debug)]
pub struct Span {
    window: Arc<Shared>,
    key: u64,
}

impl Span {
    fn taken(&self) -> Taken {
        // The entry is made with the span and removed when it is dropped.
        let none = Taken {
            start: 0,
            size: 0,
            decoded: false,
        };
        self.window
            .lock()
            .taken
            .get(&self.key)
            .copied()
            .unwrap_or(none)
    }

    /// First address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.taken().start
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.taken().size
    }

    /// Moves something that is no BAR, as to where it was in a saved machine. If it cannot, it stays as it is.
    ///
    /// # Errors
    /// [`Error::State`] if the place is outside of the window, or another's.
    pub fn move_to(&self, start: u64) -> Result<()> {
        self.decode_at(start)
            .map_err(|why| Error::State(format!("{start:#x} cannot be had: {why}")))
    }

    /// Moves to `start` and is decoded there, or stays as it is.
    pub(crate) fn decode_at(&self, start: u64) -> std::result::Result<(), Refusal> {
        let mut spans = self.window.lock();
        let Some(size) = spans.taken.get(&self.key).map(|taken| taken.size) else {
            return Ok(());
        };
        if !self.window.contains(start, size) {
            return Err(Refusal::Outside(self.window.name));
        }
        let other = spans
            .taken
            .iter()
            .find(|(key, taken)| **key != self.key && taken.decoded && taken.overlaps(start, size));
        if let Some((_, other)) = other {
            return Err(Refusal::Taken(other.start));
        }
        spans.taken.insert(
            self.key,
            Taken {
                start,
                size,
                decoded: true,
            },
        );
        Ok(())
    }

    /// Keeps its place, but lets others be decoded there.
    pub(crate) fn stop_decoding(&self) {
        if let Some(taken) = self.window.lock().taken.get_mut(&self.key) {
            taken.decoded = false;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.window.lock().taken.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window() -> Window {
        Window::new("test", 3, 0x1000..0x9000)
    }

    #[test]
    fn allocates_from_the_top_and_reuses_what_is_dropped() {
        let window = window();
        let first = window.allocate(0x1000, 0x1000).unwrap();
        let second = window.allocate(0x10, 0x10).unwrap();
        let third = window.allocate(0x1000, 0x1000).unwrap();
        assert_eq!(
            [first.start(), second.start(), third.start()],
            [0x8000, 0x7ff0, 0x6000]
        );
        drop(first);
        assert_eq!(window.allocate(0x800, 0x800).unwrap().start(), 0x8800);
    }

    #[test]
    fn a_full_window_says_what_is_missing() {
        let window = window();
        let _most = window.allocate(0x4000, 0x4000).unwrap();
        let error = window.allocate(0x4000, 0x4000).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no 0x4000 bytes are left in the test window of PCI segment 3 for a device's registers"
        );
        assert!(window.allocate(0, 1).is_err());
        assert!(window.allocate(1, 3).is_err());
    }

    #[test]
    fn moves_only_to_where_nobody_is_decoded() {
        let window = window();
        let a = window.allocate(0x1000, 0x1000).unwrap();
        let b = window.allocate(0x1000, 0x1000).unwrap();
        a.decode_at(0x8000).unwrap();
        assert_eq!(b.decode_at(0x8000), Err(Refusal::Taken(0x8000)));
        assert_eq!(b.decode_at(0x7800), Err(Refusal::Taken(0x8000)));
        assert_eq!(b.decode_at(0x8800), Err(Refusal::Outside("test")));
        assert_eq!(b.decode_at(u64::MAX - 1), Err(Refusal::Outside("test")));
        assert_eq!(b.start(), 0x7000);
        a.stop_decoding();
        b.decode_at(0x8000).unwrap();
        assert_eq!(a.decode_at(0x8000), Err(Refusal::Taken(0x8000)));
        a.decode_at(0x1000).unwrap();
    }

    #[test]
    fn what_is_reserved_is_nobodys_to_move_to() {
        let window = window();
        let bar = window.allocate(0x1000, 0x1000).unwrap();
        let fixed = window.reserve(0x2000, 0x2000).unwrap();
        assert_eq!(fixed.start(), 0x6000);
        for over in [0x5800, 0x6000, 0x7fff] {
            assert_eq!(
                bar.decode_at(over),
                Err(Refusal::Taken(0x6000)),
                "{over:#x}"
            );
        }
        bar.decode_at(0x5000).unwrap();
        fixed.move_to(0x7000).unwrap();
        for (elsewhere, why) in [(0x4000, "another device"), (0x8000, "outside")] {
            let error = fixed.move_to(elsewhere).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(fixed.start(), 0x7000);
        drop(fixed);
        bar.decode_at(0x8000).unwrap();
    }

    #[test]
    fn allocation_avoids_places_that_are_kept_but_not_decoded() {
        let window = window();
        let a = window.allocate(0x1000, 0x1000).unwrap();
        a.decode_at(0x2000).unwrap();
        a.stop_decoding();
        let all: Vec<Span> = std::iter::from_fn(|| window.allocate(0x1000, 0x1000).ok()).collect();
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|span| span.start() != 0x2000));
    }

    proptest! {
        #[test]
        fn places_are_aligned_inside_and_apart(
            sizes in proptest::collection::vec((0u32..14, 0u32..14, any::<bool>()), 1..40)
        ) {
            let window = window();
            let mut live: Vec<Span> = Vec::new();
            for (size, align, forget) in sizes {
                if forget {
                    live.pop();
                }
                let (size, align) = ((1u64 << size) + 1, 1u64 << align);
                let Ok(span) = window.allocate(size, align) else { continue };
                let start = span.start();
                prop_assert_eq!(start % align, 0);
                prop_assert!(start >= 0x1000 && start + size <= 0x9000);
                for other in &live {
                    prop_assert!(start >= other.start() + other.size() || other.start() >= start + size);
                }
                live.push(span);
            }
        }
    }
}
