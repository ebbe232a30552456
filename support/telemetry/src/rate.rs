//! How often something may happen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::elapsed;

/// How many lines one place in the code may log at once.
pub const BURST: u32 = 10;

/// How long one place in the code, after a burst, has to wait for each further line.
pub const PERIOD: Duration = Duration::from_secs(1);

/// Admits a burst, then one per period, and counts what it turned away.
///
/// It is two atomic numbers, so it can be a `static` and shared by all threads. The first is the
/// time until which what was admitted is "paid": each admission moves it one period on, and it may
/// be at most a whole burst ahead of now (the generic cell rate algorithm).
#[derive(Debug)]
pub struct Limiter {
    period: u64,
    burst: u64,
    paid_until: AtomicU64,
    refused: AtomicU64,
}

/// What an admission comes with: how many were turned away since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// How many were turned away in between.
    pub left_out: u64,
}

impl Limiter {
    /// Admits `burst` at once (at least one) and one per `period` in the long run.
    pub const fn new(burst: u32, period: Duration) -> Self {
        let burst = if burst == 0 { 1 } else { burst };
        Self {
            period: nanoseconds(period),
            burst: burst as u64,
            paid_until: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Asks to do it once, now.
    pub fn admit(&self) -> Option<Admitted> {
        self.admit_at(elapsed())
    }

    fn admit_at(&self, now: Duration) -> Option<Admitted> {
        let now = nanoseconds(now);
        let limit = now.saturating_add(self.period.saturating_mul(self.burst));
        let paid = self
            .paid_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                let next = paid.max(now).saturating_add(self.period);
                (next <= limit).then_some(next)
            });
        if paid.is_ok() {
            Some(Admitted {
                left_out: self.refused.swap(0, Ordering::Relaxed),
            })
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// Nanoseconds, enough for 584 years.
const fn nanoseconds(time: Duration) -> u64 {
    time.as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(time.subsec_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn admitted(limiter: &Limiter, at: Duration, attempts: u32) -> u64 {
        (0..attempts)
            .map(|_| u64::from(limiter.admit_at(at).is_some()))
            .sum()
    }

    #[test]
    fn a_burst_then_one_per_period() {
        let limiter = Limiter::new(3, SECOND);
        assert_eq!(admitted(&limiter, Duration::ZERO, 100), 3);
        assert_eq!(admitted(&limiter, SECOND / 2, 100), 0);
        assert_eq!(admitted(&limiter, SECOND, 100), 1);
        assert_eq!(admitted(&limiter, 2 * SECOND, 100), 1);
    }

    #[test]
    fn a_pause_earns_the_whole_burst_back_and_no_more() {
        let limiter = Limiter::new(3, SECOND);
        assert_eq!(admitted(&limiter, Duration::ZERO, 3), 3);
        assert_eq!(admitted(&limiter, 1000 * SECOND, 100), 3);
    }

    #[test]
    fn what_was_left_out_is_told_once() {
        let limiter = Limiter::new(1, SECOND);
        assert_eq!(
            limiter.admit_at(Duration::ZERO),
            Some(Admitted { left_out: 0 })
        );
        assert_eq!(admitted(&limiter, Duration::ZERO, 7), 0);
        assert_eq!(limiter.admit_at(SECOND), Some(Admitted { left_out: 7 }));
        assert_eq!(limiter.admit_at(2 * SECOND), Some(Admitted { left_out: 0 }));
    }

    #[test]
    fn threads_share_one_burst() {
        static LIMITER: Limiter = Limiter::new(5, Duration::from_secs(3600));
        let attempts = || (0..1000).filter(|_| LIMITER.admit().is_some()).count();
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(attempts)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(total, 5);
    }

    proptest! {
        /// In any stretch of time, at most the burst and one per period that passed.
        #[test]
        fn never_more_than_the_rate(
            burst in 1u32..20,
            pauses in prop::collection::vec(0u64..3_000_000_000, 1..200),
        ) {
            let limiter = Limiter::new(burst, SECOND);
            let mut now = Duration::ZERO;
            let mut times = Vec::new();
            for pause in pauses {
                now += Duration::from_nanos(pause);
                if limiter.admit_at(now).is_some() {
                    times.push(now);
                }
            }
            for (i, from) in times.iter().enumerate() {
                for (j, to) in times.iter().enumerate().skip(i) {
                    let allowed = u64::from(burst) + (*to - *from).as_secs();
                    prop_assert!(((j - i) as u64) < allowed);
                }
            }
        }
    }
}
