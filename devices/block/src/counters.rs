//! What a disk has counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use device::{Durations, Histogram};

/// What the average is before the first request. The smallest and largest are `u64::MAX` then.
const NO_AVERAGE: u64 = 1_844_674_407_370_955;

/// Requests of one direction on one queue. One thread counts, any thread looks.
#[derive(Debug)]
#[repr(align(64))]
struct Direction {
    bytes: AtomicU64,
    ops: AtomicU64,
    /// Microseconds from when requests were taken until they were done.
    total: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    durations: Durations,
}

impl Default for Direction {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            ops: AtomicU64::new(0),
            total: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
            durations: Durations::default(),
        }
    }
}

impl Direction {
    fn count(&self, bytes: u64, latency: Duration) {
        let latency = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        // Nobody else writes, so that no locked operation is needed.
        let change = |counter: &AtomicU64, new: fn(u64, u64) -> u64, by: u64| {
            let old = counter.load(Ordering::Relaxed);
            counter.store(new(old, by), Ordering::Relaxed);
        };
        change(&self.bytes, u64::wrapping_add, bytes);
        change(&self.total, u64::wrapping_add, latency);
        change(&self.min, u64::min, latency);
        change(&self.max, u64::max, latency);
        change(&self.ops, u64::wrapping_add, 1);
        self.durations.count(latency);
    }
}

/// Counters of one queue.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    reads: Direction,
    writes: Direction,
}

impl Counters {
    pub(crate) fn count_read(&self, bytes: u64, latency: Duration) {
        self.reads.count(bytes, latency);
    }

    pub(crate) fn count_write(&self, bytes: u64, latency: Duration) {
        self.writes.count(bytes, latency);
    }
}

/// The sums over queues, under the names of the API.
pub(crate) fn sums<'a>(
    counters: impl Iterator<Item = &'a Counters> + Clone,
) -> Vec<(&'static str, u64)> {
    let reads = sum(counters.clone().map(|counters| &counters.reads));
    let writes = sum(counters.map(|counters| &counters.writes));
    vec![
        ("read_bytes", reads.bytes),
        ("write_bytes", writes.bytes),
        ("read_ops", reads.ops),
        ("write_ops", writes.ops),
        ("read_latency_min", reads.min),
        ("read_latency_max", reads.max),
        ("read_latency_avg", reads.average),
        ("write_latency_min", writes.min),
        ("write_latency_max", writes.max),
        ("write_latency_avg", writes.average),
    ]
}

/// How long requests took, by queue and direction.
pub(crate) fn histograms(counters: &[Counters]) -> Vec<Histogram> {
    let mut all = Vec::with_capacity(counters.len() * 2);
    for (counters, queue) in counters.iter().zip(0..) {
        for (name, direction) in [
            ("read_latency", &counters.reads),
            ("write_latency", &counters.writes),
        ] {
            let sum = direction.total.load(Ordering::Relaxed);
            all.push(direction.durations.histogram(name, queue, sum));
        }
    }
    all
}

struct Sum {
    bytes: u64,
    ops: u64,
    min: u64,
    max: u64,
    average: u64,
}

fn sum<'a>(directions: impl Iterator<Item = &'a Direction>) -> Sum {
    let (mut bytes, mut ops, mut total, mut min, mut max) = (0, 0_u64, 0_u64, u64::MAX, 0);
    for direction in directions {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        bytes += get(&direction.bytes);
        ops += get(&direction.ops);
        total = total.saturating_add(get(&direction.total));
        min = min.min(get(&direction.min));
        max = max.max(get(&direction.max));
    }
    let known = |value, unknown| if ops == 0 { unknown } else { value };
    Sum {
        bytes,
        ops,
        min,
        max: known(max, u64::MAX),
        average: known(total / ops.max(1), NO_AVERAGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_over_queues_and_latencies_unset_until_there_are_some() {
        let queues = [Counters::default(), Counters::default()];
        let all = |name: &str| {
            let sums = sums(queues.iter());
            sums.iter().find(|(known, _)| *known == name).unwrap().1
        };
        for direction in ["read", "write"] {
            assert_eq!(all(&format!("{direction}_bytes")), 0);
            assert_eq!(all(&format!("{direction}_ops")), 0);
            assert_eq!(all(&format!("{direction}_latency_min")), u64::MAX);
            assert_eq!(all(&format!("{direction}_latency_max")), u64::MAX);
            assert_eq!(all(&format!("{direction}_latency_avg")), NO_AVERAGE);
        }
        queues[0].count_read(512, Duration::from_micros(10));
        queues[1].count_read(1024, Duration::from_micros(31));
        assert_eq!(all("read_bytes"), 1536);
        assert_eq!(all("read_ops"), 2);
        assert_eq!(all("read_latency_min"), 10);
        assert_eq!(all("read_latency_max"), 31);
        assert_eq!(all("read_latency_avg"), 20);
        assert_eq!(all("write_latency_min"), u64::MAX);
        let histograms = histograms(&queues);
        let counted: Vec<_> = histograms
            .iter()
            .map(|one| (one.name, one.queue, one.count, one.sum))
            .collect();
        assert_eq!(
            counted,
            [
                ("read_latency", 0, 1, 10),
                ("write_latency", 0, 0, 0),
                ("read_latency", 1, 1, 31),
                ("write_latency", 1, 0, 0),
            ]
        );
    }
}
