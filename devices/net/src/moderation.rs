//! When frames come fast, several are taken by one waking up of the worker.
//!
//! To be woken costs the worker more than a frame does, and the host's sender too, which has to wake it. So a worker
//! that has taken all frames, of which many came in little time, lets some more come before it looks again, as network
//! cards with adaptive interrupt moderation do. A conversation in which each side waits for the other's frame never
//! comes near that rate, and waits for nothing.

use std::time::{Duration, Instant};

/// Frames come fast if they follow each other within this time on average: 50,000 in a second.
const FAST: Duration = Duration::from_micros(20);
/// Over so many frames at least the rate is taken.
const SAMPLE: u32 = 32;
/// Frames that are to come in a pause.
const GATHER: u32 = 16;
/// The longest pause, and so the most that moderation adds to the time that a frame takes.
const LONGEST: Duration = Duration::from_micros(50);

/// The rate at which frames come, and the pause that it is worth.
#[derive(Debug)]
pub(crate) struct Moderation {
    /// Since when `frames` came.
    since: Option<Instant>,
    frames: u64,
    pause: Duration,
}

impl Moderation {
    pub(crate) fn new() -> Self {
        Self {
            since: None,
            frames: 0,
            pause: Duration::ZERO,
        }
    }

    /// Counts `frames` that were taken until `now`, when there were no more. How long to let more of them come: zero
    /// if they do not come fast.
    pub(crate) fn taken(&mut self, frames: u64, now: Instant) -> Duration {
        self.frames += frames;
        let since = *self.since.get_or_insert(now);
        let time = now.duration_since(since);
        if self.frames >= u64::from(SAMPLE) || time > FAST * SAMPLE {
            let each = time / u32::try_from(self.frames.max(1)).unwrap_or(u32::MAX);
            self.pause = if self.frames >= u64::from(SAMPLE) && each <= FAST {
                (each * GATHER).min(LONGEST)
            } else {
                Duration::ZERO
            };
            (self.since, self.frames) = (Some(now), 0);
        }
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the pauses are when `frames` come each `step`, for 20 ms.
    fn pauses(frames: u64, step: Duration) -> Vec<Duration> {
        let mut moderation = Moderation::new();
        let start = Instant::now();
        let steps = 0..u32::try_from(20_000 / step.as_micros()).unwrap();
        steps
            .map(|number| moderation.taken(frames, start + step * number))
            .collect()
    }

    #[test]
    fn only_frames_that_come_fast_are_gathered() {
        let last = |frames, micros| pauses(frames, Duration::from_micros(micros)).pop();
        // 200,000 in a second: a pause for the next sixteen, but for no more than it may be.
        assert_eq!(last(1, 5), Some(LONGEST));
        assert_eq!(last(10, 10), Some(Duration::from_micros(16)));
        // Those who wait for each other's frames, and few frames at a time.
        assert_eq!(last(1, 30), Some(Duration::ZERO));
        assert_eq!(last(64, 10_000), Some(Duration::ZERO));
        let all = pauses(1, Duration::from_micros(50));
        assert!(all.iter().all(Duration::is_zero), "{all:?}");
    }

    #[test]
    fn it_ends_as_soon_as_frames_come_slowly() {
        let mut moderation = Moderation::new();
        let mut now = Instant::now();
        for _ in 0..100 {
            now += Duration::from_micros(5);
            moderation.taken(1, now);
        }
        assert!(!moderation.taken(1, now).is_zero());
        // The first frame after a second is not known to be one, the next ends it.
        let next = now + Duration::from_secs(1);
        assert!(moderation.taken(1, next).is_zero());
    }
}
