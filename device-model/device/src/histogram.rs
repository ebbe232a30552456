//! How long things took: counts of durations by powers of two.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets with an upper bound: the last is 2^20 µs, about a second.
const BOUNDED: usize = 21;

/// Counts durations without a lock. One thread counts at a time, any thread looks.
#[derive(Debug, Default)]
pub struct Durations {
    /// Durations of at most 2^index microseconds that no bucket before takes; the last takes all others.
    buckets: [AtomicU64; BOUNDED + 1],
}

impl Durations {
    /// Counts one, in microseconds.
    pub fn count(&self, microseconds: u64) {
        self.count_many(microseconds, 1);
    }

    /// Counts so many of the same length.
    pub fn count_many(&self, microseconds: u64, many: u64) {
        // The number of bits of what is one less: 1 is in the bucket of 2^0, 2 in that of 2^1, 3 and 4 in that of 2^2.
        let bits = u64::BITS - microseconds.saturating_sub(1).leading_zeros();
        let bucket = &self.buckets[(bits as usize).min(BOUNDED)];
        // Nobody else writes, so that no locked operation is needed.
        let count = bucket.load(Ordering::Relaxed).wrapping_add(many);
        bucket.store(count, Ordering::Relaxed);
    }

    /// What was counted, with the sum of all durations in microseconds, which the caller counts.
    #[must_use]
    pub fn histogram(&self, name: &'static str, queue: u16, sum: u64) -> Histogram {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut count = 0_u64;
        let mut buckets = Vec::with_capacity(BOUNDED);
        for (power, bucket) in self.buckets[..BOUNDED].iter().enumerate() {
            count = count.saturating_add(get(bucket));
            buckets.push((1 << power, count));
        }
        Histogram {
            name,
            queue,
            count: count.saturating_add(get(&self.buckets[BOUNDED])),
            sum,
            buckets,
        }
    }
}

/// How long things took on one queue of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// What took so long: `read_latency`.
    pub name: &'static str,
    /// Index of the queue.
    pub queue: u16,
    /// How many there were.
    pub count: u64,
    /// Microseconds, of all together.
    pub sum: u64,
    /// Upper bounds in microseconds, rising, and how many took at most as long.
    pub buckets: Vec<(u64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_at_most_its_bound_and_more_than_the_one_before() {
        for microseconds in [0, 1, 2, 3, 4, 5, 1023, 1024, 1025, 1 << 20] {
            let durations = Durations::default();
            durations.count(microseconds);
            let histogram = durations.histogram("x", 3, 7);
            assert_eq!((histogram.count, histogram.sum, histogram.queue), (1, 7, 3));
            for (bound, count) in histogram.buckets {
                assert_eq!(
                    count,
                    u64::from(microseconds <= bound),
                    "{microseconds}, {bound}"
                );
            }
        }
    }

    #[test]
    fn what_is_beyond_all_bounds_is_counted() {
        let durations = Durations::default();
        durations.count((1 << 20) + 1);
        durations.count_many(u64::MAX, 4);
        let histogram = durations.histogram("x", 0, 0);
        assert_eq!(histogram.count, 5);
        assert_eq!(histogram.buckets.last(), Some(&(1 << 20, 0)));
    }
}
