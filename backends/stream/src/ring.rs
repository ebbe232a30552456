//! A queue of bytes that forgets the oldest when it is full.

use std::collections::VecDeque;

/// A queue of at most [`Ring::CAPACITY`] bytes. It takes whatever is pushed and forgets the oldest
/// bytes for it: of a console, the end is what tells what went wrong.
///
/// Memory follows what is queued: an empty ring that was once full has given it back.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    bytes: VecDeque<u8>,
    forgotten: u64,
}

impl Ring {
    /// The most bytes it holds: 1 MiB.
    pub(crate) const CAPACITY: usize = 1 << 20;

    /// Memory that an empty ring may keep, in bytes: a reader that lags a little every now and
    /// then should not cost an allocation each time.
    const KEPT_EMPTY: usize = 4 << 10;

    /// Adds bytes at the end.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(Self::CAPACITY);
        self.forgotten += u64::try_from(excess).unwrap_or(u64::MAX);
        let (newest, from_queue) = match bytes.len().checked_sub(Self::CAPACITY) {
            Some(too_old) => (&bytes[too_old..], self.bytes.len()),
            None => (bytes, excess),
        };
        self.bytes.drain(..from_queue);
        self.reserve(newest.len());
        self.bytes.extend(newest);
    }

    /// Grows in powers of two, which `VecDeque` does by itself only as long as every growth is a
    /// doubling; so it ends at exactly the capacity.
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let target = needed.next_power_of_two().min(Self::CAPACITY);
            self.bytes.reserve_exact(target - self.bytes.len());
        }
    }

    /// The oldest bytes, as many as lie next to each other; empty only if the ring is.
    pub(crate) fn front(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    /// Removes the `count` oldest bytes, which were delivered.
    pub(crate) fn consume(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
        if self.bytes.is_empty() && self.bytes.capacity() > Self::KEPT_EMPTY {
            self.bytes = VecDeque::new();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes were forgotten undelivered since the ring was made.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Ring {
        fn contents(&self) -> Vec<u8> {
            self.bytes.iter().copied().collect()
        }
    }

    /// What happens to a ring: bytes arrive, or some are delivered.
    #[derive(Clone, Debug)]
    enum Step {
        Push { length: usize, seed: u8 },
        Consume(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let length = prop_oneof![
            0..300_usize,
            0..Ring::CAPACITY,
            Ring::CAPACITY - 3..Ring::CAPACITY + 4,
            Ring::CAPACITY..3 * Ring::CAPACITY,
        ];
        prop_oneof![
            (length, any::<u8>()).prop_map(|(length, seed)| Step::Push { length, seed }),
            (0..2 * Ring::CAPACITY).prop_map(Step::Consume),
        ]
    }

    fn pattern(length: usize, seed: u8) -> Vec<u8> {
        (0..length)
            .map(|i| (i % 251).to_le_bytes()[0].wrapping_mul(seed | 1))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn is_the_newest_bytes_of_all_pushed_and_not_consumed(steps in proptest::collection::vec(step(), 1..8)) {
            let mut ring = Ring::default();
            let mut model = Vec::new();
            let mut forgotten = 0;
            for step in steps {
                match step {
                    Step::Push { length, seed } => {
                        let bytes = pattern(length, seed);
                        ring.push(&bytes);
                        model.extend(bytes);
                        let excess = model.len().saturating_sub(Ring::CAPACITY);
                        model.drain(..excess);
                        forgotten += excess;
                    }
                    Step::Consume(count) => {
                        ring.consume(count);
                        model.drain(..count.min(model.len()));
                    }
                }
                prop_assert!(ring.contents() == model);
                prop_assert_eq!(ring.is_empty(), model.is_empty());
                prop_assert_eq!(ring.front().is_empty(), model.is_empty());
                prop_assert!(model.starts_with(ring.front()));
                prop_assert_eq!(ring.forgotten(), forgotten as u64);
                prop_assert!(ring.bytes.capacity() <= Ring::CAPACITY);
            }
        }
    }

    #[test]
    fn gives_memory_back_when_drained() {
        let mut ring = Ring::default();
        ring.push(&vec![7; Ring::CAPACITY]);
        ring.consume(Ring::CAPACITY);
        assert_eq!(ring.bytes.capacity(), 0);
    }

    #[test]
    fn an_untouched_ring_has_no_memory() {
        assert_eq!(Ring::default().bytes.capacity(), 0);
    }
}
