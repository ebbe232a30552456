//! The clocks.

use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// What a clock shows (`VIRTIO_RTC_CLOCK_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Type {
    Tai = 1,
    Monotonic = 2,
    /// UTC whose leap seconds are smeared, or not.
    UtcMaybeSmeared = 4,
}

/// Clocks by their numbers.
const ALL: [Type; 3] = [Type::UtcMaybeSmeared, Type::Monotonic, Type::Tai];

/// The clocks of one device. Which there are does not change while a driver knows them, on whatever host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// The monotonic clock showed `shown` at `since`, from when on it runs.
    shown: Duration,
    since: Option<Instant>,
    tai: bool,
}

impl Clocks {
    /// The clocks of a new device: the monotonic one begins with 0, and there is TAI if the host knows it.
    pub(crate) fn of_host() -> Self {
        Self::new(Duration::ZERO, tai().is_some())
    }

    /// Clocks of which the monotonic one stands still and shows `shown`.
    pub(crate) fn new(shown: Duration, tai: bool) -> Self {
        Self {
            shown,
            since: None,
            tai,
        }
    }

    /// Lets the monotonic clock run.
    pub(crate) fn run(&mut self) {
        self.since = Some(Instant::now());
    }

    /// Makes the monotonic clock stand still.
    pub(crate) fn halt(&mut self) {
        self.shown = self.shown();
        self.since = None;
    }

    fn shown(&self) -> Duration {
        let ran = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.shown.saturating_add(ran)
    }

    pub(crate) fn has_tai(&self) -> bool {
        self.tai
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u16 {
        if self.tai { 3 } else { 2 }
    }

    /// The clock with this number, if there is one.
    pub(crate) fn find(&self, id: u16) -> Option<Type> {
        (id < self.count()).then(|| ALL[usize::from(id)])
    }

    /// What a clock shows, in nanoseconds; none if the host cannot tell now.
    pub(crate) fn read(&self, clock: Type) -> Option<u64> {
        match clock {
            Type::UtcMaybeSmeared => nanoseconds(read(ClockId::CLOCK_REALTIME)?),
            Type::Monotonic => Some(self.monotonic()),
            Type::Tai => tai(),
        }
    }

    /// What the monotonic clock shows, in nanoseconds: enough for 584 years.
    pub(crate) fn monotonic(&self) -> u64 {
        u64::try_from(self.shown().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// International Atomic Time. A kernel whom nobody has told the offset thinks that it is UTC (adjtimex(2)), from which
/// it is 37 s off.
fn tai() -> Option<u64> {
    let utc = read(ClockId::CLOCK_REALTIME)?;
    let tai = read(ClockId::CLOCK_TAI)?;
    // Read one after the other they differ by a little, and by whole seconds only if the kernel knows.
    (tai.tv_sec() - utc.tv_sec() > 1)
        .then(|| nanoseconds(tai))
        .flatten()
}

/// By the C library, which has found the kernel's page for that before any thread was filtered. (`rustix` looks for it
/// at its first call, and needs system calls to do so.)
fn read(clock: ClockId) -> Option<TimeSpec> {
    clock_gettime(clock).ok()
}

/// None before 1970.
fn nanoseconds(time: TimeSpec) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec()).ok()?;
    let rest = u64::try_from(time.tv_nsec()).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_do_not_fit_are_none() {
        let time = |tv_sec, tv_nsec| nanoseconds(TimeSpec::new(tv_sec, tv_nsec));
        assert_eq!(time(1, 5), Some(1_000_000_005));
        assert_eq!(time(-1, 0), None);
        assert_eq!(time(i64::MAX, 0), None);
    }

    #[test]
    fn clocks_are_found_by_number() {
        let types = |tai| {
            let clocks = Clocks::new(Duration::ZERO, tai);
            (0..5).map(|id| clocks.find(id)).collect::<Vec<_>>()
        };
        let (utc, monotonic) = (Some(Type::UtcMaybeSmeared), Some(Type::Monotonic));
        assert_eq!(types(false), [utc, monotonic, None, None, None]);
        assert_eq!(types(true), [utc, monotonic, Some(Type::Tai), None, None]);
    }

    #[test]
    fn the_monotonic_clock_runs_and_stands_still() {
        let mut clocks = Clocks::new(Duration::from_secs(5), false);
        assert_eq!(clocks.monotonic(), 5_000_000_000);
        clocks.run();
        let before = clocks.monotonic();
        std::thread::sleep(Duration::from_millis(1));
        clocks.halt();
        let after = clocks.monotonic();
        assert!(after > before);
        assert_eq!(clocks.monotonic(), after);
    }

    #[test]
    fn the_monotonic_clock_stops_at_its_end() {
        let mut clocks = Clocks::new(Duration::MAX, false);
        clocks.run();
        assert_eq!(clocks.read(Type::Monotonic), Some(u64::MAX));
    }
}
