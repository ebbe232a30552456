//! Looking for work for a moment before sleeping, where that pays.

use std::time::{Duration, Instant};

/// With what it begins, if that is not longer than it may.
const SHORTEST: Duration = Duration::from_micros(10);
/// What comes within this many times the longest look of falling asleep may have come soon: waking up takes part of it.
const SOON: u32 = 3;
/// Fruitless looks in a row, each as long as any, after which it is given up.
const PATIENCE: u32 = 4;
/// Sleeps until it is tried again after it was given up.
const PAUSE: u32 = 64;
/// Looks between two at the clock, which takes longer.
const LOOKS: u32 = 16;

/// Adaptive busy polling: how long a worker looks for work before it sleeps.
///
/// To be woken takes a thread tens of microseconds of latency and of processor time, on both sides. Where work comes in
/// quick succession it is cheaper to look for it: then neither side calls the kernel. Where it does not, looking is
/// waste. So the time is learned: it grows from nothing while sleeps turn out to be short, is nothing again after a
/// long one, and is given up for a while when looking finds nothing.
///
/// One of these is for one kind of work: mixed, they spoil each other's time.
#[derive(Debug)]
pub struct BusyPoll {
    longest: Duration,
    window: Duration,
    misses: u32,
    /// Sleeps during which nothing is learned.
    pause: u32,
}

impl BusyPoll {
    /// One that looks for at most `longest`, and not yet.
    pub fn up_to(longest: Duration) -> Self {
        Self {
            longest,
            window: Duration::ZERO,
            misses: 0,
            pause: 0,
        }
    }

    /// Looks with `found` until it gives true or an error, for as long as it has paid. At least once.
    ///
    /// # Errors
    /// That of `found`.
    pub fn look<E>(&mut self, mut found: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        if found()? {
            self.misses = 0;
            return Ok(true);
        }
        if self.window.is_zero() {
            return Ok(false);
        }
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                std::hint::spin_loop();
                if found()? {
                    self.misses = 0;
                    return Ok(true);
                }
            }
            if start.elapsed() >= self.window {
                return Ok(false);
            }
        }
    }

    /// The worker slept so long since [`BusyPoll::look`] gave false.
    pub fn slept(&mut self, time: Duration) {
        if self.pause > 0 {
            self.pause -= 1;
        } else if time > self.longest * SOON {
            (self.window, self.misses) = (Duration::ZERO, 0);
        } else if self.window == self.longest {
            self.misses += 1;
            if self.misses == PATIENCE {
                *self = Self {
                    pause: PAUSE,
                    ..Self::up_to(self.longest)
                };
            }
        } else {
            self.window = (self.window * 2).max(SHORTEST).min(self.longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Never = std::convert::Infallible;

    const LONGEST: Duration = Duration::from_micros(50);
    const SHORT: Duration = Duration::from_micros(20);

    /// Looks in vain; whether it took its time.
    fn waits(poll: &mut BusyPoll) -> bool {
        let mut looks = 0;
        let found = poll.look(|| {
            looks += 1;
            Ok::<_, Never>(false)
        });
        assert_eq!(found, Ok(false));
        looks > 1
    }

    #[test]
    fn it_looks_only_where_sleeps_are_short() {
        let mut poll = BusyPoll::up_to(LONGEST);
        assert!(!waits(&mut poll), "nothing is known yet");
        poll.slept(SHORT);
        assert!(waits(&mut poll));
        poll.slept(Duration::from_secs(1));
        assert!(!waits(&mut poll), "a long sleep ends it");
    }

    #[test]
    fn what_is_found_ends_the_look() {
        let mut poll = BusyPoll::up_to(LONGEST);
        assert_eq!(poll.look(|| Ok::<_, Never>(true)), Ok(true));
        poll.slept(SHORT);
        let mut left = 5;
        let found = poll.look(|| {
            left -= 1;
            Ok::<_, Never>(left == 0)
        });
        assert_eq!((found, left), (Ok(true), 0));
        assert_eq!(poll.look(|| Err::<bool, _>("broken")), Err("broken"));
    }

    #[test]
    fn fruitless_looks_are_given_up_for_a_while() {
        let mut poll = BusyPoll::up_to(LONGEST);
        let mut tries = 0;
        poll.slept(SHORT);
        while waits(&mut poll) {
            poll.slept(SHORT);
            tries += 1;
            assert!(tries < 20, "it never gives up");
        }
        for _ in 0..PAUSE {
            assert!(!waits(&mut poll), "it was given up");
            poll.slept(SHORT);
        }
        poll.slept(SHORT);
        assert!(waits(&mut poll), "it is tried again");
    }

    #[test]
    fn what_pays_is_never_given_up() {
        let mut poll = BusyPoll::up_to(LONGEST);
        for _ in 0..1000 {
            // Each second look finds something.
            waits(&mut poll);
            poll.slept(SHORT);
            assert_eq!(poll.look(|| Ok::<_, Never>(true)), Ok(true));
        }
        assert_eq!(poll.window, LONGEST);
    }
}
