//! How long the device took with frames.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use device::{Durations, Histogram};

/// The times of a pair of queues. One thread counts, any thread looks.
#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) receive: Direction,
    pub(crate) transmit: Direction,
}

/// One direction's part.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    /// Microseconds.
    total: AtomicU64,
    durations: Durations,
}

impl Direction {
    /// Counts so many frames that were done together: from when the device turned to them until the driver had been
    /// told. Two looks at the clock for a whole turn, none for a frame.
    pub(crate) fn count(&self, frames: u64, since: Instant) {
        if frames == 0 {
            return;
        }
        let took = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        // Nobody else writes, so that no locked operation is needed.
        let total = self.total.load(Ordering::Relaxed);
        let total = total.wrapping_add(took.saturating_mul(frames));
        self.total.store(total, Ordering::Relaxed);
        self.durations.count_many(took, frames);
    }

    fn histogram(&self, name: &'static str, queue: u16) -> Histogram {
        let total = self.total.load(Ordering::Relaxed);
        self.durations.histogram(name, queue, total)
    }
}

/// Of all pairs, by the device's queues (VIRTIO 1.3, 5.1.2): a pair's first receives.
pub(crate) fn histograms(pairs: &[Times]) -> Vec<Histogram> {
    let numbered = (0u16..).step_by(2).zip(pairs);
    let both = numbered.flat_map(|(queue, times)| {
        [
            times.receive.histogram("receive_latency", queue),
            times.transmit.histogram("transmit_latency", queue + 1),
        ]
    });
    both.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_frame_of_a_turn_counts_and_queues_have_their_numbers() {
        let pairs = [Times::default(), Times::default()];
        pairs[1].transmit.count(0, Instant::now());
        pairs[1]
            .transmit
            .count(3, Instant::now() - Duration::from_millis(2));
        let found = histograms(&pairs);
        let numbers: Vec<_> = found
            .iter()
            .map(|one| (one.name, one.queue, one.count))
            .collect();
        assert_eq!(
            numbers,
            [
                ("receive_latency", 0, 0),
                ("transmit_latency", 1, 0),
                ("receive_latency", 2, 0),
                ("transmit_latency", 3, 3),
            ]
        );
        assert!(found[3].sum >= 3 * 2000, "{:?}", found[3]);
        assert_eq!(found[3].buckets[10], (1024, 0));
    }
}
