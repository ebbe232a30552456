//! One bucket of tokens.

use std::time::{Duration, Instant};

use crate::TokenBucketConfig;

/// The longest refill time that is told from a longer one, in nanoseconds: 146 years. With it, and 64-bit numbers of
/// tokens, no product exceeds 126 bits.
const LONGEST: u64 = 1 << 62;

/// A bucket that fills up at an even rate.
///
/// Levels are in units of a token divided by the refill time in nanoseconds, so that one nanosecond is worth exactly
/// `size` units: nothing is ever rounded, and the rate does not drift.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// The most tokens it holds. Not 0.
    size: u64,
    /// Time in which an empty bucket fills, in nanoseconds. Not 0.
    refill: u64,
    /// Units in it; what it owes if negative.
    level: i128,
    /// Tokens that are there once.
    burst: u64,
    /// When `level` was right.
    as_of: Instant,
}

impl Bucket {
    /// A full bucket. Size and refill time are not 0.
    pub(crate) fn new(config: &TokenBucketConfig, now: Instant) -> Self {
        let refill = config.refill_time.saturating_mul(1_000_000).min(LONGEST);
        Self {
            size: config.size,
            refill,
            level: units(config.size, refill),
            burst: config.one_time_burst.unwrap_or(0),
            as_of: now,
        }
    }

    /// How long it takes until there is a token; zero if there is one.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        self.fill(now);
        let missing = i128::from(self.refill) - self.level;
        if self.burst > 0 || missing <= 0 {
            return Duration::ZERO;
        }
        // Rounded up: after this time there is one.
        let wait = missing.unsigned_abs().div_ceil(self.size.into());
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Takes tokens, also more than there are.
    pub(crate) fn take(&mut self, tokens: u64) {
        let once = tokens.min(self.burst);
        self.burst -= once;
        self.level = self.level.saturating_sub(units(tokens - once, self.refill));
    }

    fn fill(&mut self, now: Instant) {
        // Threads that share it can be a little late with their time.
        let elapsed = now.saturating_duration_since(self.as_of).as_nanos();
        let elapsed = u64::try_from(elapsed).unwrap_or(LONGEST).min(LONGEST);
        self.as_of = self.as_of.max(now);
        let full = units(self.size, self.refill);
        self.level = self
            .level
            .saturating_add(units(self.size, elapsed))
            .min(full);
    }
}

/// A product that fits: one of the factors is at most [`LONGEST`].
fn units(tokens: u64, nanoseconds: u64) -> i128 {
    i128::from(tokens) * i128::from(nanoseconds)
}
